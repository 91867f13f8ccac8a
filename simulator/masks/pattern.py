"""Masks as patterns: what ``predict`` and ``tiles`` ask of any pattern, answered from a block map."""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Final

from ...errors import InputError
from ..patterns.base import PatternBase
from ..tiles import KvTiling, TileWork
from ..workload import Grid, Workload
from .blockmap import BlockMap
from .capture import Function, Real, capture
from .classify import Counter, classify, domain
from .graph import Graph
from .intervals import Intervals
from .load import TIMEOUT_S, MaskProcess, split_text
from .readers import read_block_map

FAMILY: Final = "mask"
KEPT: Final = 32  # block maps of one mask that are remembered, one for each shape and tile
MAX_MAPS: Final = 1 << 16  # batches times heads that may differ


class _Blocks(PatternBase):
    """What all masks have in common."""

    @property
    def family(self) -> str:
        """What kernels call this kind of pattern."""
        return FAMILY

    @property
    def tile_axes(self) -> int:
        """Tiles lie along the flattened sequence."""
        return 1


@dataclass(frozen=True, eq=False)
class Mask(_Blocks):
    """A FlexAttention ``mask_mod(b, h, q_idx, kv_idx)``.

    Positions count from 0 for queries and for keys alike, as FlexAttention's do: with cached tokens the function itself
    adds the offset. Tiles are classified at their own size; with ``block`` they are what FlexAttention makes of a
    ``create_block_mask`` of that BLOCK_SIZE (see BlockMap.retile).

    Attributes:
        text: what the user wrote. graph: what the function computes.
        counter: evaluates blocks where the graph does not say it all. block: (queries, keys) of a block, or None.
        notes: what a user should hear about the function.
    """

    text: str
    graph: Graph
    counter: Counter | None = None
    block: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    _maps: OrderedDict[Any, BlockMap] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def from_function(cls, function: Function, name: str | None = None, block: tuple[int, int] | None = None) -> Mask:
        """A mask from a function in this process. Numpy arrays that it captures are put into a subclass in place."""
        text = str(name or getattr(function, "__name__", "mask"))
        return cls(text, capture(function, text), Real(function, text).count, block)

    def __str__(self) -> str:
        return f"mask {self.text}"

    @property
    def axes(self) -> int:
        """Coordinates compared for one score: a band or a window on an axis is two comparisons."""
        compared = [i for i in self.graph.reached() if self.graph.nodes[i].op in ("ge0", "eq0", "lt", "le", "eq")]
        return max(1, math.ceil(len(compared) / 2))

    def check(self, workload: Workload) -> None:
        """Raise InputError when the function indexes a table past its end for these lengths, batches or heads."""
        batches, heads = self._shape(workload)
        Intervals(self.graph, domain(workload.tokens, workload.kv_tokens, batches, heads))

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Exact TileWork; a tile of several axes counts as its number of tokens, and KV tiles begin at key 0."""
        q, kv = math.prod(q_tile), math.prod(kv_tile)
        if self.block is None:
            return self.block_map(workload, q, kv).tile_work()
        return self.block_map(workload, *self.block).retile(q, kv).tile_work()

    def block_map(self, workload: Workload, q_block: int = 128, kv_block: int = 128) -> BlockMap:
        """The block map on one block size."""
        batches, heads = self._shape(workload)
        key = (workload.tokens, workload.kv_tokens, batches, heads, q_block, kv_block)
        if key not in self._maps:
            self._maps[key] = classify(
                self.graph, *key[:2], q_block, kv_block, batches=batches, heads=heads, counter=self.counter
            )
            while len(self._maps) > KEPT:
                self._maps.popitem(last=False)
        return self._maps[key]

    def _shape(self, workload: Workload) -> tuple[int, int]:
        """Batches and heads that can differ."""
        batches = workload.batch if self.graph.depends("b") else 1
        heads = workload.heads if self.graph.depends("h") else 1
        if batches * heads > MAX_MAPS:
            raise InputError(f"{self} differs for {batches * heads:,} batches and heads: expected at most {MAX_MAPS:,}")
        return batches, heads


@dataclass(frozen=True, eq=False)
class StoredMask(_Blocks):
    """A block map from a file. Tiles follow from its blocks (see BlockMap.retile)."""

    text: str
    blocks: BlockMap

    def __str__(self) -> str:
        return f"mask {self.text}"

    @property
    def axes(self) -> int:
        """What the mask compares is not in the file: one coordinate is assumed."""
        return 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should hear about the map."""
        return () if self.blocks.exact else ("The file does not say which pairs partial blocks keep: all are counted.",)

    def check(self, workload: Workload) -> None:
        """Raise InputError unless lengths, batches and heads are those of the map."""
        m = self.blocks
        lengths = (workload.tokens, workload.kv_tokens)
        if lengths != (m.q_len, m.kv_len):
            raise InputError(
                f"{self} is for {m.q_len:,} queries and {m.kv_len:,} keys: expected the same of the workload, "
                f"which has {lengths[0]:,} and {lengths[1]:,}"
            )
        for what, mine, given in (("batch", m.shape[0], workload.batch), ("heads", m.shape[1], workload.heads)):
            if mine not in (1, given):
                raise InputError(f"{self} has maps for {what} {mine}: expected 1 or {given}, which the workload has")

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """TileWork on tiles that divide the blocks or are multiples of them."""
        return self.blocks.retile(math.prod(q_tile), math.prod(kv_tile)).tile_work()


def read_mask(text: str, *, block: tuple[int, int] | None = None, timeout_s: float = TIMEOUT_S) -> Mask | StoredMask:
    """The mask a user names: ``FILE.py:FUNCTION``, a ``.npz`` block map, or a ``.pt`` BlockMask.

    A ``.py`` file is code, and it is run: in a process of its own, within ``timeout_s``.

    Raises:
        InputError: no such file or function, or one that is no mask.
    """
    if os.path.splitext(text)[1].lower() in (".npz", ".pt", ".pth"):  # noqa: PTH122
        return StoredMask(text, read_block_map(text))
    path, name = split_text(text)
    process = MaskProcess(path, name, timeout_s)
    notes = []
    if process.printed.strip():
        notes.append(f"The mask file printed: {' '.join(process.printed.split())[:120]}")
    if process.graph.opaque:
        notes.append(
            "Some operations of the mask are only known to the function itself: its blocks are evaluated in full."
        )
    return Mask(text, process.graph, process.count, block, tuple(notes))
