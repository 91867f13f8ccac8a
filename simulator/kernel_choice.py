"""Which kernel runs a call: what a user of a GPU would run, its best dense kernel, and the one that serves decoding."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..errors import InputError
from ..hwmodels import GPU
from .profile import KernelProfile, kernels_on, load_profile


@dataclass(frozen=True)
class Asked:
    """What a call asks of a kernel.

    Attributes:
        family: of its pattern. axes: of its tiles. dtype: of its products. dim, dim_v: head dims of keys and of values.
        queries: tokens of a sequence; None where their number does not matter. gqa_ratio: query heads for each key head.
        kv_dtype: of the cache, "" where it does not matter. parts: see ``choose_profile``.
    """

    family: str
    dtype: str
    dim: int
    dim_v: int
    queries: int | None = None
    axes: int = 1
    gqa_ratio: int = 1
    kv_dtype: str = ""
    parts: float = math.inf

    @property
    def dims(self) -> str:
        """Its head dims, as an error says them."""
        return f"head dim {self.dim}" + (f" with values of {self.dim_v}" if self.dim_v != self.dim else "")


@lru_cache(maxsize=1)
def _choices() -> Mapping[str, Any]:
    return tomllib.loads((Path(__file__).parent / "choices.toml").read_text(encoding="utf-8"))


def choose_profile(
    key: str,
    gpu: GPU,
    family: str,
    dtype: str,
    head_dim: int,
    queries: int | None = None,
    gqa_ratio: int = 1,
    engine: str = "",
    kv_dtype: str = "",
    parts: float = math.inf,
    axes: int = 1,
    value_dim: int = 0,
) -> KernelProfile:
    """The profile for kernel ``key`` ("auto": what a user of this GPU, or its serving engine, would run) and a pattern family.

    With ``queries`` (tokens of a sequence), the kernel that serves so few, where ``key`` leaves decoding to another.
    ``engine`` is the serving engine that calls it, "" for none; ``kv_dtype`` the cache's dtype, "" where it does not matter;
    ``parts`` those that a call could be cut into (see schedule.history_parts), where few matter; ``axes`` those of its tiles;
    ``value_dim`` the head dim of values, 0 for that of keys.

    Raises:
        InputError: the kernel is unknown, or cannot run this pattern, dtype, head dim, number of tokens or GPU.
    """
    asked = Asked(family, dtype, head_dim, value_dim or head_dim, queries, axes, gqa_ratio, kv_dtype, parts)
    if key.lower() == "auto":
        names = _choices().get(engine, {}).get(gpu.generation) if family == "band" else None
        if names is None:
            return _first_that_runs(gpu, asked, _choices()[gpu.generation][family], engine)
        key = _first_that_runs(gpu, asked, names, engine).key
    profile = load_profile(key, gpu, engine, kv_dtype)
    if family not in profile.patterns:
        takes = " and ".join(FAMILIES[name] for name in profile.patterns)
        raise InputError(f"kernel {key!r} cannot run this pattern: it takes {takes}")
    if dtype not in profile.dtypes:
        raise InputError(f"kernel {key!r} cannot run {dtype!r}: expected one of {', '.join(profile.dtypes)}")
    if queries is not None and queries > profile.few_tokens and profile.key in _choices()["decode_only"]:
        raise InputError(
            f"kernel {key!r} only decodes: expected at most {profile.few_tokens} new "
            f"token{'s' if profile.few_tokens > 1 else ''}, not {queries:,}"
        )
    profile = _serving(profile, gpu, asked, engine)
    if not profile.head_dims.takes(asked.dim, asked.dim_v, dtype):
        raise InputError(
            f"kernel {profile.key!r} cannot run {asked.dims} on {gpu.key}: expected {profile.head_dims.text(dtype)}"
            f"; {_others(gpu, asked, engine)}"
        )
    return profile


def _serving(profile: KernelProfile, gpu: GPU, asked: Asked, engine: str) -> KernelProfile:
    """The kernel that serves a call in a kernel's name: another where it has few tokens, or heads that this one leaves."""
    if asked.queries is None or asked.queries > profile.few_tokens or not profile.serving.decode_kernel:
        return profile
    serving = load_profile(profile.serving.decode_kernel, gpu, engine, asked.kv_dtype)
    # TensorRT-LLM's mayHavePerfGain: of several new tokens XQA takes those of few parts too.
    parts = asked.parts if asked.queries == 1 else math.inf
    takes = serving.head_dims.takes(asked.dim, asked.dim_v, asked.dtype)
    if serving.serving.other_heads and not (takes and serving.takes_heads(asked.gqa_ratio, parts, gpu)):
        serving = load_profile(serving.serving.other_heads, gpu, engine, asked.kv_dtype)
    return serving if asked.queries <= serving.few_tokens else profile


