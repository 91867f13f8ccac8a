"""The library of patterns: every name, what it is, where it is from, what it takes, and how it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import InputError
from ..workload import parse_int
from .band import Band
from .base import Pattern
from .choose_blocks import BY_BLOCK
from .choose_queries import BY_QUERY
from .combine import MoA
from .local import LOCAL, ORDER_ABOUT
from .parse import BASIC, Make, Words
from .radial import Radial
from .sequence import SEQUENCE
from .spec import Group, Parameter, flag, parameters, sizes, whole
from .tokens import read_order


def _short_swa(words: Words) -> Pattern:
    if "window" not in words:
        raise InputError(
            "pattern 'short-swa' has no window: expected e.g. 'short-swa window=128' (keys, the query included)"
        )
    return Band(parse_int(words["window"], "window") - 1, 0)


@dataclass(frozen=True)
class Entry:
    """A pattern of the library: what ``attncast pattern list`` says of it, an example, and how its text is read."""

    name: str
    group: Group
    about: str
    source: str
    parameters: tuple[Parameter, ...]
    example: str
    make: Make


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
    Entry("dense", "band", "all pairs", "softmax attention, arXiv 1706.03762", (), "dense", BASIC["dense"][1]),
    Entry(
        "causal", "band", "no later keys; aligned at the end", "flash-attn causal=True", (), "causal",
        BASIC["causal"][1],
    ),
    Entry(
        "window", "band", "a band around the diagonal, aligned at the end", "flash-attn window_size=(left, right)",
        (Parameter("left", _SIDE, whole(-1)), Parameter("right", _SIDE, whole(-1))), "window left=2048 right=0",
        BASIC["window"][1],
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
        "na window=18x24x24 stride=16x8x8", BASIC["na"][1],
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
