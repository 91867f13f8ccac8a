"""Dynamic mechanisms in which every query chooses for itself, or a few queries for all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..tiles import Floats
from ..workload import Workload
from .base import SelectionCost
from .dynamic import Dynamic, available, element_bytes, query_scores
from .spec import number, parameter, whole


@dataclass(frozen=True)
class Nsa(Dynamic):
    """Native Sparse Attention: selected blocks and a window; the compressed branch is the cost of choosing."""

    name: ClassVar[str] = "nsa"
    about: ClassVar[str] = "Native Sparse Attention: top blocks per query (heads of a group together) and a window"
    source: ClassVar[str] = "NSA, arXiv 2502.11089"

    top: int = parameter("blocks selected per query, first and own ones included", whole(), 16)
    block: int = parameter("selected block, keys", whole(), 64)
    window: int = parameter("window, keys", whole(0), 512)
    stride: int = parameter("distance of compressed blocks, keys", whole(), 16)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Every query chooses for itself."""
        return 1, self.block

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """Both branches: the selected blocks, and the window, whose keys may be read twice."""
        return np.full(seen.shape, float(self.top * self.block + self.window))

    def selection(self, workload: Workload) -> SelectionCost:
        """Attention of every query over the compressed keys and values before it: both products."""
        seen = available(workload, self.causal) / self.stride
        choose = query_scores(workload, seen, kernels=3)
        return SelectionCost(choose.flops * (1.0 + workload.dim_v / workload.head_dim), choose.bytes, choose.kernels)


@dataclass(frozen=True)
class Superlinear(Dynamic):
    """Superlinear multi-step attention: anchors about sqrt(i) apart, the best spans of about sqrt(i) keys, a window."""

    name: ClassVar[str] = "superlinear"
    about: ClassVar[str] = (
        "Superlinear: a search over about sqrt(i) anchors, then top spans of about sqrt(i) keys and a window"
    )
    source: ClassVar[str] = "Superlinear multi-step attention, concavity-ai/superlinear (not fetched)"

    top: int = parameter("spans kept per query", whole(), 2)
    window: int = parameter("window, keys (not stated in the source)", whole(0), 0)
    power: float = parameter("span length i^power", number(0.1, 1, 0.5), 0.5)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Every query chooses for itself; a block is the mean span."""
        return 1, max(1, round(float(np.mean(available(workload, self.causal) ** self.power))))

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """Grows with the square root of the position."""
        return np.asarray(self.top * seen**self.power + self.window)

    def selection(self, workload: Workload) -> SelectionCost:
        """Every query scores i^(1 - power) anchors: O(N^1.5)."""
        return query_scores(workload, available(workload, self.causal) ** (1.0 - self.power))


@dataclass(frozen=True)
class LongHeads(Dynamic):
    """LongHeads: every head attends its own chunks, as many as fit the window it was trained with."""

    name: ClassVar[str] = "longheads"
    about: ClassVar[str] = "LongHeads: each head keeps the top chunks of keys, first and last included"
    source: ClassVar[str] = "LongHeads, arXiv 2402.10685, LuLuLuyi/LongHeads"

    top: int = parameter("chunks kept", whole(), 16)
    chunk: int = parameter("chunk, keys", whole(), 256)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Every query chooses for itself."""
        return 1, self.chunk

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The same number in every row that is long enough."""
        return np.full(seen.shape, float(self.top * self.chunk))

    def selection(self, workload: Workload) -> SelectionCost:
        """Chunk representatives (attention inside each chunk, twice), then every query scores them."""
        w = workload
        inside = 2.0 * w.batch * w.heads * w.kv_tokens * self.chunk * (w.head_dim + w.dim_v)
        tensors = 3.0 * w.batch * w.kv_heads * w.kv_tokens * w.head_dim * element_bytes(w)
        return query_scores(w, available(w, self.causal) / self.chunk) + SelectionCost(inside, tensors, 2)


@dataclass(frozen=True)
class LessIsMore(Dynamic):
    """LessIsMore: one set of tokens for all heads, chosen in a few layers and used in those after."""

    name: ClassVar[str] = "lessismore"
    about: ClassVar[str] = (
        "LessIsMore: the same top and recent tokens for all heads, chosen every few layers (decoding)"
    )
    source: ClassVar[str] = "LessIsMore, DerrickYLJ/LessIsMore kernels/"
    gathered: ClassVar[bool] = True

    top: int = parameter("tokens kept, recent ones (a quarter) included", whole(), 2048)
    reuse: int = parameter("layers that use one choice", whole(), 15)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Single tokens."""
        return 1, 1

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The same number in every row that is long enough."""
        return np.full(seen.shape, float(self.top))

    def selection(self, workload: Workload) -> SelectionCost:
        """Full scores of every query, once for ``reuse`` layers."""
        once = query_scores(workload, available(workload, self.causal))
        return SelectionCost(once.flops / self.reuse, once.bytes / self.reuse, 0)


@dataclass(frozen=True)
class VerticalSlash(Dynamic):
    """MInference's vertical-slash heads: columns and diagonals, found from the last queries."""

    name: ClassVar[str] = "vertical-slash"
    about: ClassVar[str] = "MInference: the best columns and diagonals, estimated from the last queries"
    source: ClassVar[str] = "MInference, arXiv 2407.02490, microsoft/MInference"

    vertical: int = parameter("columns, keys", whole(0), 1000)
    slash: int = parameter("diagonals", whole(0), 6096)
    last: int = parameter("last queries that estimate them", whole(), 64)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Diagonals are widened to blocks of 64; single columns are gathered into tiles."""
        return 64, 64

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """Columns and diagonals of a row, the block around the diagonals' ends included."""
        return np.full(seen.shape, float(self.vertical + self.slash + 64))

    def selection(self, workload: Workload) -> SelectionCost:
        """Scores of the last queries with all keys, sums along columns and diagonals, an index per row."""
        w = workload
        scores = float(w.batch * w.heads) * min(self.last, w.tokens) * w.kv_tokens
        keys = w.batch * w.kv_heads * w.kv_tokens * w.head_dim * element_bytes(w)
        rows = w.batch * w.heads * -(-w.tokens // 64) * (self.vertical + self.slash / 64.0) * 4.0
        return SelectionCost(2.0 * w.head_dim * scores, keys + 12.0 * scores + 2.0 * rows, 5)


BY_QUERY = (Nsa, Superlinear, LongHeads, LessIsMore, VerticalSlash)
