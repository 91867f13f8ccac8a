"""Tile model: cycles one KV tile costs a CTA on each pipe of its SM, and together.

All functions take scalars or arrays of configurations; arrays broadcast.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from functools import lru_cache

import numpy as np

from ..hwmodels import GPU
from . import memory
from .instructions import (
    ACCESS_ALU_PER_AXIS,
    ACCESS_BYTES,
    ACCUMULATOR_BYTES,
    CUDA_PRODUCT_ALU,
    CUDA_PRODUCT_FP32,
    DIVIDED_COORDINATE_ALU,
    EMULATED_EXP_ALU,
    EMULATED_EXP_FP32,
    INSTRUCTION_LATENCY,
    LEAST_THREADS,
    TEST_INSTRUCTIONS,
    WARP,
    WIDEN_ALU,
    WIDEN_FP32,
    WIDEN_SHUFFLED_BYTES,
)
from .profile import KernelProfile
from .promotion import WARPGROUP_ROWS, WARPGROUP_THREADS, promotion_cycles, waiting_cycles
from .tile_operations import TileOperations
from .tile_shape import TileShape
from .tiles import Floats

TCGEN05_ROWS = 128
MMA_ROWS = 16  # of mma.sync
ASYNC_ROWS = 64  # fewest of wgmma, and of tcgen05 in Triton; tiles of fewer run on mma.sync, whose time a walk holds
LOADS_WAITED = 2.0  # of a KV tile whose loads nothing hides: keys, then values
COMPILED = ("threads", "cycles", "work_cycles", "test_cycles", "test_work_cycles", "waits", "ahead")
PIPES = ("tensor", "exp", "fp32", "alu", "smem")


def _none() -> Floats:
    return np.zeros(1)


@dataclass(frozen=True)
class TileCycles:
    """What a KV tile costs a CTA, in cycles unless said otherwise.

    Attributes:
        full, partial: a tile without and with an element mask, all pipes together. tested: one that is looked at and left.
        chain: all three for a CTA alone, where that is longer (see waiting).
        pipes: each pipe of a full tile. mask: on the compare pipe, for masking. l2: its bytes at an SM's share of the L2.
        l2_bytes: bytes exchanged with the L2. first_saves: what the first tile of a CTA costs less than the others, if
            it does. first_waits: what the first costs more.
    """

    full: Floats
    partial: Floats
    pipes: dict[str, Floats]
    mask: Floats
    l2: Floats
    l2_bytes: Floats
    tested: Floats = field(default_factory=_none)
    first_saves: Floats | None = None
    first_waits: Floats | None = None
    chain: tuple[Floats, Floats, Floats] | None = None


def tile_cycles(
    gpu: GPU,
    profile: KernelProfile,
    operations: TileOperations,
    tile: TileShape,
    tensor_rate: Floats,
) -> TileCycles:
    """Cycles of a KV tile: the pipes combined by the kernel's overlap, and no faster than its data comes."""
    if tile.rows.size == 1:  # predictions one at a time ask for few tile shapes, again and again
        sizes = (*(getattr(tile, item.name) for item in fields(TileShape)), tensor_rate)
        return _one_tile(gpu, profile, operations, *(float(size[0]) for size in sizes))
    return _tile_cycles(gpu, profile, operations, tile, tensor_rate)


@lru_cache(maxsize=4096)
def _one_tile(gpu: GPU, profile: KernelProfile, operations: TileOperations, *sizes: float) -> TileCycles:
    *shape, tensor_rate = (np.array([size]) for size in sizes)
    return _tile_cycles(gpu, profile, operations, TileShape(*shape), tensor_rate)


