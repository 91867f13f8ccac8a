"""How a pattern says what it is: parameters with a description, a reader and a default; texts that parse back."""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...errors import InputError, unknown
from ..tiles import KvTiling, TileWork
from ..workload import Grid, Workload, grid_text, parse_grid, parse_int
from .base import PatternBase
from .engine import Rule, tile_work
from .tokens import Layout, Segment, check_order, layout_text

Read = Callable[[str, str], Any]  # (text, key) -> value; raises InputError
Group = Literal["band", "local", "global", "dynamic", "combine"]
MAX_BLOCKS = 4096  # blocks along one axis of a block table


@dataclass(frozen=True)
class Parameter:
    """One ``key=value`` of a pattern's text. ``default`` is None when it has to be given or follows from others."""

    key: str
    about: str
    read: Read
    default: Any = None
    required: bool = False


def whole(minimum: int = 1, maximum: int = 2**31 - 1) -> Read:
    """Reads one whole number."""
    return lambda text, key: parse_int(text, key, minimum, maximum)


def number(minimum: float, maximum: float, example: float) -> Read:
    """Reads one number."""

    def read(text: str, key: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise InputError(f"{key} {text!r} is not a number: expected e.g. {example:g}") from None
        if not minimum <= value <= maximum:
            raise InputError(f"{key} {text!r} is out of range: expected {minimum:g} to {maximum:g}, e.g. {example:g}")
        return value

    return read


def choice(*words: str) -> Read:
    """Reads one of some words."""

    def read(text: str, key: str) -> str:
        if text.lower() not in words:
            raise unknown(key, text, words)
        return text.lower()

    return read


def flag(text: str, key: str) -> bool:
    """Read 0 or 1."""
    if text.lower() not in ("0", "1", "true", "false"):
        raise InputError(f"{key} {text!r} cannot be read: expected 0 or 1")
    return text.lower() in ("1", "true")


def lengths(text: str, key: str) -> tuple[int, ...]:
    """Read ``"1000,2000"``, or ``"8*1024"`` for eight of one length."""
    out: list[int] = []
    for part in text.split(","):
        often, star, length = part.rpartition("*")
        out += [parse_int(length, key)] * (parse_int(often, key, maximum=10**6) if star else 1)
    return tuple(out)


def sizes(text: str, key: str) -> Grid:
    """Read ``"30x48x80"``."""
    return parse_grid(text, key)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return ",".join(":".join(map(_text, pair)) for pair in value)
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _runs(values: tuple[int, ...]) -> str:
    """``(8, 8, 5)`` as ``"2*8,5"``: reads back with ``lengths``."""
    runs = [(sum(1 for _ in run), value) for value, run in itertools.groupby(values)]
    return ",".join(f"{often}*{value}" if often > 1 else str(value) for often, value in runs)


def parameter(about: str, read: Read, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is a parameter of the pattern's text."""
    return dataclasses.field(default=default, metadata={"about": about, "read": read})


def parameters(cls: type[Any]) -> tuple[Parameter, ...]:
    """Parameters of a pattern class, from its fields."""
    out = []
    for item in dataclasses.fields(cls):
        required = item.default is dataclasses.MISSING
        default = None if required else item.default
        out.append(Parameter(item.name, item.metadata["about"], item.metadata["read"], default, required))
    return tuple(out)


@dataclass(frozen=True)
class Described(PatternBase):
    """Base of the patterns of the library: fields made by ``parameter``, texts that name what they are.

    Class attributes: name in the text, group it is listed in, one-line description, source (paper and code).
    """

    name: ClassVar[str]
    group: ClassVar[Group]
    about: ClassVar[str]
    source: ClassVar[str]

    def __str__(self) -> str:
        words = [self.name]
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value != item.default and value is not None:
                joined = _runs(value) if item.metadata["read"] is lengths else _text(value)
                words.append(f"{item.name}={joined}")
        return " ".join(words)

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for; None when it fits any number."""
        return None

    @property
    def family(self) -> str:
        """What kernels call this kind of pattern: an element mask over tiles, as FlexAttention takes it."""
        return "mask"

    @property
    def axes(self) -> int:
        """Coordinates that masking one score has to compare."""
        return 1

    @property
    def tile_axes(self) -> int:
        """Tiles are runs of tokens in the order of memory."""
        return 1


@dataclass(frozen=True)
class Static(Described, ABC):
    """A pattern known before the call: its rule gives exact tiles."""

    @abstractmethod
    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept. Raises InputError, quoting the pattern, unless it fits the workload."""

    def check(self, workload: Workload) -> None:
        """Raise InputError, quoting the pattern, unless it fits the workload."""
        self.rule(workload)

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Exact TileWork on runs of tokens; a tile of several axes counts as its number of tokens.

        KV tiles are aligned to key 0 whatever ``tiling`` says: no kernel that starts them elsewhere runs masks.
        """
        return tile_work(self.rule(workload), math.prod(q_tile), math.prod(kv_tile))


def same_tokens(pattern: object, workload: Workload) -> int:
    """Tokens of a workload whose queries are its keys. Raises InputError, quoting the pattern, for any other."""
    if workload.tokens != workload.kv_tokens:
        raise InputError(
            f"pattern '{pattern}' needs as many queries as keys: expected {workload.kv_tokens:,} queries, "
            f"got {workload.tokens:,}"
        )
    return workload.tokens


def grid_layout(
    pattern: object, workload: Workload, given: Grid | None, order: str, axes: tuple[int, ...], text: int = 0
) -> Layout:
    """Layout of a token grid, followed by text tokens.

    Args:
        given: the pattern's own grid; the workload's when None.
        axes: numbers of axes that the pattern takes.

    Raises:
        InputError: no grid of so many axes, or other tokens in the workload than grid and text have together.
    """
    shape = given if given is not None else workload.grid
    if len(shape) not in axes:
        wanted = " or ".join(map(str, axes))
        raise InputError(
            f"pattern '{pattern}' needs a grid of {wanted} axes, not {grid_text(shape)!r}: "
            "give one with -i, or as grid= in the pattern"
        )
    layout: Layout = (Segment(shape, check_order(order, len(shape))),)
    if text:
        layout += (Segment((text,)),)
    check_layout(pattern, layout, workload.tokens, "queries")
    check_layout(pattern, layout, workload.kv_tokens, "keys")
    return layout


def check_layout(pattern: object, layout: Layout, tokens: int, what: str) -> None:
    """Raise InputError, quoting the pattern, unless the layout has so many tokens."""
    expected = sum(part.tokens for part in layout)
    if expected != tokens:
        raise InputError(
            f"pattern '{pattern}' has {layout_text(layout)} = {expected:,} tokens, but the workload has "
            f"{tokens:,} {what}: expected the same"
        )
