"""Operations of the attention algorithms, per score, per row and per tile, by pipe.

The one table of the project: nothing else counts operations. (A later piece derives it from the Einsum cascades.)
Counts of the one-pass cascade follow FlashAttention-2 (arXiv 2307.08691, algorithm 1): for each tile of M rows and N
keys, 2 GEMMs; per score one fused multiply-add (scale, subtract the maximum), one exponential, one add (sum), one
maximum and half an instruction to convert (two scores to a pair of 16-bit values at once); per row one exponential
(the correction) and a multiplication of each of the accumulator's columns.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Operations:
    """Operations of one algorithm.

    Attributes:
        exp_per_score, fp32_per_score, alu_per_score: per query-key pair of a tile. ``alu`` are the operations of the
            integer / compare pipe, which also runs fp32 max and conversions.
        exp_per_row: per query row of each KV tile.
        fp32_per_row_column: per query row and accumulator column of each KV tile (rescaling the accumulator).
    """

    exp_per_score: float = 1.0
    fp32_per_score: float = 2.0
    alu_per_score: float = 1.5
    exp_per_row: float = 1.0
    fp32_per_row_column: float = 1.0


OPERATIONS: dict[str, Operations] = {
    "one-pass": Operations(),
    # FlashAttention-4 rescales only when the running maximum grows by more than 8 (in log2), which on its own test data
    # is rare: no correction is charged (arXiv 2603.05451, section 3).
    "one-pass-conditional": Operations(exp_per_row=0.0, fp32_per_row_column=0.0),
}

# A cubic polynomial on the FMA pipe instead of the exponential unit: round and subtract (2), three multiply-adds, and the
# shift and add of the exponent (2, integer). FlashAttention-4, section 3.
EMULATED_EXP_FP32 = 5.0
EMULATED_EXP_ALU = 2.0

# Masking one score element by element. One compare-and-select for the bound on each side; a coordinate has to be formed
# and compared with both ends of the window on every axis. Counted in NATTEN's Hopper and Blackwell fusion sources
# (is_neighbor, apply_mask): per axis one add and two compares with chained predicates, then one select.
MASK_ALU_PER_AXIS = 3.0
MASK_ALU_SELECT = 1.0

# Kernels of the CUTLASS 2.x kind turn a flat row number into grid coordinates again for every 16-byte access and for every
# masked score (NATTEN csrc/include/natten/cuda/fna: map_index_to_coord). Each axis but one costs a division by a number
# known only at run time, up to 20 instructions (CUDA C++ Programming Guide, "Integer arithmetic"), and a multiply and a
# subtraction for the remainder. An access then adds the offset, compares with both bounds, and multiplies and adds a
# 64-bit stride (4 instructions) on each axis.
DIVIDED_COORDINATE_ALU = 22.0
ACCESS_ALU_PER_AXIS = 7.0
ACCESS_BYTES = 16.0
