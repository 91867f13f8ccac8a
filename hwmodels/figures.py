"""Figures as a hardware file writes them, each with unit, source and kind: read, checked and put in base units."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, unknown
from .gpu import Figure
from .schema import KINDS, FigureSpec
from .units import to_base

_PARTS: Final = ("value", "unit", "kind", "source", "note")


@lru_cache(maxsize=32)
def _read_cached(path: Path, modified_ns: int) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text, expected a TOML file") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError and says the line
        raise InputError(f"{path} is not valid TOML: {reason(error)}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as it is written; cached until it changes. InputError where it cannot be read."""
    try:
        modified_ns = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read {path}: {reason(error)}") from None
    return _read_cached(path, modified_ns)


def reason(error: Exception) -> str:
    """What went wrong, without the errno."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def word(document: Mapping[str, Any], key: str, path: Path) -> str:
    """The text a document has under ``key``. InputError where it has none."""
    text = document.get(key)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{path}: {key} is {text!r}, expected text in quotes")
    return text


def read_figures(document: Mapping[str, Any], specs: Mapping[str, FigureSpec], path: Path) -> dict[str, Figure]:
    """The figures a document states, each one of ``specs``. InputError names the file and the figure."""
    tables = document.get("figures", {})
    if not isinstance(tables, dict):
        raise InputError(f"{path}: figures is {tables!r}, expected a table [figures]")
    return {name: _figure(name, table, specs, path) for name, table in tables.items()}


def _figure(name: str, table: object, specs: Mapping[str, FigureSpec], path: Path) -> Figure:
    where = f"{path}: figure {name!r}"
    if name not in specs:
        raise InputError(f"{path}: {unknown('figure', name, specs)}")
    if not isinstance(table, dict):
        form = '{ value = ..., unit = "...", kind = "...", source = "..." }'
        raise InputError(f"{where} is {table!r}, expected {form}")
    for part in table:
        if part not in _PARTS:
            raise InputError(f"{where}: {unknown('key', part, _PARTS)}")
    value = table.get("value")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: value is {value!r}, expected a number")
    for part in ("unit", "kind", "source"):
        text = table.get(part)
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{where}: {part} is {text!r}, expected text in quotes")
    if table["kind"] not in KINDS:
        raise InputError(f"{where}: {unknown('kind', table['kind'], KINDS)}")
    note = table.get("note", "")
    if not isinstance(note, str):
        raise InputError(f"{where}: note is {note!r}, expected text in quotes")
    return Figure(value, table["unit"], table["kind"], table["source"], note)


def in_base(figure: Figure, spec: FigureSpec, where: str) -> float:
    """The figure's value in the base unit of its dimension. InputError for an impossible value or unit."""
    try:
        value = to_base(float(figure.value), figure.unit, spec.dimension, where)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value) or value < 0 or (value == 0 and not spec.may_be_zero):
        wanted = "of at least 0" if spec.may_be_zero else "above 0"
        raise InputError(f"{where}: value is {_written(figure)}, expected a finite number {wanted}")
    if not spec.whole:
        return value
    if abs(value - round(value)) > 1e-9 * value:  # 1.1 GB is off by a rounding error only
        raise InputError(f"{where}: value is {_written(figure)}, expected a whole number of units")
    return round(value)


def _written(figure: Figure) -> str:
    return f"{str(figure.value)[:40]} {figure.unit}"
