"""Spaces: every configuration of a kernel that a GPU could hold, as columns, and the tiles that each makes of a pattern."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import GPU
from ..kernels.attention_spec import HEAD_DIM_MAX, REGISTERS_LEAST, padded
from ..kernels.occupancy import occupancy
from ..kernels.space import WARPS, architecture_number
from ..simulator.patterns import Pattern
from ..simulator.profile import KernelProfile
from ..simulator.tiles import TileWork
from ..simulator.workload import DTYPE_BYTES, Grid, Workload
from .knobs import Knob, Level, Power, Value
from .rank_machine import REGISTERS_MOST, Knobs, held_by_estimate, launched_warps

Column = NDArray[Any]
MMA_ROWS = 16  # least rows and columns of a tile: one mma.sync
WARPGROUP = 4  # warps that issue one wgmma, or read tensor memory, together
MOST_STAGES = 5
MOST_TILE = 1024  # rows or keys that kernels.space compiles
ACCUMULATOR_BYTES = 4


@dataclass(frozen=True)
class Tiling:
    """A pattern in tiles.

    Attributes:
        q, kv: tile shapes, tokens per axis; of the blocks of a BlockMask where ``rows`` and ``keys`` are smaller.
        work: what they make. order: of the tokens in memory ("tiles", "row", or "" where there is no choice).
        rows, keys: tokens of the tile that a kernel runs; those of the shapes when 0.
    """

    pattern: Pattern
    q: Grid
    kv: Grid
    work: TileWork
    order: str = ""
    rows: int = 0
    keys: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Query rows and keys of a tile."""
        return self.rows or math.prod(self.q), self.keys or math.prod(self.kv)