def _tile_cycles(
    gpu: GPU,
    profile: KernelProfile,
    operations: TileOperations,
    tile: TileShape,
    tensor_rate: Floats,
) -> TileCycles:
    if profile.chain == "pipes":
        profile = _shared(gpu, profile, tile)
    if (tile.dim >= profile.products.serial_fp8_dim).any():
        profile = _one_after_other(profile, tile)
    pipes = tile_pipes(gpu, profile, operations, tile, tensor_rate)
    mask = mask_alu_cycles(gpu, profile, tile)
    moved = l2_bytes_per_tile(profile, tile)
    l2 = memory.l2_cycles(gpu, moved)
    masked = {**pipes, "alu": pipes["alu"] + mask}
    if profile.chain != "none":
        return _chained(gpu, profile, tile, pipes, masked, mask, moved)
    full = combine(profile, pipes, tile.single)
    partial = full + mask if profile.masking.waits else combine(profile, masked, tile.single)
    partial = partial + tile.mask_stall * tile.keys * (WARPGROUP_ROWS / WARPGROUP_THREADS)  # scores of a thread
    full, partial = full + tile.tile_stall, partial + tile.tile_stall
    floor = np.zeros_like(l2) if profile.splitting.warp_keys else l2  # what is loaded is not always a whole tile there
    return TileCycles(
        full=np.maximum(full, floor),
        partial=np.maximum(partial, floor),
        pipes=pipes,
        mask=mask,
        l2=l2,
        l2_bytes=moved,
        first_saves=_first_saves(gpu, profile, tile, pipes, l2),
        first_waits=_first_waits(profile, pipes if profile.masking.waits else masked, tile.single)
        if profile.products.fills
        else None,
    )


def _shared(gpu: GPU, profile: KernelProfile, tile: TileShape) -> KernelProfile:
    """The profile with the overlap that the CTAs of an SM reach together: 1/n of what one of n does alone.

    A CTA of 128 threads has a warp for each of an SM's four schedulers, which does one thing after the other; larger ones
    have more. n jobs that take turns on the pipes, S in all and M on the busiest, need at most (S + (n - 1) M) / n each: the
    balanced job bound of queueing networks (Zahorjan et al., CACM 25(2), 1982).
    """
    fitting = np.minimum(resident_ctas(gpu, profile, tile), profile.in_flight)
    ctas = np.where(tile.resident > 0, np.minimum(fitting, tile.resident), fitting)
    profile = copy(profile)
    object.__setattr__(profile, "overlap", profile.overlap / (ctas * np.maximum(tile.threads / LEAST_THREADS, 1.0)))
    return profile


# Share of what FlashAttention-3 hides that it still hides without overlap inside a warpgroup: its ablation (arXiv 2407.08608)
# takes 3.54 ms with it, an overlap of 0.51 here, and 4.02 ms without, 0.67 (see its profile and TensorRT-LLM's).
HIDDEN_BY_OTHERS = (1.0 - 0.67) / (1.0 - 0.51)


def _one_after_other(profile: KernelProfile, tile: TileShape) -> KernelProfile:
    """The profile with the overlap of tiles whose two products do not overlap: other warpgroups hide what they can."""
    serial = (tile.query_bytes < 2) & (tile.dim >= profile.products.serial_fp8_dim)
    left = np.maximum(profile.overlap, 1.0 - (1.0 - profile.overlap) * HIDDEN_BY_OTHERS)
    profile = copy(profile)
    object.__setattr__(profile, "overlap", np.where(serial, left, profile.overlap))
    return profile


