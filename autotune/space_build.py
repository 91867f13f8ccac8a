"""Which space a problem has: our attention kernel, our decode kernel, FlexAttention or NATTEN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from ..errors import InputError, unknown
from ..hwmodels import GPU
from ..kernels.space import architecture_number
from ..simulator.kernel_choice import choose_profile
from ..simulator.patterns import Neighborhood, Pattern, parse_pattern
from ..simulator.profile import DECODE_QUERIES, KernelProfile
from ..simulator.profile_groups import Packing
from ..simulator.workload import Workload, grid_text
from .knobs import Category, Knob, Level, Place, Power, Shape
from .space import (
    MMA_ROWS,
    Column,
    Space,
    Tiling,
    check,
    product,
    register_caps,
    runnable,
    triton_knobs,
    worth_a_cap,
)
from .space_tiles import grid_tilings, library_tilings

KERNELS = ("triton", "flex", "natten")
BLOCK = 128  # tokens of a block of a BlockMask: its default
DECODE_ROWS = 64  # of kernels.decode: most rows of its Q tile
DECODE_KEYS = 64  # its KV tile up to head dim 128, half of it beyond
MOST_SPLITS = 128
# Row order counts a pattern on runs of tokens, which takes a second or so where tiles on the grid take a millisecond.
ROW_ORDER_SIZES = ((64, 64), (128, 64), (128, 128))


def choose_kernel(kernel: str, gpu: GPU, pattern: Pattern, workload: Workload) -> str:
    """The kernel to tune: the one named; for "auto" what users of the GPU run, where it has knobs, else "triton".

    Raises:
        InputError: a kernel that has no space.
    """
    name = kernel.lower()
    if name != "auto":
        if name not in KERNELS:
            raise unknown("kernel to tune", kernel, [*KERNELS, "auto"])
        return name
    family = pattern.family
    chosen = choose_profile(
        "auto", gpu, family, workload.dtype, workload.head_dim, axes=pattern.tile_axes, value_dim=workload.dim_v
    ).key
    return chosen if chosen in KERNELS else "triton"


def build(kernel: str, gpu: GPU, workload: Workload, pattern: Pattern, row_order: bool = False) -> Space:
    """The space of a kernel for a problem on a GPU.

    Args:
        kernel: "triton", "flex" or "natten". row_order: offer neighborhood patterns on unpermuted tokens too.

    Raises:
        InputError: the kernel cannot run the pattern, the dtype or the head dim, on this GPU or at all.
    """
    pattern.check(workload)
    if len(pattern.layers()) > 1:
        raise InputError(
            f"pattern '{pattern}' differs from layer to layer: expected one pattern, tune each of its layers"
        )
    family = pattern.family
    profile = choose_profile(kernel, gpu, family, workload.dtype, workload.head_dim, value_dim=workload.dim_v)
    if kernel == "natten":
        assert isinstance(pattern, Neighborhood)
        return _natten(gpu, workload, pattern, profile)
    check(gpu, workload, kernel)
    if kernel == "flex":
        return _flex(gpu, workload, pattern, _spread(profile, "never"), row_order)
    if family == "band" and workload.tokens <= DECODE_QUERIES:
        return _decode(gpu, workload, pattern, replace(_spread(profile, "always"), order="launch"))
    return _attention(gpu, workload, pattern, _spread(profile, "never"), row_order)


def _spread(profile: KernelProfile, when: Literal["always", "never"]) -> KernelProfile:
    """The profile as our kernel packs heads and splits keys."""
    return replace(profile, packing=Packing(when), splitting=replace(profile.splitting, when=when))


def _natten(gpu: GPU, workload: Workload, pattern: Neighborhood, profile: KernelProfile) -> Space:
    tilings = library_tilings(gpu, profile, pattern, workload)
    knobs, columns = _shape_knobs(tilings)
    sizes = np.array([(math.prod(t.q), math.prod(t.kv)) for t in tilings])
    return Space(
        "natten", "natten", knobs, columns, profile, tuple(tilings), np.arange(len(tilings)), sizes[:, 0], sizes[:, 1],
        len(tilings), ("NATTEN's kernels come compiled: its tile shapes are ranked by the forecast alone.",),
    )  # fmt: skip


def _decode(gpu: GPU, workload: Workload, pattern: Pattern, profile: KernelProfile) -> Space:
    rows = max(MMA_ROWS, min(DECODE_ROWS, 1 << (workload.gqa_ratio * workload.tokens - 1).bit_length()))
    keys = DECODE_KEYS if max(workload.head_dim, workload.dim_v) <= 128 else DECODE_KEYS // 2
    tiling = Tiling(pattern, (rows,), (keys,), pattern.tile_work(workload, (rows,), (keys,)))
    most = int(max(1, min(MOST_SPLITS, tiling.work.visited_max)))
    splits = Power("splits", tuple(range(1, most + 1)), 1)
    columns = product([splits])
    count = columns["splits"].size
    return Space(
        "triton", "decode", (splits,), columns, profile, (tiling,), np.zeros(count, dtype=np.int64),
        np.full(count, rows), np.full(count, keys), count,
        (f"Few queries run in attncast.kernels.decode, whose tile is {rows} x {keys}: its only knob is splits.",),
    )  # fmt: skip


def _attention(gpu: GPU, workload: Workload, pattern: Pattern, profile: KernelProfile, row_order: bool) -> Space:
    mask = pattern.family == "mask"
    knobs = triton_knobs(gpu, workload, BLOCK if mask else None)
    if architecture_number(gpu.arch) in (100, 103):
        knobs = (*knobs, Level("WARP_SPECIALIZE", (False, True), False))
    if pattern.family == "band":
        # Lists come with a mask of their own, whose registers nobody knows when a cap is chosen.
        knobs = (*knobs, Place("maxnreg", (0, *register_caps(gpu)), 0))
    columns = product(knobs)
    keep = runnable(gpu, columns)
    columns = {name: column[keep] for name, column in columns.items()}
    if "maxnreg" in columns:
        keep = worth_a_cap(gpu, workload, columns)
        columns = {name: column[keep] for name, column in columns.items()}
    sizes = [(int(m), int(n)) for m in knobs[0].values for n in knobs[1].values]
    notes: tuple[str, ...] = ()
    if mask:
        tilings = _blocked(pattern, workload, sizes)
        notes = (f"Tiles are counted on lists of blocks of {BLOCK} x {BLOCK} tokens.",)
        counted = len(sizes)
    elif isinstance(pattern, Neighborhood):
        tilings, counted = grid_tilings(pattern, workload, sizes)
        if row_order:
            tilings += _row_tilings(pattern, workload, ROW_ORDER_SIZES)
            counted += len(ROW_ORDER_SIZES)
    else:
        tilings = [Tiling(pattern, (m,), (n,), pattern.tile_work(workload, (m,), (n,))) for m, n in sizes]
        counted = len(sizes)
    total = columns["BLOCK_M"].size * counted // len(sizes)
    knobs, columns, tiling = _crossed(knobs, columns, tilings, row_order and isinstance(pattern, Neighborhood))
    return Space(
        "triton", "attention", knobs, columns, profile, tuple(tilings), tiling, columns["BLOCK_M"], columns["BLOCK_N"],
        max(total, tiling.size), notes,
    )  # fmt: skip


def _flex(gpu: GPU, workload: Workload, pattern: Pattern, profile: KernelProfile, row_order: bool) -> Space:
    """FlexAttention visits whole blocks of its BlockMask: a tile decides how fast, not how many keys."""
    knobs = triton_knobs(gpu, workload, BLOCK)
    columns = product(knobs)
    keep = runnable(gpu, columns)
    columns = {name: column[keep] for name, column in columns.items()}
    sizes = [(int(m), int(n)) for m in knobs[0].values for n in knobs[1].values]
    counted = 1
    if isinstance(pattern, Neighborhood) and pattern.order is None:
        blocks, counted = grid_tilings(pattern, workload, [(BLOCK, BLOCK)])
        if row_order or not blocks:  # a grid of fewer tokens than a block has no shape for one
            blocks += _row_tilings(pattern, workload, [(BLOCK, BLOCK)])
            counted += 1
        tilings = [_within(block, m, n) for block in blocks for m, n in sizes]
    else:
        tilings = _blocked(pattern, workload, sizes)
    total = columns["BLOCK_M"].size * counted
    grid = len(tilings[0].q) > 1
    knobs, columns, tiling = _crossed(knobs, columns, tilings, row_order and grid)
    notes = (
        f"FlexAttention visits whole blocks of {BLOCK} x {BLOCK} tokens, its default BLOCK_SIZE; tiles divide it.",
        "FlexAttention's template is not at hand to compile: resources are those of attncast's kernel with the same knobs.",
    )
    rows, keys = columns["BLOCK_M"], columns["BLOCK_N"]
    return Space("flex", "flex", knobs, columns, profile, tuple(tilings), tiling, rows, keys, total, notes)


def _blocked(pattern: Pattern, workload: Workload, sizes: Sequence[tuple[int, int]]) -> list[Tiling]:
    """Tiles of several sizes in blocks of BLOCK tokens; a dense pattern has no blocks."""
    if str(pattern) == "dense":
        return [Tiling(pattern, (m,), (n,), pattern.tile_work(workload, (m,), (n,))) for m, n in sizes]
    block = Tiling(pattern, (BLOCK,), (BLOCK,), pattern.tile_work(workload, (BLOCK,), (BLOCK,)))
    return [_within(block, m, n) for m, n in sizes]


def _within(block: Tiling, rows: int, keys: int) -> Tiling:
    """Tiles inside the blocks that a list names: every one of a visited block is visited, and masked where it is.

    Only shapes of one axis change: on a grid the block stays the shape that was permuted to.
    """
    times_q, times_kv = math.prod(block.q) // rows, math.prod(block.kv) // keys
    w = block.work
    work = replace(
        w,
        visited=w.visited * times_kv,
        full=w.full * times_kv,
        count=w.count * times_q,
        q_tiles=w.q_tiles * times_q,
        visited_total=w.visited_total * times_q * times_kv,
        full_total=w.full_total * times_q * times_kv,
        visited_max=w.visited_max * times_kv,
        visited_min=w.visited_min * times_kv,
        dense_q_tiles=w.dense_q_tiles * times_q,
        dense_kv_tiles=w.dense_kv_tiles * times_kv,
    )
    return replace(block, work=work, rows=rows, keys=keys)


def _row_tilings(pattern: Neighborhood, workload: Workload, sizes: Sequence[tuple[int, int]]) -> list[Tiling]:
    """Tokens as they lie: a tile is a run of them along the last axis."""
    rows = parse_pattern(f"{pattern} order=row")
    lead = (1,) * (len(workload.grid) - 1)
    return [Tiling(rows, (*lead, m), (*lead, n), rows.tile_work(workload, (m,), (n,)), "row") for m, n in sizes]


def _crossed(
    knobs: Sequence[Knob], columns: Mapping[str, Column], tilings: Sequence[Tiling], order: bool
) -> tuple[tuple[Knob, ...], dict[str, Column], Column]:
    """Combine configurations with the tilings of their tile sizes; returns knobs, columns and the tiling of each.

    Tile shapes on a grid become knobs, and so does the order of tokens where there is a choice (``order``).
    """
    sizes = np.array([tiling.size for tiling in tilings])
    same = (columns["BLOCK_M"][:, None] == sizes[:, 0]) & (columns["BLOCK_N"][:, None] == sizes[:, 1])
    which, tiling = np.nonzero(same)
    found = {name: column[which] for name, column in columns.items()}
    more: list[Knob] = []
    if len(tilings[0].q) > 1:
        shapes, texts = _shape_knobs(tilings)
        more += shapes
        found |= {name: column[tiling] for name, column in texts.items()}
    if order:
        orders = [t.order for t in tilings]
        more.append(Category("order", tuple(dict.fromkeys(orders)), orders[0]))
        found["order"] = np.array(orders)[tiling]
    return (*knobs, *more), found, tiling


def _shape_knobs(tilings: Sequence[Tiling]) -> tuple[tuple[Shape, ...], dict[str, Column]]:
    """Tile shapes as knobs, and their column."""
    knobs, columns = [], {}
    for name in ("q_tile", "kv_tile"):
        texts = [grid_text(t.q if name == "q_tile" else t.kv) for t in tilings]
        shapes = tuple(dict.fromkeys(texts))
        knobs.append(Shape(name, shapes, shapes[0]))
        columns[name] = np.array(texts)
    return tuple(knobs), columns
