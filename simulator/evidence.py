"""What measured runs span, and where a call lies outside of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

from ..errors import InputError
from .estimate import seconds_text
from .patterns import Pattern
from .workload import Workload

BEYOND: Final = 2.0  # how far past the ends of a range a call may lie before its note says so

Range = tuple[float, float]


@dataclass(frozen=True)
class Seen:
    """What some measured runs span: names in use, and the smallest and the largest of each number.

    Attributes:
        head_dims: as text, "192/128" where that of the values differs. patterns: see ``pattern_kind``.
        tokens, keys: new tokens and keys of a sequence. sequences: of a call. heads: query heads.
        sharing: query heads for each key/value head. time_s: of a call.
    """

    head_dims: tuple[str, ...]
    patterns: tuple[str, ...]
    tokens: Range
    keys: Range
    sequences: Range
    heads: Range
    sharing: Range
    time_s: Range

    def __str__(self) -> str:
        """As files have it, and ``parse_seen`` reads it: ``head_dims=64,128 ... tokens=1..8192 ...``."""
        return " ".join(f"{item.name}={_written(getattr(self, item.name))}" for item in fields(self))

    def beyond(self, workload: Workload, pattern: Pattern, time_s: float) -> list[str]:
        """In what a call lies outside of the runs, a phrase each: a name that none has, or a number past twice their ends."""
        call = _described(workload, pattern, time_s)
        found = []
        for item in fields(self):
            value, seen = call[item.name], getattr(self, item.name)
            if isinstance(value, str):
                if value not in seen:
                    found.append(f"{_PHRASES[item.name]} {value} ({', '.join(seen)})")
            elif not seen[0] / BEYOND <= value <= seen[1] * BEYOND:
                text = seconds_text if item.name == "time_s" else "{:,.0f}".format
                span = " to ".join(dict.fromkeys(map(text, seen)))  # one number where both ends read alike
                found.append(f"{_PHRASES[item.name]} {text(value)} ({span})")
        return found


_NAMES: Final = ("head_dims", "patterns")  # the others are ranges of numbers
_PHRASES: Final = {
    "head_dims": "head dim",
    "patterns": "pattern",
    "tokens": "new tokens",
    "keys": "keys",
    "sequences": "sequences",
    "heads": "query heads",
    "sharing": "query heads to a key",
    "time_s": "time",
}


def pattern_kind(pattern: Pattern) -> str:
    """Kind of a pattern, for tables and ranges: dense, causal, window, or its family."""
    return str(pattern).split()[0] if pattern.family == "band" else pattern.family


def _described(w: Workload, pattern: Pattern, time_s: float) -> dict[str, str | float]:
    """A call in the terms of ``Seen``. One new token sees the same keys whether the call is causal or not."""
    kind = pattern_kind(pattern)
    return {
        "head_dims": str(w.head_dim) if w.dim_v == w.head_dim else f"{w.head_dim}/{w.dim_v}",
        "patterns": "causal" if kind == "dense" and w.tokens == 1 else kind,
        "tokens": w.tokens,
        "keys": w.kv_tokens,
        "sequences": w.batch,
        "heads": w.heads,
        "sharing": w.gqa_ratio,
        "time_s": time_s,
    }


def seen_in(calls: Iterable[tuple[Workload, Pattern, float]]) -> Seen:
    """What measured calls span: workload, pattern and seconds of each; at least one."""
    columns: dict[str, list[Any]] = {item.name: [] for item in fields(Seen)}
    for call in calls:
        for name, value in _described(*call).items():
            columns[name].append(value)
    spans: dict[str, Any] = {
        name: tuple(sorted(set(values), key=_by_number)) if isinstance(values[0], str) else (min(values), max(values))
        for name, values in columns.items()
    }
    return Seen(**spans)


def _written(value: tuple[str, ...] | Range) -> str:
    return ",".join(value) if isinstance(value[0], str) else "..".join(f"{end:.6g}" for end in value)


def _by_number(name: str) -> tuple[float, str]:
    """Head dims in their order, other names in that of the alphabet."""
    first = name.split("/")[0]
    return (float(first) if first.isdigit() else 0.0, name)


def parse_seen(text: str, where: str) -> Seen:
    """What ``str(seen)`` says.

    Raises:
        InputError: an entry that is missing, unknown or not of its kind; it begins with ``where``.
    """
    entries = dict(word.split("=", 1) for word in text.split() if "=" in word)
    names = [item.name for item in fields(Seen)]
    if list(entries) != names or len(text.split()) != len(names):
        raise InputError(f"{where}: seen is {text!r}, expected {'=... '.join(names)}=...")
    return Seen(**{name: _read(name, value, where) for name, value in entries.items()})


def _read(name: str, value: str, where: str) -> Any:
    if name in _NAMES:
        return tuple(value.split(","))
    try:
        low, high = map(float, value.split(".."))
    except ValueError:
        low, high = 1.0, 0.0
    if not 0 <= low <= high < math.inf:
        raise InputError(f"{where}: {name} of seen is {value!r}, expected the smallest and the largest, e.g. 1..8192")
    return low, high


def outside(seen: Seen, workload: Workload, pattern: Pattern, time_s: float) -> str:
    """A sentence on where a call lies outside of measured runs, with a space before it; empty where it does not."""
    beyond = seen.beyond(workload, pattern, time_s)
    return f" Outside of these runs: {', '.join(beyond)}." if beyond else ""