def _chained(
    gpu: GPU,
    profile: KernelProfile,
    tile: TileShape,
    pipes: dict[str, Floats],
    masked: dict[str, Floats],
    mask: Floats,
    moved: Floats,
) -> TileCycles:
    """Work and chain of a KV tile where a CTA waits for itself (see waiting)."""
    l2 = memory.l2_cycles(gpu, moved)
    told = tile.cycles > 0  # masks, tests and spills are in what a compiler made
    per_score = np.where(told, 0.0, tile.rows * tile.keys * TEST_INSTRUCTIONS * tile.tests)
    tested = per_score / np.maximum(tile.threads, LEAST_THREADS) * INSTRUCTION_LATENCY
    waits, arrival = tested, np.zeros_like(l2)
    if profile.chain == "loads":
        trip = profile.tile_round_trips * tile.latency_s * gpu.clock_hz
        waits = waits + np.where(told, tile.waits, LOADS_WAITED) * trip
        arrival = np.where(tile.ahead > 0, trip / np.maximum(tile.ahead, 1.0), 0.0)

    apart = (profile.products.operands == "async") & (tile.rows >= ASYNC_ROWS)

    def products(found: dict[str, Floats]) -> Floats:
        return np.where(apart, found["tensor"], 0.0)

    def work(found: dict[str, Floats]) -> Floats:
        units = np.maximum.reduce([found["tensor"], found["exp"], found["smem"], l2])
        # What nobody works at meanwhile is a delay of the bound that work_cycles is.
        idle = np.where(tile.resident > 0, (products(found) + waits) / np.maximum(tile.resident, 1.0), 0.0)
        counted = np.maximum(units, profile.overlap * tile.work_cycles + idle)
        return np.where(told, counted, np.maximum.reduce([units, *found.values()]))

    def alone(found: dict[str, Floats]) -> Floats:
        counted = profile.overlap * tile.cycles + products(found)
        busy = np.maximum(np.where(told, counted, combine(profile, found, tile.single)), l2)
        return np.maximum(busy + waits, arrival)

    return TileCycles(
        full=work(pipes),
        partial=work(masked),
        pipes=pipes,
        mask=mask,
        l2=l2,
        l2_bytes=moved,
        tested=np.where(told, profile.overlap * tile.test_work_cycles, per_score / gpu.alu_per_clock_per_sm),
        chain=(alone(pipes), alone(masked), np.where(told, profile.overlap * tile.test_cycles, tested)),
    )


def _first_saves(
    gpu: GPU, profile: KernelProfile, tile: TileShape, full: dict[str, Floats], l2: Floats
) -> Floats | None:
    """Where products do not overlap, those of the first tile go straight to the true accumulator: no sum, no spill."""
    if "spill" not in full or (tile.dim < profile.products.serial_fp8_dim).all():
        return None
    promoted, _, _ = promotion_cycles(gpu, tile, profile.products.serial_fp8_dim)
    none = np.zeros_like(promoted)
    first = combine(profile, {**full, "fp32": full["fp32"] - promoted, "spill": none, "wait": none})
    saved: Floats = np.maximum(combine(profile, full), l2) - np.maximum(first, l2)
    return np.where(tile.dim >= profile.products.serial_fp8_dim, saved, 0.0)


def _first_waits(profile: KernelProfile, masked: dict[str, Floats], single: Floats) -> Floats:
    """Cycles that the pipes of a CTA's first KV tile take more than those of others, with no tile beside them."""
    alone = copy(profile)
    object.__setattr__(alone, "overlap", np.maximum(profile.overlap, 1.0))
    return combine(alone, masked, single) - combine(profile, masked, single)


