"""The cost model: arrays of calls in, seconds and their parts out. One GPU and one kernel profile at a time.

This is the vectorised heart: a single prediction is an array of one call, a sweep one array of many.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ..hwmodels import GPU
from . import clock, memory, pipes, schedule
from .pipes import TileShape
from .profile import DECODE_QUERIES, KernelProfile
from .tile_operations import TileOperations
from .tiles import Floats, Ints

MERGE_BYTES = 4.0  # partial results of split-KV kernels are fp32
OUTPUT_BYTES = 2.0  # fp8 attention gives its output in 16 bits


@dataclass(frozen=True)
class Calls:
    """Attention calls as arrays of shape (calls,); the work of each call as classes in flat arrays (see TileWork).

    Attributes:
        batch, heads, kv_heads, queries, keys, dim, dim_v: as in Workload, flattened token counts.
        query_bytes, kv_bytes: bytes per element of Q and O, and of K and V.
        tensor_rate: FLOP per clock and SM for the dtype.
        tile_q, tile_kv: tokens in a Q and a KV tile.
        packed: query heads whose rows share Q tiles (see packed_heads); ``count`` is of all of them together.
        axes: coordinates of a token, compared to mask one score.
        mask_all: 1 when every visited tile is masked.
        permute_axes: token axes permuted before and after the kernel; 0 when none.
        spill_bytes: results of one pass over the keys that a later one reads again, for each visited score: written and read.
        passes: passes over the keys, each a launch of its own.
        append_bytes: bytes that appending to the cache reads and writes (0 for attention alone). rotate_bytes: bytes of
            queries that the same pass rotates. quantise_bytes: bytes of a pass of its own that quantises the queries.
        select_s: seconds spent choosing blocks before the kernel (see memory.selection_seconds).
        warm, graph: 1 for a warm L2, 1 for a launch inside a CUDA graph. locked_hz: the locked SM clock, inf where it is free.
        visited, full, count: work classes of all calls, one call after the other, longest first.
        row: index of the first class of each call.
    """

    batch: Floats
    heads: Floats
    kv_heads: Floats
    queries: Floats
    keys: Floats
    dim: Floats
    dim_v: Floats
    query_bytes: Floats
    kv_bytes: Floats
    tensor_rate: Floats
    tile_q: Floats
    tile_kv: Floats
    packed: Floats
    axes: Floats
    mask_all: Floats
    permute_axes: Floats
    spill_bytes: Floats
    passes: Floats
    append_bytes: Floats
    rotate_bytes: Floats
    quantise_bytes: Floats
    select_s: Floats
    warm: Floats
    graph: Floats
    locked_hz: Floats
    visited: Floats
    full: Floats
    count: Floats
    row: Ints


@dataclass(frozen=True)
class Costs:
    """Seconds of each call, shape (calls,). The parts of ``parts`` add up to ``time_s``.

    Attributes:
        time_s: all a user waits for. kernel_s: the attention kernel alone, launch included.
        parts: seconds by part: launch; tiles, the work of the pipes; schedule, latencies and the tail; memory, what DRAM or
            L2 take beyond that; merge of split keys; append to the KV cache
            and quantise queries; permute tokens; select blocks.
        limits: seconds that each resource alone would take: tensor, exp, fp32, alu, smem, sm_l2, l2, dram; and
            spill where registers overflow.
        traffic: bytes of the kernel. splits: parts the keys were cut into. ctas: CTAs of the grid.
        cta_cycles, cta_count: SM cycles of one CTA and CTAs of each class, flat as in Calls; None where no CTAs are scheduled.
        fill_s, compute_s: latency that nothing hides, and what the SMs take with it; None as above.
        clock_hz: mean SM clock while the SMs work.
    """

    time_s: Floats
    kernel_s: Floats
    parts: dict[str, Floats]
    limits: dict[str, Floats]
    traffic: memory.Traffic
    splits: Floats
    ctas: Floats
    clock_hz: Floats
    cta_cycles: Floats | None = None
    cta_count: Floats | None = None
    fill_s: Floats | None = None
    compute_s: Floats | None = None


def forecast(
    gpu: GPU,
    profile: KernelProfile,
    calls: Calls,
    operations: TileOperations | None = None,
    *,
    tile: pipes.TileCycles | None = None,
    splits: Floats | None = None,
) -> Costs:
    """Cost of each call on a GPU with a kernel. Pure; every array operation is over all calls at once.

    Args:
        operations: replaces the counts of the profile's own algorithm, for a kernel that runs another one the same way.
        tile: replaces the tile model: cycles of a KV tile of each call, where a compiler told them.
        splits: parts that the keys of each call are cut into, shape (calls,); by the profile's own rule when None.
    """
    c = calls
    sizes = schedule.class_counts(c.row, c.visited.size)

    def flat(per_call: Floats) -> Floats:
        """From one value per call to one per class; a single call broadcasts by itself."""
        return per_call if sizes.size == 1 else np.repeat(per_call, sizes)

    gqa = c.heads / c.kv_heads
    head_groups = c.batch * c.kv_heads * np.ceil(gqa / c.packed)
    rows = c.tile_q  # a tile is run whole, padding included
    # Decode tiles are made for few rows (operands swapped where the MMA is wide); others pay for a whole instruction.
    mma_rows = np.where(c.queries <= DECODE_QUERIES, rows, np.maximum(rows, profile.mma_rows))
    shape = TileShape(rows, mma_rows, c.tile_kv, c.dim, c.dim_v, c.query_bytes, c.kv_bytes, c.axes)

    # Step 4: cycles of a full and of a partial tile.
    work = operations or profile.operations
    if tile is None:
        tile = pipes.tile_cycles(gpu, profile, work, shape, c.tensor_rate)

    # Step 5: CTAs over SMs.
    q_tiles = np.add.reduceat(c.count, c.row)
    tiles_visited = np.add.reduceat(c.visited * c.count, c.row)
    longest = c.visited[c.row]
    ctas = q_tiles * head_groups
    in_flight = ctas_in_flight(profile, c)
    wide = np.ones_like(in_flight)
    if profile.split_rule == "wide":
        wide = schedule.widening(ctas, gpu.sms, in_flight)
        in_flight = np.floor(in_flight / wide)
    if splits is None and profile.split_rule == "history":
        splits = schedule.history_splits(ctas, ctas / c.batch, gpu.sms, c.keys)
        if not profile.empty_parts:
            splits = np.clip(splits, 1.0, np.maximum(longest, 1.0))
    elif splits is None and profile.split_rule == "wide":
        splits = schedule.wide_splits(ctas, gpu.sms, c.keys, c.dim, gpu.smem_bytes_per_cta, wide)
    elif splits is None:
        splits = schedule.kv_splits(
            profile.split_rule, ctas, gpu.sms * profile.in_flight, longest, ctas / c.batch, c.tile_kv
        )
        if profile.split_kv != "always":
            few = {"packed": c.packed > 1, "decode": c.queries <= DECODE_QUERIES}.get(profile.split_kv, False)
            splits = np.where(few, splits, 1.0)
    masked = np.where(flat(c.mask_all) > 0, c.visited, c.visited - c.full)
    busy = (c.visited - masked) * flat(tile.full) + masked * flat(tile.partial)
    if profile.warp_keys:
        begun = np.ceil(c.keys / profile.warp_keys) * profile.warp_keys
        busy = busy * flat(np.minimum(1.0, begun / np.maximum(longest * c.tile_kv, 1.0)))
    if profile.unroll > 1:
        turns, loads = _turns(profile, c, longest, splits, wide)
        busy = busy * flat(turns / np.maximum(longest, 1.0))
    elif (splits > 1).any():  # each part takes whole tiles
        share = np.ceil(c.visited / flat(splits)) / np.maximum(c.visited, 1.0)
        if profile.empty_parts:  # in several waves, an SM has its share of the parts that visit nothing
            mean = np.where(ctas * splits > gpu.sms, 1.0 / splits, 1.0)
            share = np.minimum(share, flat(mean))
        busy = busy * share
    # A chain of memory latencies, then the output of the CTA leaves through its SM's share of the L2.
    output_bytes = np.maximum(c.query_bytes, OUTPUT_BYTES)
    highest_hz = clock.highest_hz(gpu, c.locked_hz)
    output_cycles = memory.l2_cycles(gpu, rows * c.dim_v * output_bytes)
    trips = profile.round_trips + _rotation_trips(profile, c)
    latency = trips * gpu.dram_latency_s * highest_hz + output_cycles
    # CTAs in flight on an SM hide each other's latencies, down to what the pipes need.
    waiting = flat(latency)
    if profile.unroll > 1:
        waiting = waiting + flat(loads * gpu.dram_latency_s * highest_hz)
    per_cta = np.maximum(busy, (busy + waiting) / flat(in_flight))
    cta_count = c.count * flat(head_groups * splits)
    span = schedule.makespan(per_cta, cta_count, c.row, gpu.sms, profile.order == "longest-first")
    # Where latencies are hidden, the first fill and the last drain still have nothing to hide behind.
    exposed = np.where(in_flight > 1, latency, 0.0)
    if profile.merge == "last":
        # Not where CTAs of few tiles wait longer than the others on their SM can fill: then it is in their time already.
        idle = np.maximum.reduceat(busy + waiting - flat(in_flight) * busy, c.row)
        exposed = np.maximum(exposed - np.maximum(idle, 0.0), 0.0)
    cycles = span + exposed
    steady = np.add.reduceat(busy * c.count, c.row) * head_groups * splits / gpu.sms

    # The clock under power: all rates but DRAM's follow it.
    tiles_per_sm = tiles_visited * head_groups / gpu.sms
    products = tile.pipes["tensor"] * profile.mma_fraction * tiles_per_sm
    clock_hz = clock.held_hz(gpu, highest_hz, cycles, products)
    compute_s, steady_s = cycles / clock_hz, steady / clock_hz

    # Step 6: traffic and its floors.
    moved = _traffic(gpu, c, shape, tile.l2_bytes, tiles_visited, q_tiles, head_groups)
    dram_s = memory.dram_seconds(gpu, moved.dram_bytes)
    l2_s = memory.l2_seconds(gpu, moved.issued_bytes, clock_hz)
    fill_s = gpu.dram_latency_s
    memory_s = np.maximum(dram_s, l2_s) + fill_s
    run_s = np.maximum(compute_s, memory_s)
    if profile.unroll > 1:
        # Memory paces all waves but the last, in which a CTA takes its own time, however few they are.
        slots = gpu.sms * in_flight
        before = np.floor(np.maximum(ctas * splits - 1.0, 0.0) / slots) * slots / (ctas * splits)
        alone_s = np.maximum.reduceat(per_cta, c.row) * in_flight / clock_hz
        run_s = np.maximum(run_s, before * memory_s + np.maximum((1.0 - before) * memory_s, alone_s))

    # Step 7: launch, and the passes around the kernel.
    once_s = np.where(c.graph > 0, gpu.graph_launch_s, gpu.launch_s)
    launch_s = once_s * c.passes
    merge_s, append_s, permute_s = _passes(gpu, profile, c, once_s, ctas, splits, highest_hz)
    kernel_s = launch_s + run_s + merge_s
    parts = {
        "launch": launch_s,
        "tiles": np.minimum(steady_s, run_s),
        "schedule": np.maximum(compute_s - steady_s, 0.0),
        "memory": np.maximum(run_s - np.maximum(compute_s, steady_s), 0.0),
        "merge": merge_s,
        "append": append_s,
        "permute": permute_s,
        "select": c.select_s,
    }
    per_tile = tiles_per_sm / clock_hz
    masked_tiles = np.add.reduceat(masked * c.count, c.row) * head_groups / gpu.sms / clock_hz
    limits = {name: cycles * per_tile for name, cycles in tile.pipes.items()}
    limits["mask"] = tile.mask * masked_tiles
    limits["sm_l2"] = tile.l2 * per_tile
    limits["l2"], limits["dram"] = l2_s, dram_s
    return Costs(
        kernel_s + append_s + permute_s + c.select_s, kernel_s, parts, limits, moved, splits, ctas * splits, clock_hz,
        per_cta, cta_count, exposed / clock_hz, compute_s,
    )  # fmt: skip


def ctas_in_flight(profile: KernelProfile, c: Calls) -> Floats:
    """CTAs of each call that hide each other's latencies on an SM: the kernel's number, or that of a decode tile's own."""
    default = np.broadcast_to(np.asarray(profile.in_flight, dtype=np.float64), c.row.shape)
    found: Floats = default
    if any(choice.in_flight for choice in profile.decode_tiles):
        for choice in reversed(profile.decode_tiles):  # the first that serves a call is the one it gets
            serves = (c.queries <= DECODE_QUERIES) & (c.tile_q == choice.q[0]) & (c.dim <= choice.max_head_dim)
            found = np.where(serves, choice.in_flight or default, found)
    return found


