"""Static patterns of a 1-D sequence: sinks, dilated and strided windows, global tokens, prefixes, documents.

Positions are aligned at the end (bottom right): query i sits at position p = i + keys - queries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ..tiles import Ints
from ..workload import Grid, Workload
from .engine import Combined, Piece, Pieces, Rule, plain
from .relations import Bools, Interval, Shift, Table
from .spec import MAX_BLOCKS, Group, Static, choice, flag, lengths, parameter, same_tokens, whole


@dataclass(frozen=True)
class OnSequence(Static):
    """A pattern of the flattened sequence."""

    group: ClassVar[Group] = "global"


def positions(workload: Workload) -> Ints:
    """Position of every query."""
    return np.arange(workload.tokens) + workload.kv_tokens - workload.tokens


def pieces_of(workload: Workload, *relations: Interval | Shift | Table) -> Pieces:
    """Disjoint relations on the flattened sequence."""
    return Pieces(*plain(workload), tuple(Piece((relation,)) for relation in relations))


def interval(
    workload: Workload, start: Ints | int, end: Ints | int, first: int = 0, last: int | None = None
) -> Interval:
    """Keys [start, end) of each query, cut to the keys there are."""
    keys, shape = workload.kv_tokens, (workload.tokens,)
    begin = np.clip(np.broadcast_to(start, shape), 0, keys)
    return Interval(0, begin, np.maximum(np.clip(np.broadcast_to(end, shape), 0, keys), begin), first, last)


@dataclass(frozen=True)
class StreamingLlm(OnSequence):
    """The first tokens and a causal window."""

    name: ClassVar[str] = "streaming"
    about: ClassVar[str] = "StreamingLLM: the first sink tokens and the last window tokens, the query included"
    source: ClassVar[str] = "StreamingLLM, arXiv 2309.17453, mit-han-lab/streaming-llm"

    sink: int = parameter("tokens at the front that all attend", whole(0), 4)
    window: int = parameter("last tokens, the query itself included", whole(), 1024)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        p = positions(workload)
        start = np.maximum(p + 1 - self.window, 0)
        front = interval(workload, 0, np.minimum(np.minimum(self.sink, p + 1), start))
        return pieces_of(workload, interval(workload, start, p + 1), front)


@dataclass(frozen=True)
class Dilated(OnSequence):
    """A window with gaps."""

    name: ClassVar[str] = "dilated"
    about: ClassVar[str] = "keys within reach on each side (behind only if causal) at distances that step divides"
    source: ClassVar[str] = "attention-gym generate_dilated_sliding_window; Longformer, arXiv 2004.05150"

    reach: int = parameter("largest distance, tokens; the distance itself is included", whole(0))
    step: int = parameter("every step-th key", whole(), 2)
    causal: bool = parameter("1: no later keys", flag, False)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        return pieces_of(
            workload, by_distance(workload, lambda d: (abs(d) <= self.reach) & (d % self.step == 0), self.causal)
        )


def by_distance(workload: Workload, kept: Callable[[Ints], Bools], causal: bool) -> Shift:
    """Pairs by the distance d = position of the query - key."""
    queries, keys = workload.tokens, workload.kv_tokens
    d = np.arange(-(keys - 1), queries) + keys - queries
    flags = kept(d)
    return Shift(0, queries, keys, flags & (d >= 0) if causal else flags)


@dataclass(frozen=True)
class Strided(OnSequence):
    """The Sparse Transformer's two factorised patterns, both heads of one pattern together."""

    name: ClassVar[str] = "strided"
    about: ClassVar[str] = (
        "Sparse Transformer: last stride keys and every stride-th one; mode=fixed: own block and its summary keys"
    )
    source: ClassVar[str] = "Sparse Transformer, arXiv 1904.10509, openai/sparse_attention"

    stride: int = parameter("stride l, tokens", whole(), 128)
    mode: str = parameter("strided or fixed", choice("strided", "fixed"), "strided")
    summary: int = parameter("mode=fixed: last c keys of each block that all later queries attend", whole(), 8)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept: distances [0, l] and multiples of l; or floor(j/l) = floor(i/l), or j mod l >= l - c."""
        step = self.stride
        if self.mode == "strided":
            return pieces_of(workload, by_distance(workload, lambda d: (d <= step) | (d % step == 0), True))
        p = positions(workload)
        own = np.maximum(p // step * step, 0)
        chosen = np.arange(workload.kv_tokens) % step >= step - self.summary
        before = Interval(0, np.zeros_like(own), np.clip(own, 0, workload.kv_tokens), chosen=chosen)
        return pieces_of(workload, interval(workload, own, p + 1), before)


@dataclass(frozen=True)
class Longformer(OnSequence):
    """A window on both sides, and global tokens at the front."""

    name: ClassVar[str] = "longformer"
    about: ClassVar[str] = "window/2 keys on each side; the first tokens attend and are attended by all"
    source: ClassVar[str] = "Longformer, arXiv 2004.05150, allenai/longformer"

    window: int = parameter("window, tokens: half of it on each side, the query between", whole(), 512)
    tokens: int = parameter("global tokens, at the front", whole(0), 1)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        total, half = same_tokens(self, workload), self.window // 2
        i, first = np.arange(total), min(self.tokens, total)
        start = np.maximum(i - half, first)
        return pieces_of(
            workload,
            interval(workload, 0, total, 0, first),
            interval(workload, 0, first, first),
            interval(workload, start, np.maximum(i + half + 1, start), first),
        )


@dataclass(frozen=True)
class BigBird(OnSequence):
    """Blocks: a window, global first and last blocks, random ones."""

    name: ClassVar[str] = "bigbird"
    about: ClassVar[str] = "block window, global blocks at both ends, random blocks per row (drawn from seed)"
    source: ClassVar[str] = "BigBird, arXiv 2007.14062, google-research/bigbird (block-sparse, ITC)"

    block: int = parameter("block, tokens", whole(), 64)
    window: int = parameter("blocks of the window, an odd number", whole(), 3)
    ends: int = parameter("global blocks at each end", whole(0), 1)
    random: int = parameter("random blocks per row", whole(0), 3)
    seed: int = parameter("seed of the random blocks", whole(0), 0)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        return block_table(self, workload, self.block, self.block, self.table(block_count(self, workload, self.block)))

    def table(self, count: int) -> Bools:
        """Kept blocks."""
        keep = by_block_distance(abs(distances(count)) <= self.window // 2)
        keep[: self.ends], keep[:, : self.ends] = True, True
        keep[count - min(self.ends, count) :], keep[:, count - min(self.ends, count) :] = True, True
        draw = np.random.default_rng(self.seed)
        for row in range(count):
            left = np.flatnonzero(~keep[row])
            keep[row, draw.choice(left, min(self.random, left.size), replace=False, shuffle=False)] = True
        return keep


def block_count(pattern: object, workload: Workload, block: int) -> int:
    """Blocks of a sequence. Raises InputError, quoting the pattern, when they are too many for a table."""
    count = -(-same_tokens(pattern, workload) // block)
    if count > MAX_BLOCKS:
        raise InputError(
            f"pattern '{pattern}' makes {count:,} blocks of {workload.tokens:,} tokens: expected at most {MAX_BLOCKS:,}, "
            f"so a block of at least {-(-workload.tokens // MAX_BLOCKS)}"
        )
    return count


def distances(count: int) -> Ints:
    """Q block - KV block of every diagonal, from the first KV block of the last row on."""
    return np.arange(count - 1, -count, -1)


def by_block_distance(kept: Bools) -> Bools:
    """A block table from a flag per diagonal, in the order of ``distances``; never larger than the table itself."""
    count = (kept.size + 1) // 2
    return np.lib.stride_tricks.sliding_window_view(kept, count)[::-1].copy()


def block_table(
    pattern: object, workload: Workload, q_block: int, k_block: int, keep: Bools,
    causal: bool = False,
) -> Rule:  # fmt: skip
    """The pairs of kept blocks; of those the causal ones."""
    table = Table(0, keep, workload.tokens, workload.kv_tokens, q_block, k_block)
    if not causal:
        return pieces_of(workload, table)
    if q_block != k_block:
        own = pieces_of(workload, interval(workload, 0, positions(workload) + 1))
        return Combined("all", (pieces_of(workload, table), own))
    # Blocks before the own one are whole; of the own block a triangle is left.
    below = Table(0, np.tril(keep, -1), workload.tokens, workload.kv_tokens, q_block, k_block)
    i = np.arange(workload.tokens)
    start = i // q_block * q_block
    own_kept = np.diagonal(keep)[i // q_block]
    return pieces_of(workload, below, interval(workload, start, np.where(own_kept, i + 1, start)))


@dataclass(frozen=True)
class Power(OnSequence):
    """PowerAttention: blocks at distances that are powers of two, a block window, a sink block; causal."""

    name: ClassVar[str] = "power"
    about: ClassVar[str] = "causal blocks at distance 0, 1, 2, 4, 8, ..., a window of blocks, and the first ones"
    source: ClassVar[str] = (
        "PowerAttention, arXiv 2503.03588 (block 256, window 5 blocks, 1 sink block: secondary source)"
    )

    block: int = parameter("block, tokens", whole(), 256)
    window: int = parameter("window, blocks, the own one included", whole(), 5)
    sink: int = parameter("sink, blocks", whole(0), 1)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        count = block_count(self, workload, self.block)
        x = distances(count)
        keep = by_block_distance((x >= 0) & ((x < self.window) | (x & (x - 1) == 0)))
        keep[:, : self.sink] = True  # of later blocks nothing is left by causality
        return block_table(self, workload, self.block, self.block, keep, causal=True)


@dataclass(frozen=True)
class PrefixLm(OnSequence):
    """A bidirectional prefix, causal after it."""

    name: ClassVar[str] = "prefix-lm"
    about: ClassVar[str] = "all tokens attend the prefix; causal after it"
    source: ClassVar[str] = "attention-gym generate_prefix_lm_mask; T5, arXiv 1910.10683"

    prefix: int = parameter("prefix, tokens", whole(0))

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept: key < prefix, or key <= position."""
        return pieces_of(workload, interval(workload, 0, np.maximum(positions(workload) + 1, self.prefix)))


