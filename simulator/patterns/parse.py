"""Pattern text: a name, then ``key=value`` words; ``|`` and ``&`` between patterns; ``heads`` and ``layers`` of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import InputError, suggest, unknown
from ..workload import Grid, parse_grid, parse_int
from .band import UNLIMITED, Band
from .base import Pattern
from .choose_blocks import BY_BLOCK
from .choose_queries import BY_QUERY
from .combine import Combination, Mixture, MoA
from .local import LOCAL, ORDER_ABOUT
from .neighborhood import Neighborhood
from .radial import Radial
from .sequence import SEQUENCE
from .spec import Group, Parameter, flag, number, parameters, sizes, whole
from .tokens import check_order, read_order

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


def _short_swa(words: Words) -> Pattern:
    if "window" not in words:
        raise InputError(
            "pattern 'short-swa' has no window: expected e.g. 'short-swa window=128' (keys, the query included)"
        )
    return Band(parse_int(words["window"], "window") - 1, 0)


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
    order = check_order(read_order(words["order"], "order"), axes) if "order" in words else None
    return Neighborhood(window, stride, dilation, _flags(words, axes), order)


@dataclass(frozen=True)
class Entry:
    """A pattern of the library: what ``attncast pattern list`` says of it, an example, and how its text is read."""

    name: str
    group: Group
    about: str
    source: str
    parameters: tuple[Parameter, ...]
    example: str
    make: Callable[[Words], Pattern]


def _entry(cls: type[Any], example: str) -> Entry:
    known = parameters(cls)

    def make(words: Words) -> Pattern:
        missing = next((item.key for item in known if item.required and item.key not in words), None)
        if missing:
            raise InputError(f"pattern {cls.name!r} has no {missing}: expected e.g. {example!r}")
        pattern: Pattern = cls(
            **{item.key: item.read(words[item.key], item.key) for item in known if item.key in words}
        )
        return pattern

    return Entry(cls.name, cls.group, cls.about, cls.source, known, example, make)


# Examples where the name alone is not one.
EXAMPLES = {
    "swin": "swin window=7 shift=3",
    "blocked": "blocked block=8x8",
    "maxvit": "maxvit step=grid size=7",
    "axial": "axial along=0",
    "clear": "clear radius=8 grid=64x64 text=512",
    "scale-dit": "scale-dit grid=64x64 order=tile:16x16",
    "mvar": "mvar window=3",
    "radial": "radial frames=30 tokens=3840 decay=0.95",
    "streaming": "streaming sink=4 window=1024",
    "dilated": "dilated reach=1024 step=4",
    "strided": "strided stride=128",
    "prefix-lm": "prefix-lm prefix=512",
    "documents": "documents lengths=1000,3000,2*2048",
    "shared-prefix": "shared-prefix prefix=1024 lengths=32*128",
    "parallel-context": "parallel-context lengths=8*1024 sink=4",
    "sparge": "sparge density=0.46",
    "lite": "lite density=0.58",
}

_SIDE = "keys on this side, inclusive; no limit when left out or -1"
_TABLE = (
    Entry("dense", "band", "all pairs", "softmax attention, arXiv 1706.03762", (), "dense", lambda words: Band()),
    Entry(
        "causal", "band", "no later keys; aligned at the end", "flash-attn causal=True", (), "causal",
        lambda words: Band(right=0),
    ),
    Entry(
        "window", "band", "a band around the diagonal, aligned at the end", "flash-attn window_size=(left, right)",
        (Parameter("left", _SIDE, whole(-1)), Parameter("right", _SIDE, whole(-1))), "window left=2048 right=0", _window,
    ),
    Entry(
        "short-swa", "band", "causal window of so many keys, the query included: 'window left=W-1 right=0'",
        "ShortSWA, residual-stream duality (Transformer^2)",
        (Parameter("window", "keys, the query included", whole(), required=True),), "short-swa window=128", _short_swa,
    ),
    Entry(
        "na", "local", "neighborhood attention: window, stride, dilation and causality per axis, shifted at the edges",
        "GNA, arXiv 2504.16922; NATTEN 0.21",
        (
            Parameter("window", "window per axis, tokens", sizes, required=True),
            Parameter("stride", "queries that share a window, per axis", sizes, 1),
            Parameter("dilation", "dilation per axis", sizes, 1),
            Parameter("causal", "0 or 1 per axis, e.g. 1x0x0", flag, 0),
            Parameter("order", f"tiles on the grid when left out (NATTEN); else {ORDER_ABOUT}", read_order),
        ),
        "na window=18x24x24 stride=16x8x8", _neighborhood,
    ),
)  # fmt: skip

# name -> how it is described and made: the one place a new pattern is added
PATTERNS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        *_TABLE,
        *(
            _entry(cls, EXAMPLES.get(cls.name, cls.name))
            for cls in (*LOCAL, Radial, *SEQUENCE, MoA, *BY_BLOCK, *BY_QUERY)
        ),
    )
}
MIXTURES = ("heads", "layers")


def parse_pattern(text: str) -> Pattern:
    """Read e.g. ``"causal"``, ``"window left=2048 right=0"`` or ``"na window=18x24x24 stride=16x8x8"``.

    Sides of a window count keys, both ends inclusive (flash-attn's convention); a side left out or -1 has no limit.
    ``a | b`` is the union, ``a & b`` the intersection (which binds tighter); ``heads 8*dense + 24*streaming`` gives
    heads different patterns, ``layers 12*dense + 48*radial frames=30 tokens=3840`` layers.

    Raises:
        InputError: unknown name or key (with a suggestion), a word that is not key=value, a value out of range.
    """
    first, _, rest = text.strip().partition(" ")
    if first.lower() in MIXTURES:
        return _mixture(first.lower(), rest, text)
    ops: tuple[Literal["|", "&"], ...] = ("|", "&")
    for op in ops:
        parts = text.split(op)
        if len(parts) > 1:
            return Combination(op, tuple(parse_pattern(part) for part in parts))
    return _single(text)


def _mixture(over: str, rest: str, text: str) -> Pattern:
    weights, patterns = [], []
    for part in rest.split(" + "):
        weight, star, pattern = part.strip().partition("*")
        if not star or "=" in weight:
            raise InputError(
                f"{part.strip()!r} in pattern {text!r} cannot be read: expected e.g. '{over} 8*dense + 24*causal'"
            )
        weights.append(number(1e-6, 1e6, 8)(weight, "weight"))
        patterns.append(parse_pattern(pattern))
    return Mixture("heads" if over == "heads" else "layers", tuple(weights), tuple(patterns))


def _single(text: str) -> Pattern:
    parts = text.split()
    if not parts:
        raise InputError(f"the pattern {text!r} is empty: expected e.g. 'causal' or 'na window=18x24x24'")
    name, *rest = parts
    if name.lower() not in PATTERNS:
        raise unknown("pattern", name, [*PATTERNS, *MIXTURES])
    entry = PATTERNS[name.lower()]
    keys = [item.key for item in entry.parameters]
    words: dict[str, str] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals or not value:
            raise InputError(f"{part!r} in pattern {text!r} cannot be read: expected key=value")
        if key not in keys:
            takes = f"takes {', '.join(keys)}" if keys else "takes no parameters"
            raise InputError(f"pattern {name!r} has no parameter {key!r}: it {takes}{suggest(key, keys)}")
        if key in words:
            raise InputError(f"{key!r} is given twice in pattern {text!r}")
        words[key] = value
    return entry.make(words)
