"""The library: one text file per attention algorithm, in the notation of ``simulator/einsum/NOTATION.md``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from ...errors import InputError, unknown
from ..einsum import Cascade, parse

__all__ = ["folder", "load", "names"]

_SUFFIX = ".cascade"


def folder() -> Traversable:
    """Where the library's files are."""
    return files(__package__)


def names() -> tuple[str, ...]:
    """The library's cascades, sorted."""
    found = (entry.name for entry in folder().iterdir())
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX)))


def load(name: str) -> Cascade:
    """The library's cascade of this name, or the one in the file of this path (it has a ``/`` or a suffix).

    Raises:
        InputError: no such name or file, or what the file says is wrong, with line and column.
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as problem:
            raise InputError(f"cannot read cascade file {name!r}: {problem}") from problem
        return parse(text, path.stem)
    if name not in names():
        raise unknown("cascade", name, names())
    return _library(name)


@cache
def _library(name: str) -> Cascade:
    return parse((folder() / (name + _SUFFIX)).read_text(encoding="utf-8"), name)
