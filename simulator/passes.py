"""Seconds of what a call does around attention: merging split keys, appending to the cache, permuting tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU
from . import memory
from .calls import Calls
from .instructions import RESULT_CYCLES
from .profile import KernelProfile
from .tiles import Floats

# Memory latencies of a thread of PyTorch's strided copy: four elements, each loaded and stored before the next (its
# elementwise_kernel<128, 4> compiled by nvcc 13.0 for sm_80).
COPY_TRIPS = 4.0
# Axes of such a copy that do not merge: batch, key heads, query heads that share one, and the head dimension.
COPIED_AXES = 4.0
MERGE_BYTES = 4.0  # partial results of split-KV kernels are fp32
MERGING_TRIPS = 4.0  # of a CTA of FlashAttention-3's merging kernel
EMPTY_TRIPS = 0.5  # of a merging CTA's: how many parts there are, and the next CTA's turn
MERGE_THREADS = 128  # of a CTA that merges them (FlashInfer's cascade.cuh)
# A step of a CTA that merges alone: a part comes from the L2, is scaled and added (see profiles/xqa.toml).
MERGE_STEP = 0.6  # of a DRAM latency
MAXIMA_AT_ONCE = 8  # parts whose row maxima are read together, before their outputs


def passes(
    gpu: GPU,
    profile: KernelProfile,
    c: Calls,
    once_s: Floats,
    ctas: Floats,
    splits: Floats,
    merges: NDArray[np.bool_],
    clock_hz: Floats,
    moved: memory.Traffic,
) -> tuple[Floats, Floats, Floats]:
    """Seconds of merging split keys, appending to the cache and permuting tokens; what no call does costs nothing here."""
    merge_s = append_s = permute_s = np.zeros_like(once_s)
    merged = merging(profile, c, splits)
    if merged.any():
        moved_s = memory.l2_seconds(gpu, 2.0 * partial_bytes(profile, c, splits), clock_hz)
        merging_s = np.maximum(moved_s, memory.dram_seconds(gpu, np.asarray(moved.spilt_bytes)))
        if profile.merging.by == "launch" and profile.merging.head_instructions:
            merging_s = once_s + np.maximum(merging_s, _heads_seconds(gpu, profile, c, splits, clock_hz, moved))
        elif profile.merging.by == "launch":
            turns = 2.0 + _merge_turns(gpu, profile, c) + splits * profile.merging.part_trips
            merging_s = merging_s + once_s + turns * gpu.dram_latency_s
        else:
            merging_s = merging_s + _last_cta_seconds(gpu, profile, c.dim_v, ctas, splits)
        merge_s = np.where(merged, merging_s, 0.0)
    if (merges & ~merged).any():  # a merge is launched, whose CTAs find nothing to do
        empty_s = once_s + (1.0 + EMPTY_TRIPS * _merge_turns(gpu, profile, c)) * gpu.dram_latency_s
        merge_s = np.where(merges & ~merged, empty_s, merge_s)
    if profile.merging.sequences_walked:
        # The first CTAs of an SM do so before the attention kernel ends; the others' tokens are half way or further on average.
        waves = np.maximum(_merge_turns(gpu, profile, c) / MERGING_TRIPS, 1.0)
        walks = (waves - 1.0) * 0.5 * (1.0 + 1.0 / waves)
        walk_s = walks * c.batch / profile.merging.sequences_walked * gpu.l2_latency_s
        merge_s = merge_s + np.where(merged | merges, walk_s, 0.0)
    if c.append_bytes.any():
        # Attention touches one half of them, the new keys or the cache: the call's loop goes over the other half too.
        left = 1.0 - memory.resident_share(gpu, moved.unique_bytes + 0.5 * c.append_bytes, c.warm)
        appending_s = memory.append_seconds(
            gpu,
            np.maximum(
                memory.dram_seconds(gpu, c.append_bytes * left), memory.l2_seconds(gpu, c.append_bytes, clock_hz)
            ),
            c.batch * c.queries,
            c.kv_heads * c.dim,
            c.append_registers,
            c.append_instructions,
            c.kv_heads if profile.serving.heads_apart else 0.0,
            1.0 - left,
        )
        if c.append_warps.any():
            moving_s = np.maximum(
                memory.dram_seconds(gpu, c.append_bytes * left), memory.l2_seconds(gpu, c.append_bytes, clock_hz)
            )
            row_bytes = c.kv_heads * c.dim * c.kv_bytes
            stored_s = memory.store_seconds(gpu, moving_s, c.batch * c.queries, row_bytes, 1.0 - left, clock_hz)
            appending_s = np.where(c.append_warps > 0, stored_s, appending_s)
            converted_s = memory.convert_seconds(gpu, moving_s, c.batch * c.queries, c.kv_heads, 1.0 - left, clock_hz)
            appending_s = np.where(c.append_ctas > 0, converted_s, appending_s)
        if c.rotate_bytes.any():
            appending_s = np.where(c.rotate_bytes > 0, _rotating_seconds(gpu, profile, c, left, clock_hz), appending_s)
        engine_s = profile.call_s + profile.sequence_s * c.batch + profile.key_s * c.batch * c.queries * c.kv_heads
        pass_s = once_s + appending_s
        if profile.serving.fused:
            beside_s = memory.dram_seconds(gpu, c.append_bytes, 1.0)  # stores that nobody waits for
            pass_s = np.where(c.fused > 0, beside_s, pass_s)
        append_s = np.where(c.append_bytes > 0, pass_s + engine_s + c.apart_s + c.small_kernels * once_s, 0.0)
    if c.quantise_bytes.any():
        quantising_s = once_s + _quantising_seconds(gpu, profile, c.quantise_bytes, clock_hz) + 2.0 * gpu.dram_latency_s
        append_s = append_s + np.where(c.quantise_bytes > 0, quantising_s, 0.0)
    if profile.packing.by_copying:
        # Queries, and output back: rows of a key head's queries come to lie together. One key head needs no copy.
        elements = c.batch * c.heads * c.queries * (c.dim + c.dim_v)
        copied = elements * 2.0 * c.query_bytes
        missed = 1.0 - memory.resident_share(gpu, moved.unique_bytes + copied, c.warm)
        copying_s = np.maximum(memory.dram_seconds(gpu, copied * missed), memory.l2_seconds(gpu, copied, clock_hz))
        copying_s = np.maximum(copying_s, memory.copy_address_seconds(gpu, elements, COPIED_AXES, clock_hz))
        copying_s = copying_s + 2.0 * (once_s + COPY_TRIPS * gpu.dram_latency_s)
        permute_s = np.where((c.packed > 1) & (c.kv_heads > 1), copying_s, 0.0)
    if c.permute_axes.any():
        # Q and O have the query's shape, K and V the key's: two copies of their mean size each.
        query = c.batch * c.heads * c.queries * (c.dim + c.dim_v)
        key = c.batch * c.kv_heads * c.keys * (c.dim + c.dim_v)
        query_s = memory.permute_seconds(gpu, query / 2.0, c.query_bytes, c.permute_axes, clock_hz)
        key_s = memory.permute_seconds(gpu, key / 2.0, c.kv_bytes, c.permute_axes, clock_hz)
        permute_s = np.where(c.permute_axes > 0, 2.0 * query_s + 2.0 * key_s, permute_s)
    return merge_s, append_s, permute_s


def merging(profile: KernelProfile, c: Calls, splits: Floats) -> NDArray[np.bool_]:
    """Calls whose parts are merged: a grid of a fixed number of parts merges one part too."""
    merged = splits > 1
    if profile.splitting.grid_parts > 1:
        merged = merged | profile.decodes(c.queries, c.keys - c.queries)
    return merged


def partial_bytes(profile: KernelProfile, c: Calls, splits: Floats) -> Floats:
    """Bytes that split keys' results are written with, before they are merged."""
    per_part = c.batch * c.heads * c.queries * (c.dim_v + 2.0) * MERGE_BYTES
    return np.where(merging(profile, c, splits), splits * per_part, 0.0)


