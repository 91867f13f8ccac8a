"""What promoting fp8 products costs a KV tile: sums in true fp32, and the registers that a second accumulator takes.

Counted in the machine code of vLLM 0.24.0's FlashAttention-3 (see tests/simulator/test_promotion.py).
"""

from __future__ import annotations

import numpy as np

from ..hwmodels import GPU
from . import memory
from .instructions import PROMOTION_FP32
from .tile_shape import TileShape
from .tiles import Floats

WARPGROUP_ROWS = 64  # of a tile: an instruction's
WARPGROUP_THREADS = 128
REGISTER_BYTES = 4.0
# Registers of a thread that multiplies, by the warpgroups that do (setmaxnreg, or all of a thread's where it is one), and
# those of them that hold addresses, row statistics and P.
THREAD_REGISTERS = (256.0, 240.0, 160.0)
OTHER_REGISTERS = 40.0
SPILL_MOVES = 2.0  # saved and restored once a tile
L1_BYTES = 256.0 * 1024  # Hopper: L1 and shared memory of an SM (H100 whitepaper)
STAGES = 2.0  # tiles of K and V in shared memory
# ptxas runs these products one after the other, each waited for (WARPGROUP.DEPBAR after every QGMMA). From this head dimension
# on warpgroups take turns at their products (UseSchedulerBarrier), so that nobody else's fill the wait. WAIT_CYCLES is
# measured: what the calls of vLLM at head dim 128 ask for.
INSTRUCTION_DEPTH = 32.0
TURNS_DIM = 128
WAIT_CYCLES = 75.0


def spilled_registers(tile: TileShape, one_by_one: Floats) -> Floats:
    """Registers of each thread that do not fit: scores and two accumulators of a warpgroup's rows.

    ``one_by_one``: 1 where the two products of a tile do not overlap, so that scores are gone when values are multiplied.
    """
    warpgroups = np.clip(tile.rows / WARPGROUP_ROWS, 1, len(THREAD_REGISTERS)).astype(np.int64)
    fit = np.array(THREAD_REGISTERS)[warpgroups - 1] - OTHER_REGISTERS
    held = (tile.keys * (1.0 - one_by_one) + 2.0 * tile.dim_v) * WARPGROUP_ROWS / WARPGROUP_THREADS
    found: Floats = np.maximum(held - fit, 0.0)
    return found


def waiting_cycles(tile: TileShape) -> Floats:
    """Cycles that the tensor cores wait between the instructions of a KV tile."""
    instructions = (tile.dim + tile.keys) / INSTRUCTION_DEPTH * tile.rows / WARPGROUP_ROWS
    found: Floats = instructions * WAIT_CYCLES * (tile.dim >= TURNS_DIM)
    return found


def promotion_cycles(gpu: GPU, tile: TileShape, serial_dim: int) -> tuple[Floats, Floats, Floats]:
    """Cycles that a KV tile of fp8 products adds to the FMA pipe, those that its spilled registers take of the L1, and those
    that warps wait for registers in the L2, where shared memory leaves too small an L1; 0 for 16 bits.

    Args:
        serial_dim: head dimension from which a tile's two products do not overlap.
    """
    fp8 = tile.query_bytes < 2
    fp32: Floats = tile.rows * tile.dim_v * PROMOTION_FP32 * fp8 / gpu.fp32_fma_per_clock_per_sm
    spilled = spilled_registers(tile, np.asarray(tile.dim >= serial_dim, dtype=np.float64))
    spilled_bytes = spilled * fp8 * REGISTER_BYTES * tile.rows * (WARPGROUP_THREADS / WARPGROUP_ROWS)
    # K, V, and V transposed.
    shared_bytes = tile.rows * tile.dim * tile.query_bytes + STAGES * tile.keys * tile.kv_bytes * (
        tile.dim + 2.0 * tile.dim_v
    )
    moved_bytes = SPILL_MOVES * spilled_bytes
    fits = spilled_bytes <= L1_BYTES - shared_bytes
    l1 = np.where(fits, moved_bytes / gpu.smem_bytes_per_clock_per_sm, 0.0)
    return fp32, l1, np.where(fits, 0.0, memory.l2_cycles(gpu, moved_bytes))
