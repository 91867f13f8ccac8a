"""Schedule model: how long the SMs take over CTAs of unequal length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .tiles import Floats, Ints, between

EVEN = 0.125  # CTAs whose longest takes this much more than their mean no longer keep step, wave for wave


@dataclass(frozen=True)
class Dispatch:
    """The CTAs of one call, and the SMs they go to.

    Attributes:
        cta_s: seconds of one CTA of each class, longest first, shape (classes,). visited: KV tiles of each class's CTAs.
        count: CTAs in each class. sms: SMs. first: which of its CTAs the kernel hands out first, where that goes by length.
        fill_s: latency that nothing hides, before the first tile and after the last.
        span_s: from the first CTA's start to the last one's end, as forecast; ``fill_s`` included.
    """

    cta_s: Floats
    visited: Floats
    count: Floats
    sms: int
    first: Literal["longest", "shortest", "any"]
    fill_s: float
    span_s: float


def class_counts(row: Ints, classes: int) -> Ints:
    """Number of classes of each call, from the index of each call's first class and the number of classes in all."""
    sizes = np.empty_like(row)
    sizes[:-1] = row[1:] - row[:-1]
    sizes[-1] = classes - row[-1]
    return sizes


def per_class(values: Floats, row: Ints, classes: int) -> Floats:
    """From one value for each call to one for each of its classes; to a single one, which broadcasts, where all are alike.

    ``row`` and ``classes`` as in ``class_counts``.
    """
    if values.size == 1 or (values == values[0]).all():
        return values[:1]
    return np.repeat(values, class_counts(row, classes))


def makespan(
    cost: Floats,
    count: Floats,
    row: Ints,
    servers: Floats | int,
    longest_first: NDArray[np.bool_] | bool,
    repeats: Floats | float = 1.0,
    shared: NDArray[np.bool_] | bool = False,
) -> Floats:
    """Time until the last of ``servers`` is done, per call.

    Args:
        cost: time of one CTA of each class; the classes of a call lie together, longest first.
        count: CTAs in each class.
        row: index of the first class of each call (as numpy's reduceat takes it), shape (calls,).
        servers: SMs, or places for CTAs on them; of all calls or of each.
        longest_first: long CTAs are handed out first (or bins are packed ahead); of all calls or of each.
        repeats: times that the CTAs come round in the order of the grid: heads of all sequences, each from its first Q tile on.
        shared: servers are places on an SM: a CTA runs faster once those beside it are done.

    Longest first comes within rounding of its lower bounds: the mean load, and for each class the load of a server
    that must take ceil(n/S) CTAs of at least that length, n counting this class and the longer ones. In the order of the grid
    the last CTA is a longest one. When it starts, the others are on average half done in time (sum of squares over twice the
    sum): those of the whole head, or its S longest where it has more than S tiles. CTAs that are alike run in whole waves.
    Where CTAs share SMs half of the longest is left. Checked in the tests against event simulations.
    """
    total = np.add.reduceat(cost * count, row)
    cumulative = np.cumsum(count)
    if row.size > 1:
        cumulative -= np.repeat(cumulative[row] - count[row], class_counts(row, cost.size))
    # The small number keeps a whole number of waves whole when counts are not exact.
    each, times = (
        per_class(values, row, cost.size) if isinstance(values, np.ndarray) else values for values in (servers, repeats)
    )
    packed = np.maximum.reduceat(np.ceil(cumulative / each - 1e-9) * cost, row)
    packed = np.maximum(packed, total / servers)
    if longest_first is True or np.all(longest_first):
        return packed
    longest = np.maximum.reduceat(cost, row)
    ctas = np.add.reduceat(count, row)
    # How unequal the CTAs are: 0 when all are alike, 1 from where the longest is EVEN, or twice, above the mean.
    above = (longest - total / np.maximum(ctas, 1.0)) / np.maximum(longest, 1e-300)
    # CTAs of a head that run beside the last one.
    late = between(each - (cumulative - count) / times, 0.0, count / times)
    begun = np.add.reduceat(cost * cost * late, row) / np.maximum(2.0 * np.add.reduceat(cost * late, row), 1e-300)
    tail = np.where(
        shared, 0.5 * longest * np.minimum(1.0, 2.0 * above), (longest - begun) * np.minimum(1.0, above / EVEN)
    )
    unordered = np.where(ctas <= servers, longest, np.maximum(packed, total / servers + tail))
    return np.where(longest_first, packed, unordered)


