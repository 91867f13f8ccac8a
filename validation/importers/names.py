"""From the names in a file to hardware models and kernel profiles: data in ``names.toml``, not branches."""

from __future__ import annotations

import math
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ...errors import InputError, suggest
from ...hwmodels import GPU, gpu_names, load_gpu
from ...simulator.profile import load_profile, profile_names
from .base import BadEntry, Names, NoRun

_HERE: Final = Path(__file__).parent


@lru_cache(maxsize=8)
def table(name: str) -> dict[str, Any]:
    """A TOML file of this folder."""
    return tomllib.loads((_HERE / f"{name}.toml").read_text(encoding="utf-8"))


class FileNames(Names):
    """Names as files of one format write them, and the user's overrides, which need no table.

    Raises:
        InputError: an override that names no hardware model or kernel profile.
    """

    def __init__(self, format_key: str, gpu: str | None, kernel: str | None) -> None:
        self._format = format_key
        self._kernels: dict[str, Any] = table("names").get(format_key, {})
        self._gpu = load_gpu(gpu) if gpu else None
        self._kernel = kernel.lower() if kernel else None
        if self._kernel and self._kernel not in profile_names():
            names = profile_names()
            raise InputError(
                f"unknown kernel {kernel!r}: expected one of {', '.join(names)}{suggest(kernel or '', names)}"
            )
        self._known: dict[str, GPU | None] = {}

    def gpu(self, name: str) -> GPU:
        """The GPU of that name or alias, or the user's own."""
        if self._gpu is not None:
            return self._gpu
        if name not in self._known:
            self._known[name] = _named(name)
        gpu = self._known[name]
        if gpu is None:
            raise BadEntry(
                f"there is no hardware model of GPU {name[:80]!r}: expected one of {', '.join(gpu_names())} "
                "or one of their aliases; --gpu NAME states it",
                f"no hardware model of GPU {name[:80]!r}",
            )
        return gpu

    def kernel(
        self,
        name: str,
        gpu: GPU,
        phase: str = "prefill",
        gqa_ratio: int = 1,
        kv_dtype: str = "",
        parts: float = math.inf,
    ) -> str:
        """Key of the kernel profile, from the table or the user.

        Args:
            phase: "prefill" or "decode", where the table tells them apart. gqa_ratio: query heads of a key head.
            kv_dtype: of the cache. parts: that decoding could be cut into (see schedule.history_parts).
        """
        if self._kernel is not None:
            return self._kernel
        entry = self._kernels.get(name, self._kernels.get("*"))
        found = _by_arch(entry.get(phase, entry) if isinstance(entry, dict) else entry, gpu)
        if isinstance(entry, dict) and phase == "decode" and gpu.arch in entry.get("decode_heads", {}):
            fewest, most = entry["decode_heads"][gpu.arch]
            if not fewest <= gqa_ratio <= most:
                found = entry["decode_others"]
            elif found is not None:
                profile = load_profile(found, gpu, kv_dtype=kv_dtype)
                found = found if profile.takes_heads(gqa_ratio, parts, gpu) else profile.serving.other_heads
        if found is None:
            reason = f"no kernel profile for {name[:80]!r} on {gpu.arch}"
            raise BadEntry(f"there is {reason}: --kernel NAME states it ({', '.join(profile_names())})", reason)
        if found == "none":
            raise NoRun(f"no kernel profile describes {name!r}")
        return str(found)


def _by_arch(entry: Any, gpu: GPU) -> str | None:
    found = entry.get(gpu.arch) if isinstance(entry, dict) else entry
    return None if found is None else str(found)


def _named(name: str) -> GPU | None:
    # A name from a file is a name, never a path: load_gpu would open one.
    if not name.strip() or "/" in name or "\\" in name or name.strip().lower().endswith(".toml"):
        return None
    try:
        return load_gpu(name)
    except InputError:
        return None