def _turns(profile: KernelProfile, c: Calls, longest: Floats, splits: Floats, wide: Floats) -> tuple[Floats, Floats]:
    """KV tiles that a CTA's arithmetic takes as long as, and the loads that it waits for, where threads take keys in turns.

    A tile is a turn over values by 256 threads, ``unroll`` of them each, and two over keys; a CTA ``wide`` times as large
    takes as many tiles in a turn. A turn is run whole; only threads that get no key at all do nothing.
    """
    turn = c.tile_kv * wide
    keys = np.minimum(c.keys, longest * c.tile_kv) / splits
    values, scores = np.ceil(keys / turn), np.ceil(2.0 * keys / turn)
    active = np.minimum(1.0, keys * profile.unroll / turn)
    return 0.5 * (values + 0.5 * scores) * wide * active, values + scores


def _rotation_trips(profile: KernelProfile, c: Calls) -> Floats:
    """Memory latencies, one after the other, of a CTA that rotates its queries itself before it starts."""
    if not profile.rotates_at_once:
        return np.zeros_like(c.dim)
    alone = (c.append_bytes > 0) & (c.dim >= profile.fused_append_dim)
    return np.where(alone, np.ceil(c.packed / profile.rotates_at_once), 0.0)


def packed_heads(profile: KernelProfile, queries: Any, gqa_ratio: Any, windowed: Any) -> Any:
    """Query heads that share keys and whose rows lie beside each other in a Q tile: all that share, or 1.

    1 where the kernel does not pack: by its profile, for a window (``windowed`` > 0), or for too many heads. Takes numbers
    or arrays.
    """
    most_queries = {"always": np.inf, "decode": DECODE_QUERIES, "never": 0}[profile.pack_gqa]
    packs = (queries <= most_queries) & (gqa_ratio >= profile.min_packed) & (gqa_ratio <= profile.max_packed)
    if not profile.packs_windows:
        packs = packs & (windowed == 0)
    return np.where(packs, gqa_ratio, 1)