def tile_pipes(
    gpu: GPU, profile: KernelProfile, operations: TileOperations, tile: TileShape, tensor_rate: Floats
) -> dict[str, Floats]:
    """Cycles of one KV tile on each pipe, without a mask.

    Args:
        operations: counts of the kernel's algorithm.
        tensor_rate: FLOP per clock and SM of the tensor cores for the dtype.

    Returns:
        cycles by pipe, each of the broadcast shape of ``tile``.
    """
    sizes = (tile.rows, tile.keys, tile.dim, tile.dim_v)
    exps = operations.exp.at(*sizes)
    emulated = exps * profile.emulated_exp
    rescale = operations.rescale_fp32.at(*sizes) * profile.rescaled_tiles
    fp32 = operations.fp32.at(*sizes) + rescale + emulated * EMULATED_EXP_FP32
    alu = operations.alu.at(*sizes) + emulated * EMULATED_EXP_ALU
    if profile.masking.coordinates == "divided":
        accesses = tile.keys * (tile.dim + tile.dim_v) * tile.kv_bytes / ACCESS_BYTES
        alu = alu + accesses * (_division_alu(tile.axes) + ACCESS_ALU_PER_AXIS * tile.axes)
    flops = operations.tensor_flops.at(tile.mma_rows, *sizes[1:])
    # 8-bit keys and values under 16-bit products are widened: where warps load operands, by each that reads them.
    widened = tile.keys * (tile.dim + tile.dim_v) * (tile.kv_bytes < tile.query_bytes)
    shuffled: Floats | float = 0.0
    if profile.products.unit == "cuda":  # an element at a time, from whatever its type
        fp32, alu = fp32 + 0.5 * flops * CUDA_PRODUCT_FP32, alu + 0.5 * flops * CUDA_PRODUCT_ALU
        flops = np.zeros_like(flops)
    else:
        if profile.products.operands == "registers":
            widened = widened * _reads(profile, tile)
            shuffled = widened * WIDEN_SHUFFLED_BYTES
            fp32 = fp32 + widened * WIDEN_FP32
        alu = alu + widened * WIDEN_ALU
    pipes = {
        "tensor": flops / (tensor_rate * profile.products.mma_fraction),
        "exp": (exps - emulated) / gpu.exp_per_clock_per_sm,
        "fp32": fp32 / gpu.fp32_fma_per_clock_per_sm,
        "alu": alu / gpu.alu_per_clock_per_sm,
        "smem": (_smem_bytes(profile, tile) + shuffled) / gpu.smem_bytes_per_clock_per_sm,
    }
    if profile.products.promotes_fp8 and (tile.query_bytes < 2).any():
        promoted, pipes["spill"], pipes["wait"] = promotion_cycles(gpu, tile, profile.products.serial_fp8_dim)
        pipes["fp32"] = pipes["fp32"] + promoted
        pipes["tensor"] = pipes["tensor"] + waiting_cycles(tile) * (tile.query_bytes < 2)
    return pipes


def _smem_bytes(profile: KernelProfile, tile: TileShape) -> Floats:
    """Bytes that a KV tile moves through shared memory: K and V written once and read once per ``operand_rows`` rows.

    tcgen05 (128 rows) reads operands while TMA writes the next ones: TensorRT-LLM's 16-bit tiles of head dim 256 on B200 take
    the time of their products and softmax, which the writes on top would exceed.
    """
    kv = tile.keys * (tile.dim + tile.dim_v) * tile.kv_bytes
    written = np.where(np.asarray(profile.products.operand_rows) >= TCGEN05_ROWS, 0.0, 1.0)
    moved = kv * (written + _reads(profile, tile))
    if profile.products.row_warps:
        moved = moved + _query_bytes(tile)
    # Written, and read by each warp that has the rows: all of them where they divide keys.
    readers = np.maximum(tile.threads / WARP * MMA_ROWS / tile.rows, 1.0)
    moved = moved + (1.0 + readers) * tile.streams_queries * _query_bytes(tile)
    if profile.products.operands == "async":
        moved = moved + tile.rows * tile.dim * tile.kv_bytes  # Q is an operand in shared memory too
    if profile.products.transposes_fp8:  # V is read and written once more
        moved = moved + 2.0 * tile.keys * tile.dim_v * tile.kv_bytes * (tile.query_bytes < 2)
    if profile.products.scores_through_smem:
        moved = moved + 2.0 * tile.rows * tile.keys * tile.kv_bytes
    return moved


def _query_bytes(tile: TileShape) -> Floats:
    """Bytes of the queries of a Q tile."""
    return tile.rows * tile.dim * tile.query_bytes


def _reads(profile: KernelProfile, tile: TileShape) -> Floats:
    """How often a KV tile is read from shared memory."""
    if profile.chain == "pipes" and (tile.threads > 0).any():
        warps = np.where(tile.threads > 0, tile.threads / WARP, tile.rows / profile.products.operand_rows)
        return np.maximum(1.0, np.minimum(warps, tile.rows / MMA_ROWS))
    served = (
        np.maximum(tile.rows / profile.products.row_warps, MMA_ROWS)
        if profile.products.row_warps
        else profile.products.operand_rows
    )
    times: Floats = np.maximum(1.0, tile.rows / served)
    return times