def _others(gpu: GPU, asked: Asked, engine: str) -> str:
    """Which kernels of a GPU run what another one does not."""
    names = [
        profile.key
        for profile in (load_profile(name, gpu, engine) for name in kernels_on(gpu))
        if _takes(profile, gpu, asked, engine)
        and (profile.key not in _choices()["decode_only"] or _few(profile, asked))
    ]
    return f"{', '.join(names)} can" if names else f"no kernel on {gpu.key} can"


def _few(profile: KernelProfile, asked: Asked) -> bool:
    return asked.queries is not None and asked.queries <= profile.few_tokens


def kernels_for(
    gpu: GPU, family: str, dtype: str, head_dim: int, kernel: str = "auto", axes: int = 1, value_dim: int = 0
) -> list[KernelProfile]:
    """Every kernel that takes a pattern family, dtype and head dimension on a GPU; only ``kernel`` unless it is "auto".

    ``axes`` are those of its tiles; ``value_dim`` as in ``choose_profile``.

    Raises:
        InputError: there is none.
    """
    if kernel.lower() != "auto":
        return [choose_profile(kernel, gpu, family, dtype, head_dim, value_dim=value_dim)]
    asked = Asked(family, dtype, head_dim, value_dim or head_dim, axes=axes)
    profiles = [load_profile(name, gpu) for name in kernels_on(gpu)]
    found = [profile for profile in profiles if _takes(profile, gpu, asked)]
    if not found:
        raise InputError(f"no kernel on {gpu.key} takes {FAMILIES[family]} with {dtype!r} and {asked.dims}")
    return found


def baseline_profile(gpu: GPU, dtype: str, head_dim: int, engine: str = "", value_dim: int = 0) -> KernelProfile:
    """The best dense kernel of a GPU for a dtype and head dimensions. Raises InputError when none takes them."""
    asked = Asked("band", dtype, head_dim, value_dim or head_dim)
    return _first_that_runs(gpu, asked, _choices()[gpu.generation]["baseline"], engine)


def _first_that_runs(gpu: GPU, asked: Asked, names: Sequence[str], engine: str) -> KernelProfile:
    profiles = [load_profile(name, gpu, engine) for name in names]
    for profile in profiles:
        if _takes(profile, gpu, asked, engine):
            return profile
    tried = ", ".join(_offer(profile, asked) for profile in profiles)
    raise InputError(f"no kernel on {gpu.key} takes {asked.dtype!r} with {asked.dims}: {tried}")


def _offer(profile: KernelProfile, asked: Asked) -> str:
    """A kernel with what it takes."""
    most = profile.max_head_dim(asked.axes)
    takes = profile.head_dims.takes(asked.dim, asked.dim_v, asked.dtype)
    dims = f"up to {most}" if takes else profile.head_dims.text(asked.dtype)
    return f"{profile.key} ({'/'.join(profile.dtypes)}, {dims})"


def _takes(profile: KernelProfile, gpu: GPU, asked: Asked, engine: str = "") -> bool:
    if asked.family not in profile.patterns or asked.dtype not in profile.dtypes:
        return False
    profile = _serving(profile, gpu, asked, engine)
    return (
        asked.dtype in profile.dtypes
        and max(asked.dim, asked.dim_v) <= profile.max_head_dim(asked.axes)
        and profile.head_dims.takes(asked.dim, asked.dim_v, asked.dtype)
    )


FAMILIES: Final = {
    "band": "dense, causal and window patterns",
    "na": "neighborhood patterns",
    "mask": "masked tiles of any other pattern",
}
