"""Attention calls as arrays, and what they cost: what goes into the cost model and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, fields

from . import memory
from .tiles import Floats, Ints


@dataclass(frozen=True)
class Calls:
    """Attention calls as arrays of shape (calls,); the work of each call as classes in flat arrays (see TileWork).

    Attributes:
        batch, heads, kv_heads, queries, keys, dim, dim_v: as in Workload, flattened token counts.
        query_bytes, kv_bytes: bytes per element of Q and O, and of K and V.
        tensor_rate: FLOP per clock and SM for the dtype.
        tile_q, tile_kv: tokens in a Q and a KV tile.
        packed: query heads whose rows share Q tiles (see packed_heads); ``count`` is of all of them together.
        in_flight: CTAs that share an SM; 0 where the profile says.
        span: keys from the first to the last that any query attends, where the pattern is a band; inf elsewhere.
        axes: coordinates of a token, compared to mask one score.
        mask_all: 1 when every visited tile is masked.
        permute_axes: token axes permuted before and after the kernel; 0 when none.
        spill_bytes: results of one pass over the keys that a later one reads again, for each visited score: written and read.
        passes: passes over the keys, each a launch of its own.
        append_bytes: bytes that appending to the cache reads and writes (0 for attention alone). rotate_bytes: bytes of
            queries that the same pass rotates, read and written; rotate_traffic_bytes: all that its threads load and store.
            fused: 1 where the kernel itself rotates and appends.
        quantise_bytes: bytes of a pass of its own that quantises the queries.
        append_registers, append_instructions: of a thread of the appending pass (see memory.append_seconds).
        append_warps: 1 where each warp of that pass appends a token (see memory.store_seconds).
        small_kernels: kernels of few bytes besides the appending and the quantising one (see conditions.small_kernels).
        append_ctas: 1 where each CTA of that pass converts a token's keys or values (see memory.convert_seconds).
        apart_s: seconds more where keys and values are appended apart, their head dims being different.
        select_s: seconds spent choosing blocks before the kernel (see memory.selection_seconds).
        warm, graph: 1 for a warm L2, 1 for a launch inside a CUDA graph. locked_hz: the locked SM clock, inf where it is free.
        free_s: seconds of work before the power limit lowers the clock. calls_before: calls like it that used of them already.
        single: 1 where a CTA works on one Q tile alone (see pipes.combine).
        mask_stall: cycles that a warp stalls for each score that its threads mask. tile_stall: those that every KV tile takes
            beyond its work (see tile_table).
        tests: 1 where the kernel looks at every KV tile to learn whether it lies in a window.
        streams_queries: 1 where queries come again with each KV tile.
        value_parts: CTAs that compute the same scores, each for its own columns of the output.
        threads, shared_bytes: of a CTA. cycles to ahead, end_cycles to end_stored_bytes: see waiting.Compiled. 0: not told.
        run_dim, run_dim_v: head dims run, padding included.
        starts: KV tiles that a head's Q tiles begin with (see TileWork).
        visited, full, tested, count: work classes of all calls, one call after the other, longest first.
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
    in_flight: Floats
    span: Floats
    axes: Floats
    mask_all: Floats
    permute_axes: Floats
    spill_bytes: Floats
    passes: Floats
    append_bytes: Floats
    rotate_bytes: Floats
    rotate_traffic_bytes: Floats
    fused: Floats
    quantise_bytes: Floats
    append_registers: Floats
    append_instructions: Floats
    append_warps: Floats
    small_kernels: Floats
    append_ctas: Floats
    apart_s: Floats
    select_s: Floats
    warm: Floats
    graph: Floats
    locked_hz: Floats
    free_s: Floats
    calls_before: Floats
    single: Floats
    mask_stall: Floats
    tile_stall: Floats
    tests: Floats
    streams_queries: Floats
    value_parts: Floats
    threads: Floats
    shared_bytes: Floats
    cycles: Floats
    work_cycles: Floats
    test_cycles: Floats
    test_work_cycles: Floats
    waits: Floats
    ahead: Floats
    end_cycles: Floats
    end_work_cycles: Floats
    frame_bytes: Floats
    stored_bytes: Floats
    end_stored_bytes: Floats
    run_dim: Floats
    run_dim_v: Floats
    starts: Floats
    visited: Floats
    full: Floats
    tested: Floats
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


PER_CLASS = ("visited", "full", "tested", "count")
PER_CALL = tuple(item.name for item in fields(Calls) if item.name not in (*PER_CLASS, "row"))
