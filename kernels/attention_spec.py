"""What the compiler needs to know to build ``attention_forward_kernel``: no tensors, no torch, no GPU.

``ForwardConfig`` holds the knobs of a launch; ``forward_spec`` turns a configuration and a use into the
signature, constexprs and attributes of ``triton.compiler.ASTSource``, the same that the launch on a GPU ends
up with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError, unknown

DTYPES = {"fp16": "fp16", "bf16": "bf16", "fp32": "fp32", "fp8": "fp8e4nv"}
HEAD_DIM_MAX = 256
REGISTERS_LEAST, REGISTERS_MOST = (
    24,
    255,
)  # of a thread, that a cap may leave it: ptxas takes no fewer, the hardware no more

_POINTERS = [
    "q_ptr",
    "k_ptr",
    "v_ptr",
    "out_ptr",
    "lse_ptr",
    "full_count_ptr",
    "full_index_ptr",
    "part_count_ptr",
    "part_index_ptr",
    "part_bits_ptr",
    "bits_ptr",
    "order_ptr",
    "aux_ptr",
]
_STRIDES = [
    "stride_qb",
    "stride_qh",
    "stride_qm",
    "stride_kb",
    "stride_kh",
    "stride_kn",
    "stride_vb",
    "stride_vh",
    "stride_vn",
    "stride_ob",
    "stride_oh",
    "stride_om",
]
_INTS = [
    "stride_lb",
    "stride_lh",
    "full_width",
    "part_width",
    "batch_heads",
    "heads",
    "q_len",
    "kv_len",
    "shift",
    "left",
    "right",
]


@dataclass(frozen=True)
class ForwardConfig:
    """Knobs of the forward kernel. They change speed and resources, never the result.

    ``block_m`` and ``block_n`` are the tokens of a Q and of a KV tile (powers of two from 16), ``head_group``
    how many heads deal out their tiles together. ``use_tma`` (sm_90 and newer) loads K and V through tensor
    descriptors, ``warp_specialize`` asks Triton to split loads, MMA and softmax over warps. ``maxnreg`` caps the registers of
    a thread, so that an SM holds more CTAs; 0 leaves them to the compiler.
    """

    block_m: int = 128
    block_n: int = 64
    num_warps: int = 4
    num_stages: int = 2
    use_tma: bool = False
    warp_specialize: bool = False
    head_group: int = 1
    maxnreg: int = 0

    def __post_init__(self) -> None:
        for name in ("block_m", "block_n"):
            size = getattr(self, name)
            if size < 16 or size & (size - 1):
                raise InputError(f"{name}={size}: expected a power of two, 16 or more")
        if self.num_warps not in (1, 2, 4, 8, 16):
            raise InputError(f"num_warps={self.num_warps}: expected 1, 2, 4, 8 or 16")
        if self.num_stages < 1 or self.head_group < 1:
            raise InputError(
                f"num_stages={self.num_stages}, head_group={self.head_group}: expected both to be 1 or more"
            )
        check_cap(self.maxnreg)


@dataclass(frozen=True)
class CompileSpec:
    """One kernel, specialised: ``ASTSource(fn, signature, constexprs, attrs)`` and the compiler's
    ``options``.
    """

    fn: Any
    signature: dict[str, str]
    constexprs: dict[str, Any]
    attrs: dict[tuple[int], list[list[Any]]]
    options: dict[str, int]


def check_cap(maxnreg: int) -> None:
    """Raise InputError for a register cap that no thread can have."""
    if maxnreg and not REGISTERS_LEAST <= maxnreg <= REGISTERS_MOST:
        raise InputError(f"maxnreg={maxnreg}: expected {REGISTERS_LEAST} to {REGISTERS_MOST}, or 0 for no cap")


def padded(dim: int) -> int:
    """Return the power of two that holds ``dim`` columns, at least 16 (the least an MMA takes)."""
    return max(16, 1 << (dim - 1).bit_length())


def forward_spec(
    config: ForwardConfig,
    *,
    dtype: str = "bf16",
    head_dim: int = 128,
    v_head_dim: int | None = None,
    pattern: str = "dense",
    group: int = 1,
    mask: Any = None,
    mask_args: tuple[int, ...] = (),
    has_full: bool = True,
    has_partial: bool = True,
    with_lse: bool = True,
    aligned_lengths: bool = True,
) -> CompileSpec:
    """Return what to compile for one configuration of the forward kernel.

    ``dtype`` is fp16, bf16, fp32 or fp8 (e4m3; sm_89 and newer). ``pattern`` is ``dense``, ``causal``,
    ``window`` (both computed in the kernel), ``blocks`` (block lists, with ``mask`` on the partial ones) or
    ``bits`` (block lists with packed masks). ``aligned_lengths`` says that token counts are multiples of 16,
    as Triton's launcher finds out for itself on a GPU. Raises InputError for an unknown dtype or pattern and
    for head dims past 256.
    """
    from .attention import attention_forward_kernel

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if pattern not in ("dense", "causal", "window", "blocks", "bits"):
        raise unknown("pattern", pattern, ("dense", "causal", "window", "blocks", "bits"))
    v_head_dim = head_dim if v_head_dim is None else v_head_dim
    if not (0 < head_dim <= HEAD_DIM_MAX and 0 < v_head_dim <= HEAD_DIM_MAX):
        raise InputError(f"head_dim={head_dim}, v_head_dim={v_head_dim}: expected 1 to {HEAD_DIM_MAX}")
    lists = pattern in ("blocks", "bits")
    constexprs: dict[str, Any] = {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "V_HEAD_DIM": v_head_dim,
        "BLOCK_D": padded(head_dim),
        "BLOCK_DV": padded(v_head_dim),
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "SPARSE_Q": config.block_m,
        "SPARSE_KV": config.block_n,
        "HEAD_GROUP": config.head_group,
        "LISTS": lists,
        "HAS_FULL": has_full,
        "HAS_PARTIAL": has_partial,
        "HAS_LEFT": pattern == "window",
        "HAS_RIGHT": pattern in ("causal", "window"),
        "BITS": pattern == "bits",
        "USE_TMA": config.use_tma,
        "WARP_SPECIALIZE": config.warp_specialize,
        "MASK": mask,
        "MASK_ARGS": mask_args,
        "PRECISION": "ieee" if dtype == "fp32" else "tf32",
    }
    operand = "*" + DTYPES[dtype]
    signature: dict[str, str] = dict.fromkeys(_POINTERS, "*i32")
    signature |= {"q_ptr": operand, "k_ptr": operand, "v_ptr": operand}
    signature |= {"out_ptr": "*bf16" if dtype == "fp8" else operand, "lse_ptr": "*fp32"}
    absent = [] if with_lse else ["lse_ptr"]
    absent += [] if lists else ["full_count_ptr", "full_index_ptr", "part_count_ptr", "part_index_ptr", "order_ptr"]
    absent += [] if pattern == "bits" else ["part_bits_ptr", "bits_ptr"]
    absent += [] if mask is not None else ["aux_ptr"]
    signature |= dict.fromkeys(_STRIDES, "i32") | dict.fromkeys(_INTS, "i32") | {"scale_log2": "fp32"}
    signature |= dict.fromkeys([*absent, *constexprs], "constexpr")
    constexprs = dict.fromkeys(absent) | constexprs

    order = attention_forward_kernel.arg_names
    signature = {name: signature[name] for name in order}
    multiples_of_16 = [*_POINTERS, *_STRIDES]
    if aligned_lengths:
        multiples_of_16 += ["q_len", "kv_len"]
    attrs: dict[tuple[int], list[list[Any]]] = {
        (order.index(name),): [["tt.divisibility", 16]] for name in multiples_of_16 if name not in absent
    }
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if config.maxnreg:
        options["maxnreg"] = config.maxnreg
    return CompileSpec(attention_forward_kernel, signature, constexprs, attrs, options)