@dataclass(frozen=True)
class Documents(OnSequence):
    """Documents packed in one sequence (varlen)."""

    name: ClassVar[str] = "documents"
    about: ClassVar[str] = "documents packed in one sequence, each attends itself (varlen)"
    source: ClassVar[str] = "flash-attn varlen; attention-gym generate_doc_mask_mod"

    lengths: tuple[int, ...] = parameter("document lengths, e.g. 1000,3000 or 8*1024", lengths)
    causal: bool = parameter("1: causal inside each document", flag, True)

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for."""
        return (sum(self.lengths),)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        total = same_tokens(self, workload)
        start, end = spans(self, self.lengths, total)
        return pieces_of(workload, interval(workload, start, np.arange(total) + 1 if self.causal else end))


def spans(pattern: object, sizes: tuple[int, ...], total: int) -> tuple[Ints, Ints]:
    """First and one past the last token of every token's own part. Raises InputError unless the parts fill the total."""
    if sum(sizes) != total:
        raise InputError(f"pattern '{pattern}' has lengths of {sum(sizes):,} tokens together: expected {total:,}")
    ends = np.array(list(accumulate(sizes)))
    return np.repeat(ends - np.array(sizes), sizes), np.repeat(ends, sizes)


@dataclass(frozen=True)
class SharedPrefix(OnSequence):
    """Requests packed one after the other that share a prefix in front (RelayAttention)."""

    name: ClassVar[str] = "shared-prefix"
    about: ClassVar[str] = "requests share a prefix in front of the keys; each is causal on its own tokens"
    source: ClassVar[str] = "RelayAttention, arXiv 2402.14808, rayleizhu/vllm-ra"

    prefix: int = parameter("tokens of the shared prefix (keys; --cached, or queries too)", whole())
    lengths: tuple[int, ...] = parameter("own tokens of each request, e.g. 32*128", lengths)

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for."""
        return (self.prefix + sum(self.lengths),)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept; queries are the requests' tokens, or prefix and requests."""
        if workload.kv_tokens != self.prefix + sum(self.lengths) or workload.tokens not in (
            workload.kv_tokens, sum(self.lengths),
        ):  # fmt: skip
            raise InputError(
                f"pattern '{self}' on {workload.tokens:,} queries and {workload.kv_tokens:,} keys: expected "
                f"{sum(self.lengths):,} queries and {self.prefix + sum(self.lengths):,} keys"
            )
        p = positions(workload)
        begins = np.concatenate(
            [np.zeros(self.prefix, dtype=np.int64), self.prefix + spans(self, self.lengths, sum(self.lengths))[0]]
        )
        own, of_prefix = begins[p], int((p < self.prefix).sum())
        return pieces_of(
            workload,
            interval(workload, own, p + 1),
            interval(workload, 0, self.prefix, of_prefix),
        )