def _traffic(
    gpu: GPU, c: Calls, shape: TileShape, tile_bytes: Floats, tiles_visited: Floats,
    q_tiles: Floats, head_groups: Floats,
) -> memory.Traffic:  # fmt: skip
    per_key = (c.dim + c.dim_v) * c.kv_bytes
    spilled: Floats | float = 0.0
    if c.spill_bytes.any():
        # A fiber of scores that fits half of an SM's shared memory stays there between passes.
        stays = shape.rows * c.keys * 0.5 * c.spill_bytes <= 0.5 * gpu.smem_bytes_per_cta
        scores = tiles_visited * head_groups * shape.rows * shape.keys
        spilled = np.where(stays, 0.0, scores * c.spill_bytes)
    touched = np.minimum(c.keys, tiles_visited * shape.keys)
    return memory.traffic(
        gpu,
        query_bytes=c.batch * c.heads * c.queries * c.dim * c.query_bytes + spilled,
        output_bytes=c.batch * c.heads * c.queries * c.dim_v * np.maximum(c.query_bytes, OUTPUT_BYTES),
        kv_head_bytes=touched * per_key,
        kv_heads=c.batch * c.kv_heads,
        ctas_per_kv_head=q_tiles * head_groups / (c.batch * c.kv_heads),
        # A ragged last tile loads only the keys that exist; exact for one Q tile, where it matters.
        kv_issued_bytes=head_groups * np.where(q_tiles > 1, tiles_visited * tile_bytes, touched * per_key),
        warm=c.warm,
    )


