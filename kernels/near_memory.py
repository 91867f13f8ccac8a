"""What spilled registers and global loads meet on an SM: an L1 beside the shared memory, and its share of the L2's bandwidth.

A word that a warp spills is a line of 128 bytes: local memory interleaves the words of a warp's threads (CUDA C++ Programming
Guide, local memory). What is stored goes through to the L2 as well. The L1 has four sets, and in each the line that was
longest not asked for gives way (Accel-Sim's tested configurations from SM7_QV100 to SM86_RTX3070). Lines fall into sets as if
by chance, so that a loop over as much as the L1 holds finds half of it. Over 90, 101 and 120 KiB such an L1 of 96 KiB misses
16%, 80% and everything; an L40 misses 6%, 54% and 88% (RRZE gpu-benches, gpu-latency/l40.txt at 5ff059f), a little later and
less sharply. Whatever misses takes the L2's latency and passes the SM's port, and no more is under way than that latency holds.
CTAs that are alike start together, on all SMs, and ask for their tiles at the same time: an SM gets no more than its share of
what the L2 gives. What is stored goes the other way: requests and replies have networks of their own (Accel-Sim's tested
configurations, icnt_subnets 2).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import erf, sqrt

from ..errors import InputError
from ..hwmodels import GPU

LINE_BYTES = 128
SETS = 4
SCHEDULERS = 4  # of an SM, whose warps share the L1
ALL_THERE = 0.999  # from here on a line counts as there
PORT_BYTES = 64  # from the L2 into an SM in a clock (arXiv 1804.06826, Volta's; later parts are taken to have kept it)
# From an SM to the L2 in a clock. The two SMs of a TPC share that way: stores of both take longer than of one, which is how
# neighbours are told (Ahn et al., Network-on-Chip Microarchitecture-based Covert Channel in GPUs, MICRO 2021, Volta's). It is
# taken to be a sector wide (Accel-Sim's icnt_flit_size: 40 bytes with the header). Rows that validation counts bear it out:
# SGLang's prompts in bf16 over an fp8 cache, head dim 512, come out 10% too fast on H100 with the 38 bytes that loads get.
STORE_BYTES = 16
# KiB of an SM's L1 and shared memory together (CUDA C++ Programming Guide, compute capabilities).
_MEMORY_KIB = {"sm_80": 192, "sm_89": 128, "sm_90": 256, "sm_100": 256, "sm_103": 256, "sm_120": 128}
# How much of it is shared memory. A CTA of more than 48 KiB has to ask, and Triton then asks for the most (its driver.c). For
# others the driver takes a size that holds the CTAs that registers and threads leave room for (CUDA C++ Programming Guide,
# shared memory). Nsight Compute's reports show the smallest that does, but no 32 KiB from 18 on where an SM has 128: 64 KiB for
# a CTA of 48 KiB and 202 registers (RTX 4090), for six of 3 KiB (RTX 5090), for 31 KiB (RTX 3090); on H100 32 KiB for 27.
_ASKED_BYTES = 48 * 1024
_SHARED_KIB = {
    "sm_80": (8, 16, 32, 64, 100, 132, 164),
    "sm_89": (8, 16, 64, 100),
    "sm_90": (8, 16, 32, 64, 100, 132, 164, 196, 228),
    "sm_100": (8, 16, 32, 64, 100, 132, 164, 196, 228),
    "sm_103": (8, 16, 32, 64, 100, 132, 164, 196, 228),
    "sm_120": (8, 16, 64, 100),
}


@dataclass(frozen=True)
class NearMemory:
    """Memory of an SM: bytes of its L1, cycles of a hit in the L2, and bytes per clock that it gets from there."""

    l1_bytes: int
    l2_cycles: float
    l2_bytes_per_clock: float

    @classmethod
    def of(cls, gpu: GPU, ctas: int = 1, shared_bytes: int | None = None) -> NearMemory:
        """What one of ``ctas`` CTAs has of an SM's L1, and all that the L2 gives the SM.

        ``shared_bytes``: of a CTA; None for so many that it asks for the most shared memory. Raises InputError where the sizes
        of its architecture are not known.
        """
        if gpu.arch not in _MEMORY_KIB:
            raise InputError(f"no sizes of the L1 of {gpu.arch} ({gpu.key}): expected one of {', '.join(_MEMORY_KIB)}")
        shared = gpu.smem_bytes_per_sm
        if shared_bytes is not None and shared_bytes <= _ASKED_BYTES:
            held = ctas * (shared_bytes + gpu.smem_reserved_bytes_per_cta)
            shared = next((kib * 1024 for kib in _SHARED_KIB[gpu.arch] if kib * 1024 >= held), shared)
        share = gpu.l2_bandwidth_bytes_s / gpu.sms / gpu.clock_hz
        return cls((_MEMORY_KIB[gpu.arch] * 1024 - shared) // ctas, gpu.l2_latency_s * gpu.clock_hz, share)


class Traffic:
    """Lines in an SM's L1, where the other schedulers' warps ask for as many as one's do, and when the L2 is free for it."""

    def __init__(self, memory: NearMemory) -> None:
        self._latency = memory.l2_cycles
        self._line_cycles = {
            way: SCHEDULERS * LINE_BYTES / min(most, memory.l2_bytes_per_clock)
            for way, most in (("from", PORT_BYTES), ("to", STORE_BYTES))
        }
        self._free = {"from": 0.0, "to": 0.0}  # cycle from which each way between the SM and the L2 is
        self._busy = {"from": 0.0, "to": 0.0}  # cycles that lines have taken
        self._ways = max(1, memory.l1_bytes // LINE_BYTES // SETS)
        self._asked: dict[Hashable, bool] = {}  # lines of one scheduler, the one that was longest not asked for first
        self._streamed = 0

    @property
    def busy(self) -> float:
        """Cycles that the lines of the busier way have taken."""
        return max(self._busy.values())

    def accepts(self, stored: bool) -> float:
        """Cycle from which another line may be asked for, or ``stored``."""
        return self._free["to" if stored else "from"] - self._latency

    def load(self, now: float, line: Hashable) -> float:
        """Cycle at which a line of local memory is there, on the mean of where the L1 has it and where the L2 sends it."""
        missed = self._missed(line)
        return now + missed * (self._ask(now, missed) + self._latency - now) if missed else now

    def store(self, now: float, line: Hashable) -> None:
        """A line of local memory is written, to the L2 too."""
        self._missed(line)
        self._ask(now, way="to")

    def stream(self, now: float, lines: int) -> float:
        """Lines of global memory that nobody asks for again; the cycle at which they have passed, latency apart."""
        passed = now
        for _ in range(lines):
            self._streamed += 1
            self._missed(("global", self._streamed))
            passed = self._ask(now)
        return passed

    def _ask(self, now: float, share: float = 1.0, way: str = "from") -> float:
        cycles = share * self._line_cycles[way]
        self._free[way] = max(self._free[way], now) + cycles
        self._busy[way] += cycles
        return self._free[way]

    def _missed(self, line: Hashable) -> float:
        """How probable it is that the L1 has not got a line; it has it from now on.

        It has it while fewer other lines than its set holds have been asked for since that fall into the same set.
        """
        if line not in self._asked:
            self._asked[line] = True
            return 1.0
        since = 0
        for other in reversed(self._asked):
            if other == line:
                break
            since += 1
        del self._asked[line]
        self._asked[line] = True
        others = SCHEDULERS * (since + 1) - 1
        mean, deviation = others / SETS, sqrt(others * (SETS - 1)) / SETS
        found = 0.5 * (1.0 + erf((self._ways - 0.5 - mean) / deviation / sqrt(2.0)))
        return 0.0 if found > ALL_THERE else 1.0 - found
