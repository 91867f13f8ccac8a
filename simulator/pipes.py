"""Tile model: cycles one KV tile costs a CTA on each pipe of its SM, and together.

All functions take scalars or arrays of configurations; arrays broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np

from ..hwmodels import GPU
from . import memory
from .instructions import (
    ACCESS_ALU_PER_AXIS,
    ACCESS_BYTES,
    CUDA_PRODUCT_ALU,
    CUDA_PRODUCT_FP32,
    DIVIDED_COORDINATE_ALU,
    EMULATED_EXP_ALU,
    EMULATED_EXP_FP32,
    WIDEN_ALU,
)
from .profile import KernelProfile
from .promotion import promotion_cycles, waiting_cycles
from .tile_operations import TileOperations
from .tiles import Floats

PIPES = ("tensor", "exp", "fp32", "alu", "smem")


@dataclass(frozen=True)
class TileShape:
    """The tile of one CTA, as arrays: rows of Q (packed heads included), rows that its MMA instructions take time for, keys,
    head dims, bytes per element of Q and of K and V, and the number of coordinates that a token has.
    """

    rows: Floats
    mma_rows: Floats
    keys: Floats
    dim: Floats
    dim_v: Floats
    query_bytes: Floats
    kv_bytes: Floats
    axes: Floats


@dataclass(frozen=True)
class TileCycles:
    """What a KV tile costs a CTA, in cycles unless said otherwise.

    Attributes:
        full, partial: a tile without and with an element mask, all pipes together.
        pipes: each pipe of a full tile. mask: on the compare pipe, for masking. l2: its bytes at an SM's share of the L2.
        l2_bytes: bytes exchanged with the L2. first_saves: what the first tile of a CTA costs less than the others.
    """

    full: Floats
    partial: Floats
    pipes: dict[str, Floats]
    mask: Floats
    l2: Floats
    l2_bytes: Floats
    first_saves: Floats | float = 0.0


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
    full = tile_pipes(gpu, profile, operations, tile, tensor_rate)
    mask = mask_alu_cycles(gpu, profile, tile)
    moved = l2_bytes_per_tile(profile, tile)
    l2 = memory.l2_cycles(gpu, moved)
    return TileCycles(
        full=np.maximum(combine(profile, full), l2),
        partial=np.maximum(combine(profile, {**full, "alu": full["alu"] + mask}), l2),
        pipes=full,
        mask=mask,
        l2=l2,
        l2_bytes=moved,
        first_saves=_first_saves(gpu, profile, tile, full, l2),
    )


def _first_saves(
    gpu: GPU, profile: KernelProfile, tile: TileShape, full: dict[str, Floats], l2: Floats
) -> Floats | float:
    """Where products do not overlap, those of the first tile go straight to the true accumulator: no sum, no spill."""
    if "spill" not in full or (tile.dim < profile.serial_fp8_dim).all():
        return 0.0
    promoted, _, _ = promotion_cycles(gpu, tile, profile.serial_fp8_dim)
    none = np.zeros_like(promoted)
    first = combine(profile, {**full, "fp32": full["fp32"] - promoted, "spill": none, "wait": none})
    saved: Floats = np.maximum(combine(profile, full), l2) - np.maximum(first, l2)
    return np.where(tile.dim >= profile.serial_fp8_dim, saved, 0.0)


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
    if profile.coordinates == "divided":
        accesses = tile.keys * (tile.dim + tile.dim_v) * tile.kv_bytes / ACCESS_BYTES
        alu = alu + accesses * (_division_alu(tile.axes) + ACCESS_ALU_PER_AXIS * tile.axes)
    flops = operations.tensor_flops.at(tile.mma_rows, *sizes[1:])
    # 8-bit keys and values under 16-bit products are widened as they are loaded, once for each tile.
    widened = tile.keys * (tile.dim + tile.dim_v) * (tile.kv_bytes < tile.query_bytes)
    if profile.products == "cuda":  # an element at a time, from whatever its type
        fp32, alu = fp32 + 0.5 * flops * CUDA_PRODUCT_FP32, alu + 0.5 * flops * CUDA_PRODUCT_ALU
        flops = np.zeros_like(flops)
    else:
        alu = alu + widened * WIDEN_ALU
    pipes = {
        "tensor": flops / (tensor_rate * profile.mma_fraction),
        "exp": (exps - emulated) / gpu.exp_per_clock_per_sm,
        "fp32": fp32 / gpu.fp32_fma_per_clock_per_sm,
        "alu": alu / gpu.alu_per_clock_per_sm,
        "smem": _smem_bytes(profile, tile) / gpu.smem_bytes_per_clock_per_sm,
    }
    if profile.promotes_fp8 and (tile.query_bytes < 2).any():
        promoted, pipes["spill"], pipes["wait"] = promotion_cycles(gpu, tile, profile.serial_fp8_dim)
        pipes["fp32"] = pipes["fp32"] + promoted
        pipes["tensor"] = pipes["tensor"] + waiting_cycles(tile) * (tile.query_bytes < 2)
    return pipes


def _smem_bytes(profile: KernelProfile, tile: TileShape) -> Floats:
    """Bytes that a KV tile moves through shared memory: K and V written once and read once per ``operand_rows`` rows."""
    kv = tile.keys * (tile.dim + tile.dim_v) * tile.kv_bytes
    moved = kv * (1.0 + np.maximum(1.0, tile.rows / profile.operand_rows))
    if profile.operands == "async":
        moved = moved + tile.rows * tile.dim * tile.kv_bytes  # Q is an operand in shared memory too
    if profile.transposes_fp8:  # V is read and written once more
        moved = moved + 2.0 * tile.keys * tile.dim_v * tile.kv_bytes * (tile.query_bytes < 2)
    if profile.scores_through_smem:
        moved = moved + 2.0 * tile.rows * tile.keys * tile.kv_bytes
    return moved


def l2_bytes_per_tile(profile: KernelProfile, tile: TileShape) -> Floats:
    """Bytes a CTA exchanges with the L2 for one KV tile: K and V, and the accumulator where it is kept in memory."""
    moved = tile.keys * (tile.dim + tile.dim_v) * tile.kv_bytes
    if profile.output_in_registers == "kv_tile":
        moved = moved + np.where(tile.dim_v > tile.keys, 2.0 * 4.0 * tile.rows * tile.dim_v, 0.0)
    return moved


def combine(profile: KernelProfile, pipes: dict[str, Floats]) -> Floats:
    """Cycles of a tile from the cycles of its pipes: max + overlap * (sum - max).

    Shared memory is read by the tensor cores on their own where operands are "async": there it is one pipe with them,
    the slower of the two counting. Where warps load operands, it is a pipe of its own.
    """
    if profile.operands == "async":
        parts = [np.maximum(pipes["tensor"], pipes["smem"]), pipes["exp"], pipes["fp32"], pipes["alu"]]
    else:
        parts = [pipes[name] for name in PIPES]
    if "spill" in pipes:
        parts.append(pipes["spill"])
    longest: Floats = parts[0]
    total: Floats = parts[0]
    for part in parts[1:]:
        longest = np.maximum(longest, part)
        total = total + part
    return longest + profile.overlap * (total - longest) + pipes.get("wait", 0.0)


def mask_alu_cycles(gpu: GPU, profile: KernelProfile, tile: TileShape) -> Floats:
    """Cycles on the compare pipe to mask a tile element by element."""
    per_score = profile.mask_alu_per_axis * tile.axes + profile.mask_alu_select
    if profile.coordinates == "divided":
        per_score = per_score + _division_alu(tile.axes)
    return tile.rows * tile.keys * per_score / gpu.alu_per_clock_per_sm


def _division_alu(axes: Floats) -> Floats:
    """Instructions that turn a flat index into ``axes`` coordinates."""
    return DIVIDED_COORDINATE_ALU * (axes - 1.0)
