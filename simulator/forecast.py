"""The cost model: arrays of calls in, seconds and their parts out. One GPU and one kernel profile at a time.

This is the vectorised heart: a single prediction is an array of one call, a sweep one array of many.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ..hwmodels import GPU
from . import memory, pipes, schedule
from .pipes import TileShape
from .profile import KernelProfile
from .tiles import Floats, Ints

MERGE_BYTES = 4.0  # partial results of split-KV kernels are fp32


@dataclass(frozen=True)
class Calls:
    """Attention calls as arrays of shape (calls,); the work of each call as classes in flat arrays (see TileWork).

    Attributes:
        batch, heads, kv_heads, queries, keys, dim, dim_v: as in Workload, flattened token counts.
        query_bytes, kv_bytes: bytes per element of Q and O, and of K and V.
        tensor_rate: FLOP per clock and SM for the dtype.
        tile_q, tile_kv: tokens in a Q and a KV tile.
        axes: coordinates of a token, compared to mask one score.
        mask_all: 1 when every visited tile is masked.
        permute_axes: token axes permuted before and after the kernel; 0 when none.
        append_bytes: bytes of the new tokens that the same call writes to the cache or rotates (0 for attention alone).
        warm, graph: 1 for a warm L2, 1 for a launch inside a CUDA graph.
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
    axes: Floats
    mask_all: Floats
    permute_axes: Floats
    append_bytes: Floats
    warm: Floats
    graph: Floats
    visited: Floats
    full: Floats
    count: Floats
    row: Ints


@dataclass(frozen=True)
class Costs:
    """Seconds of each call, shape (calls,). The parts of ``parts`` add up to ``time_s``.

    Attributes:
        time_s: all a user waits for. kernel_s: the attention kernel alone, launch included.
        parts: seconds by part: launch, the pipes, waiting, tail, memory, merge, append, permute.
        limits: seconds that each resource alone would take: tensor, exp, fp32, alu, smem, sm_l2, l2, dram.
        traffic: bytes of the kernel. splits: parts the keys were cut into. ctas: CTAs of the grid.
    """

    time_s: Floats
    kernel_s: Floats
    parts: dict[str, Floats]
    limits: dict[str, Floats]
    traffic: memory.Traffic
    splits: Floats
    ctas: Floats


