"""Tile model: cycles one KV tile costs a CTA on each pipe of its SM, and together.

All functions take scalars or arrays of configurations; arrays broadcast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..hwmodels import GPU
from .operations import (
    ACCESS_ALU_PER_AXIS,
    ACCESS_BYTES,
    DIVIDED_COORDINATE_ALU,
    EMULATED_EXP_ALU,
    EMULATED_EXP_FP32,
)
from .profile import KernelProfile
from .tiles import Floats

PIPES = ("tensor", "exp", "fp32", "alu", "smem")


@dataclass(frozen=True)
class TileShape:
    """The tile of one CTA, as arrays: rows of Q (packed heads included), keys, head dims, bytes per element of K and V,
    and the number of coordinates that a token has.
    """

    rows: Floats
    keys: Floats
    dim: Floats
    dim_v: Floats
    kv_bytes: Floats
    axes: Floats


def tile_pipes(gpu: GPU, profile: KernelProfile, tile: TileShape, tensor_rate: Floats) -> dict[str, Floats]:
    """Cycles of one KV tile on each pipe, without a mask.

    Args:
        tensor_rate: FLOP per clock and SM of the tensor cores for the dtype.

    Returns:
        cycles by pipe, each of the broadcast shape of ``tile``.
    """
    ops, rows, keys = profile.operations, tile.rows, tile.keys
    scores = rows * keys
    exps = scores * ops.exp_per_score + rows * ops.exp_per_row
    emulated = exps * profile.emulated_exp
    fp32 = scores * ops.fp32_per_score + rows * tile.dim_v * ops.fp32_per_row_column + emulated * EMULATED_EXP_FP32
    alu = scores * ops.alu_per_score + emulated * EMULATED_EXP_ALU
    if profile.coordinates == "divided":
        accesses = keys * (tile.dim + tile.dim_v) * tile.kv_bytes / ACCESS_BYTES
        alu = alu + accesses * (_division_alu(tile.axes) + ACCESS_ALU_PER_AXIS * tile.axes)
    return {
        "tensor": 2.0 * scores * (tile.dim + tile.dim_v) / (tensor_rate * profile.mma_fraction),
        "exp": (exps - emulated) / gpu.exp_per_clock_per_sm,
        "fp32": fp32 / gpu.fp32_fma_per_clock_per_sm,
        "alu": alu / gpu.alu_per_clock_per_sm,
        "smem": _smem_bytes(profile, tile) / gpu.smem_bytes_per_clock_per_sm,
    }


def _smem_bytes(profile: KernelProfile, tile: TileShape) -> Floats:
    """Bytes that a KV tile moves through shared memory: K and V written once and read once per ``operand_rows`` rows."""
    kv = tile.keys * (tile.dim + tile.dim_v) * tile.kv_bytes
    moved = kv * (1.0 + np.maximum(1.0, tile.rows / profile.operand_rows))
    if profile.operands == "async":
        moved = moved + tile.rows * tile.dim * tile.kv_bytes  # Q is an operand in shared memory too
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
    longest: Floats = parts[0]
    total: Floats = parts[0]
    for part in parts[1:]:
        longest = np.maximum(longest, part)
        total = total + part
    return longest + profile.overlap * (total - longest)


def mask_alu_cycles(gpu: GPU, profile: KernelProfile, tile: TileShape) -> Floats:
    """Cycles on the compare pipe to mask a tile element by element."""
    per_score = profile.mask_alu_per_axis * tile.axes + profile.mask_alu_select
    if profile.coordinates == "divided":
        per_score = per_score + _division_alu(tile.axes)
    return tile.rows * tile.keys * per_score / gpu.alu_per_clock_per_sm


def _division_alu(axes: Floats) -> Floats:
    """Instructions that turn a flat index into ``axes`` coordinates."""
    return DIVIDED_COORDINATE_ALU * (axes - 1.0)


def occupied_rows(profile: KernelProfile, queries: Floats, packed: Floats, tile_q: Floats) -> Floats:
    """Rows the MMA really runs: queries times packed heads, padded to a power of two of at least ``min_rows``."""
    needed = np.minimum(queries, tile_q) * packed
    padded = 2.0 ** np.ceil(np.log2(np.maximum(needed, 1.0)))
    return np.minimum(np.maximum(padded, profile.min_rows), np.maximum(tile_q, profile.min_rows))
