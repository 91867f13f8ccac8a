"""Token sequences: where each token of a grid lies in memory, and the boxes of coordinates that a tile of them fills.

A tile is a run of consecutive tokens. In row-major order a run of a grid is a few boxes (the end of one row, whole
rows, the start of another); along a space-filling curve it is one square or several. Whether a tile is touched is
decided on boxes, so the order of the tokens decides how many tiles a window touches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...errors import InputError, suggest
from ..tiles import Ints
from ..workload import Grid, grid_text, parse_grid

ORDERS = ("row", "hilbert", "morton")


@dataclass(frozen=True)
class Segment:
    """A product grid of tokens in an order: "row", "hilbert", "morton", or "tile:4x8x8" (tile after tile, row-major).

    Curves run over the smallest power-of-two cube around the grid, and skip what lies outside of it.
    """

    grid: Grid
    order: str = "row"

    @property
    def tokens(self) -> int:
        """Tokens of the segment."""
        return math.prod(self.grid)


Layout = tuple[Segment, ...]  # segments follow one another in memory


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of the tiles of a sequence; the boxes of tile t are those from ``first[t]`` on.

    Attributes:
        segment: segment of each box, shape (boxes,).
        low, high: coordinates of each axis, both ends inclusive, shape (axes, boxes).
        first: first box of each tile, shape (tiles,).
        sizes: tokens of each tile.
    """

    segment: Ints
    low: Ints
    high: Ints
    first: Ints
    sizes: Ints

    def slice(self, begin: int, end: int) -> Boxes:
        """The boxes of the tiles [begin, end)."""
        last = self.first[end] if end < self.first.size else self.segment.size
        cut = slice(self.first[begin], last)
        return Boxes(
            self.segment[cut], self.low[:, cut], self.high[:, cut],
            self.first[begin:end] - self.first[begin], self.sizes[begin:end],
        )  # fmt: skip


def check_order(order: str, axes: int) -> str:
    """Return ``order``; raise InputError, quoting it, when it tiles another number of axes."""
    if order.startswith("tile:") and len(parse_grid(order.removeprefix("tile:"), "order")) != axes:
        raise InputError(f"order {order!r} has another number of axes than the pattern: expected {axes}")
    return order


def read_order(text: str, key: str) -> str:
    """Read a token order. Raises InputError, quoting it, when it is none."""
    order = text.lower()
    if order.startswith("tile:"):
        parse_grid(order.removeprefix("tile:"), key)
    elif order not in ORDERS:
        raise InputError(
            f"unknown {key} {text!r}: expected row, hilbert, morton or e.g. tile:4x8x8{suggest(text, ORDERS)}"
        )
    return order


@lru_cache(maxsize=2)  # as large as the sequence
def coordinates(layout: Layout) -> tuple[Ints, Ints]:
    """Segment (tokens,) and coordinates (axes, tokens) of every token, in the order of memory; missing axes are 0."""
    axes = max(len(part.grid) for part in layout)
    where = np.repeat(np.arange(len(layout)), [part.tokens for part in layout])
    columns = []
    for part in layout:
        own = segment_coordinates(part)
        columns.append(np.concatenate([own, np.zeros((axes - own.shape[0], own.shape[1]), dtype=own.dtype)]))
    return where, np.concatenate(columns, axis=1)