def merged_bytes(profile: KernelProfile, tile: TileShape) -> Floats:
    """Bytes of the fp32 results that the warps of a CTA exchange at its end, where they divide keys and not rows."""
    key_warps = np.minimum(
        np.maximum(profile.products.row_warps * MMA_ROWS / tile.rows, 1.0), np.maximum(profile.products.row_warps, 1)
    )
    exchanged: Floats = np.where(key_warps > 1.0, key_warps * tile.rows * tile.dim_v * ACCUMULATOR_BYTES, 0.0)
    return exchanged


def resident_ctas(gpu: GPU, profile: KernelProfile, tile: TileShape) -> Floats:
    """CTAs that fit an SM's shared memory together, one at least: by what a compiler told, else by their Q, K and V tiles or
    what their warps exchange."""
    held = tile.rows * tile.dim * tile.query_bytes + tile.keys * (tile.dim + tile.dim_v) * tile.kv_bytes
    held = np.where(tile.shared_bytes > 0, tile.shared_bytes, np.maximum(held, merged_bytes(profile, tile)))
    fitting: Floats = np.floor(gpu.smem_bytes_per_sm / (held + gpu.smem_reserved_bytes_per_cta))
    return np.maximum(fitting, 1.0)


def l2_bytes_per_tile(profile: KernelProfile, tile: TileShape) -> Floats:
    """Bytes a CTA exchanges with the L2 for one KV tile: K and V, the accumulator where it is kept in memory, and Q where
    it comes again."""
    dim = np.where(tile.moved_dim > 0, tile.moved_dim, tile.dim)
    dim_v = np.where(tile.moved_dim_v > 0, tile.moved_dim_v, tile.dim_v)
    moved: Floats = tile.keys * (dim + dim_v) * tile.kv_bytes + tile.streams_queries * _query_bytes(tile)
    if profile.products.output_in_registers == "kv_tile":
        moved = moved + np.where(dim_v > tile.keys, 2.0 * 4.0 * tile.rows * dim_v, 0.0)
    return moved


def combine(profile: KernelProfile, pipes: dict[str, Floats], single: Floats | float = 0.0) -> Floats:
    """Cycles of a tile from the cycles of its pipes: max + overlap * (sum - max).

    Where ``single`` is 1 the CTA has no other Q tile to alternate with: the overlap is half way from the kernel's to none.

    Shared memory is read by the tensor cores on their own where operands are "async": there it is one pipe with them,
    the slower of the two counting. Where warps load operands, it is a pipe of its own.
    """
    if profile.products.operands == "async":
        parts = [np.maximum(pipes["tensor"], pipes["smem"]), pipes["exp"], pipes["fp32"], pipes["alu"]]
    else:
        parts = [pipes[name] for name in PIPES]
    parts += [pipes[name] for name in ("spill", "l2") if name in pipes]
    longest: Floats = parts[0]
    total: Floats = parts[0]
    for part in parts[1:]:
        longest = np.maximum(longest, part)
        total = total + part
    overlap = np.where(single > 0, np.maximum(profile.overlap, 0.5 * (1.0 + profile.overlap)), profile.overlap)
    cycles: Floats = longest + overlap * (total - longest) + pipes.get("wait", 0.0) + profile.products.wait_cycles
    return cycles


def mask_alu_cycles(gpu: GPU, profile: KernelProfile, tile: TileShape) -> Floats:
    """Cycles on the compare pipe to mask a tile element by element."""
    counted = profile.masking.alu_by_axes
    per_score = profile.masking.alu_per_axis * tile.axes + profile.masking.alu_select
    if counted:
        per_score = np.interp(tile.axes, np.arange(1.0, len(counted) + 1.0), counted)
    if profile.masking.coordinates == "divided":
        per_score = per_score + _division_alu(tile.axes)
    return tile.rows * tile.keys * per_score / gpu.alu_per_clock_per_sm


def _division_alu(axes: Floats) -> Floats:
    """Instructions that turn a flat index into ``axes`` coordinates."""
    return DIVIDED_COORDINATE_ALU * (axes - 1.0)
