"""Tile shapes on a token grid: all of them counted, the best of each size kept."""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..hwmodels import GPU
from ..simulator.patterns import Neighborhood
from ..simulator.patterns.neighborhood import axis_work
from ..simulator.profile import KernelProfile
from ..simulator.tiles import Floats
from ..simulator.workload import Grid, Workload
from .space import MMA_ROWS, Tiling

SPACES = Path(__file__).parent / "spaces"
# A masked tile in full ones: measured masked kernels run 1.4 to 1.6 times slower per tile (NATTEN on H100, 1-D to 3-D).
MASKED_COST = 1.5


def grid_tilings(
    pattern: Neighborhood, workload: Workload, sizes: Sequence[tuple[int, int]]
) -> tuple[list[Tiling], int]:
    """Tilings of a neighborhood for each (Q tokens, KV tokens), and how many shapes were counted.

    Sizes that no shape within the grid has are left out. Every pair of shapes of powers of two is counted exactly. For one
    size a tile costs the same whatever its shape, so the pair that visits least wins, or the one that masks less: only these
    are kept.
    """
    tokens = sorted({size for pair in sizes for size in pair})
    limits = _limits(workload.grid)
    shapes = {size: _shapes(size, limits) for size in tokens}
    tables = _axis_tables(pattern, workload)
    kept: dict[tuple[Grid, Grid], Tiling] = {}
    counted = 0
    for q_tokens, kv_tokens in sizes:
        qs, kvs = shapes[q_tokens], shapes[kv_tokens]
        counted += len(qs) * len(kvs)
        if not qs or not kvs:
            continue
        visited, full = (
            np.prod(
                [
                    table[which][np.ix_([_log2(q[a]) for q in qs], [_log2(k[a]) for k in kvs])]
                    for a, table in enumerate(tables)
                ],
                axis=0,
            )
            for which in (0, 1)
        )
        for cost in (visited, full + MASKED_COST * (visited - full)):
            i, j = np.unravel_index(int(np.argmin(cost)), cost.shape)
            q, kv = qs[int(i)], kvs[int(j)]
            if (q, kv) not in kept:
                kept[q, kv] = Tiling(pattern, q, kv, pattern.tile_work(workload, q, kv), "tiles")
    return list(kept.values()), counted


def _axis_tables(pattern: Neighborhood, workload: Workload) -> list[tuple[Floats, Floats]]:
    """For each axis visited and full KV tiles in all, by the logarithms of the Q and the KV tile's length on it."""
    tables = []
    for axis, (length, limit) in enumerate(zip(workload.grid, _limits(workload.grid), strict=True)):
        lengths = [1 << e for e in range(limit.bit_length())]
        settings = (pattern.window[axis], pattern.stride[axis], pattern.dilation[axis], pattern.causal[axis])
        works = [[axis_work(length, *settings, q, kv, "static") for kv in lengths] for q in lengths]
        tables.append((
            np.array([[work.visited_total for work in row] for row in works], dtype=float),
            np.array([[work.full_total for work in row] for row in works], dtype=float),
        ))  # fmt: skip
    return tables


def _log2(length: int) -> int:
    return length.bit_length() - 1


def _limits(grid: Grid) -> Grid:
    """Longest useful tile on each axis: its length rounded up to a power of two; the last may hold the least tile alone."""
    *others, last = (1 << (length - 1).bit_length() for length in grid)
    return (*others, max(last, MMA_ROWS))


def _shapes(tokens: int, limits: Grid, least: int = 1) -> list[Grid]:
    """Shapes of so many tokens, powers of two from ``least`` up to a limit on every axis."""
    choices = [[1 << e for e in range(limit.bit_length()) if 1 << e >= least] for limit in limits]
    return [shape for shape in itertools.product(*choices) if math.prod(shape) == tokens]


def library_tilings(gpu: GPU, profile: KernelProfile, pattern: Neighborhood, workload: Workload) -> list[Tiling]:
    """Every pair of shapes that NATTEN offers on a GPU, the default first."""
    axes = len(workload.grid)
    default = profile.alternatives(axes, max(workload.head_dim, workload.dim_v))
    pairs = [(choice.q, choice.kv) for choice in default]
    if profile.kv_tiling == "dynamic":  # cutlass-fna: the profile names a few of them
        pairs = [pairs[0], *_cutlass_pairs(gpu, axes)]
    return [
        Tiling(pattern, q, kv, pattern.tile_work(workload, q, kv, profile.kv_tiling)) for q, kv in dict.fromkeys(pairs)
    ]


def _cutlass_pairs(gpu: GPU, axes: int) -> list[tuple[Grid, Grid]]:
    rules = tomllib.loads((SPACES / "natten.toml").read_text(encoding="utf-8"))["cutlass"]
    found = []
    for rule in rules:
        if gpu.smem_bytes_per_cta < rule["shared_kib"] * 1024:
            continue
        for q in _shapes(rule["q"], (rule["q"],) * axes, least=1 if axes == 1 else 2):
            factors = _shapes(rule["kv"] // rule["q"], (rule["kv"] // rule["q"],) * axes)
            found += [(q, tuple(a * f for a, f in zip(q, factor, strict=True))) for factor in factors]
    return found
