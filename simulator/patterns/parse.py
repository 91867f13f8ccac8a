"""Pattern text: a name, then ``key=value`` words. The table of names is the one place a new pattern is added."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...errors import InputError, suggest, unknown
from ..workload import Grid, parse_grid, parse_int
from .band import UNLIMITED, Band
from .base import Pattern
from .neighborhood import Neighborhood

Words = Mapping[str, str]


def _side(words: Words, key: str) -> int:
    if key not in words:
        return UNLIMITED
    value = parse_int(words[key], key, minimum=-1)
    return UNLIMITED if value < 0 else value


def _window(words: Words) -> Pattern:
    if not words:
        raise InputError(
            "pattern 'window' has no size: expected e.g. 'window left=2048 right=0' (keys, both ends inclusive)"
        )
    return Band(_side(words, "left"), _side(words, "right"))


def _per_axis(words: Words, key: str, axes: int, default: int) -> Grid:
    if key not in words:
        return (default,) * axes
    grid = parse_grid(words[key], key)
    if len(grid) == 1:
        return grid * axes
    if len(grid) != axes:
        raise InputError(f"{key} {words[key]!r} has {len(grid)} axes but window {words['window']!r} has {axes}")
    return grid


def _flags(words: Words, axes: int) -> tuple[bool, ...]:
    parts = words.get("causal", "0").lower().replace("true", "1").replace("false", "0").split("x")
    if len(parts) == 1:
        parts = parts * axes
    if len(parts) != axes or any(part not in ("0", "1") for part in parts):
        raise InputError(
            f"causal {words['causal']!r} cannot be read: expected 0 or 1 for each of {axes} axes, e.g. 1x0x0"
        )
    return tuple(part == "1" for part in parts)


def _neighborhood(words: Words) -> Pattern:
    if "window" not in words:
        raise InputError("pattern 'na' has no window: expected e.g. 'na window=18x24x24 stride=16x8x8'")
    window = parse_grid(words["window"], "window")
    axes = len(window)
    stride, dilation = _per_axis(words, "stride", axes, 1), _per_axis(words, "dilation", axes, 1)
    return Neighborhood(window, stride, dilation, _flags(words, axes))


# name -> (the keys it takes, how it is made)
PATTERNS: dict[str, tuple[tuple[str, ...], Callable[[Words], Pattern]]] = {
    "dense": ((), lambda words: Band()),
    "causal": ((), lambda words: Band(right=0)),
    "window": (("left", "right"), _window),
    "na": (("window", "stride", "dilation", "causal"), _neighborhood),
}


def parse_pattern(text: str) -> Pattern:
    """Read e.g. ``"causal"``, ``"window left=2048 right=0"`` or ``"na window=18x24x24 stride=16x8x8"``.

    Sides of a window count keys, both ends inclusive (flash-attn's convention); a side left out or -1 has no limit.

    Raises:
        InputError: unknown name or key (with a suggestion), a word that is not key=value, a value out of range.
    """
    parts = text.split()
    if not parts:
        raise InputError(f"the pattern {text!r} is empty: expected e.g. 'causal' or 'na window=18x24x24'")
    name, *rest = parts
    if name.lower() not in PATTERNS:
        raise unknown("pattern", name, PATTERNS)
    keys, make = PATTERNS[name.lower()]
    words: dict[str, str] = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise InputError(f"{word!r} in pattern {text!r} cannot be read: expected key=value")
        if key not in keys:
            takes = f"takes {', '.join(keys)}" if keys else "takes no parameters"
            raise InputError(f"pattern {name!r} has no parameter {key!r}: it {takes}{suggest(key, keys)}")
        if key in words:
            raise InputError(f"{key!r} is given twice in pattern {text!r}")
        words[key] = value
    return make(words)