def rising_makespan(cost: Floats, count: Floats, row: Ints, servers: Floats | int) -> Floats:
    """Time until the last of ``servers`` is done, per call, where the shortest start first. Arguments as in ``makespan``.

    The server that ends first is always the one whose last CTA started first, so that each takes every ``servers``-th CTA. The
    one that takes the last, a longest one, ends last.
    """
    running = np.cumsum(count)
    longer = running - per_class(running[row] - count[row], row, cost.size)  # CTAs of a class and of those above it
    each = per_class(servers, row, cost.size) if isinstance(servers, np.ndarray) else servers
    # The small number keeps a whole number of waves whole when counts are not exact.
    upto, before = (np.ceil(ctas / each - 1e-9) for ctas in (longer, longer - count))
    span: Floats = np.add.reduceat(cost * (upto - before), row)
    return span


def keeping_step(cost: Floats, count: Floats, row: Ints) -> Floats:
    """How much CTAs keep step, wave for wave: 1 where all of a call are alike, 0 from where the longest is ``EVEN`` above their
    mean. Arguments as in ``makespan``."""
    longest = np.maximum.reduceat(cost, row)
    mean = np.add.reduceat(cost * count, row) / np.maximum(np.add.reduceat(count, row), 1e-300)
    alike: Floats = 1.0 - np.minimum((longest - mean) / np.maximum(longest, 1e-300) / EVEN, 1.0)
    return alike


MOST_DEALT = 1 << 16  # CTAs of a head that are dealt one by one


def dealt_makespan(cost: Floats, count: Floats, row: Ints, servers: int, repeats: Floats) -> Floats:
    """Time until the last of ``servers`` is done, per call, where each is told beforehand which CTAs it takes.

    The CTAs of all heads, one head after the other and longest first in each, are dealt out one by one, as cards are: an SM
    takes every ``servers``-th, whatever they cost. Where the CTAs of a head and the SMs have a common divisor, the same SMs
    are dealt long ones again and again.

    Args:
        cost, count, row, repeats: as in ``makespan``; ``count`` is of all repeats.
    """
    sizes = class_counts(row, cost.size)
    running = np.cumsum(count)
    until = np.rint((running - np.repeat(running[row] - count[row], sizes)) / np.repeat(repeats, sizes))
    counts = np.diff(until, prepend=0.0)
    counts[row] = until[row]
    ctas = np.add.reduceat(counts, row)
    # Of so many in a row, all SMs are dealt alike but for one.
    spans: Floats = np.add.reduceat(counts * cost, row) * repeats / servers + cost[row]
    few = np.flatnonzero(ctas <= MOST_DEALT)
    heads = np.rint(repeats).astype(np.int64).tolist()
    for call, start, size in zip(few.tolist(), row[few].tolist(), sizes[few].tolist(), strict=True):
        dealt = _dealt(tuple(counts[start : start + size].tolist()), heads[call], servers)
        spans[call] = (dealt @ cost[start : start + size]).max()
    return spans


@lru_cache(maxsize=1024)
def _dealt(counts: tuple[float, ...], repeats: int, servers: int) -> Floats:
    """CTAs of each class that a server is dealt, shape (unlike servers, classes)."""
    kind = np.repeat(np.arange(len(counts)), np.array(counts, dtype=int))
    period = math.lcm(kind.size, servers)

    def taken(ctas: int) -> Ints:
        at = np.arange(ctas)
        found = np.bincount(at % servers * len(counts) + kind[at % kind.size], minlength=servers * len(counts))
        return found.reshape(servers, len(counts))

    whole, rest = divmod(kind.size * repeats, period)
    dealt = taken(rest) + (whole * taken(period) if whole else 0)
    unlike: Floats = np.unique(dealt, axis=0).astype(float)
    return unlike


SplitRule = Literal["fill", "waves", "balanced", "balanced-whole", "gradual", "segments", "planned", "history", "wide"]
MOST_SPLITS = 128
SEGMENTS, SEGMENTED_CTAS = 16, 128  # vLLM's NUM_PAR_SOFTMAX_SEGMENTS and MIN_LAUNCH_GRID_SIZE_2D
MOST_GRADUAL_SPLITS = 8  # SGLang's triton_attention_num_kv_splits
GRADUAL_KEYS = 32.0  # a part has a multiple of (_MIN_BLOCK_KV in its decode_attention.py)
FEWEST_PLANNED_KEYS = 128  # FlashInfer's min_kv_chunk_size
# TensorRT-LLM, decoderXQAConstants.h: keys of a part at least, waves of CTAs and parts of a call at most.
HISTORY_KEYS = 128
HISTORY_WAVES = 8
HISTORY_PARTS = 6000


