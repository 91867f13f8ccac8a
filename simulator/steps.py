"""CTAs that keep step: all alike, started together, each loading for itself what it then works on.

Those that share an SM wait together and work together. Their latencies add up to the work of all of them, where CTAs that
drift apart hide one behind the other (see waiting). In a loop whose warps take keys in turns, every turn has a latency, that of
the L2 for keys that it holds or that another head has just asked for. A wave begins where the one before it ends.

DRAM idles while all CTAs start and while the last ones end; and once more where the first wave gives way to the second, on all
SMs at once. From then on SMs drift apart, and some load while others do not.
"""

from __future__ import annotations

import numpy as np

from ..hwmodels import GPU
from . import memory, schedule
from .calls import Calls
from .instructions import CUDA_KEY_INSTRUCTIONS, CUDA_VALUE_INSTRUCTIONS, SCHEDULERS, WARP
from .profile import KernelProfile
from .tiles import Floats
from .waiting import Ctas

# Memory latencies, one after the other, in which a CTA hands its part over: its stores are seen, then it counts itself done
# (atom.acq_rel in TensorRT-LLM's mha.cu, fetch_add with memory_order_acq_rel in its masked multi-head attention).
HANDING_TRIPS = 2.0


def span_cycles(work: Floats, latency: Floats, ctas: Ctas) -> Floats:
    """SM cycles from the first CTA's start to the last one's end, per call.

    Args:
        work: cycles of a CTA of each class on its SM's busiest pipe. latency: those in which it waits, shape (calls,).
    """
    per_sm = np.ceil(np.add.reduceat(ctas.count, ctas.row) / ctas.sms - 1e-9)
    span: Floats = per_sm * work[ctas.row] + np.ceil(per_sm / ctas.residents) * latency
    return span


def seconds_with_memory(memory_s: Floats, work_s: Floats, life_s: Floats, waits_s: Floats, ctas: Ctas) -> Floats:
    """Seconds of calls that memory paces: all waves but the last, in which a CTA takes its own time, however few they are.

    Args:
        memory_s: to move all bytes. work_s: of a CTA of each class. life_s: latencies at its start and end, in which it moves
            nothing; waits_s: those of its loads; both of shape (calls,).
    """
    count = np.add.reduceat(ctas.count, ctas.row)
    before, beside = schedule.last_wave(count, ctas.sms, ctas.residents)
    waves = np.ceil(count / (ctas.sms * ctas.residents) - 1e-9)
    last_s = np.maximum((1.0 - before) * memory_s, waits_s + beside * work_s[ctas.row])
    seconds: Floats = before * memory_s + np.minimum(waves, 2.0) * life_s + last_s
    return seconds


def residents(gpu: GPU, c: Calls, longest: Floats, splits: Floats, registers_for: Floats) -> Floats:
    """CTAs on an SM where each keeps the scores of its keys in shared memory: no more than registers leave room for."""
    held = schedule.WIDE_SMEM_BYTES * part_keys(c, longest, splits) + gpu.smem_reserved_bytes_per_cta
    found: Floats = np.minimum(registers_for, np.maximum(np.floor(gpu.smem_bytes_per_sm / held), 1.0))
    return found


def part_keys(c: Calls, longest: Floats, splits: Floats) -> Floats:
    """Cached keys that a CTA goes over, where threads take keys in turns; the new one is looked at apart."""
    keys = np.minimum(c.keys, longest * c.tile_kv)
    parts: Floats = np.where(splits > 1, np.ceil(keys / splits), np.maximum(keys - 1.0, 0.0))
    return parts


def turns(
    profile: KernelProfile, c: Calls, longest: Floats, splits: Floats, wide: Floats | float
) -> tuple[Floats, Floats]:
    """KV tiles that a CTA's arithmetic takes as long as, and the loads that it waits for, where threads take keys in turns.

    A tile is the keys that 256 threads take at once. In a turn over values each loads ``unroll`` of them before it uses the
    first, in a turn over keys half as many; a CTA ``wide`` times as large takes as many tiles at once.
    """
    at_once, keys, unroll = c.tile_kv * wide, part_keys(c, longest, splits), float(profile.splitting.unroll)
    warps = schedule.WIDE_THREADS / WARP / SCHEDULERS * wide
    values, scores = busy_turns(keys, at_once, unroll, warps), busy_turns(keys, at_once, 0.5 * unroll, warps)
    share = CUDA_VALUE_INSTRUCTIONS / (CUDA_VALUE_INSTRUCTIONS + CUDA_KEY_INSTRUCTIONS)
    tiles = unroll * wide * (share * values + 0.5 * (1.0 - share) * scores)
    return tiles, np.ceil(values) + np.ceil(scores)


def busy_turns(keys: Floats, at_once: Floats, unroll: float, warps: Floats | float) -> Floats:
    """Turns of the busiest scheduler, the last only in part, over ``keys`` of which threads take ``at_once``, ``unroll`` times.

    Every warp that gets a key at all runs a turn whole; those without one do nothing. A scheduler has ``warps`` of them.
    """
    whole = np.floor(keys / (at_once * unroll))
    left = keys - whole * at_once * unroll
    found: Floats = whole + np.minimum(np.ceil(left * warps / at_once), warps) / warps
    return found


def load_seconds(gpu: GPU, c: Calls) -> Floats:
    """Latency of a load of keys or values: of those that another head has asked for, or the L2 still holds, the L2's."""
    cached = c.batch * c.kv_heads * c.keys * (c.dim + c.dim_v) * c.kv_bytes
    others = 1.0 - c.packed * c.kv_heads / c.heads
    return memory.latency_seconds(gpu, np.maximum(memory.resident_share(gpu, cached, c.warm), others))


def staged_trips(profile: KernelProfile, c: Calls) -> Floats | float:
    """Memory latencies beyond the first that a CTA waits for before its pipeline runs, where warps load ``merging.columns``
    columns of a head at a time, one step ahead: a latency for each two steps.

    Each warp goes over the columns of its own keys; then as many warps as a head has such columns go over the keys.
    """
    if not (profile.splitting.warp_keys and profile.merging.columns):
        return 0.0
    parts = c.run_dim / profile.merging.columns
    warps = c.tile_kv / profile.splitting.warp_keys
    steps = np.minimum(np.ceil(c.keys / profile.splitting.warp_keys), warps) * np.minimum(parts / warps, 1.0)
    extra: Floats = np.ceil(parts / 2.0) - 1.0 + np.maximum(np.ceil(steps / 2.0) - 1.0, 0.0)
    return extra


def loaded_share(profile: KernelProfile, c: Calls, longest: Floats) -> Floats:
    """Share of its KV tiles that a CTA loads, where warps beyond the end of a sequence load nothing."""
    begun = np.ceil(c.keys / profile.splitting.warp_keys) * profile.splitting.warp_keys
    share: Floats = np.minimum(1.0, begun / np.maximum(longest * c.tile_kv, 1.0))
    return share
