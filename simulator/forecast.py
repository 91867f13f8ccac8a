"""The cost model: arrays of calls in, seconds and their parts out. One GPU and one kernel profile at a time.

This is the vectorised heart: a single prediction is an array of one call, a sweep one array of many.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..hwmodels import GPU
from . import clock, memory, pipes, schedule, sections, steps, waiting
from .calls import Calls, Costs
from .cta_life import burst_cycles, latency_cycles
from .operands import loading, sweeps_of, traffic_of
from .parts import idle_seconds, most_parts, parts_of, share_of, spare_seconds, unequal_parts
from .passes import partial_bytes, passes
from .profile import KernelProfile
from .tile_operations import TileOperations
from .tile_shape import TileShape
from .tiles import Floats, between

_NEVER = np.zeros(1, dtype=np.bool_)


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

    def flat(per_call: Floats) -> Floats:
        return schedule.per_class(per_call, c.row, c.visited.size)

    gqa = c.heads / c.kv_heads
    head_groups = c.batch * c.kv_heads * np.ceil(gqa / c.packed) * c.value_parts
    rows = c.tile_q  # a tile is run whole, padding included
    # Decode tiles are made for few rows (operands swapped where the MMA is wide); others pay for a whole instruction.
    decodes = profile.decodes(c.queries, c.keys - c.queries)
    mma_rows = np.where(decodes, rows, np.maximum(rows, profile.products.mma_rows))

    # CTAs, which step 5 puts on SMs.
    q_tiles = np.add.reduceat(c.count, c.row)
    tiles_visited = np.add.reduceat(c.visited * c.count, c.row)
    longest = c.visited[c.row]
    ctas = q_tiles * head_groups
    most = most_parts(gpu, profile, c, ctas, longest)
    merges = _NEVER if most is None else most > 1.0
    in_flight = np.where(c.in_flight > 0, c.in_flight, profile.in_flight)
    wide: Floats | float = 1.0
    if profile.splitting.rule == "wide":
        wide = schedule.widening(ctas, gpu.sms, in_flight)
        in_flight = np.floor(in_flight / wide)
    if splits is None:
        splits = parts_of(gpu, profile, c, ctas, longest, most, wide)
    if profile.splitting.rule == "wide":
        in_flight = steps.residents(gpu, c, longest, splits, in_flight)

    shape = TileShape(
        rows,
        mma_rows,
        c.tile_kv,
        c.run_dim,
        c.run_dim_v,
        c.query_bytes,
        c.kv_bytes,
        c.axes,
        c.single,
        c.threads,
        mask_stall=c.mask_stall,
        moved_dim=c.dim,
        moved_dim_v=c.dim_v / c.value_parts,
        shared_bytes=c.shared_bytes,
        streams_queries=c.streams_queries,
        tile_stall=c.tile_stall,
    )
    partial = partial_bytes(profile, c, splits)
    swept = None
    if profile.order == "by-tile":
        swept = sweeps_of(gpu, profile, c, shape, tiles_visited * head_groups, longest, in_flight, partial)
    if profile.chain == "loads":  # of no consequence elsewhere, where tiles of equal shapes are looked up
        shape = loading(gpu, profile, c, shape, longest, partial, swept)
    elif profile.chain == "pipes":
        shape = replace(shape, resident=np.clip(np.ceil(ctas * splits / gpu.sms), 1.0, profile.in_flight))

    # Step 4: cycles of a full and of a partial tile.
    if tile is None:
        tile = pipes.tile_cycles(gpu, profile, operations or profile.operations, shape, c.tensor_rate)

    # Step 5: CTAs over SMs.
    masked = np.where(flat(c.mask_all) > 0, c.visited, c.visited - c.full)
    if profile.masking.first:
        masked = np.maximum(masked, np.minimum(c.visited, 1.0))
    share, loads = share_of(gpu, profile, c, longest, ctas, splits, wide)
    unequal = unequal_parts(profile, c, longest, splits)
    if unequal is not None:
        share = np.where(flat(splits) > 1.0, flat(unequal.tiles) / np.maximum(c.visited, 1.0), 1.0)

    def cycles_of(full: Floats, partial: Floats, tested: Floats) -> Floats:
        found = (c.visited - masked) * flat(full) + masked * flat(partial)
        return (found + c.tested * flat(tested) if c.tested.any() else found) * share

    work = chain = cycles_of(tile.full, tile.partial, tile.tested)
    if profile.splitting.warp_keys:
        loaded = flat(tile.l2 * steps.loaded_share(profile, c, longest)) * c.visited * share
        work = chain = np.maximum(work, loaded)
    if tile.first_saves is not None:
        work = chain = work - flat(tile.first_saves) * (c.visited > 0)
    if tile.first_waits is not None:
        work = chain = work + flat(tile.first_waits) * (c.visited > 0)
    if tile.chain is not None:
        chain = cycles_of(*tile.chain) + flat(profile.overlap * c.end_cycles)
        work = work + flat(profile.overlap * c.end_work_cycles)
        if not c.in_flight.all():
            fitting = np.minimum(in_flight, pipes.resident_ctas(gpu, profile, shape))
            if profile.chain == "pipes":
                fitting = np.minimum(fitting, shape.resident)
            in_flight = np.where(c.in_flight > 0, in_flight, fitting)
        if profile.chain == "pipes":
            chain = chain * flat(np.where(c.in_flight > 0, 1.0, in_flight))
    highest_hz = clock.highest_hz(gpu, c.locked_hz)
    trip = gpu.dram_latency_s * highest_hz
    latency = latency_cycles(gpu, profile, c, splits, merges, trip)
    waits: Floats | float = 0.0
    if profile.in_step:
        latency = latency + (steps.staged_trips(profile, c) + steps.HANDING_TRIPS * (splits > 1)) * trip
        waits = loads * steps.load_seconds(gpu, c) * highest_hz
    if profile.products.row_warps:  # written and read once each
        latency = latency + 2.0 * pipes.merged_bytes(profile, shape) / gpu.smem_bytes_per_clock_per_sm
    # What is asked for, and how long CTAs that ask all at once wait for what the L2 does not hold.
    moved = traffic_of(
        gpu, profile, c, shape, tile.l2_bytes, tiles_visited, q_tiles, head_groups, partial, swept, in_flight
    )
    burst = burst_cycles(gpu, profile, c, q_tiles, splits, in_flight, moved, highest_hz)
    each_wave = np.zeros_like(burst)
    if profile.products.tile_ctas:
        each_wave = burst * schedule.keeping_step(work, c.count, c.row)
    alone = flat(latency + waits)
    heads = head_groups * splits
    dealt = ~np.asarray(decodes) if profile.order == "dealt" else False
    longest_first = profile.order in ("longest-first", "sections")
    rising = profile.order == "by-tile"  # later Q tiles see no fewer keys than those before them
    grid = waiting.Ctas(c.count * flat(heads), c.row, heads, gpu.sms, in_flight, longest_first, dealt, rising=rising)
    if profile.order == "sections":
        grid = replace(grid, sequences=c.batch, section=sections.section_heads(c, splits))
    if profile.in_step:
        cycles = steps.span_cycles(work, latency + waits, grid)
    elif unequal is not None:
        rest = flat(unequal.rest)
        works, chains = (
            np.stack([each + once, each * rest + once], axis=1).ravel() for each, once in ((work, 0.0), (chain, alone))
        )
        two = grid.with_two_lengths(unequal.of_parts, unequal.rest_last)
        cycles = waiting.span_cycles(works, chains, latency, two, True)
    else:
        fills_gaps = profile.chain != "none" or profile.merging.by == "last"
        waited = latency + each_wave
        cycles = waiting.span_cycles(work, chain + flat(waited + waits), waited, grid, fills_gaps)
    cycles = cycles + (burst - each_wave)  # elsewhere only the first ones begin together
    chain = chain + alone
    beside = between(ctas * splits / gpu.sms, 1.0, in_flight)
    steady = np.add.reduceat(work * c.count, c.row) * head_groups * splits / gpu.sms
    if unequal is not None:
        steady = steady * (unequal.of_parts + (1.0 - unequal.of_parts) * unequal.rest)

    # The clock under power: all rates but DRAM's follow it.
    tiles_per_sm = tiles_visited * head_groups / gpu.sms
    products = tile.pipes["tensor"] * profile.products.mma_fraction * tiles_per_sm
    clock_hz = clock.held_hz(gpu, highest_hz, cycles, products, c.free_s, calls_before=c.calls_before)
    compute_s, steady_s = cycles / clock_hz, steady / clock_hz

    # Step 6: the floors of traffic.
    dram_s = memory.dram_seconds(gpu, moved.dram_bytes)
    l2_s = memory.l2_seconds(gpu, moved.issued_bytes, clock_hz)
    fill_s = gpu.dram_latency_s
    memory_s = np.maximum(dram_s, l2_s) + fill_s
    run_s = np.maximum(compute_s, memory_s)
    if profile.chain == "loads":
        # Each CTA of a decoding call has keys of its own: memory is one more station that all of them must pass, unless loads
        # run ahead of the work. Prompts' CTAs share theirs, and what an SM gets of the L2 is in their cycles already.
        in_turn = waiting.in_turn(steady_s, np.maximum(dram_s, l2_s), beside)
        run_s = run_s + np.where(decodes & (c.ahead == 0), in_turn, 0.0)
    if profile.products.exposed_ends:
        # DRAM idles until the first CTAs, which start together, have their queries, and after the last loads.
        run_s = np.maximum(run_s, memory_s + latency / clock_hz)
    if profile.splitting.sequences_walked:
        # A CTA finds its next tile by walking over sequences; where keys may be split it also looks up into how many parts.
        # Only serving engines (which append) call it with sequences of varying length.
        walks = c.batch / profile.splitting.sequences_walked * np.where(merges, 2.0, 1.0) * (c.append_bytes > 0)
        walk_s = walks * gpu.dram_latency_s
        run_s, compute_s = run_s + walk_s, compute_s + walk_s
    if profile.in_step:
        paced_s = steps.seconds_with_memory(memory_s, work / clock_hz, latency / clock_hz, waits / clock_hz, grid)
    else:
        # Memory paces all waves but the last, in which a CTA takes its own time, beside fewer others. It is no less than
        # the shortest CTA's, which starts last where the longest go first; other tails of a compute-bound call are in its
        # span.
        before, beside_last = schedule.last_wave(ctas * splits, gpu.sms, in_flight)
        own = chain
        if profile.chain == "pipes" and (beside_last < shape.resident).any():
            less = replace(shape, resident=beside_last)
            last = pipes.tile_cycles(gpu, profile, operations or profile.operations, less, c.tensor_rate)
            assert last.chain is not None
            own = cycles_of(*last.chain) * flat(beside_last) + flat(latency)
        alone_s = np.minimum.reduceat(np.maximum(own, work * flat(beside_last)), c.row) / clock_hz
        paced_s = before * memory_s + np.maximum((1.0 - before) * memory_s, alone_s)
    run_s = np.maximum(run_s, paced_s)
    if profile.splitting.grid_parts:
        idle_s = idle_seconds(gpu, profile, c, ctas, splits, in_flight, clock_hz)
        run_s, compute_s = run_s + idle_s, compute_s + idle_s

    if profile.splitting.searches:
        idle_s = spare_seconds(gpu, c, splits, in_flight, clock_hz)
        run_s, compute_s = run_s + idle_s, compute_s + idle_s

    # Step 7: launch, and the passes around the kernel.
    once_s = np.where(c.graph > 0, gpu.graph_launch_s, gpu.launch_s)
    launch_s = once_s * c.passes
    merge_s, append_s, permute_s = passes(gpu, profile, c, once_s, ctas, splits, merges, highest_hz, moved)
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
    if "wait" in limits:
        limits["spill"] = limits["spill"] + limits.pop("wait")
    limits["mask"] = tile.mask * masked_tiles
    limits["sm_l2"] = tile.l2 * per_tile
    limits["l2"], limits["dram"] = l2_s, dram_s
    return Costs(
        kernel_s + append_s + permute_s + c.select_s, kernel_s, parts, limits, moved, splits, ctas * splits, clock_hz,
        np.maximum(work, chain / flat(beside)), grid.count, np.where(beside > 1.0, latency, 0.0) / clock_hz, compute_s,
    )  # fmt: skip


def packed_heads(profile: KernelProfile, queries: Any, cached: Any, gqa_ratio: Any, windowed: Any) -> Any:
    """Query heads that share keys and whose rows lie beside each other in a Q tile: all that share, or 1.

    1 where the kernel does not pack: by its profile, for a window (``windowed`` > 0), or for too many heads. Takes numbers
    or arrays.
    """
    few = {"always": True, "decode": profile.decodes(queries, cached), "token": queries <= 1, "never": False}
    some = few[profile.packing.heads]
    packs = some & (gqa_ratio >= profile.packing.least) & (gqa_ratio <= profile.packing.most)
    if not profile.packing.under_windows:
        packs = packs & (windowed == 0)
    return np.where(packs, gqa_ratio, 1)