def forecast(gpu: GPU, profile: KernelProfile, calls: Calls) -> Costs:
    """Cost of each call on a GPU with a kernel. Pure; every array operation is over all calls at once."""
    c = calls
    sizes = schedule.class_counts(c.row, c.visited.size)

    def flat(per_call: Floats) -> Floats:
        """From one value per call to one per class; a single call broadcasts by itself."""
        return per_call if sizes.size == 1 else np.repeat(per_call, sizes)

    gqa = c.heads / c.kv_heads
    # Query heads packed into one Q tile: as many as fit when the queries alone do not fill it.
    room = np.maximum(1.0, np.floor(c.tile_q / c.queries))
    packed = np.minimum(gqa, room) if profile.pack_gqa else np.ones_like(gqa)
    head_groups = c.batch * c.kv_heads * np.ceil(gqa / packed)
    rows = pipes.occupied_rows(profile, c.queries, packed, c.tile_q)
    shape = TileShape(rows, c.tile_kv, c.dim, c.dim_v, c.kv_bytes, c.axes)

    # Step 4: cycles of a full and of a partial tile.
    clock_hz = gpu.clock_hz * gpu.sustained_clock_fraction
    full_pipes = pipes.tile_pipes(gpu, profile, shape, c.tensor_rate)
    mask_cycles = pipes.mask_alu_cycles(gpu, profile, shape)
    part_pipes = {**full_pipes, "alu": full_pipes["alu"] + mask_cycles}
    tile_bytes = pipes.l2_bytes_per_tile(profile, shape)
    l2_cycles = tile_bytes / (gpu.l2_bandwidth_bytes_s / gpu.sms) * clock_hz  # at the share of one SM
    full_cycles = np.maximum(pipes.combine(profile, full_pipes), l2_cycles)
    part_cycles = np.maximum(pipes.combine(profile, part_pipes), l2_cycles)

    # Step 5: CTAs over SMs.
    q_tiles = np.add.reduceat(c.count, c.row)
    tiles_visited = np.add.reduceat(c.visited * c.count, c.row)
    longest = c.visited[c.row]
    ctas = q_tiles * head_groups
    splits = schedule.kv_splits(ctas, gpu.sms * profile.in_flight, longest) if profile.split_kv else np.ones_like(ctas)
    masked = np.where(flat(c.mask_all) > 0, c.visited, c.visited - c.full)
    busy = (c.visited - masked) * flat(full_cycles) + masked * flat(part_cycles)
    # Each part of a split takes whole tiles.
    busy = busy * np.ceil(c.visited / flat(splits)) / np.maximum(c.visited, 1.0)
    # A chain of memory latencies, then the output of the CTA leaves through its SM's share of the L2.
    output_cycles = rows * c.dim_v * c.query_bytes / (gpu.l2_bandwidth_bytes_s / gpu.sms) * clock_hz
    latency = profile.round_trips * gpu.dram_latency_s * clock_hz + output_cycles
    # CTAs in flight on an SM hide each other's latencies, down to what the pipes need.
    in_flight = float(profile.in_flight)
    per_cta = np.maximum(busy, (busy + flat(latency)) / in_flight)
    span = schedule.makespan(
        per_cta, c.count * flat(head_groups * splits), c.row, gpu.sms, profile.order == "longest-first"
    )
    # Where latencies are hidden, the first fill and the last drain still have nothing to hide behind.
    exposed = latency if profile.in_flight > 1 else 0.0
    compute_s = (span + exposed) / clock_hz
    steady_s = np.add.reduceat(busy * c.count, c.row) * head_groups * splits / gpu.sms / clock_hz

    # Step 6: traffic and its floors.
    moved = _traffic(gpu, profile, c, shape, tile_bytes, tiles_visited, q_tiles, head_groups)
    dram_s = memory.dram_seconds(gpu, moved.dram_bytes)
    l2_s = memory.l2_seconds(gpu, moved.issued_bytes)
    fill_s = gpu.dram_latency_s
    memory_s = np.maximum(dram_s, l2_s) + fill_s
    run_s = np.maximum(compute_s, memory_s)

    # Step 7: launch, and the passes around the kernel.
    launch_s = np.where(c.graph > 0, gpu.graph_launch_s, gpu.launch_s)
    merge_bytes = 2.0 * splits * c.batch * c.heads * c.queries * (c.dim_v + 2.0) * MERGE_BYTES
    merge_s = np.where(splits > 1, launch_s + memory.l2_seconds(gpu, merge_bytes) + 2.0 * gpu.dram_latency_s, 0.0)
    append_s = np.where(
        c.append_bytes > 0, launch_s + memory.append_seconds(gpu, c.append_bytes, c.batch * c.queries), 0.0
    )
    permute_s = _permute(gpu, c)
    kernel_s = launch_s + run_s + merge_s
    parts = {
        "launch": launch_s,
        "tiles": np.minimum(steady_s, run_s),
        "schedule": np.maximum(compute_s - steady_s, 0.0),
        "memory": np.maximum(run_s - np.maximum(compute_s, steady_s), 0.0),
        "merge": merge_s,
        "append": append_s,
        "permute": permute_s,
    }
    per_tile = tiles_visited * head_groups / gpu.sms / clock_hz
    masked_tiles = np.add.reduceat(masked * c.count, c.row) * head_groups / gpu.sms / clock_hz
    limits = {name: cycles * per_tile for name, cycles in full_pipes.items()}
    limits["mask"] = mask_cycles * masked_tiles
    limits["sm_l2"] = l2_cycles * per_tile
    limits["l2"], limits["dram"] = l2_s, dram_s
    return Costs(kernel_s + append_s + permute_s, kernel_s, parts, limits, moved, splits, ctas * splits)


def _traffic(
    gpu: GPU, profile: KernelProfile, c: Calls, shape: TileShape, tile_bytes: Floats, tiles_visited: Floats,
    q_tiles: Floats, head_groups: Floats,
) -> memory.Traffic:  # fmt: skip
    per_key = (c.dim + c.dim_v) * c.kv_bytes
    touched = np.minimum(c.keys, tiles_visited * shape.keys)
    return memory.traffic(
        gpu,
        query_bytes=c.batch * c.heads * c.queries * c.dim * c.query_bytes,
        output_bytes=c.batch * c.heads * c.queries * c.dim_v * c.query_bytes,
        kv_head_bytes=touched * per_key,
        kv_heads=c.batch * c.kv_heads,
        ctas_per_kv_head=q_tiles * head_groups / (c.batch * c.kv_heads),
        # A ragged last tile loads only the keys that exist; exact for one Q tile, where it matters.
        kv_issued_bytes=head_groups * np.where(q_tiles > 1, tiles_visited * tile_bytes, touched * per_key),
        warm=c.warm,
    )


def _permute(gpu: GPU, c: Calls) -> Floats:
    """Q, K, V into tile order and O back."""
    query = c.batch * c.heads * c.queries * (c.dim + c.dim_v)
    key = c.batch * c.kv_heads * c.keys * (c.dim + c.dim_v)
    # Two tensors each of the query's and of the key's shape: two copies of their mean size, twice.
    once = memory.permute_seconds(gpu, query / 2.0, c.query_bytes, c.permute_axes)
    twice = memory.permute_seconds(gpu, key / 2.0, c.kv_bytes, c.permute_axes)
    return np.where(c.permute_axes > 0, 2.0 * once + 2.0 * twice, 0.0)


PER_CLASS = ("visited", "full", "count")
PER_CALL = tuple(item.name for item in fields(Calls) if item.name not in (*PER_CLASS, "row"))
