"""What a CTA waits for before its first KV tile and after its last, with nothing else to work on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU
from . import memory
from .calls import Calls
from .instructions import ACCUMULATOR_BYTES, RESULT_CYCLES
from .memory import Traffic
from .profile import KernelProfile
from .tiles import Floats, between

# A step of vLLM's find_seq_idx: instructions one after the other (SASS for sm_100), and a load that the L1 has.
SEARCH_INSTRUCTIONS, SEARCH_LOAD_CYCLES = 17.0, 40.0
OUTPUT_BYTES = 2.0  # fp8 attention gives its output in 16 bits


def latency_cycles(
    gpu: GPU, profile: KernelProfile, c: Calls, splits: Floats, merges: NDArray[np.bool_], trip_cycles: Floats
) -> Floats:
    """Cycles of a CTA's life outside its KV tiles, shape (calls,).

    Memory latencies one after the other, of ``trip_cycles`` each; operands and the output, which pass through its SM's share of
    the L2; and rows of queries that are gathered one by one. ``merges``: calls that the kernel for split keys runs.
    """
    trips = profile.round_trips + _rotation_trips(profile, c)
    latency: Floats = trips * trip_cycles + _end_cycles(gpu, profile, c, splits)
    if profile.splitting.searches:
        latency = latency + search_cycles(c)
    if profile.packing.gather_cycles:
        asked_for = np.isin(c.packed, profile.packing.box_heads) & (c.dim == c.dim_v) & ~merges & (c.single == 0)
        latency = latency + np.where(asked_for, 0.0, profile.packing.gather_cycles)
    return latency


def _end_cycles(gpu: GPU, profile: KernelProfile, c: Calls, splits: Floats) -> Floats:
    """Cycles in which a CTA stores its output and, where nothing hides that, loads its queries and first keys."""
    output_bytes = np.maximum(c.query_bytes, OUTPUT_BYTES)
    filled, columns = np.minimum(c.tile_q, c.queries * c.packed), c.dim_v / c.value_parts
    if profile.products.exposed_ends:  # nothing is loaded or stored of rows that hold no query
        first = sum(_first_bytes(c))
        stored = filled * columns * np.where(splits > 1.0, ACCUMULATOR_BYTES, output_bytes)
        staged = c.tile_q * c.run_dim_v * output_bytes * np.where(splits > 1.0, 1.0, 2.0)
        return memory.l2_cycles(gpu, first + stored) + staged / gpu.smem_bytes_per_clock_per_sm
    loaded = c.tile_q * c.dim * c.query_bytes * profile.products.one_query_buffer
    if profile.row_store_bytes:
        written = filled * columns * output_bytes
        stored = np.maximum(memory.l2_cycles(gpu, written), written / profile.row_store_bytes)
        return memory.l2_cycles(gpu, loaded) + stored
    return memory.l2_cycles(gpu, loaded + c.tile_q * columns * output_bytes)


def _first_bytes(c: Calls) -> tuple[Floats, Floats]:
    """Bytes of a CTA's queries, and of the first KV tile's keys."""
    queries = np.minimum(c.tile_q, c.queries * c.packed) * c.dim * c.query_bytes
    return queries, np.minimum(c.tile_kv, c.keys) * c.dim * c.kv_bytes


def burst_cycles(
    gpu: GPU, profile: KernelProfile, c: Calls, q_tiles: Floats, splits: Floats, residents: Floats, traffic: Traffic,
    clock_hz: Floats,
) -> Floats:  # fmt: skip
    """Cycles more than ``latency_cycles`` counts until CTAs that begin together have their first operands, shape (calls,).

    Every one of a wave asks for a Q tile of its own and for its first keys. What the L2 does not hold of these comes as fast
    as DRAM brings it, each KV tile once. So CTAs that all begin with other keys wait longer than those that share them.

    Args:
        q_tiles: of a head, or of the heads that are packed. splits: parts of their keys, which begin with keys of their own.
        residents: CTAs that share an SM. traffic: of the call.
    """
    if not profile.products.exposed_ends or not np.any(traffic.cold):
        return np.zeros_like(q_tiles)
    queries, keys = _first_bytes(c)
    sharing = np.ceil(c.heads / c.kv_heads / c.packed)
    heads, starts = c.batch * c.kv_heads * sharing, c.starts * splits
    wave = np.minimum(q_tiles * splits * heads, gpu.sms * residents)
    if profile.order == "launch":  # a head's Q tiles, then the next head's
        begun = wave / (q_tiles * splits)
        distinct = starts * begun / between(sharing, 1.0, np.maximum(begun, 1.0))
    else:  # all heads' longest Q tiles, then the next ones
        distinct = np.minimum(wave, heads) / sharing * between(wave / heads, 1.0, starts)
    asked = (wave * queries + between(distinct, 1.0, wave) * keys) * traffic.cold
    burst: Floats = np.maximum(memory.dram_seconds(gpu, asked) * clock_hz - memory.l2_cycles(gpu, queries + keys), 0.0)
    return burst


def _rotation_trips(profile: KernelProfile, c: Calls) -> Floats | float:
    """Memory latencies, one after the other, of a CTA that rotates its queries itself before it starts."""
    if not profile.serving.fused:
        return 0.0
    alone = (c.append_bytes > 0) & (c.fused > 0)
    return np.where(alone, np.ceil(c.packed / profile.serving.fused.heads_at_once), 0.0)


def search_cycles(c: Calls) -> Floats:
    """Cycles of a binary search for a CTA's sequence, a step for each doubling of their number."""
    steps: Floats = np.ceil(np.log2(c.batch + 1.0))
    return steps * (SEARCH_INSTRUCTIONS * RESULT_CYCLES + SEARCH_LOAD_CYCLES)
