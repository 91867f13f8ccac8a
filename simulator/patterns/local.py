"""Local patterns on 1 to 3-D token grids: windows, blocks, strided grids, axes, discs. Tiles are runs of tokens."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ..tiles import Ints
from ..workload import Grid, Workload, grid_text
from .engine import Piece, Pieces, Rule
from .relations import Disc, Interval, Relation, Shift, Table
from .spec import Group, Static, choice, grid_layout, number, parameter, sizes, whole
from .tokens import Layout, Segment, read_order

ORDER_ABOUT = "token order in memory: row, hilbert, morton or tile:4x8x8"
GRID_ABOUT = "token grid; the workload's when left out"


@dataclass(frozen=True)
class OnGrid(Static):
    """A pattern on a token grid, the same for queries and keys."""

    group: ClassVar[Group] = "local"
    takes: ClassVar[tuple[int, ...]] = (1, 2, 3)
    masked_axes: ClassVar[int] = 2

    order: str = parameter(ORDER_ABOUT, read_order, "row")
    grid: tuple[int, ...] | None = parameter(GRID_ABOUT, sizes, None)

    @property
    def axes(self) -> int:
        """Coordinates that masking one score has to compare."""
        return len(self.grid) if self.grid is not None else self.masked_axes

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for."""
        return self.grid


@dataclass(frozen=True)
class Pieced(OnGrid):
    """A pattern on a token grid that is a union of products of relations on the axes."""

    @abstractmethod
    def relations(self, shape: Grid) -> tuple[tuple[Relation, ...], ...]:
        """Relations of each piece."""

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        layout = grid_layout(self, workload, self.grid, self.order, self.takes)
        return Pieces(layout, layout, tuple(Piece(relations) for relations in self.relations(layout[0].grid)))


def per_axis(pattern: object, value: Grid, shape: Grid, what: str) -> Grid:
    """One entry per axis; a single entry is for all. Raises InputError, quoting the pattern."""
    if len(value) == 1:
        return value * len(shape)
    if len(value) != len(shape):
        raise InputError(
            f"pattern '{pattern}' has a {what} of {len(value)} axes on the grid {grid_text(shape)!r}: expected {len(shape)}"
        )
    return value


def blocks(axis: int, length: int, size: int, offset: int = 0) -> Interval:
    """Blocks of ``size``, the first boundary at ``offset``: a query keeps its own block, cut at both ends."""
    i = np.arange(length)
    start = (i - offset) // size * size + offset
    return Interval(axis, np.maximum(start, 0), np.minimum(start + size, length))


def inward(axis: int, length: int, radius: int) -> Interval:
    """2 * radius + 1 keys around the query, moved inwards at the ends; the whole axis when it is shorter."""
    size = min(2 * radius + 1, length)
    start = np.clip(np.arange(length) - radius, 0, length - size)
    return Interval(axis, start, start + size)


@dataclass(frozen=True)
class Swin(Pieced):
    """Windows of a grid; shifted ones by the region mask of the cyclic shift, so that no window wraps around."""

    name: ClassVar[str] = "swin"
    about: ClassVar[str] = "non-overlapping windows; shift moves the boundaries (region mask, no wrap-around)"
    source: ClassVar[str] = "Swin Transformer, arXiv 2103.14030, microsoft/Swin-Transformer"

    window: tuple[int, ...] = parameter("window per axis, tokens", sizes, (7,))
    shift: int = parameter("tokens that the boundaries are shifted by, usually floor(window/2)", whole(0), 0)

    def relations(self, shape: Grid) -> tuple[tuple[Relation, ...], ...]:
        """One block per axis."""
        window = per_axis(self, self.window, shape, "window")
        if self.shift >= min(window):
            raise InputError(f"pattern '{self}' shifts by {self.shift}: expected less than the window, {min(window)}")
        return (
            tuple(
                blocks(axis, length, w, self.shift) for axis, (length, w) in enumerate(zip(shape, window, strict=True))
            ),
        )