def segment_coordinates(part: Segment) -> Ints:
    """Coordinates of the tokens of a segment in its order, shape (axes, tokens)."""
    rows: Ints = np.indices(part.grid).reshape(len(part.grid), -1)
    if part.order == "row":
        return rows
    if part.order.startswith("tile:"):
        tile = np.array(parse_grid(part.order.removeprefix("tile:")))[:, None]
        order = np.lexsort([*(rows % tile)[::-1], *(rows // tile)[::-1]])
    else:
        order = np.argsort(_curve(rows, max(part.grid), part.order == "hilbert"), kind="stable")
    ordered: Ints = rows[:, order]
    return ordered


def _curve(rows: Ints, longest: int, hilbert: bool) -> Ints:
    """Position along the Morton or Hilbert curve (J. Skilling, Programming the Hilbert curve, 2004)."""
    bits = max(1, (longest - 1).bit_length())
    x = rows.copy()
    axes = x.shape[0]
    if hilbert:
        for level in range(bits - 1, 0, -1):
            bit, below = 1 << level, (1 << level) - 1
            for axis in range(axes):
                inverted = (x[axis] & bit) != 0
                swap = np.where(inverted, 0, (x[0] ^ x[axis]) & below)
                x[0] ^= np.where(inverted, below, swap)
                x[axis] ^= swap
        for axis in range(1, axes):
            x[axis] ^= x[axis - 1]
        parity = np.zeros_like(x[0])
        for level in range(bits - 1, 0, -1):
            parity ^= np.where((x[-1] >> level) & 1, (1 << level) - 1, 0)
        x ^= parity
    position = np.zeros_like(x[0])
    for level in range(bits - 1, -1, -1):
        for axis in range(axes):
            position = position << 1 | (x[axis] >> level) & 1
    return np.asarray(position)


@lru_cache(maxsize=16)
def tile_boxes(layout: Layout, tile: int, split: tuple[int, ...] = ()) -> Boxes:
    """Boxes of the tiles of ``tile`` consecutive tokens.

    Args:
        layout: the sequence. tile: tokens in a tile; the last tile may hold fewer.
        split: for each axis a divisor d: the axis becomes two, quotient and remainder by d (dilation groups).
    """
    tokens = sum(part.tokens for part in layout)
    begins = np.arange(0, tokens, tile)
    sizes = np.minimum(tile, tokens - begins)
    if len(layout) == 1 and len(layout[0].grid) == 1 and not split:
        return Boxes(
            np.zeros_like(begins), begins[None], (begins + sizes - 1)[None], np.arange(begins.size), sizes
        )  # fmt: skip
    where, own = coordinates(layout)
    if split:
        own = split_axes(own, split)
    owner = np.arange(tokens) // tile
    # Tokens that follow one another along the last axis merge without sorting; then axis by axis, the last first.
    runs = np.flatnonzero(
        (np.diff(owner, prepend=-1) != 0)
        | (np.diff(where, prepend=-1) != 0)
        | (np.diff(own[-1], prepend=-2) != 1)
        | (np.diff(own[:-1], axis=1, prepend=-1) != 0).any(axis=0)
    )
    owner, where, low, high = owner[runs], where[runs], own[:, runs], own[:, np.append(runs[1:], tokens) - 1]
    for axis in range(low.shape[0] - 1, -1, -1):
        owner, where, low, high = _merge_along(axis, owner, where, low, high)
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    return Boxes(where, low, high, first, sizes)


def split_axes(own: Ints, split: tuple[int, ...]) -> Ints:
    """Every axis as quotient and remainder: shape (2 * axes, tokens)."""
    divisors = np.array(split)[:, None]
    both: Ints = np.stack([own // divisors, own % divisors], axis=1).reshape(-1, own.shape[1])
    return both


def _merge_along(axis: int, owner: Ints, where: Ints, low: Ints, high: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """Join boxes of a tile that touch along an axis and agree on all others; sorted by tile."""
    others = [column[a] for a in range(low.shape[0]) if a != axis for column in (low, high)]
    order = np.lexsort([low[axis], *others, where, owner])
    owner, where, low, high = owner[order], where[order], low[:, order], high[:, order]
    joined = (np.diff(owner) == 0) & (np.diff(where) == 0) & (low[axis, 1:] == high[axis, :-1] + 1)
    for other in range(low.shape[0]):
        if other != axis:
            joined &= (np.diff(low[other]) == 0) & (np.diff(high[other]) == 0)
    starts = np.flatnonzero(np.concatenate([[True], ~joined]))
    ends = np.append(starts[1:], owner.size) - 1
    kept_low, kept_high = low[:, starts], high[:, starts].copy()
    kept_high[axis] = high[axis, ends]
    return owner[starts], where[starts], kept_low, kept_high


def token_coordinates(layout: Layout, tokens: Ints, split: tuple[int, ...] = ()) -> tuple[Ints, Ints]:
    """Segment (tokens,) and coordinates (axes, ...) of the given tokens of a sequence."""
    if len(layout) == 1 and len(layout[0].grid) == 1 and not split:
        return np.zeros_like(tokens), tokens[None]
    where, own = coordinates(layout)
    if split:
        own = split_axes(own, split)
    return where[tokens], own[:, tokens]


def layout_text(layout: Layout) -> str:
    """The sizes of the segments, e.g. ``"64x64 + 512"``."""
    return " + ".join(grid_text(part.grid) for part in layout)
