"""A user's cascade as a kernel: what one fused kernel that runs it would cost.

With a score matrix (work that grows with queries and keys) the kernel tiles it as attention kernels do, with the cascade's own
operation counts; each pass over the keys after the first is one more launch and sends the tensors that live for a whole fiber
of keys through memory. Without one (linear attention) it streams the tokens once, and the call is a roofline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import InputError
from ..hwmodels import GPU
from . import clock, memory, pipes
from .calls import Calls, Costs
from .cascades import load
from .einsum import Cascade, Poly, bind, live_footprint, passes
from .profile import KernelProfile
from .tile_operations import KEY_RANKS, QUERY_RANKS, TileOperations, by_pipe, has_scores, tile_operations
from .tiles import Floats
from .workload import DTYPE_BYTES, Workload

# Tokens of a chunk where a cascade does not say: what one CTA of a streaming kernel takes at a time.
STREAM_TOKENS = 128
TOKEN_RANKS = ("M", "P", "N")


@dataclass(frozen=True)
class CascadeWork:
    """What a prediction needs of a cascade.

    Attributes:
        cascade: the cascade. operations: of a KV tile; None without a score matrix.
        key_passes: passes over the keys. spilled: tensors that live for a whole fiber of keys between passes.
        spilled_elements: their elements for each query-key pair of one head.
    """

    cascade: Cascade
    operations: TileOperations | None
    key_passes: int
    spilled: tuple[str, ...]
    spilled_elements: float


@lru_cache(maxsize=256)
def cascade_work(name: str) -> CascadeWork:
    """Analyse a cascade of the library, or the one in a file.

    Raises:
        InputError: no such cascade, an error in it, or one that a GPU tile cannot run.
    """
    cascade = load(name)
    for _, count in by_pipe(cascade):
        if any(rank in TOKEN_RANKS and exponent > 1 for monomial, _ in count.terms for rank, exponent in monomial):
            raise InputError(
                f"cascade {cascade.name!r} does work for every pair of one rank of tokens: give keys (M) and queries (P) a "
                "rank each, leave filters out, and give the pattern with -p (e.g. causal), so that its scores can be tiled"
            )
    if not has_scores(cascade):
        return CascadeWork(cascade, None, 1, (), 0.0)
    if "M" not in cascade.scope.same or "P" not in cascade.scope.same:
        raise InputError(
            f"cascade {cascade.name!r} has no rank M (keys) and P (queries): a prediction tiles the scores over these"
        )
    operations = tile_operations(cascade)
    rank = cascade.scope.same["M"]
    key_passes = passes(cascade, rank).count
    spilled = tuple(
        tensor
        for tensor, live in live_footprint(cascade, rank).items()
        if key_passes > 1 and any(part == rank for monomial, _ in live.terms for part, _ in monomial)
    )
    pairs = sum(_is_scores(cascade, tensor) for tensor in spilled)
    return CascadeWork(cascade, operations, key_passes, spilled, float(pairs))


def _is_scores(cascade: Cascade, tensor: str) -> bool:
    """Whether a tensor has an element for each query-key pair."""
    ranks = {cascade.scope.same[rank] for rank in cascade.scope.shapes[tensor]}
    return bool(ranks & KEY_RANKS) and bool(ranks & QUERY_RANKS)


def notes(work: CascadeWork) -> list[str]:
    """What a user should know of how the cascade was taken, one sentence each."""
    if work.operations is None:
        return [
            f"Cascade {work.cascade.name} has no score matrix: its call is a roofline over its tokens, and the tiles and "
            "bounds shown are those of dense attention."
        ]
    if work.key_passes > 1:
        through = " and ".join(work.spilled) or "nothing"
        return [
            f"Cascade {work.cascade.name} makes {work.key_passes} passes over the keys: {through} goes through memory."
        ]
    return []


def streaming(gpu: GPU, profile: KernelProfile, workload: Workload, work: CascadeWork, calls: Calls) -> Costs:
    """Cost of one call of a cascade without a score matrix: a roofline over all its tokens.

    CTAs are one for each head and chunk of tokens, or one for each head where a state runs along the tokens.

    Raises:
        InputError: a rank of the cascade that neither the workload nor a default gives a size.
    """
    cascade = work.cascade
    sizes = {"E": workload.head_dim, "F": workload.dim_v, "M": workload.kv_tokens, "P": workload.tokens}
    sizes["N"] = workload.tokens
    known = {rank: size for rank, size in sizes.items() if rank in cascade.scope.same}
    bound = bind(cascade, known)
    heads = workload.batch * workload.heads
    total = dict.fromkeys(("tensor", "exp", "fp32", "alu", "rescale"), 0.0)
    for pipe, count in by_pipe(cascade):
        total[pipe] += float(Poly.at(count, bound)) * heads
    serial = bool(cascade.scope.stops)
    ctas = heads * (1 if serial else math.ceil(workload.tokens / STREAM_TOKENS))
    waves = math.ceil(ctas / gpu.sms)
    cycles = {
        "tensor": total["tensor"] / (calls.tensor_rate * profile.products.mma_fraction),
        "exp": _one(total["exp"] / gpu.exp_per_clock_per_sm),
        "fp32": _one((total["fp32"] + total["rescale"]) / gpu.fp32_fma_per_clock_per_sm),
        "alu": _one(total["alu"] / gpu.alu_per_clock_per_sm),
        "smem": _one(0.0),
    }
    at_a_time = ctas / waves  # SMs
    tiles = pipes.combine(profile, cycles) / at_a_time
    products = cycles["tensor"] * profile.products.mma_fraction / gpu.sms
    highest_hz = clock.highest_hz(gpu, calls.locked_hz)
    clock_hz = clock.held_hz(gpu, highest_hz, tiles, products, calls.free_s, calls_before=calls.calls_before)
    tiles_s = tiles / clock_hz
    moved = _one(
        _input_bytes(cascade, bound, workload) * heads + heads * workload.tokens * workload.dim_v * calls.query_bytes[0]
    )
    traffic = memory.Traffic(moved, moved, moved, register_bytes=np.zeros_like(moved))
    dram_s = memory.dram_seconds(gpu, moved)
    latency_s = _one(profile.round_trips * gpu.dram_latency_s * waves)
    launch_s = np.where(calls.graph > 0, gpu.graph_launch_s, gpu.launch_s)
    zero = _one(0.0)
    memory_s = np.maximum(dram_s - tiles_s, 0.0)
    parts = {
        "launch": launch_s, "tiles": tiles_s, "schedule": latency_s, "memory": memory_s,
        "merge": zero, "append": zero, "permute": zero, "select": zero,
    }  # fmt: skip
    time_s = launch_s + tiles_s + latency_s + memory_s
    limits = {name: value / (at_a_time * clock_hz) for name, value in cycles.items()}
    limits |= {"mask": zero, "sm_l2": zero, "l2": memory.l2_seconds(gpu, moved, clock_hz), "dram": dram_s}
    return Costs(time_s, time_s, parts, limits, traffic, _one(1.0), _one(float(ctas)), clock_hz)


def _input_bytes(cascade: Cascade, bound: dict[str, int], workload: Workload) -> float:
    size = DTYPE_BYTES[workload.dtype]
    return sum(size * math.prod(bound[rank] for rank in tensor.ranks) for tensor in cascade.scope.inputs.values())


def _one(value: float) -> Floats:
    return np.array([value], dtype=np.float64)