@dataclass(frozen=True)
class Blocked(Pieced):
    """Blocks of a grid: the block step of MaxViT, the windows of DaViT."""

    name: ClassVar[str] = "blocked"
    about: ClassVar[str] = "blocks of the grid attend inside themselves; a ragged last block is smaller"
    source: ClassVar[str] = "blocked local attention; windows of DaViT (arXiv 2204.03645), block step of MaxViT"

    block: tuple[int, ...] = parameter("block per axis, tokens", sizes, (7,))

    def relations(self, shape: Grid) -> tuple[tuple[Relation, ...], ...]:
        """One block per axis."""
        block = per_axis(self, self.block, shape, "block")
        return (tuple(blocks(axis, length, block[axis]) for axis, length in enumerate(shape)),)


@dataclass(frozen=True)
class DaVit(Blocked):
    """The window step of DaViT. Its channel step is no pattern of tokens: 2 N d^2 operations per head."""

    name: ClassVar[str] = "davit"
    about: ClassVar[str] = "DaViT's spatial windows (its channel-group step has no query-key pairs of tokens)"
    source: ClassVar[str] = "DaViT, arXiv 2204.03645, dingmyu/davit"


@dataclass(frozen=True)
class MaxVit(Pieced):
    """MaxViT's two steps: blocks, and the sparse grid of as many tokens spread evenly over each axis."""

    name: ClassVar[str] = "maxvit"
    about: ClassVar[str] = "step=block: blocks of size; step=grid: size tokens per axis at equal distances"
    source: ClassVar[str] = "MaxViT, arXiv 2204.01697, google-research/maxvit"
    takes: ClassVar[tuple[int, ...]] = (2,)

    step: str = parameter("block or grid", choice("block", "grid"), "block")
    size: int = parameter("block size P, or grid size G, tokens per axis", whole(), 7)

    def relations(self, shape: Grid) -> tuple[tuple[Relation, ...], ...]:
        """Blocks, or equal remainders by the distance L / G."""
        if any(length % self.size for length in shape):
            raise InputError(f"pattern '{self}' does not divide the grid {grid_text(shape)!r}: MaxViT needs multiples")
        if self.step == "block":
            return (tuple(blocks(axis, length, self.size) for axis, length in enumerate(shape)),)
        return (tuple(_every(axis, length, length // self.size) for axis, length in enumerate(shape)),)


def _every(axis: int, length: int, step: int) -> Shift:
    return Shift(axis, length, length, np.arange(-(length - 1), length) % step == 0)


@dataclass(frozen=True)
class Axial(Pieced):
    """Attention along axes of the grid."""

    name: ClassVar[str] = "axial"
    about: ClassVar[str] = "tokens attend along one axis of the grid (along=0, 1, 2), or along each of them (along=all)"
    source: ClassVar[str] = "Axial attention, arXiv 1912.12180, lucidrains/axial-attention"
    takes: ClassVar[tuple[int, ...]] = (2, 3)

    along: str = parameter("axis number, or all", choice("0", "1", "2", "all"), "all")

    def relations(self, shape: Grid) -> tuple[tuple[Relation, ...], ...]:
        """One piece per axis; the query itself belongs to the first."""
        chosen = list(range(len(shape))) if self.along == "all" else [int(self.along)]
        if chosen[-1] >= len(shape):
            raise InputError(f"pattern '{self}' on the grid {grid_text(shape)!r}: expected along=0 to {len(shape) - 1}")
        pieces = []
        for along in chosen:
            others: list[Relation] = [_same(axis, length) for axis, length in enumerate(shape) if axis != along]
            if along != chosen[0]:
                length = shape[along]
                others.append(Shift(along, length, length, np.arange(-(length - 1), length) != 0))
            pieces.append(tuple(others))
        return tuple(pieces)


def _same(axis: int, length: int) -> Shift:
    return Shift(axis, length, length, np.arange(-(length - 1), length) == 0)


@dataclass(frozen=True)
class FreeSwim(Pieced):
    """FreeSwim's inward sliding window: all frames, and in each a window that is moved inwards at the borders."""

    name: ClassVar[str] = "freeswim"
    about: ClassVar[str] = "all frames x (2 high+1) x (2 wide+1) tokens, the window moved inwards at the borders"
    source: ClassVar[str] = "FreeSwim, WillWu111/FreeSwim cache/attention_processor_.py"
    takes: ClassVar[tuple[int, ...]] = (3,)
    masked_axes: ClassVar[int] = 3

    high: int = parameter("reach in rows, each side", whole(0), 15)
    wide: int = parameter("reach in columns, each side", whole(0), 26)

    def relations(self, shape: Grid) -> tuple[tuple[Relation, ...], ...]:
        """Two inward windows."""
        return ((inward(1, shape[1], self.high), inward(2, shape[2], self.wide)),)


@dataclass(frozen=True)
class Clear(OnGrid):
    """CLEAR: image tokens inside a circle, all text; text attends everything."""

    name: ClassVar[str] = "clear"
    about: ClassVar[str] = "image tokens with dy^2 + dx^2 < radius^2, plus all text tokens, which attend everything"
    source: ClassVar[str] = "CLEAR, arXiv 2412.16112, Huage001/CLEAR attention_processor.py"
    takes: ClassVar[tuple[int, ...]] = (2,)

    radius: float = parameter("radius of the circle, tokens", number(0.5, 1e6, 8), 8.0)
    text: int = parameter("text tokens, after the image tokens", whole(0), 0)

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for."""
        return None if self.grid is None else (math.prod(self.grid) + self.text,)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        layout = grid_layout(self, workload, self.grid, self.order, self.takes, self.text)
        rows, columns = layout[0].grid
        return with_text(layout, (Piece((Disc((0, 1), (rows, columns), self.radius),)),))


def with_text(layout: Layout, pieces: tuple[Piece, ...]) -> Pieces:
    """Pieces on segment 0, and text in segment 1 (if any) that attends everything and is attended by everything."""
    if len(layout) > 1:
        pieces += (Piece((), 0, 1), Piece((), 1, 0), Piece((), 1, 1))
    return Pieces(layout, layout, pieces)


@dataclass(frozen=True)
class ScaleDit(OnGrid):
    """Scale-DiT: [text | high resolution | low resolution] tokens.

    High: |dy|, |dx| <= radius among themselves; all text; the low-resolution windows of its own window and the
    ``near`` ones around. Low: |dy|, |dx| <= low_radius among themselves. Text: itself and high.
    """

    name: ClassVar[str] = "scale-dit"
    about: ClassVar[str] = "[text | high | low] resolution tokens; sliding windows in window-first or Hilbert order"
    source: ClassVar[str] = "Scale-DiT / UltraImageGen, PeterYYZhang/Scale-DiT src/train/model2.py"
    takes: ClassVar[tuple[int, ...]] = (2,)

    radius: int = parameter("reach among high-resolution tokens, each side", whole(0), 8)
    window: int = parameter("window side of the high resolution, tokens", whole(), 16)
    scale: int = parameter("side of the high over the low resolution", whole(), 4)
    near: int = parameter("low-resolution windows around its own that a high token attends", whole(0), 1)
    low_radius: int = parameter("reach among low-resolution tokens, each side", whole(0), 2)
    text: int = parameter("text tokens, in front", whole(0), 512)

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for."""
        if self.grid is None:
            return None
        return (self.text + math.prod(self.grid) + math.prod(length // self.scale for length in self.grid),)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        if self.grid is None:
            raise InputError(f"pattern '{self}' needs the high-resolution grid: expected e.g. grid=256x256")
        low_window = max(1, self.window // self.scale)
        if any(length % self.scale for length in self.grid) or self.window % self.scale:
            raise InputError(f"pattern '{self}': expected a grid and a window that scale={self.scale} divides")
        low_grid = tuple(length // self.scale for length in self.grid)
        high_only = grid_layout(self, Workload(self.grid, 1, 1), self.grid, self.order, self.takes)[0]
        layout: Layout = (high_only, Segment(low_grid))
        if self.text:
            layout = (Segment((self.text,)), *layout)
        tokens = sum(part.tokens for part in layout)
        if (workload.tokens, workload.kv_tokens) != (tokens, tokens):
            raise InputError(
                f"pattern '{self}' has {tokens:,} tokens, the workload {workload.tokens:,}: expected the same"
            )
        high, low = len(layout) - 2, len(layout) - 1
        pieces = [
            Piece(tuple(_around(axis, length, self.radius) for axis, length in enumerate(self.grid)), high, high),
            Piece(tuple(self._windows(axis, length, low_window) for axis, length in enumerate(self.grid)), high, low),
            Piece(tuple(_around(axis, length, self.low_radius) for axis, length in enumerate(low_grid)), low, low),
        ]
        if self.text:
            pieces += [Piece((), high, 0), Piece((), 0, 0), Piece((), 0, high)]
        return Pieces(layout, layout, tuple(pieces))

    def _windows(self, axis: int, length: int, low_window: int) -> Interval:
        own = np.arange(length) // self.window
        end = length // self.scale
        start = np.clip((own - self.near) * low_window, 0, end)
        return Interval(axis, start, np.clip((own + self.near + 1) * low_window, 0, end))


def _around(axis: int, length: int, radius: int) -> Interval:
    i = np.arange(length)
    return Interval(axis, np.maximum(i - radius, 0), np.minimum(i + radius + 1, length))


@dataclass(frozen=True)
class Mvar(Static):
    """MVAR: tokens of one scale attend a neighbourhood on the scale before, around the nearest mapped token."""

    name: ClassVar[str] = "mvar"
    group: ClassVar[Group] = "local"
    about: ClassVar[str] = (
        "queries on one scale, keys on the coarser one before: window per axis around the mapped token"
    )
    source: ClassVar[str] = "MVAR, LabShuHangGU/MVAR"

    window: int = parameter("keys per axis, moved inwards at the borders", whole())

    @property
    def axes(self) -> int:
        """Coordinates that masking one score has to compare."""
        return 2

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        if len(workload.grid) != len(workload.keys):
            raise InputError(
                f"pattern '{self}' on queries {grid_text(workload.grid)!r} and keys {grid_text(workload.keys)!r}: "
                "expected grids of as many axes"
            )
        relations = tuple(
            self._mapped(axis, queries, keys)
            for axis, (queries, keys) in enumerate(zip(workload.grid, workload.keys, strict=True))
        )
        return Pieces((Segment(workload.grid),), (Segment(workload.keys),), (Piece(relations),))

    def _mapped(self, axis: int, queries: int, keys: int) -> Relation:
        size = min(self.window, keys)
        # Nearest cell: the centre (i + 1/2) / queries falls into cell floor((2i+1) * keys / (2 * queries)).
        centre: Ints = (2 * np.arange(queries) + 1) * keys // (2 * queries)
        start = np.clip(centre - size // 2, 0, keys - size)
        if queries < keys and (start[1:] > start[:-1] + size).any():
            # Queries coarser than keys leave keys out between windows: intervals with gaps are a table.
            keep = (np.arange(keys) >= start[:, None]) & (np.arange(keys) < start[:, None] + size)
            return Table(axis, keep, queries, keys)
        return Interval(axis, start, start + size)


LOCAL = (Swin, Blocked, DaVit, MaxVit, Axial, FreeSwim, Clear, ScaleDit, Mvar)
