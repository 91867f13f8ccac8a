"""What can be compiled: a kernel, its use and its knobs as one value, and lists of them to sweep.

No Triton is imported here; the kernel itself is looked up in the process that compiles (compile_worker.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError, unknown
from . import decode_spec
from .attention_spec import DTYPES, HEAD_DIM_MAX, ForwardConfig, check_cap, padded

#: kernel -> (module beside this one, function): the kernel itself, and what turns a configuration into its signature.
KERNELS = {
    "attention": (("attention", "attention_forward_kernel"), ("attention_spec", "forward_spec")),
    "decode": (("decode", "decode_split_kernel"), ("decode_spec", "decode_spec")),
}
#: kernel -> what may be compiled into it.
PATTERNS = {"attention": ("dense", "causal", "window", "blocks", "bits"), "decode": decode_spec.PATTERNS}
#: What Triton compiles for, and the first GPU generation behind each.
ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")
WARPS = (1, 2, 4, 8, 16)
_MAX_BLOCK = 1024  # past any shared memory; keeps a typing error from compiling for minutes


@dataclass(frozen=True, order=True)
class KernelConfig:
    """One kernel, specialised: problem (head_dim, dtype, pattern) and knobs, as ``ForwardConfig`` has them.

    Raises InputError, quoting the value, for an unknown kernel, dtype or pattern and for knobs out of range.
    """

    kernel: str = "attention"
    head_dim: int = 128
    dtype: str = "bf16"
    pattern: str = "dense"
    block_m: int = 128
    block_n: int = 64
    num_warps: int = 8
    num_stages: int = 3
    use_tma: bool = False
    warp_specialize: bool = False
    maxnreg: int = 0

    def __post_init__(self) -> None:
        for what, known in (("kernel", KERNELS), ("dtype", DTYPES)):
            if getattr(self, what) not in known:
                raise unknown(what, getattr(self, what), known)
        if self.pattern not in PATTERNS[self.kernel]:
            raise unknown("pattern", self.pattern, PATTERNS[self.kernel])
        if self.kernel == "decode" and (self.use_tma or self.warp_specialize or self.maxnreg):
            raise InputError(
                f"kernel 'decode' with {self}: expected no tma, no warp specialisation and no register cap"
            )
        if not 1 <= self.head_dim <= HEAD_DIM_MAX:
            raise InputError(f"head_dim={self.head_dim}: expected 1 to {HEAD_DIM_MAX}")
        for name in ("block_m", "block_n"):
            size = getattr(self, name)
            if not 16 <= size <= _MAX_BLOCK or size & (size - 1):
                raise InputError(f"{name}={size}: expected a power of two from 16 to {_MAX_BLOCK}")
        if self.num_warps not in WARPS:
            raise InputError(f"num_warps={self.num_warps}: expected one of {', '.join(map(str, WARPS))}")
        if not 1 <= self.num_stages <= 8:
            raise InputError(f"num_stages={self.num_stages}: expected 1 to 8")
        check_cap(self.maxnreg)

    @property
    def padded_head_dim(self) -> int:
        """Head dim as the kernel computes it: the next power of two, at least 16."""
        return padded(self.head_dim)

    def forward_config(self) -> ForwardConfig:
        """Return the knobs alone, as the kernel's launcher takes them."""
        return ForwardConfig(
            block_m=self.block_m,
            block_n=self.block_n,
            num_warps=self.num_warps,
            num_stages=self.num_stages,
            use_tma=self.use_tma,
            warp_specialize=self.warp_specialize,
            maxnreg=self.maxnreg,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return asdict(self)

    def __str__(self) -> str:
        knobs = f"{self.block_m}x{self.block_n} warps {self.num_warps} stages {self.num_stages}"
        knobs += " tma" if self.use_tma else ""
        knobs += " ws" if self.warp_specialize else ""
        return knobs + (f" regs {self.maxnreg}" if self.maxnreg else "")


def architecture_number(arch: str) -> int:
    """Return 90 for "sm_90" (or "sm_90a"). Raises InputError for what Triton does not compile for here."""
    plain = arch.removesuffix("a") if arch.removesuffix("a") in ARCHITECTURES else arch
    if plain not in ARCHITECTURES:
        raise unknown("architecture", arch, ARCHITECTURES)
    return int(plain.removeprefix("sm_"))


def attention_space(
    arch: str, head_dims: Sequence[int] = (64, 128), dtype: str = "bf16", pattern: str = "dense"
) -> Iterator[KernelConfig]:
    """Yield the configurations of ``attention`` that ``--grid`` sweeps on one architecture.

    72 tilings per head dim without tensor descriptors; on sm_90 and newer 16 more with them, and the same
    16 warp specialised. Nothing is left out for being too large: that is what the sweep is to find out.
    """
    tma = architecture_number(arch) >= 90
    for head_dim in head_dims:
        base = KernelConfig(head_dim=head_dim, dtype=dtype, pattern=pattern)
        for block_m, block_n, warps, stages in itertools.product((32, 64, 128, 256), (32, 64, 128), (4, 8), (2, 3, 4)):
            yield _with(base, block_m, block_n, warps, stages, False, False)
        if tma:
            for specialised, block_m, block_n, warps, stages in itertools.product(
                (False, True), (64, 128), (64, 128), (4, 8), (2, 3)
            ):
                yield _with(base, block_m, block_n, warps, stages, True, specialised)


def _with(
    base: KernelConfig, block_m: int, block_n: int, warps: int, stages: int, tma: bool, specialised: bool
) -> KernelConfig:
    return KernelConfig(
        base.kernel,
        base.head_dim,
        base.dtype,
        base.pattern,
        block_m,
        block_n,
        warps,
        stages,
        tma,
        specialised,
    )