def _merge_turns(gpu: GPU, profile: KernelProfile, c: Calls) -> Floats:
    """Memory latencies, one after the other, that an SM's CTAs of a merging kernel take over all tokens and heads."""
    places = gpu.sms * (gpu.max_threads_per_sm // MERGE_THREADS)
    turns = c.batch * c.heads * c.queries / places * profile.merging.token_trips
    if profile.merging.columns:
        turns = turns * np.exp2(np.ceil(np.log2(c.dim_v))) / profile.merging.columns
    return turns


def _heads_seconds(
    gpu: GPU, profile: KernelProfile, c: Calls, splits: Floats, clock_hz: Floats, moved: memory.Traffic
) -> Floats:
    """What a merging kernel takes that has a CTA for each token and head, with a warp for each scheduler.

    Its CTAs come as fast as they are handed out, as the schedulers issue their instructions, or as their own lives, one after
    the other in the places of an SM, let them: memory latencies and instructions that wait for one another.
    """
    merging = profile.merging
    heads = c.batch * c.heads * c.queries
    instructions = merging.head_instructions + splits * merging.part_instructions
    trips = merging.token_trips + splits * merging.part_trips
    latency_s = memory.latency_seconds(gpu, memory.resident_share(gpu, moved.unique_bytes, np.ones_like(heads)))
    life_s = trips * latency_s + RESULT_CYCLES * instructions / clock_hz
    places = gpu.sms * (gpu.max_threads_per_sm // MERGE_THREADS)
    issued = np.maximum(instructions * heads / gpu.sms, heads / gpu.dispatch_ctas_per_clock)
    return np.maximum(life_s * np.maximum(heads / places, 1.0), issued / clock_hz)


def _quantising_seconds(gpu: GPU, profile: KernelProfile, size_bytes: Floats, clock_hz: Floats) -> Floats:
    """What quantising queries takes: its instructions on every SM, and no less than DRAM does at its peak."""
    if profile.query_rate is None:
        return memory.dram_seconds(gpu, size_bytes)
    instructions_s = size_bytes / (profile.query_rate * gpu.sms * clock_hz)
    return np.maximum(instructions_s, memory.dram_seconds(gpu, size_bytes, 1.0))


def _rotating_seconds(gpu: GPU, profile: KernelProfile, c: Calls, left: Floats, clock_hz: Floats) -> Floats:
    """Time to rotate queries and to append keys and values in one pass, without launch; ``left``: share that the L2 has lost.

    Threads go over the queries, 16 bytes at a time: those of every head load keys and values as well and rotate the keys, by
    angles that they load, and those of a group's first head store them (TensorRT-LLM's applyBiasRopeUpdateKVCacheV2). So bytes
    and queries pass at once.
    """
    moved = c.append_bytes + c.rotate_bytes
    moving_s = np.maximum(memory.dram_seconds(gpu, moved * left), memory.l2_seconds(gpu, moved, clock_hz))
    if profile.rotation_efficiency is None:
        queries_s = memory.dram_seconds(gpu, c.rotate_bytes)
    else:
        threads_s = memory.l2_seconds(gpu, c.rotate_traffic_bytes, clock_hz) / profile.rotation_efficiency
        queries_s = np.maximum(threads_s, memory.dram_seconds(gpu, c.rotate_bytes, 1.0))
    seconds: Floats = np.maximum(moving_s, queries_s) + 2.0 * gpu.dram_latency_s
    return seconds


def _last_cta_seconds(gpu: GPU, profile: KernelProfile, dim_v: Floats, ctas: Floats, splits: Floats) -> Floats:
    """What the last CTA of each sequence and head takes to add up its parts, a chain of steps; SMs do theirs in turn."""
    ways: Floats | int = profile.merging.ways
    if profile.merging.columns:
        ways = np.maximum(ways * profile.merging.columns / np.exp2(np.ceil(np.log2(dim_v))), 1.0)
    steps = np.ceil(splits / ways) + np.ceil(splits / np.maximum(ways, MAXIMA_AT_ONCE))
    chain = profile.merging.token_trips + steps * MERGE_STEP
    return chain * gpu.dram_latency_s * np.maximum(ctas / gpu.sms, 1.0)