@dataclass(frozen=True)
class Space:
    """Configurations of one kernel for one problem.

    Attributes:
        kernel: "triton", "flex" or "natten". program: what runs: "attention", "decode", "flex" or "natten".
        knobs: what can be set. columns: knob -> its value in each configuration, shape (configurations,).
        profile: how the kernel runs a tile. tilings, tiling: shapes in use, and which each configuration has.
        block_m, block_n: query rows and keys of a tile, shape (configurations,).
        total: configurations, those included that lost against another tile shape of the same size.
        notes: what the user should know of the space.
    """

    kernel: str
    program: str
    knobs: tuple[Knob, ...]
    columns: Mapping[str, Column]
    profile: KernelProfile
    tilings: tuple[Tiling, ...]
    tiling: Column
    block_m: Column
    block_n: Column
    total: int
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Configurations."""
        return int(self.tiling.size)

    def config(self, index: int) -> dict[str, Value]:
        """One configuration: knob -> value, as plain Python values."""
        return {knob.name: self.columns[knob.name][index].item() for knob in self.knobs}

    def codes(self, indices: Sequence[int] | Column) -> NDArray[np.float64]:
        """Coordinates of configurations for a model, shape (len(indices), coordinates)."""
        return np.array([
            [x for knob in self.knobs for x in knob.encode(self.columns[knob.name][i].item())] for i in indices
        ])  # fmt: skip


def product(knobs: Sequence[Knob]) -> dict[str, Column]:
    """Every combination of the values of some knobs, as columns."""
    grids = np.meshgrid(*(np.array(knob.values) for knob in knobs), indexing="ij")
    return {knob.name: grid.ravel() for knob, grid in zip(knobs, grids, strict=True)}


def powers(least: int, most: float) -> tuple[int, ...]:
    """Powers of two from ``least`` up to ``most``."""
    return tuple(1 << e for e in range(least.bit_length() - 1, 32) if 1 << e <= most)


def check(gpu: GPU, workload: Workload, kernel: str) -> None:
    """Raise InputError for a problem that the Triton kernels do not take."""
    architecture_number(gpu.arch)
    dim = max(workload.head_dim, workload.dim_v)
    if dim > HEAD_DIM_MAX:
        raise InputError(f"kernel {kernel!r} cannot run head dim {dim}: expected at most {HEAD_DIM_MAX}")
    if workload.kv_dtype != workload.dtype:
        raise InputError(
            f"kernel {kernel!r} cannot run {workload.kv_dtype!r} keys with {workload.dtype!r} queries: expected the same dtype"
        )


def triton_knobs(gpu: GPU, workload: Workload, most_tile: int | None = None) -> tuple[Knob, ...]:
    """Knobs of a fused Triton kernel, as far as an SM goes.

    The fp32 accumulator of a Q tile may take half of the registers, a K and a V tile all of the shared memory; both at
    most ``most_tile`` tokens.
    """
    dim, dim_v = padded(workload.head_dim), padded(workload.dim_v)
    limit = most_tile or MOST_TILE
    rows = powers(MMA_ROWS, min(limit, gpu.registers_per_sm / 2 / dim_v))
    kv_bytes = (dim + dim_v) * DTYPE_BYTES[workload.dtype]
    keys = powers(MMA_ROWS, min(limit, gpu.smem_bytes_per_cta / kv_bytes))
    if not keys:
        raise InputError(f"a tile of {MMA_ROWS} keys with head dim {dim} does not fit the shared memory of {gpu.key}")
    warps = tuple(w for w in WARPS if w * 32 <= gpu.max_threads_per_cta)
    knobs: list[Knob] = [
        Power("BLOCK_M", rows, min(128, rows[-1])),
        Power("BLOCK_N", keys, min(64, keys[-1])),
        Power("num_warps", warps, 4),
        Level("num_stages", tuple(range(1, MOST_STAGES + 1)), 2),
    ]
    if architecture_number(gpu.arch) >= 90:
        knobs.append(Level("USE_TMA", (False, True), False))
    return tuple(knobs)


def runnable(gpu: GPU, columns: Mapping[str, Column]) -> Column:
    """Which combinations a GPU can run at all, shape (configurations,).

    A wgmma or tcgen05 instruction is issued for four warps: a tile tall enough for one has no use for fewer. Triton
    specialises warps where loads go through tensor descriptors and tiles are tall enough for tcgen05, and launches more
    of them (see launched_warps), which have to find room in a CTA.
    """
    keep = np.ones(columns["BLOCK_M"].size, dtype=bool)
    if architecture_number(gpu.arch) in (90, 100, 103):
        keep &= (columns["BLOCK_M"] < 64) | (columns["num_warps"] >= WARPGROUP)
    if "WARP_SPECIALIZE" in columns:
        pipelined = columns["USE_TMA"] & (columns["BLOCK_M"] >= 64) & (columns["num_stages"] >= 2)
        room = launched_warps(columns["num_warps"]) * 32 <= gpu.max_threads_per_cta
        keep &= ~columns["WARP_SPECIALIZE"] | (pipelined & room)
    return keep


def without(space: Space, names: Sequence[str]) -> Space:
    """The configurations of a space that leave some knobs at their default."""
    keep = np.ones(space.size, dtype=bool)
    for knob in space.knobs:
        if knob.name in names:
            keep &= space.columns[knob.name] == knob.default
    columns = {name: column[keep] for name, column in space.columns.items()}
    left = int(keep.sum())
    return replace(
        space, columns=columns, tiling=space.tiling[keep], block_m=space.block_m[keep], block_n=space.block_n[keep],
        total=left * space.total // space.size,
    )  # fmt: skip


def register_caps(gpu: GPU) -> tuple[int, ...]:
    """Caps on a thread's registers, falling: for each number of warps and of CTAs the most that lets an SM hold so many."""
    registers = np.arange(REGISTERS_LEAST, REGISTERS_MOST + 1)
    found: set[int] = set()
    for warps in WARPS:
        ctas = np.asarray(occupancy(gpu, registers=registers, shared_bytes=0, warps=warps).ctas)
        found |= {int(registers[ctas >= count].max()) for count in np.unique(ctas[ctas > 0])}
    return tuple(sorted((cap for cap in found if cap < REGISTERS_MOST), reverse=True))


def worth_a_cap(gpu: GPU, workload: Workload, columns: Mapping[str, Column]) -> Column:
    """Which combinations have no register cap, or one that lets an SM hold more CTAs than the next looser one does.

    Shape (configurations,). By the static estimate: a cap that spills badly is none, and neither is one where shared
    memory, not registers, decides. Specialised warps are handed their registers by Triton.
    """
    caps = np.array([0, *register_caps(gpu)])
    specialised = columns.get("WARP_SPECIALIZE", np.zeros(columns["BLOCK_M"].size, dtype=bool))

    def ctas(cap: Column) -> Column:
        knobs = Knobs(
            columns["BLOCK_M"], columns["BLOCK_N"], columns["num_warps"], columns["num_stages"],
            columns.get("USE_TMA", False), specialised, padded(workload.head_dim), padded(workload.dim_v),
            int(DTYPE_BYTES[workload.dtype]), cap,
        )  # fmt: skip
        held = held_by_estimate(gpu, knobs)
        return np.where(held.fits, held.ctas, 0.0)

    cap = columns["maxnreg"]
    looser = caps[np.maximum(0, np.searchsorted(-caps[1:], -cap))]  # the value before it; 0, no cap, before the first
    return np.asarray((cap == 0) | (~specialised & (ctas(cap) > ctas(looser))))
