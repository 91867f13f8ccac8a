"""Which configurations of ``attention`` look best on a GPU, from what the compiler said alone.

For one KV tile of the main loop: how many cycles each unit of an SM is busy, from the instruction counts of
the machine code and the GPU's rates. Units that overlap perfectly give the largest of them, units that
never do the sum; a kernel runs in between. Configurations are ordered by the middle of the two. Nothing is
fitted and nothing is measured: latencies, memory traffic, prologue and tail are left to the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..hwmodels import GPU
from .check import CheckResult
from .loops import KvLoop
from .occupancy import WARP
from .sass import Mma

_ISSUE_PER_CLOCK = 4  # one instruction per scheduler, four schedulers
#: Share of the tensor peak that an instruction reaches, where it is less than all of it.
MMA_SYNC_SHARE = {"hopper": 0.63, "blackwell": 0.25}  # Luo et al., arXiv 2501.12084v2; QuickRunCUDA (B300)
TCGEN05_M64_SHARE = 0.5  # SemiAnalysis, B200: 4078 of 8192 FLOP per clock
_TCGEN05_N64_SHARE = 0.66  # SemiAnalysis, B200: M128N64K16 with both operands in shared memory, 5399 of 8192
WGMMA_FULL_COLUMNS = 64  # narrower wgmma takes as long as n64 (facts: gpu_bottlenecks.md)


@dataclass(frozen=True)
class TileCycles:
    """Cycles that one KV tile keeps each unit of an SM busy, and the FLOP it does."""

    units: dict[str, float]
    flop: int

    @property
    def overlapped(self) -> float:
        """Cycles when all units work at once."""
        return max(self.units.values())

    @property
    def serial(self) -> float:
        """Cycles when the units take turns."""
        return sum(self.units.values())

    @property
    def bound(self) -> str:
        """The busiest unit."""
        return max(self.units, key=lambda unit: self.units[unit])


@dataclass(frozen=True)
class Ranked:
    """A result with its cycles and the share of the tensor peak between no overlap and a perfect one."""

    result: CheckResult
    cycles: TileCycles
    peak_share_serial: float
    peak_share_overlapped: float

    @property
    def score(self) -> float:
        """What the order goes by: share of peak at the middle of the two ends of overlap."""
        middle = (self.cycles.serial + self.cycles.overlapped) / 2
        return self.peak_share_overlapped * self.cycles.overlapped / middle


def tile_cycles(gpu: GPU, loop: KvLoop, dtype: str) -> TileCycles:
    """Return the busy cycles of one tile of ``loop`` on one SM of ``gpu``. Raises InputError for a dtype it
    lacks.
    """
    issued = loop.warp_instructions
    rate = gpu.peak_flops(dtype) / (gpu.sms * gpu.clock_hz)
    tensor = sum(count * mma.flop * _groups(loop, mma) / (rate * _share(gpu, mma)) for mma, count in loop.mma.items())
    alu = sum(issued.get(pipe, 0.0) for pipe in ("select", "integer", "convert", "fp16", "move"))
    units = {
        "tensor": tensor / loop.tiles_per_trip,
        "exp": (issued.get("exp", 0.0) + issued.get("special", 0.0)) * WARP / gpu.exp_per_clock_per_sm,
        "fp32": issued.get("fp32", 0.0) * WARP / gpu.fp32_fma_per_clock_per_sm,
        "alu": alu * WARP / gpu.alu_per_clock_per_sm,
        "shared": loop.shared_bytes / gpu.smem_bytes_per_clock_per_sm,
        "issue": sum(issued.values()) / _ISSUE_PER_CLOCK,
    }
    return TileCycles(units, loop.tile.mma_flop)


def _groups(loop: KvLoop, mma: Mma) -> float:
    """How many groups of warps issue ``mma``: one for tcgen05."""
    if not mma.warps:
        return 1.0
    warps = max((part.warps for part in loop.parts if part.instructions.get("tensor")), default=0)
    return warps / mma.warps


def _share(gpu: GPU, mma: Mma) -> float:
    """Share of the tensor peak that an instruction of this shape reaches."""
    if mma.family == "mma.sync":
        return MMA_SYNC_SHARE.get(gpu.generation, 1.0)
    if mma.family == "wgmma":
        return min(1.0, mma.n / WGMMA_FULL_COLUMNS)
    if mma.m < 128:
        return TCGEN05_M64_SHARE
    return _TCGEN05_N64_SHARE if mma.n <= 64 else 1.0


def rank(results: Sequence[CheckResult]) -> list[Ranked]:
    """Return the results that fit and whose loop is known, best first; ties go to the smaller
    configuration.
    """
    ranked = []
    for result in results:
        loop = result.facts.main_loop
        if not result.fits or loop is None or not loop.mma or any(not part.warps for part in loop.parts):
            continue
        cycles = tile_cycles(result.gpu, loop, result.facts.config.dtype)
        rate = result.gpu.peak_flops(result.facts.config.dtype) / (result.gpu.sms * result.gpu.clock_hz)
        ideal = cycles.flop / rate
        ranked.append(Ranked(result, cycles, ideal / cycles.serial, ideal / cycles.overlapped))
    return sorted(ranked, key=lambda item: (-round(item.score, 6), item.result.facts.config))
