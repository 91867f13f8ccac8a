"""What every importer shares: what a user may state, what a row turns into, and how numbers are read.

An importer is a module with one ``Format``: how to find the entries of a file, and how to read one of them.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

from ...errors import InputError
from ...hwmodels import GPU
from ...simulator.workload import MAX_TOKENS, parse_dtype
from ..measured import MeasuredRun
from ..plausible import Claim

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", re.ASCII)
LARGEST_SECONDS: Final = 3600.0  # past an hour a wrong unit is likelier than an attention call


class BadEntry(Exception):
    """An entry that cannot be true or cannot be read; with ``--skip-bad`` it is left out, else nothing is imported.

    ``reason`` is what it is counted under: the message without the entry's own value.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


class NoRun(Exception):
    """An entry that is as it should be but holds no run: a failed configuration, or a call that rows cannot express."""


@dataclass(frozen=True)
class Given:
    """What the user states: overrides, and what a format does not record. Fields are those of MeasuredRun."""

    gpu: str | None = None
    kernel: str | None = None
    software: str | None = None
    batch: int | None = None
    heads: int | None = None
    heads_kv: int | None = None
    grid: str | None = None
    kv_grid: str | None = None
    cached: int | None = None
    head_dim: int | None = None
    head_dim_v: int | None = None
    dtype: str | None = None
    kv_dtype: str | None = None
    pattern: str | None = None
    q_tile: str | None = None
    kv_tile: str | None = None
    direction: str | None = None

    def named(self) -> list[str]:
        """The fields that were stated."""
        return [item.name for item in fields(self) if getattr(self, item.name) is not None]


# Field of Given -> the option that states it.
OPTIONS: Final = {
    "gpu": "--gpu",
    "kernel": "--kernel",
    "software": "--software",
    "batch": "-b",
    "heads": "-n",
    "heads_kv": "--heads-kv",
    "grid": "-i",
    "kv_grid": "--kv",
    "cached": "--cached",
    "head_dim": "-d",
    "head_dim_v": "--head-dim-v",
    "dtype": "--dtype",
    "kv_dtype": "--kv-dtype",
    "pattern": "-p",
    "q_tile": "--q-tile",
    "kv_tile": "--kv-tile",
    "direction": "--direction",
}
OVERRIDES: Final = ("gpu", "kernel", "software")
WORKLOAD: Final = ("batch", "heads", "grid", "head_dim", "dtype", "pattern", "direction")
WORKLOAD_MORE: Final = ("heads_kv", "kv_grid", "cached", "head_dim_v", "kv_dtype", "q_tile", "kv_tile")


class Entry(NamedTuple):
    """One entry of a file: where it is, for messages ("line 7"); its name, unique in the file ("7"); what it says."""

    where: str
    name: str
    value: Any


class Measurement(NamedTuple):
    """A run without its id, and what the format claims about its speed."""

    run: MeasuredRun
    claim: Claim | None = None
    suffix: str = ""  # tells the runs of one entry apart ("bwd")


class Names(ABC):
    """Finds hardware models and kernel profiles; see ``names.py``. The user's own names win."""

    @abstractmethod
    def gpu(self, name: str) -> GPU:
        """The GPU a file names. BadEntry when there is no model of it."""

    @abstractmethod
    def kernel(
        self,
        name: str,
        gpu: GPU,
        phase: str = "prefill",
        gqa_ratio: int = 1,
        kv_dtype: str = "",
        parts: float = math.inf,
    ) -> str:
        """Key of the kernel profile for the name a file gives a kernel. BadEntry or NoRun when there is none."""


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: for people. needs: fields of Given it does not record, so that the user must state them.
        takes: fields of Given that may be stated besides. entries: finds the entries of a file; InputError when the
            file as a whole is not of this format. read: reads one entry; BadEntry or NoRun when it gives no run.
        source: where the layout and its conventions are from.
    """

    title: str
    source: str
    entries: Callable[[Path, Given], Iterator[Entry]]
    read: Callable[[Entry, Given, Names], list[Measurement]]
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()

    def check(self, key: str, given: Given) -> None:
        """Raise InputError when an option is missing, or stated though the format records it."""
        stated = given.named()
        missing = [OPTIONS[name] for name in self.needs if name not in stated]
        if missing:
            raise InputError(
                f"a file of format {key!r} does not record everything: expected the options {', '.join(missing)}"
            )
        for name in stated:
            if name not in (*self.needs, *self.takes, *OVERRIDES):
                raise InputError(f"{OPTIONS[name]} was given, but a file of format {key!r} records it itself")


def whole(value: object, what: str, minimum: int = 1, maximum: int = MAX_TOKENS) -> int:
    """A whole number from a JSON value or a CSV field ("128", and "128.000" as pandas writes a gappy column)."""
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        value = int(value.strip().partition(".")[0])
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadEntry(f"{what} {_shown(value)} is not a whole number", f"{what} is not a whole number")
    if not minimum <= value <= maximum:
        raise BadEntry(f"{what} {value} is out of range: expected {minimum} to {maximum:,}", f"{what} is out of range")
    return value


def number(value: object, what: str) -> float:
    """A finite number from a JSON value or a CSV field."""
    result = math.nan
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        result = float(value.strip())  # strip takes separators (U+001C) for spaces, float does not
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        result = float(value) if abs(value) < 1e300 else math.inf
    if not math.isfinite(result):
        raise BadEntry(f"{what} {_shown(value)} is not a finite number", f"{what} is not a finite number")
    return result


def seconds(value: object, what: str, unit_s: float = 1e-3) -> float:
    """A time in seconds from a value in a unit of ``unit_s`` seconds (milliseconds)."""
    result = number(value, what) * unit_s
    if not 0 < result <= LARGEST_SECONDS:
        raise BadEntry(f"{what} {_shown(value)} is not a positive time below an hour", f"{what} is not a positive time")
    return result


def dtype_name(value: str, what: str) -> str:
    """The project's name of a dtype ("bf16" of "torch.bfloat16")."""
    try:
        return parse_dtype(value.strip())
    except InputError as error:
        raise BadEntry(f"{what}: {error}", f"{what} is unknown") from None


def half_unit(text: str) -> float:
    """Half a unit in the last place of a printed number: how far it may be rounded."""
    return 0.5 * 10.0 ** -len(text.strip().partition(".")[2])


def window_text(keys: int) -> str:
    """Pattern of a causal window of ``keys`` keys, the query's own among them; 0 means causal without a window."""
    return f"window left={keys - 1} right=0" if keys > 0 else "causal"


def config_text(options: dict[str, Any]) -> str:
    """A configuration as ``key=value`` words, in the order of the file."""
    return " ".join(f"{key}={value}" for key, value in options.items() if value is not None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
