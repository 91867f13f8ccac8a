"""Which kernel runs a call: what a user of a GPU would run, its best dense kernel, and the one that serves decoding."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..errors import InputError
from ..hwmodels import GPU
from .profile import DECODE_QUERIES, KernelProfile, kernels_on, load_profile


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
) -> KernelProfile:
    """The profile for kernel ``key`` ("auto": what a user of this GPU, or its serving engine, would run) and a pattern family.

    With ``queries`` (tokens of a sequence), the kernel that serves so few, where ``key`` leaves decoding to another.
    ``engine`` is the serving engine that calls it, "" for none; ``kv_dtype`` the cache's dtype, "" where it does not matter;
    ``parts`` those that a call could be cut into (see schedule.history_parts), where few matter; ``axes`` those of its tiles.

    Raises:
        InputError: the kernel is unknown, or cannot run this pattern, dtype, number of tokens or GPU.
    """
    if key.lower() == "auto":
        names = _choices().get(engine, {}).get(gpu.generation) if family == "band" else None
        if names is None:
            return _first_that_runs(gpu, family, dtype, head_dim, _choices()[gpu.generation][family], engine, axes)
        key = _first_that_runs(gpu, family, dtype, head_dim, names, engine, axes).key
    profile = load_profile(key, gpu, engine, kv_dtype)
    if family not in profile.patterns:
        takes = " and ".join(FAMILIES[name] for name in profile.patterns)
        raise InputError(f"kernel {key!r} cannot run this pattern: it takes {takes}")
    if dtype not in profile.dtypes:
        raise InputError(f"kernel {key!r} cannot run {dtype!r}: expected one of {', '.join(profile.dtypes)}")
    if queries is not None and queries > DECODE_QUERIES and profile.key in _choices()["decode_only"]:
        raise InputError(f"kernel {key!r} only decodes: expected at most {DECODE_QUERIES} new tokens, not {queries:,}")
    if queries is not None and queries <= DECODE_QUERIES and profile.serving.decode_kernel:
        profile = load_profile(profile.serving.decode_kernel, gpu, engine, kv_dtype)
        if not profile.takes_heads(gqa_ratio, parts, gpu):
            profile = load_profile(profile.serving.other_heads, gpu, engine, kv_dtype)
    return profile


def kernels_for(
    gpu: GPU, family: str, dtype: str, head_dim: int, kernel: str = "auto", axes: int = 1
) -> list[KernelProfile]:
    """Every kernel that takes a pattern family, dtype and head dimension on a GPU; only ``kernel`` unless it is "auto".

    ``axes`` are those of its tiles.

    Raises:
        InputError: there is none.
    """
    if kernel.lower() != "auto":
        return [choose_profile(kernel, gpu, family, dtype, head_dim)]
    found = []
    for name in kernels_on(gpu):
        profile = load_profile(name, gpu)
        if _takes(profile, family, dtype, head_dim, axes):
            found.append(profile)
    if not found:
        raise InputError(f"no kernel on {gpu.key} takes {FAMILIES[family]} with {dtype!r} and head dim {head_dim}")
    return found


def baseline_profile(gpu: GPU, dtype: str, head_dim: int, engine: str = "") -> KernelProfile:
    """The best dense kernel of a GPU for a dtype and head dimension. Raises InputError when none takes them."""
    return _first_that_runs(gpu, "band", dtype, head_dim, _choices()[gpu.generation]["baseline"], engine, 1)


def _first_that_runs(
    gpu: GPU, family: str, dtype: str, head_dim: int, names: Sequence[str], engine: str, axes: int
) -> KernelProfile:
    profiles = [load_profile(name, gpu, engine) for name in names]
    for profile in profiles:
        if _takes(profile, family, dtype, head_dim, axes):
            return profile
    tried = ", ".join(f"{p.key} ({'/'.join(p.dtypes)}, up to {p.max_head_dim(axes)})" for p in profiles)
    raise InputError(f"no kernel on {gpu.key} takes {dtype!r} with head dim {head_dim}: {tried}")


def _takes(profile: KernelProfile, family: str, dtype: str, head_dim: int, axes: int) -> bool:
    return family in profile.patterns and dtype in profile.dtypes and head_dim <= profile.max_head_dim(axes)


FAMILIES: Final = {
    "band": "dense, causal and window patterns",
    "na": "neighborhood patterns",
    "mask": "masked tiles of any other pattern",
}
