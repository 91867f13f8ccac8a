"""Rules (unions of products of relations) to tiles: which KV tiles each Q tile touches, and which need no mask.

A piece is a product of relations over axes, between one segment of the queries and one of the keys: on boxes, the
product of what its relations say is exact. A tile is a few boxes. Only two things are left open by boxes: whether
pieces that all touch a tile fill it together, and whether sets that all touch it have a pair in common. Those tile
pairs, and no others, are looked at pair by pair. Memory is bounded by chunks, whatever the length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..tiles import Ints, TileWork, from_rows
from ..workload import Workload
from .relations import Bools, Interval, Relation
from .tokens import Boxes, Layout, Segment, tile_boxes, token_coordinates

# Disjoint runs [start, end) of keys, each an array over queries; empty where end <= start.
Runs = list[tuple[Ints, Ints]]
MAX_RUNS = 32
CHUNK_PAIRS = 1 << 21  # pairs of boxes, or of tokens, looked at together


@dataclass(frozen=True, eq=False)
class Piece:
    """Pairs of one Q segment and one KV segment that every relation keeps; all pairs when there is none."""

    relations: tuple[Relation, ...] = ()
    q_segment: int = 0
    k_segment: int = 0


class Rule(Protocol):
    """Something that knows which pairs of tokens are kept, and can tell it by tiles."""

    @property
    def queries(self) -> int:
        """Query tokens."""
        ...

    @property
    def keys(self) -> int:
        """Key tokens."""
        ...

    def maps(self, tile_q: int, tile_kv: int, rows: list[tuple[int, int]]) -> Iterator[tuple[Bools, Bools]]:
        """Live and full, exact, of the Q tiles of each range [begin, end) of ``rows`` and every KV tile."""
        ...

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair: tokens by their place in memory, broadcast."""
        ...

    def pairs(self) -> int:
        """Pairs kept."""
        ...

    def runs(self) -> Runs | None:
        """Runs of keys of every query, where they are few; None where they are not known."""
        ...