def _passes(
    gpu: GPU, profile: KernelProfile, c: Calls, once_s: Floats, ctas: Floats, splits: Floats, clock_hz: Floats
) -> tuple[Floats, Floats, Floats]:
    """Seconds of merging split keys, appending to the cache and permuting tokens; what no call does costs nothing here."""
    merge_s = append_s = permute_s = np.zeros_like(once_s)
    if (splits > 1).any():
        partial_bytes = 2.0 * splits * c.batch * c.heads * c.queries * (c.dim_v + 2.0) * MERGE_BYTES
        merging_s = memory.l2_seconds(gpu, partial_bytes, clock_hz) + 2.0 * gpu.dram_latency_s
        if profile.merge == "launch":
            merging_s = merging_s + once_s
        else:
            merging_s = merging_s + _last_cta_seconds(gpu, profile, c.dim_v, ctas, splits)
        merge_s = np.where(splits > 1, merging_s, 0.0)
    if c.append_bytes.any():
        moving_s = memory.dram_seconds(gpu, c.append_bytes)
        moving_s = moving_s + memory.dram_seconds(gpu, c.rotate_bytes, profile.query_efficiency)
        appending_s = memory.append_seconds(gpu, moving_s, c.batch * c.queries, c.kv_heads * c.dim)
        engine_s = profile.call_s + profile.sequence_s * c.batch + profile.key_s * c.batch * c.queries * c.kv_heads
        pass_s = once_s + appending_s
        if profile.fused_append_dim:
            pass_s = np.where(c.dim >= profile.fused_append_dim, memory.dram_seconds(gpu, c.append_bytes), pass_s)
        append_s = np.where(c.append_bytes > 0, pass_s + engine_s, 0.0)
    if c.quantise_bytes.any():
        quantising_s = (
            once_s + memory.dram_seconds(gpu, c.quantise_bytes, profile.query_efficiency) + 2.0 * gpu.dram_latency_s
        )
        append_s = append_s + np.where(c.quantise_bytes > 0, quantising_s, 0.0)
    if c.permute_axes.any():
        # Q and O have the query's shape, K and V the key's: two copies of their mean size each.
        query = c.batch * c.heads * c.queries * (c.dim + c.dim_v)
        key = c.batch * c.kv_heads * c.keys * (c.dim + c.dim_v)
        query_s = memory.permute_seconds(gpu, query / 2.0, c.query_bytes, c.permute_axes, clock_hz)
        key_s = memory.permute_seconds(gpu, key / 2.0, c.kv_bytes, c.permute_axes, clock_hz)
        permute_s = np.where(c.permute_axes > 0, 2.0 * query_s + 2.0 * key_s, 0.0)
    return merge_s, append_s, permute_s


# A step of a CTA that merges alone: a part comes from the L2, is scaled and added (see profiles/xqa.toml).
MERGE_STEP = 0.6  # of a DRAM latency
MAXIMA_AT_ONCE = 8  # parts whose row maxima are read together, before their outputs


def _last_cta_seconds(gpu: GPU, profile: KernelProfile, dim_v: Floats, ctas: Floats, splits: Floats) -> Floats:
    """What the last CTA of each sequence and head takes to add up its parts, a chain of steps; SMs do theirs in turn."""
    ways: Floats | int = profile.merge_ways
    if profile.merge_columns:
        ways = np.maximum(ways * profile.merge_columns / np.exp2(np.ceil(np.log2(dim_v))), 1.0)
    steps = splits / ways + splits / MAXIMA_AT_ONCE
    return steps * MERGE_STEP * gpu.dram_latency_s * np.maximum(ctas / gpu.sms, 1.0)


PER_CLASS = ("visited", "full", "count")
PER_CALL = tuple(item.name for item in fields(Calls) if item.name not in (*PER_CLASS, "row"))
