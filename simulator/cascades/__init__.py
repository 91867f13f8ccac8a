"""The library: one text file per attention algorithm, in the notation of ``simulator/einsum/NOTATION.md``."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from ...errors import InputError, unknown
from ..einsum import Cascade, parse

__all__ = ["folder", "load", "names"]

_SUFFIX = ".cascade"
# How people call them, letters and digits only.
_ALIASES: Final = {
    "fa2": "flash_attention_2",
    "flashattention": "flash_attention_2",
    "1pass": "flash_attention_2",
    "onepass": "flash_attention_2",
    "fa4": "flash_attention_4",
    "2pass": "two_pass",
    "3pass": "three_pass",
    "flat": "three_pass",
    "softmax": "three_pass",
    "attention": "three_pass",
    "mla": "mla_absorbed",
    "mqa": "gqa",
    "flashdecoding": "split_kv",
    "sage": "sage_int8",
}


def folder() -> Traversable:
    """Where the library's files are."""
    return files(__package__)


def names() -> tuple[str, ...]:
    """The library's cascades, sorted."""
    found = (entry.name for entry in folder().iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def load(name: str) -> Cascade:
    """The library's cascade of this name, or a common spelling of it, or the one in the file of this path.

    A path has a ``/`` or a suffix.

    Raises:
        InputError: no such name or file, or what the file says is wrong, with line and column.
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1 or "\\" in name:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as problem:
            raise InputError(f"cannot read cascade file {name!r}: {problem}") from problem
        return parse(text, path.stem)
    if name in names():
        return _library(name)
    known = {_plain(stem): stem for stem in names()}
    stem = known.get(_plain(name)) or _ALIASES.get(_plain(name))
    if stem is None:
        raise unknown("cascade", name, names())
    return _library(stem)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _library(name: str) -> Cascade:
    return parse((folder() / (name + _SUFFIX)).read_text(encoding="utf-8"), name)
