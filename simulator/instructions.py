"""What one operation costs in instructions, and on which pipe of an SM it runs. How many operations there are, only the
cascade says (see ``tile_operations``).
"""

from __future__ import annotations

# Instructions by pipe for one execution of a cascade's operator (names of ``einsum.operators``). exp: the special function
# unit (MUFU: ex2, lg2, rcp, sqrt, tanh, sin, cos); fp32: the FMA pipe; alu: compares, min, max, selects and conversions.
# Sources: CUDA C++ Programming Guide, arithmetic throughput and intrinsics. exp(a - b) is an FMA (scale and subtract) that
# the cascade counts as its sub, and one ex2; what is made of several (sigmoid, division) is an approximation by its parts.
PIPE_INSTRUCTIONS: dict[str, dict[str, float]] = {
    "add": {"fp32": 1},
    "sub": {"fp32": 1},
    "mul": {"fp32": 1},
    "mul_add": {"fp32": 1},
    "neg": {"fp32": 1},
    "max": {"alu": 1},
    "min": {"alu": 1},
    "abs": {"alu": 1},
    "sign": {"alu": 2},
    "greater": {"alu": 1},
    "select": {"alu": 1},
    "relu": {"alu": 1},
    "round": {"alu": 1},
    "e4m3": {"alu": 0.5},
    "e2m1": {"alu": 0.5},
    "exp": {"exp": 1},
    "exp2": {"exp": 1},
    "log": {"exp": 1},
    "log2": {"exp": 1},
    "sqrt": {"exp": 1},
    "tanh": {"exp": 1},
    "sin": {"exp": 1},
    "cos": {"exp": 1},
    "divide": {"exp": 1, "fp32": 1},  # reciprocal and multiply
    "sigmoid": {"exp": 2, "fp32": 2},  # 1 / (1 + exp(-x))
    "silu": {"exp": 2, "fp32": 3},
    "softplus": {"exp": 2, "fp32": 1, "alu": 1},
    "elu": {"exp": 1, "fp32": 1, "alu": 1},
    "pow": {"exp": 2, "fp32": 1},
}

# Before it becomes an operand of a matrix product a result is converted from fp32, two values in one instruction.
CONVERT_ALU = 0.5

# A multiply-add of a matrix product on the FMA pipe: instructions there and on the integer pipe, with addresses, conversion to
# fp32 and the reduction over threads; and all that are issued for one of keys and for one of values. Counted in the SASS of
# loops like the two of TensorRT-LLM's decoderMaskedMultiheadAttentionTemplate.h over a paged cache (four keys, or eight values,
# of 16 bytes a thread), as nvcc 13.0 compiles them for sm_90 and sm_100: 285 to 330 instructions and 328 to 366 in all.
CUDA_PRODUCT_FP32 = 3.1
CUDA_PRODUCT_ALU = 2.8
CUDA_KEY_INSTRUCTIONS = 9.0
CUDA_VALUE_INSTRUCTIONS = 5.2

# An 8-bit element of K or V that becomes a 16-bit operand in registers: integer operations to spread four packed values over
# two registers, to move their exponents and to pick bytes; shifts and multiplications on the FMA pipe; bytes that go through
# shared memory's path as threads shuffle what ldmatrix gave them as if of 16 bits. Counted in the SASS, alike for sm_100 and
# sm_120, of what FlashInfer 0.6.12's prefill.cuh does with a fragment (frag_layout_swizzle.cuh, vec_dtypes.cuh): of 8 keys or
# values a thread 16 or 18, 8, and 4 or 6 shuffles.
WIDEN_ALU = 2.1
WIDEN_FP32 = 1.0
WIDEN_SHUFFLED_BYTES = 2.5

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

# fp8 products whose accumulator keeps fewer than 32 bits (Hopper): each KV tile's is cleared first and added to a true one
# afterwards (vllm-project/flash-attention, pull requests 104 and 122).
PROMOTION_FP32 = 2.0
ACCUMULATOR_BYTES = 4.0

# A kernel that learns from a tile's mask whether any of its scores counts: comparisons, a select and the maximum over the tile.
# Instructions a score: 14 in the SASS of SGLang's extend kernel for sm_120, 17 to 20 for sm_90 (Triton 3.6 and 3.9). Each waits
# for the one before: 4 to 5 cycles of latency (arXiv 2501.12084), and the integer pipe takes half a warp a cycle.
TEST_INSTRUCTIONS = 15.0
INSTRUCTION_LATENCY = 8.0
RESULT_CYCLES = 4.0  # until the next instruction may use a result (the same, least of 4 to 5)

WARP = 32  # threads
SCHEDULERS = 4  # of an SM, each of which issues an instruction of a warp in a cycle
LEAST_THREADS = 128.0  # of a CTA whose threads no profile tells