@dataclass(frozen=True)
class ParallelContext(OnSequence):
    """Contexts encoded side by side, then a query that attends all of them."""

    name: ClassVar[str] = "parallel-context"
    about: ClassVar[str] = (
        "contexts attend the sink and themselves (causal); the tokens after them attend everything before"
    )
    source: ClassVar[str] = "Parallel context encoding (attention entropy, sinks), arXiv 2412.16545"

    lengths: tuple[int, ...] = parameter("context lengths, e.g. 8*1024", lengths)
    sink: int = parameter("tokens of a sink prefix that all attend", whole(0), 0)

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for."""
        return (self.sink + sum(self.lengths),)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        total, contexts = same_tokens(self, workload), self.sink + sum(self.lengths)
        if contexts > total:
            raise InputError(f"pattern '{self}' has {contexts:,} tokens before the query: expected at most {total:,}")
        i = np.arange(total)
        own = np.zeros(total, dtype=np.int64)
        own[self.sink : contexts] = self.sink + spans(self, self.lengths, sum(self.lengths))[0]
        # Starts may not fall: of the tail the start is the last context's, for a piece that does not use it.
        own[contexts:] = own[contexts - 1] if contexts else 0
        return pieces_of(
            workload,
            interval(workload, own, i + 1, 0, contexts),
            interval(workload, 0, self.sink, self.sink, contexts),
            interval(workload, 0, i + 1, contexts),
        )


SEQUENCE = (
    StreamingLlm, Dilated, Strided, Longformer, BigBird, Power, PrefixLm, Documents, SharedPrefix, ParallelContext,
)  # fmt: skip
