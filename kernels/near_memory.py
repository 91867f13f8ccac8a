"""What spilled registers and global loads meet on an SM: an L1 beside the shared memory, and its share of the L2's bandwidth.

A word that a warp spills is a line of 128 bytes: local memory interleaves the words of a warp's threads (CUDA C++ Programming
Guide, local memory). What is stored goes through to the L2 as well, and the line that was longest not asked for gives way (the
L1 of Accel-Sim, ISCA 2020, in its tested configurations from SM7_QV100 to SM86_RTX3070). Whatever misses takes the L2's latency
and passes the SM's port, and no more is under way than that latency holds. CTAs that are alike start together, on all SMs, and
ask for their tiles at the same time: an SM gets no more than its share of what the L2 gives.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from ..errors import InputError
from ..hwmodels import GPU

LINE_BYTES = 128
PORT_BYTES = 64  # from the L2 into an SM in a clock (arXiv 1804.06826, Volta's; later parts are taken to have kept it)
# KiB of an SM's L1 and shared memory together (CUDA C++ Programming Guide, compute capabilities). How much of it is shared is
# the driver's choice unless a program asks; Triton asks for the most above 48 KiB of a CTA (its driver.c). The same is taken
# up to there, where sliding windows of SGLang's kernels on RTX PRO 6000 take the time that a small L1 explains.
_MEMORY_KIB = {"sm_80": 192, "sm_89": 128, "sm_90": 256, "sm_100": 256, "sm_103": 256, "sm_120": 128}


@dataclass(frozen=True)
class NearMemory:
    """Memory of an SM: bytes of its L1, cycles of a hit in the L2, and bytes per clock that it gets from there."""

    l1_bytes: int
    l2_cycles: float
    l2_bytes_per_clock: float

    @classmethod
    def of(cls, gpu: GPU, ctas: int = 1) -> NearMemory:
        """What one of ``ctas`` CTAs has of an SM's L1 beside the most shared memory, and all that the L2 gives the SM.

        Raises InputError where the sizes of its architecture are not known.
        """
        if gpu.arch not in _MEMORY_KIB:
            raise InputError(f"no sizes of the L1 of {gpu.arch} ({gpu.key}): expected one of {', '.join(_MEMORY_KIB)}")
        share = gpu.l2_bandwidth_bytes_s / gpu.sms / gpu.clock_hz
        return cls(
            (_MEMORY_KIB[gpu.arch] * 1024 - gpu.smem_bytes_per_sm) // ctas, gpu.l2_latency_s * gpu.clock_hz, share
        )


class Traffic:
    """Lines in the quarter of an SM's L1 that one scheduler's warps have, and when the L2 is free for them."""

    def __init__(self, memory: NearMemory) -> None:
        self._latency = memory.l2_cycles
        self._line_cycles = 4.0 * LINE_BYTES / min(PORT_BYTES, memory.l2_bytes_per_clock)  # of one scheduler's share
        self._free = 0.0
        self.busy = 0.0  # cycles that its lines have taken
        self._lines = max(1, memory.l1_bytes // LINE_BYTES // 4)
        self._held: dict[Hashable, bool] = {}  # the one that was longest not asked for first
        self._streamed = 0

    @property
    def accepts(self) -> float:
        """Cycle from which another line may be asked for."""
        return self._free - self._latency

    def load(self, now: float, line: Hashable) -> float:
        """Cycle at which a line of local memory is there from the L2; ``now`` where the L1 has it."""
        return now if self._touch(line) else self._ask(now) + self._latency

    def store(self, now: float, line: Hashable) -> None:
        """A line of local memory is written, to the L2 too."""
        self._touch(line)
        self._ask(now)

    def stream(self, now: float, lines: int) -> float:
        """Lines of global memory that nobody asks for again; the cycle at which they have passed, latency apart."""
        passed = now
        for _ in range(lines):
            self._streamed += 1
            self._touch(("global", self._streamed))
            passed = self._ask(now)
        return passed

    def _ask(self, now: float) -> float:
        self._free = max(self._free, now) + self._line_cycles
        self.busy += self._line_cycles
        return self._free

    def _touch(self, line: Hashable) -> bool:
        """Whether the L1 had a line; it has it from now on."""
        had = self._held.pop(line, False)
        self._held[line] = True
        if len(self._held) > self._lines:
            del self._held[next(iter(self._held))]
        return had