def last_wave(ctas: Floats, sms: int, in_flight: Floats | float) -> tuple[Floats, Floats]:
    """Share of the CTAs that start before the last wave, and how many of that wave are beside each other on an SM.

    A wave is as many as the SMs hold, ``in_flight`` each.
    """
    slots = sms * in_flight
    started = np.floor(np.maximum(ctas - 1.0, 0.0) / slots) * slots
    beside: Floats = between(np.ceil((ctas - started) / sms), 1.0, in_flight)
    return started / ctas, beside


def kv_splits(
    rule: SplitRule,
    ctas: Floats,
    slots: int,
    kv_tiles: Floats,
    tile_keys: Floats,
    most: Floats | None = None,
    all_tiles: Floats | None = None,
) -> Floats:
    """Parts into which split-KV kernels cut the keys so that a small call fills the GPU; at most one for each KV tile.

    Args:
        rule: "fill": as many as fit in one wave (TensorRT-LLM). "waves": FlashAttention-2's num_splits_heuristic, the
            fewest within 85% of the fullest waves. "balanced": FlashAttention-3 where lengths vary: a CTA takes 1.1 times
            its share of the KV tiles (prepare_varlen_num_blocks), but no more parts than ``most``: what "waves" gives one
            sequence, or, "balanced-whole", all tokens of the call (get_num_splits; sgl-project/sgl-flash-attn for the latter).
            "segments": vLLM's Triton kernel, 16 parts for a call of at most 128 CTAs, however few KV tiles there are.
            "gradual": SGLang's get_num_kv_splits, a wave for each doubling of the keys beyond 64 (of all keys, whatever the
            window), 8 parts at most, each of a multiple of 32 keys.
            ("planned" is planned_splits.)
        ctas: CTAs of the call before the split. slots: CTAs that run at once.
        kv_tiles: KV tiles of a CTA. tile_keys: keys of one. all_tiles: those outside a window too.
    """
    if rule == "gradual":
        keys = tile_keys * (kv_tiles if all_tiles is None else all_tiles)
        waves = np.maximum(np.log2(np.maximum(keys, 1.0) / 64.0), 1.0)
        wanted = np.ceil(np.floor(slots * waves) / np.maximum(ctas, 1.0))
        blocks = np.maximum(np.ceil(kv_tiles * tile_keys / GRADUAL_KEYS), 1.0)
        parts: Floats = np.ceil(blocks / np.ceil(blocks / between(wanted, 1.0, MOST_GRADUAL_SPLITS)))
        return parts
    if rule == "segments":
        return np.where(ctas <= SEGMENTED_CTAS, float(SEGMENTS), 1.0)
    if rule == "waves":
        return fullest_waves(ctas, slots, kv_tiles)
    if rule in ("balanced", "balanced-whole"):
        tiles = kv_tiles if all_tiles is None else all_tiles
        share = np.ceil(1.1 * ctas * tiles / slots)
        parts = np.ceil(tiles / np.maximum(share, 1.0))
        return parts if most is None else np.minimum(parts, most)
    splits = between(np.minimum(np.floor(slots / np.maximum(ctas, 1.0)), kv_tiles), 1.0, MOST_SPLITS)
    return np.where(ctas < 0.8 * slots, splits, 1.0)


def gradual_tiles(kv_tiles: Floats, tile_keys: Floats, splits: Floats) -> tuple[Floats, Floats]:
    """KV tiles that each of ``splits`` parts of the rule "gradual" takes, and the last of them, which has what is left."""
    keys = np.maximum(kv_tiles * tile_keys, 1.0)
    part = np.ceil(keys / GRADUAL_KEYS / splits) * GRADUAL_KEYS
    return np.ceil(part / tile_keys), np.ceil((keys - (splits - 1.0) * part) / tile_keys)