@dataclass(frozen=True, eq=False)
class Pieces:
    """Disjoint pieces: no pair is kept by two of them.

    Attributes: q_layout, k_layout: the sequences. split: divisors of the axes (see tile_boxes), none when empty.
    """

    q_layout: Layout
    k_layout: Layout
    pieces: tuple[Piece, ...]
    split: tuple[int, ...] = ()

    @property
    def queries(self) -> int:
        """Query tokens."""
        return sum(part.tokens for part in self.q_layout)

    @property
    def keys(self) -> int:
        """Key tokens."""
        return sum(part.tokens for part in self.k_layout)

    def maps(self, tile_q: int, tile_kv: int, rows: list[tuple[int, int]]) -> Iterator[tuple[Bools, Bools]]:
        """Live and full of the Q tiles of each range."""
        q_boxes, k_boxes = tile_boxes(self.q_layout, tile_q, self.split), tile_boxes(self.k_layout, tile_kv, self.split)
        for begin, end in rows:
            live, full, unsure = self._chunk(q_boxes.slice(begin, end), k_boxes)
            if unsure.any():
                kept = count_kept(self, tile_q, tile_kv, unsure, begin)
                full[unsure] = kept == (q_boxes.sizes[begin:end, None] * k_boxes.sizes)[unsure]
            yield live, full

    def _chunk(self, q: Boxes, k: Boxes) -> tuple[Bools, Bools, Bools]:
        """Live and full of some Q tiles, and where pieces may fill a tile together."""
        shape = (q.segment.size, k.segment.size)
        live, full, shared = (np.zeros(shape, dtype=bool) for _ in range(3))
        for piece in self.pieces:
            piece_live, piece_full = np.ones(shape, dtype=bool), np.ones(shape, dtype=bool)
            if len(self.q_layout) > 1 or len(self.k_layout) > 1:
                piece_live = (q.segment == piece.q_segment)[:, None] & (k.segment == piece.k_segment)[None]
                piece_full = piece_live.copy()
            for relation in piece.relations:
                piece_live &= relation.live(q, k)
                piece_full &= relation.full(q, k)
            shared |= live & piece_live
            live |= piece_live
            full |= piece_full
        shared |= full
        if q.first.size < shape[0]:
            live = np.logical_or.reduceat(live, q.first, axis=0)
            full, shared = (np.logical_and.reduceat(flags, q.first, axis=0) for flags in (full, shared))
        if k.first.size < shape[1]:
            live = np.logical_or.reduceat(live, k.first, axis=1)
            full, shared = (np.logical_and.reduceat(flags, k.first, axis=1) for flags in (full, shared))
        return live, full, shared & ~full

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair."""
        q_where, q_own = token_coordinates(self.q_layout, q, self.split)
        k_where, k_own = token_coordinates(self.k_layout, k, self.split)
        kept = np.zeros(np.broadcast_shapes(q.shape, k.shape), dtype=bool)
        for piece in self.pieces:
            own = np.broadcast_to((q_where == piece.q_segment) & (k_where == piece.k_segment), kept.shape).copy()
            for relation in piece.relations:
                own &= relation.keeps(q_own, k_own)
            kept |= own
        return kept

    def runs(self) -> Runs | None:
        """Runs of keys of every query of a flat sequence, when all relations are intervals."""
        if any(len(layout) > 1 or len(layout[0].grid) > 1 for layout in (self.q_layout, self.k_layout)) or self.split:
            return None
        out: Runs = []
        for piece in self.pieces:
            relation = piece.relations[0] if len(piece.relations) == 1 else None
            if not isinstance(relation, Interval) or relation.chosen is not None:
                return None
            out.append(relation.runs())
        return out

    def pairs(self) -> int:
        """Pairs kept, in closed form."""
        total = 0
        for piece in self.pieces:
            q_grid = _axes(self.q_layout[piece.q_segment], self.split)
            k_grid = _axes(self.k_layout[piece.k_segment], self.split)
            used = {axis for relation in piece.relations for axis in relation.used_axes}
            kept = 1
            for relation in piece.relations:
                kept *= relation.pairs()
            for grid in (q_grid, k_grid):
                for axis, length in enumerate(grid):
                    kept *= 1 if axis in used else length
            total += kept
        return total


def _axes(part: Segment, split: tuple[int, ...]) -> tuple[int, ...]:
    """Axis lengths that relations see. Split axes must all be looked at: their groups are not all of one length."""
    if not split:
        return part.grid
    return tuple(length for axis, d in zip(part.grid, split, strict=True) for length in (-(-axis // d), d))


@dataclass(frozen=True, eq=False)
class Combined:
    """Union ("any") or intersection ("all") of rules on the same tokens."""

    op: str
    rules: tuple[Rule, ...]

    @property
    def queries(self) -> int:
        """Query tokens."""
        return self.rules[0].queries

    @property
    def keys(self) -> int:
        """Key tokens."""
        return self.rules[0].keys

    def maps(self, tile_q: int, tile_kv: int, rows: list[tuple[int, int]]) -> Iterator[tuple[Bools, Bools]]:
        """Live and full of the Q tiles of each range."""
        streams = [rule.maps(tile_q, tile_kv, rows) for rule in self.rules]
        q_sizes, k_sizes = tile_sizes(self.queries, tile_q), tile_sizes(self.keys, tile_kv)
        for begin, end in rows:
            maps = [next(stream) for stream in streams]
            lives, fulls = [live for live, _ in maps], [full for _, full in maps]
            if self.op == "any":
                live, full = np.logical_or.reduce(lives), np.logical_or.reduce(fulls)
                unsure = (np.sum(lives, axis=0) > 1) & ~full
            else:
                live, full = np.logical_and.reduce(lives), np.logical_and.reduce(fulls)
                unsure = live & (np.sum([~flags for flags in fulls], axis=0) > 1)
            if unsure.any():
                kept = count_kept(self, tile_q, tile_kv, unsure, begin)
                if self.op == "any":
                    full[unsure] = kept == (q_sizes[begin:end, None] * k_sizes)[unsure]
                else:
                    live[unsure] = kept > 0
            yield live, full

    def keeps(self, q: Ints, k: Ints) -> Bools:
        """Pair by pair."""
        merge = np.logical_or if self.op == "any" else np.logical_and
        kept = self.rules[0].keeps(q, k)
        for rule in self.rules[1:]:
            kept = merge(kept, rule.keeps(q, k))
        return kept

    def runs(self) -> Runs | None:
        """Runs of keys of every query, when all rules have few of them."""
        merged: Runs | None = None
        for rule in self.rules:
            other = rule.runs()
            if other is None:
                return None
            if merged is None:
                merged = other
            elif self.op == "all":
                merged = _some(_cut(a, b) for a in merged for b in other)
            else:
                for taken in merged:  # of the other's runs, what is left beside those already there
                    other = _some(part for run in other for part in _beside(run, taken))
                merged = [*merged, *other]
            if len(merged) > MAX_RUNS:
                return None
        return merged

    def pairs(self) -> int:
        """Pairs kept: from runs where they are few; else full tiles by their size and partial ones pair by pair."""
        runs = self.runs()
        if runs is not None:
            return sum(int(np.maximum(end - start, 0).sum()) for start, end in runs)
        tile = 64  # small tiles: fewer pairs in the partial ones
        q_sizes, k_sizes = tile_sizes(self.queries, tile), tile_sizes(self.keys, tile)
        rows = row_chunks(q_sizes.size, k_sizes.size)
        total = 0
        for (begin, end), (live, full) in zip(rows, self.maps(tile, tile, rows), strict=True):
            total += int(q_sizes[begin:end] @ (full @ k_sizes))
            total += int(count_kept(self, tile, tile, live & ~full, begin).sum())
        return total


def _some(runs: Iterable[tuple[Ints, Ints]]) -> Runs:
    """The runs that are not empty for every query."""
    return [(start, end) for start, end in runs if (end > start).any()]


def _cut(a: tuple[Ints, Ints], b: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    return np.maximum(a[0], b[0]), np.minimum(a[1], b[1])


def _beside(run: tuple[Ints, Ints], taken: tuple[Ints, Ints]) -> list[tuple[Ints, Ints]]:
    """What a run has before and after another one."""
    begin, end = taken[0], np.maximum(*taken)  # an empty run takes nothing away
    return [(run[0], np.minimum(run[1], begin)), (np.maximum(run[0], end), run[1])]


def tile_sizes(tokens: int, tile: int) -> Ints:
    """Tokens in each tile of a sequence."""
    return np.minimum(tile, tokens - np.arange(0, tokens, tile))


def row_chunks(q_tiles: int, width: int) -> list[tuple[int, int]]:
    """Ranges of Q tiles whose pairs fit a chunk; ``width``: what each is paired with."""
    step = max(1, CHUNK_PAIRS // max(width, 1))
    return [(begin, min(begin + step, q_tiles)) for begin in range(0, q_tiles, step)]


def count_kept(rule: Rule, tile_q: int, tile_kv: int, chosen: Bools, first_q: int) -> Ints:
    """Kept pairs of the chosen pairs of tiles, by looking at every pair of tokens.

    Args:
        chosen: flag per Q tile, from tile ``first_q`` on, and KV tile. The result is in row-major order of the flags.
    """
    q_tiles, k_tiles = (index.astype(np.int64) for index in np.nonzero(chosen))
    kept = np.empty(q_tiles.size, dtype=np.int64)
    step = max(1, CHUNK_PAIRS // (tile_q * tile_kv))
    for begin in range(0, q_tiles.size, step):
        part = slice(begin, begin + step)
        q = (q_tiles[part, None] + first_q) * tile_q + np.arange(tile_q)
        k = k_tiles[part, None] * tile_kv + np.arange(tile_kv)
        q_real, k_real = q < rule.queries, k < rule.keys
        flags = rule.keeps(np.minimum(q, rule.queries - 1)[:, :, None], np.minimum(k, rule.keys - 1)[:, None, :])
        kept[part] = (flags & q_real[:, :, None] & k_real[:, None, :]).sum(axis=(1, 2))
    return kept


def _width(rule: Rule, tile_q: int, tile_kv: int) -> int:
    """KV boxes that each Q tile is compared with, times its boxes: what decides the size of a chunk."""
    if isinstance(rule, Combined):
        return max(_width(part, tile_q, tile_kv) for part in rule.rules)
    if isinstance(rule, Pieces):
        q, k = tile_boxes(rule.q_layout, tile_q, rule.split), tile_boxes(rule.k_layout, tile_kv, rule.split)
        return k.segment.size * -(-q.segment.size // q.first.size)
    return -(-rule.keys // tile_kv)


def tile_work(rule: Rule, tile_q: int, tile_kv: int) -> TileWork:
    """Exact TileWork of a rule on tiles of consecutive tokens."""
    q_tiles, k_tiles = -(-rule.queries // tile_q), -(-rule.keys // tile_kv)
    rows = row_chunks(q_tiles, _width(rule, tile_q, tile_kv))
    visited, full = (np.empty(q_tiles, dtype=np.int64) for _ in range(2))
    for (begin, end), (live, whole) in zip(rows, rule.maps(tile_q, tile_kv, rows), strict=True):
        visited[begin:end], full[begin:end] = live.sum(axis=1), whole.sum(axis=1)
    return from_rows(visited, full, k_tiles, rule.pairs(), rule.queries * rule.keys)


def block_map(rule: Rule, tile_q: int, tile_kv: int) -> NDArray[np.int8]:
    """0 empty, 1 partial, 2 full for every pair of tiles: a picture, so choose tiles that keep it small."""
    rows = row_chunks(-(-rule.queries // tile_q), _width(rule, tile_q, tile_kv))
    parts = [live.astype(np.int8) + full for live, full in rule.maps(tile_q, tile_kv, rows)]
    return np.concatenate(parts)


def plain(workload: Workload) -> tuple[Layout, Layout]:
    """Queries and keys of a workload as one flat sequence each."""
    return (Segment((workload.tokens,)),), (Segment((workload.kv_tokens,)),)
