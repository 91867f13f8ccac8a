"""Patterns by name, and neighborhood attention's windows and tiles by exact interval arithmetic.

``parse_pattern`` is the one place that reads a pattern's text. Windows on an axis of length L, window w,
stride s: the leader of query i is ``min(i // s * s + s // 2, L - 1)`` and the keys are [start, start + w)
with start = ``leader - w // 2`` clamped to [0, L - w]; causal, the leader is ``min(i // s * s + s - 1, L -
1)`` and the keys are [max(leader - w + 1, 0), i + 1). Dilation d makes d independent axes of the tokens with
equal i % d.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown
from .layout import MAX_AXES, TokenLayout

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Axis:
    """Neighborhood attention along one axis."""

    length: int
    window: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        if self.dilation < 1 or not 1 <= self.window * self.dilation <= self.length:
            raise InputError(
                f"window={self.window} with dilation={self.dilation} on an axis of {self.length} tokens: "
                f"expected 1 <= window * dilation <= {self.length}"
            )
        if not 1 <= self.stride <= self.window:
            raise InputError(f"stride={self.stride}: expected 1 <= stride <= window={self.window}")

    def windows(self, group: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First key and end of keys of every query of one dilation group, numbered inside the group."""
        size = self.length // self.dilation + (group < self.length % self.dilation)
        i = np.arange(size)
        if self.causal:
            leader = np.minimum(i // self.stride * self.stride + self.stride - 1, size - 1)
            return np.maximum(leader - self.window + 1, 0), i + 1
        leader = np.minimum(i // self.stride * self.stride + self.stride // 2, size - 1)
        start = np.clip(leader - self.window // 2, 0, size - self.window)
        return start, start + self.window


@lru_cache(maxsize=4096)
def axis_tiles(axis: Axis, q_tile: int, kv_tile: int) -> tuple[Bools, Bools]:
    """Return (live, full), bool [groups, Q tiles, KV tiles]: which tiles of an axis hold a pair, and only
    pairs.

    A KV tile with padding is never full; a Q tile's padding does not count, for its rows are thrown away.
    """
    tallest = -(-axis.length // axis.dilation)
    q_tiles, kv_tiles = -(-tallest // q_tile), -(-tallest // kv_tile)
    live = np.zeros((axis.dilation, q_tiles, kv_tiles), bool)
    full = np.zeros_like(live)
    first_key = np.arange(kv_tiles) * kv_tile
    for group in range(axis.dilation):
        start, end = axis.windows(group)
        cuts = np.arange(0, len(start), q_tile)
        # start and end never fall, and windows of neighbours touch (stride <= window): a tile's keys are one
        # interval.
        low, low_last = np.minimum.reduceat(start, cuts), np.maximum.reduceat(start, cuts)
        high, high_first = np.maximum.reduceat(end, cuts), np.minimum.reduceat(end, cuts)
        rows = len(cuts)
        live[group, :rows] = (low[:, None] < first_key + kv_tile) & (high[:, None] > first_key)
        full[group, :rows] = (low_last[:, None] <= first_key) & (high_first[:, None] >= first_key + kv_tile)
    return live, full


@dataclass(frozen=True)
class Pattern:
    """Who attends to whom. ``kind`` is ``dense``, ``causal``, ``window`` (``left``, ``right``; None: no
    limit) or ``na``.
    """

    kind: str
    left: int | None = None
    right: int | None = None
    axes: tuple[Axis, ...] = ()

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(axis.length for axis in self.axes)

    def layout(self, tile: tuple[int, ...]) -> TokenLayout:
        return TokenLayout(self.grid, tile, tuple(axis.dilation for axis in self.axes))

    def mask_args(self, q_layout: TokenLayout, kv_layout: TokenLayout) -> tuple[int, ...]:
        """The ARGS of masks.neighborhood_mask."""
        lead = MAX_AXES - len(self.axes)
        args = [1, 1, 1, 1, 0] * lead
        for axis in self.axes:
            args += (axis.length, axis.window, axis.stride, axis.dilation, int(axis.causal))
        for layout in (q_layout, kv_layout):
            args += [1, 1, 1, 1, 1] * lead
            for (group, tile, inner), count, size in zip(layout.steps, layout.tiles, layout.tile, strict=True):
                args += (group, tile, count, inner, size)
        return tuple(args)

    def tile_maps(self, q_tile: tuple[int, ...], kv_tile: tuple[int, ...]) -> tuple[Bools, Bools]:
        """Return (live, full), bool [Q tiles, KV tiles], tiles numbered as the layouts order them."""
        maps = [np.ones((1, 1), bool), np.ones((1, 1), bool)]
        for which in range(2):
            groups = [axis_tiles(a, q, k)[which] for a, q, k in zip(self.axes, q_tile, kv_tile, strict=True)]
            for part in groups:
                maps[which] = np.kron(maps[which], _block_diagonal(part))
            maps[which] = _groups_first(maps[which], groups)
        return maps[0], maps[1]


def _block_diagonal(part: Bools) -> Bools:
    groups, rows, columns = part.shape
    whole = np.zeros((groups, rows, groups, columns), bool)
    for g in range(groups):
        whole[g, :, g] = part[g]
    return whole.reshape(groups * rows, groups * columns)


def _groups_first(table: Bools, parts: list[Bools]) -> Bools:
    """Reorder (g1, t1, g2, t2, ...) on both sides of the table into (g1, g2, ..., t1, t2, ...)."""
    for side in (1, 2):
        shape = [n for part in parts for n in (part.shape[0], part.shape[side])]
        axes = [*range(0, len(shape), 2), *range(1, len(shape), 2)]
        order = np.arange(table.shape[side - 1]).reshape(shape).transpose(axes).ravel()
        table = table.take(order, axis=side - 1)
    return table


@lru_cache(maxsize=256)
def choose_tiles(
    pattern: Pattern, q_tokens: int = 128, kv_tokens: int = 128, masked_cost: float = 1.5
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the Q and KV tile shapes of that many tokens (powers of two) that visit least.

    A partial tile counts ``masked_cost`` full ones: measured masked kernels run 1.4 to 1.6 times slower per
    tile (NATTEN on H100, 1-D to 3-D). Shapes that differ by nothing keep the longer last axis, which copies
    faster.
    """

    def cost(
        shapes: tuple[tuple[int, ...], tuple[int, ...]],
    ) -> tuple[float, tuple[int, ...], tuple[int, ...]]:
        live = full = 1
        for axis, q, k in zip(pattern.axes, *shapes, strict=True):
            axis_live, axis_full = axis_tiles(axis, q, k)
            live *= int(axis_live.sum())
            full *= int(axis_full.sum())
        return full + masked_cost * (live - full), shapes[0], shapes[1]

    choices = itertools.product(_shapes(pattern.axes, q_tokens), _shapes(pattern.axes, kv_tokens))
    _, q_tile, kv_tile = min(map(cost, choices))
    return q_tile, kv_tile


def _shapes(axes: tuple[Axis, ...], tokens: int) -> list[tuple[int, ...]]:
    if len(axes) == 1:
        return [(tokens,)]
    sizes = (1 << e for e in range(tokens.bit_length()))
    return [(size, *rest) for size in sizes for rest in _shapes(axes[1:], tokens // size)]


def parse_pattern(text: str, grid: tuple[int, ...]) -> Pattern:
    """Read a pattern: ``dense``, ``causal``, ``window left=2048 right=0`` or ``na window=18x24x24
    [stride=16x8x8] [dilation=1x1x1] [causal=1x0x0]``, on a grid of tokens. Omitted sides of a window have no
    limit.

    Raises InputError, quoting the text, for an unknown word, a value that is no count, or a window that does
    not fit.
    """
    words = text.split()
    if not words:
        raise InputError("pattern '': expected dense, causal, window or na")
    kind, settings = words[0], {}
    known = {
        "dense": (),
        "causal": (),
        "window": ("left", "right"),
        "na": ("window", "stride", "dilation", "causal"),
    }
    if kind not in known:
        raise unknown("pattern", kind, known)
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if name not in known[kind]:
            raise unknown(f"setting of pattern {kind!r}", name, known[kind])
        parts = value.split("x")
        if not equals or not all(part.isdecimal() for part in parts):
            raise InputError(f"pattern {text!r}: expected {name}=<whole numbers joined by x>, got {word!r}")
        settings[name] = tuple(map(int, parts))
    if kind != "na":
        for name, numbers in settings.items():
            if len(numbers) != 1:
                raise InputError(f"pattern {text!r}: expected one number for {name}")
        if kind == "causal":
            return Pattern(kind, None, 0)
        left, right = (settings[side][0] if side in settings else None for side in ("left", "right"))
        return Pattern(kind, left, right)

    if not 1 <= len(grid) <= MAX_AXES:
        raise InputError(f"grid={grid}: expected one to three axes for pattern {text!r}")
    if "window" not in settings:
        raise InputError(f"pattern {text!r}: expected window=..., one size per axis of the grid")
    for name, numbers in settings.items():
        if len(numbers) != len(grid):
            raise InputError(f"pattern {text!r}: expected {len(grid)} sizes for {name}, one per axis of grid {grid}")
    ones = (1,) * len(grid)
    columns = (settings["window"], settings.get("stride", ones), settings.get("dilation", ones))
    causal = settings.get("causal", (0,) * len(grid))
    rows = zip(grid, *columns, causal, strict=True)
    return Pattern("na", axes=tuple(Axis(n, w, s, d, bool(c)) for n, w, s, d, c in rows))
