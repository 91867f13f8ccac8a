"""What the compiler needs to know to build ``decode_split_kernel``: the launch of decode.py without its tensors."""

from __future__ import annotations

from typing import Any

from ..errors import unknown
from .attention_spec import DTYPES, CompileSpec, padded

PATTERNS = ("causal", "window", "paged")
PAGE = 16  # tokens of a page, as serving engines have them by default
NUM_WARPS, NUM_STAGES = 4, 2  # of decode's launch
#: KV heads share rows of a tile with their query heads; how many query heads each has decides no instruction of the loop.
_GROUP = 8


def decode_spec(
    *, dtype: str = "bf16", head_dim: int = 128, pattern: str = "causal", block_m: int = 16, block_n: int = 64,
    num_warps: int = NUM_WARPS, num_stages: int = NUM_STAGES, group: int = _GROUP,
) -> CompileSpec:  # fmt: skip
    """Return what to compile for the split kernel of ``decode``, several splits, lengths given, on its own keys.

    ``pattern`` is ``causal`` (contiguous caches), ``window`` (the same with a left limit) or ``paged`` (block tables).
    ``block_m`` rows are a KV head's query heads x tokens. Raises InputError for an unknown dtype or pattern.
    """
    from .decode import decode_split_kernel

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if pattern not in PATTERNS:
        raise unknown("pattern", pattern, PATTERNS)
    constexprs: dict[str, Any] = {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "V_HEAD_DIM": head_dim,
        "BLOCK_D": padded(head_dim),
        "BLOCK_DV": padded(head_dim),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "PAGE": PAGE if pattern == "paged" else 0,
        "SHARED": False,
        "CAUSAL": True,
        "HAS_LEFT": pattern == "window",
        "PRECISION": "ieee" if dtype == "fp32" else "tf32",
    }
    if pattern != "paged":
        constexprs["table_ptr"] = None
    operand = "*" + DTYPES[dtype]
    # Several splits write their states in float32; lengths and the table hold int32.
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr"), operand)
    pointers |= {"out_ptr": "*fp32", "lse_ptr": "*fp32", "lengths_ptr": "*i32", "table_ptr": "*i32"}
    order = decode_split_kernel.arg_names
    kinds = {**pointers, "scale_log2": "fp32"}
    signature = {name: "constexpr" if name in constexprs else kinds.get(name, "i32") for name in order}
    # What Triton's launcher finds out for itself: pointers and the strides of rows of 16 elements are multiples of 16.
    aligned = [*pointers, *(name for name in order if name.startswith("stride_") and name != "stride_table")]
    attrs: dict[tuple[int], list[list[Any]]] = {
        (order.index(name),): [["tt.divisibility", 16]] for name in aligned if name not in constexprs
    }
    options = {"num_warps": num_warps, "num_stages": num_stages}
    return CompileSpec(decode_split_kernel, signature, constexprs, attrs, options)