def planned_splits(ctas: Floats, slots: Floats, kv_tiles: Floats, tile_keys: Floats, kv_heads: Floats) -> Floats:
    """FlashInfer's split (PrefillBinarySearchKVChunkSize): the shortest parts, of 128 keys or more, whose CTAs all fit.

    Args:
        ctas: CTAs of the call before the split. slots: CTAs that the planner takes to run at once.
        kv_tiles: KV tiles of a CTA. tile_keys: keys of one. kv_heads: of the call.
    """
    keys = np.maximum(kv_tiles * tile_keys, 1.0)
    most = np.maximum(np.floor(np.floor(slots / kv_heads) / np.maximum(ctas / kv_heads, 1.0)), 1.0)
    parts: Floats = np.ceil(keys / np.maximum(np.ceil(keys / most), FEWEST_PLANNED_KEYS))
    return parts


def fullest_waves(ctas: Floats, slots: int, kv_tiles: Floats) -> Floats:
    """FlashAttention's num_splits_heuristic: one part where CTAs fill 80% of the slots or there are four KV tiles or fewer."""
    splits = np.ones_like(ctas)
    few = (ctas < 0.8 * slots) & (kv_tiles > 4)
    if few.any():
        tried = np.arange(1.0, min(MOST_SPLITS, slots) + 1.0)
        waves = np.maximum(ctas[few], 1.0)[:, None] * tried / slots
        full = np.where(tried <= kv_tiles[few][:, None], waves / np.ceil(waves), 0.0)
        splits[few] = tried[np.argmax(full >= 0.85 * full.max(axis=1, keepdims=True), axis=1)]
    return splits


def history_parts(batch: int, kv_heads: int, keys: int) -> int:
    """Parts of at least ``HISTORY_KEYS`` keys that a call could be cut into (TensorRT-LLM's mayHavePerfGain)."""
    return batch * kv_heads * max(1, keys // HISTORY_KEYS)


def history_splits(ctas: Floats, ctas_per_sequence: Floats, sms: int, keys: Floats) -> Floats:
    """Parts of TensorRT-LLM's XQA (computeMultiBlockCount in decoderXQAImplCommon.h).

    It looks at all cached keys, whatever the window and the tile: there may be more parts than tiles to visit.

    Args:
        ctas: CTAs of the call before the split. ctas_per_sequence: of one sequence. keys: cached and new keys.
    """
    parts = np.floor(keys / HISTORY_KEYS)
    parts = np.maximum(np.minimum(parts, np.round(np.sqrt(8.0 * parts))), 1.0)
    most = np.minimum(HISTORY_WAVES * sms / ctas, np.floor(HISTORY_PARTS * ctas_per_sequence / ctas))
    return np.maximum(np.floor(np.minimum(parts, most)), 1.0)


WIDE_THREADS = 256.0  # of a CTA where there are many
WIDE_BYTES = 16.0  # of a value's 16-bit elements that a thread loads
WIDE_UNROLL = 8.0  # values that a thread loads before it uses them
WIDE_SMEM_BYTES = 24.0 / 4.0  # for the score of a key: in fp32 and in 16 bits, four of them at a time


def widening(ctas: Floats, sms: int, resident: Floats) -> Floats:
    """How many times 256 threads a CTA of TensorRT-LLM's MMHA has: 4, 2 or 1, more where CTAs are few (mmha_launch_kernel_ex).

    Args:
        ctas: of the call: its query heads. resident: CTAs of 256 threads that an SM has registers for.
    """
    factor = np.minimum(np.ceil(resident * sms / ctas), resident)
    return np.where(factor >= 4.0, 4.0, np.where(factor >= 2.0, 2.0, 1.0))


def wide_splits(ctas: Floats, sms: int, keys: Floats, dim: Floats, smem_bytes: float, wide: Floats | float) -> Floats:
    """Parts of TensorRT-LLM's MMHA: a CTA for each SM or the next more, but none shorter than one turn of its loop over values,
    and none longer than shared memory holds scores of (multi_block_grid_setup, getMaxNumSeqLenTile).

    Args:
        ctas: CTAs of the call before the split. keys: cached and new keys. dim: head dim. smem_bytes: most that a CTA takes.
        wide: see widening.
    """
    padded = np.exp2(np.ceil(np.log2(dim)))
    turn = wide * WIDE_THREADS * WIDE_BYTES / (2.0 * padded) * WIDE_UNROLL
    fewest = np.ceil(keys * WIDE_SMEM_BYTES / (smem_bytes - 2048.0))
    return np.maximum(np.minimum(np.ceil(sms / ctas), np.ceil((keys + 1.0) / turn)), fewest)
