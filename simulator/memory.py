"""Memory model: bytes that must move, bytes issued, and the floors that DRAM and L2 set.

All functions take scalars or arrays; arrays broadcast. Sizes are bytes, times seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..hwmodels import GPU
from .instructions import RESULT_CYCLES, SCHEDULERS, WARP
from .patterns.base import SelectionCost
from .tiles import Floats, between


@dataclass(frozen=True)
class Traffic:
    """Bytes of one call.

    Attributes:
        unique_bytes: Q, K, V and O, each once: what a perfect kernel moves.
        issued_bytes: what CTAs ask of the L2.
        dram_bytes: what reaches DRAM.
        spilt_bytes: results of split keys among them, which the merge reads again.
        cold: share of the bytes that the L2 does not hold from the call before.
        register_bytes: spilled registers among those that reach DRAM.
    """

    unique_bytes: Floats
    issued_bytes: Floats
    dram_bytes: Floats
    spilt_bytes: Floats | float = 0.0
    cold: Floats | float = 0.0
    register_bytes: Floats | float = 0.0


# Sizes of an L2 in one part that a loop touches, and the share of it that then comes from DRAM: an L40 reads 91,648 KiB at the
# rate of its 96 MiB, but 100,352, 110,080, 120,832 and 132,608 KiB at 4294, 1075, 880 and 850 GB/s, of which DRAM gives 845
# (RRZE gpu-benches, gpu-l2-cache/l40.txt at 3088b33).
LOOPED = (0.932, 1.021, 1.120, 1.229, 1.349)
MISSED = (0.0, 0.2, 0.79, 0.96, 1.0)
# Share of an L2 in one part beyond which spilled registers are written to DRAM each time that they are stored. Read off rows
# that validation counts: 52 of one program on RTX PRO 6000 (SGLang's prompts in bf16, head dim 256, windows). 188 CTAs of it
# hold 72 MB in flight, 54% of the L2, and take as long as DRAM takes for all that they store, up to twice as long as one of 8
# or of 128 CTAs (49 MB, 37%). 19 MB of another program are stored at 2.6 TB/s, more than that DRAM gives; with 44 MB of a third
# the shortest prompts take 10 to 25% longer than otherwise. No source tells of such a limit; an L40's L2 knows none for arrays.
DIRTY = 0.5


def traffic(
    gpu: GPU,
    query_bytes: Floats,
    output_bytes: Floats,
    kv_head_bytes: Floats,
    kv_heads: Floats,
    ctas_per_kv_head: Floats,
    kv_issued_bytes: Floats,
    warm: Floats,
    kv_dram_bytes: Floats | None = None,
    partial_bytes: Floats | float = 0.0,
) -> Traffic:
    """Traffic of a call.

    Args:
        query_bytes, output_bytes: Q and O of the whole call.
        kv_head_bytes: keys and values of one head of one sequence that are read at all.
        kv_heads: key/value heads times sequences.
        ctas_per_kv_head: CTAs that read the same keys and values.
        kv_issued_bytes: K and V bytes asked for by all CTAs (and accumulators kept in memory).
        warm: 1 when the call follows itself on the same tensors, so that what fits the L2 is there already; else 0.
        kv_dram_bytes: K and V bytes that reach DRAM, where the order of the grid tells (see Sweeps).
        partial_bytes: results of split keys, which the L2 keeps for the merge as far as it holds all that the call touches.

    CTAs of one head run together and stream its keys in step: they miss once for each group of SMs that is in step,
    unless the heads in flight fit the L2 together, and then every byte misses once.
    """
    unique_kv = kv_head_bytes * kv_heads
    heads_in_flight = np.minimum(np.maximum(1.0, gpu.sms / ctas_per_kv_head), kv_heads)
    fits = heads_in_flight * kv_head_bytes <= gpu.l2_effective_bytes
    rounds = np.where(fits, 1.0, np.maximum(1.0, ctas_per_kv_head / gpu.sms))
    dram_kv = np.minimum(unique_kv * rounds, np.maximum(kv_issued_bytes, unique_kv))
    unique = query_bytes + output_bytes + unique_kv
    dram = query_bytes + output_bytes + dram_kv
    held = resident_share(gpu, unique + partial_bytes, 1.0)
    left = 1.0 - resident_share(gpu, unique + partial_bytes, warm)
    reached = dram * left if kv_dram_bytes is None else (query_bytes + output_bytes) * left + kv_dram_bytes
    spilt = partial_bytes * (1.0 - held)
    issued = query_bytes + output_bytes + kv_issued_bytes + partial_bytes
    return Traffic(unique, issued, reached + spilt, spilt, left, np.zeros_like(reached))


@dataclass(frozen=True)
class Sweeps:
    """Keys and values that a prompt reads, whose Q tiles are the slowest axis of its grid.

    All heads of all sequences go over their keys for the first Q tile, then for the second. So bytes are asked for again when
    all others have passed: those in flight together, heads that share keys and Q tiles that few heads leave room for, miss
    once, and the next ones find what the L2 holds of a sweep.

    Attributes:
        dram_bytes: what misses. from_l2: share of the loads that do not wait for DRAM.
    """

    dram_bytes: Floats
    from_l2: Floats


def sweeps(
    gpu: GPU,
    issued_bytes: Floats,
    unique_bytes: Floats,
    sweep_bytes: Floats,
    sequences: Floats,
    heads: Floats,
    kv_heads: Floats,
    slots: Floats,
    cold: Floats,
) -> Sweeps:
    """What ``Sweeps`` tells.

    Args:
        issued_bytes: what all CTAs ask for. unique_bytes: keys and values, each once. sweep_bytes: those that the longest Q
            tiles of all heads and sequences read. slots: CTAs in flight. cold: share of the bytes that the L2 has not kept
            from the call before.
    """
    sharing = heads / kv_heads
    beside = np.clip(slots / sequences, 1.0, sharing)
    rows = np.maximum(slots / (sequences * heads), 1.0)
    again = (sharing / beside - 1.0) * (1.0 - resident_share(gpu, sweep_bytes / kv_heads, np.ones_like(heads)))
    reads = issued_bytes / (sharing * rows) * (1.0 + again)
    missed = unique_bytes * cold + np.maximum(reads - unique_bytes, 0.0) * (
        1.0 - resident_share(gpu, sweep_bytes, np.ones_like(heads))
    )
    return Sweeps(missed, 1.0 - np.clip(missed * beside * rows / issued_bytes, 0.0, 1.0))


def resident_share(gpu: GPU, size_bytes: Floats, warm: Floats | float) -> Floats:
    """Share of a call's bytes that the L2 still holds from the call before it; ``warm`` as in ``traffic``.

    Tensors that fit where every SM reaches them are all there. Of an L2 in two parts, ever fewer from there to the whole L2;
    beyond it a loop over them drives each out before its next use. One in one part loses them as ``MISSED`` tells.
    """
    whole, sizes = gpu.l2_bytes / gpu.l2_effective_bytes, size_bytes / gpu.l2_effective_bytes
    if _one_part(gpu):
        looped: Floats = (1.0 - np.interp(sizes, LOOPED, MISSED)) * warm
        return looped
    share: Floats = between((whole - sizes) / (whole - 1.0), 0.0, 1.0) * warm
    return share


def written_back(gpu: GPU, held_bytes: Floats, stored_bytes: Floats) -> Floats:
    """Bytes of spilled registers that reach DRAM of those ``stored_bytes``, where CTAs in flight hold ``held_bytes`` at once.

    Of an L2 in two parts only what exceeds all of it is known not to stay. What is loaded again is taken to be there still.
    """
    kept = (DIRTY if _one_part(gpu) else 1.0) * gpu.l2_bytes
    return np.where(held_bytes > kept, stored_bytes, 0.0)


def _one_part(gpu: GPU) -> bool:
    """Whether all SMs reach all of the L2 alike."""
    return gpu.l2_bytes < LOOPED[-1] * gpu.l2_effective_bytes


def latency_seconds(gpu: GPU, from_l2: Floats) -> Floats:
    """Mean latency of loads of which a share ``from_l2`` finds its data in the L2."""
    seconds: Floats = gpu.dram_latency_s + (gpu.l2_latency_s - gpu.dram_latency_s) * from_l2
    return seconds


def dram_seconds(gpu: GPU, size_bytes: Floats, efficiency: float | None = None) -> Floats:
    """Time to move bytes between DRAM and the SMs at the share of the bandwidth that kernels reach, or ``efficiency``."""
    return size_bytes / (gpu.dram_bandwidth_bytes_s * (gpu.dram_efficiency if efficiency is None else efficiency))


def l2_seconds(gpu: GPU, size_bytes: Floats, clock_hz: Floats) -> Floats:
    """Time to move bytes between the L2 and the SMs; the L2 keeps pace with the SM clock."""
    return size_bytes / (gpu.l2_bandwidth_bytes_s / gpu.clock_hz * clock_hz)


def l2_cycles(gpu: GPU, size_bytes: Floats) -> Floats:
    """Cycles that one SM takes to exchange bytes with the L2, at its share of the bandwidth."""
    return size_bytes / (gpu.l2_bandwidth_bytes_s / gpu.sms) * gpu.clock_hz


APPEND_THREADS = 512  # vLLM's reshape_and_cache kernels: one CTA for each token, of at most 512 threads
APPENDED = 8.0  # elements that a thread copies at a time
# Of such a thread before its first key: a slot becomes an address by divisions (SASS for sm_100).
TOKEN_INSTRUCTIONS = 100.0


def append_seconds(
    gpu: GPU,
    moving_s: Floats,
    tokens: Floats,
    row_elements: Floats,
    registers: Floats,
    instructions: Floats,
    heads_of_warps: Floats | float = 0.0,
    from_l2: Floats | float = 0.0,
) -> Floats:
    """Time to write new keys and values to a paged cache (and to rotate Q, where the call does that), without launch.

    Args:
        moving_s: time to read and write the bytes.
        tokens: new tokens. row_elements: key elements of one token, a thread for each up to ``APPEND_THREADS``.
        registers: of a thread, where they limit how many CTAs an SM holds; 0 where they do not.
        instructions: of a thread for a key and its value. heads_of_warps: key heads that warps take in turns; 0 where the
            threads go over a token's heads together. from_l2: share of the bytes read that the L2 holds.

    A CTA looks its token's slot up before it copies: two memory latencies, hidden by as many CTAs as an SM holds. Where
    registers are told, it copies keys and then values, a latency for each and its instructions one after the other, or as
    fast as the SM issues those of all its warps; and this, the bytes or how fast CTAs are handed out set the pace.
    """
    threads = np.clip(row_elements, float(WARP), APPEND_THREADS)
    resident = np.minimum(gpu.max_ctas_per_sm, gpu.max_threads_per_sm // threads)
    seconds: Floats = moving_s + 2.0 * gpu.dram_latency_s * (1.0 + tokens / (gpu.sms * resident))
    if np.any(registers):
        resident = np.minimum(resident, np.maximum(gpu.registers_per_sm // (threads * np.maximum(registers, 1.0)), 1.0))
        warps = np.ceil(threads / WARP)
        jobs = np.where(np.asarray(heads_of_warps) > 0, heads_of_warps, np.ceil(row_elements / (WARP * APPENDED)))
        turns = np.maximum(np.ceil(jobs / warps), 1.0)
        beside = np.clip(tokens / gpu.sms, 1.0, resident)
        # All warps look their token's slot up. Those that have a job, in all turns but the last and in the last, set how long a
        # turn's instructions take.
        begun, one, last = (
            count * np.maximum(RESULT_CYCLES, beside * busy / SCHEDULERS)
            for count, busy in (
                (TOKEN_INSTRUCTIONS, warps),
                (instructions, warps),
                (instructions, jobs - (turns - 1.0) * warps),
            )
        )
        chain = (begun + (turns - 1.0) * one + last) / gpu.clock_hz
        # Slots of sixteen neighbours are a line of the L2.
        trips_s = gpu.l2_latency_s + 2.0 * turns * latency_seconds(gpu, np.asarray(from_l2))
        waiting = (trips_s + chain) * (1.0 + tokens / (gpu.sms * resident))
        seconds = np.where(registers > 0, np.maximum(moving_s, waiting), seconds)
    return np.maximum(seconds, handing_seconds(gpu, tokens, gpu.clock_hz))


def handing_seconds(gpu: GPU, ctas: Floats, clock_hz: Floats | float) -> Floats:
    """Time to hand CTAs out to the SMs, however short they are."""
    return ctas / (gpu.dispatch_ctas_per_clock * clock_hz)


STORE_WARPS = 4.0  # of a CTA of SGLang's store_kvcache
STORED_BYTES = 1024.0  # of a token's keys, or twice as many, for which two warps, or four, copy it


def store_seconds(
    gpu: GPU, moving_s: Floats, tokens: Floats, row_bytes: Floats, from_l2: Floats, clock_hz: Floats
) -> Floats:
    """Time to write new keys and values to a paged cache by a warp for each token, as SGLang does (its jit_kernel's kvcache.cuh
    and kvcache.py), without launch.

    Args:
        moving_s: time to read and write the bytes. row_bytes: of a token's keys in the cache. from_l2: share of the bytes read
            that the L2 holds.

    A warp loads its token's slot, then keys and values together; an SM is full of them, or they come as CTAs are handed out.
    """
    warps = np.where(row_bytes % (2.0 * STORED_BYTES) == 0, 4.0, np.where(row_bytes % STORED_BYTES == 0, 2.0, 1.0))
    trips_s = 2.0 * latency_seconds(gpu, from_l2)
    places = gpu.sms * (gpu.max_threads_per_sm // WARP)
    handed_s = handing_seconds(gpu, tokens * warps / STORE_WARPS, clock_hz)
    seconds: Floats = np.maximum(moving_s, np.maximum(handed_s, trips_s * tokens * warps / places)) + trips_s
    return seconds


CONVERT_THREADS = 128  # of a CTA of SGLang's _fused_fp8_set_kv_buffer_kernel (four warps, Triton's default)
CONVERT_HEADS = 8.0  # that such a CTA takes at once
CONVERT_INSTRUCTIONS = 41.0  # of its threads for one head of 64 dims, in the SASS that Triton 3.9 makes for sm_100


def convert_seconds(
    gpu: GPU, moving_s: Floats, tokens: Floats, kv_heads: Floats, from_l2: Floats, clock_hz: Floats
) -> Floats:
    """Time to convert new keys and values to 8 bits and write them to a paged cache by a CTA for a token's keys and one for its
    values, of up to eight heads, as SGLang does (layers/attention/triton_ops/trtllm_fp8_kv_kernel.py), without launch.

    Args:
        moving_s: time to read and write the bytes. from_l2: share of the bytes read that the L2 holds.

    A CTA loads its token's slot and the elements at once. CTAs are so short that handing them out may set the pace.
    """
    ctas = 2.0 * tokens * np.ceil(kv_heads / CONVERT_HEADS)
    life_s = latency_seconds(gpu, from_l2) + CONVERT_INSTRUCTIONS * RESULT_CYCLES / clock_hz
    places = gpu.sms * (gpu.max_threads_per_sm // CONVERT_THREADS)
    handed_s = handing_seconds(gpu, ctas, clock_hz)
    seconds: Floats = np.maximum(moving_s, np.maximum(handed_s, life_s * ctas / places)) + life_s
    return seconds


# PyTorch's index_put (aten/src/ATen/native/cuda/IndexKernel.cu, OffsetCalculator of two axes): instructions of a thread for an
# element, of either of its sizes: its offsets by divisions, the row's index with its bounds, the element. Counted in the SASS
# that nvcc 13.0 makes for sm_90 of a loop with that arithmetic.
PUT_INSTRUCTIONS = 80.0


def put_seconds(gpu: GPU, elements: float) -> float:
    """Time of the instructions by which ``elements`` are put to rows of a tensor one by one.

    A thread takes its elements one after the other, each after the load of its row's index, so that this comes on top of the
    time that the bytes take.
    """
    return elements * PUT_INSTRUCTIONS / (SCHEDULERS * WARP * gpu.sms * gpu.clock_hz)


def selection_seconds(
    gpu: GPU, cost: SelectionCost, tensor_rate: float, locked_hz: float | None, launch_s: float
) -> float:
    """Time to choose blocks at run time: its launches, and the longer of its matrix products and its memory traffic.

    Products run at the rate that they hold at the power limit, or at ``locked_hz`` where the clock is locked lower.
    """
    clock_hz = min(gpu.clock_hz * gpu.sustained_clock_fraction, locked_hz or np.inf)
    products_s = cost.flops / (gpu.sms * tensor_rate * clock_hz)
    moving_s = cost.bytes / (gpu.dram_bandwidth_bytes_s * gpu.dram_efficiency)
    return cost.kernels * launch_s + max(products_s, moving_s)


# Integer operations per element and axis of PyTorch's strided copy: a division by a constant (multiply high, add, shift),
# a multiply and subtract for the remainder, and a multiply-add of the stride, once each for source and destination. Its
# machine code (ATen/cuda/detail/OffsetCalculator.cuh by nvcc 13.0 for sm_80) has an IMAD.HI, three IMAD, SHF, IADD3, ISETP, MOV
# and BRA an axis: ten cycles of a scheduler's multiplier, where six operations of ours take twelve of its ALU.
COPY_INTEGER_OPS_PER_AXIS = 6.0


def copy_address_seconds(gpu: GPU, elements: Floats, axes: Floats | float, clock_hz: Floats) -> Floats:
    """Time that every SM takes to compute the addresses of a strided copy in PyTorch, one element at a time.

    ``axes`` are those that do not merge with their neighbour; each is divided by.
    """
    addresses = elements * axes * COPY_INTEGER_OPS_PER_AXIS
    seconds: Floats = addresses / (gpu.sms * gpu.alu_per_clock_per_sm * clock_hz)
    return seconds


def permute_seconds(gpu: GPU, elements: Floats, element_bytes: Floats, axes: Floats, clock_hz: Floats) -> Floats:
    """Time of one token permutation (a strided copy in PyTorch): limited by DRAM, or by computing addresses.

    Each token axis becomes two (tile, offset), and batch, head and head dim stay: ``2 * axes + 2`` axes to divide by
    (the innermost needs no division).
    """
    moving = dram_seconds(gpu, 2.0 * elements * element_bytes)
    return np.maximum(moving, copy_address_seconds(gpu, elements, 2.0 * axes + 2.0, clock_hz)) + gpu.launch_s
