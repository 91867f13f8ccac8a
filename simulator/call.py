"""From a workload, a pattern, a GPU and a kernel to the arrays of one call: its tiles, their work, and how it is run."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..errors import InputError
from ..hwmodels import GPU
from . import memory, pipes
from .calls import Calls
from .cascade_call import CascadeWork
from .clock import FREE_S, SERVING_FREE_S
from .conditions import Conditions, apart_s, append_by_ctas, append_by_warps, append_thread, small_kernels
from .forecast import packed_heads
from .patterns import Band, Pattern
from .profile import MAX_TILE_TOKENS, KernelProfile
from .tile_choice import tile_choice, windowed
from .tile_table import TileChoice
from .tiles import TileWork
from .workload import DTYPE_BYTES, MAX_HEAD_DIM, Grid, Workload, as_grid, grid_text


def resolve_tiles(
    profile: KernelProfile,
    pattern: Pattern,
    workload: Workload,
    q_tile: Grid | str | int | None,
    kv_tile: Grid | str | int | None,
) -> tuple[Grid, Grid]:
    """Q and KV tile shapes: the user's where given, the kernel's default where not.

    Raises:
        InputError: a tile with another number of axes than the pattern needs, or of impossible size.
    """
    default = tile_choice(profile, pattern, workload)
    return (
        _tile(q_tile, "q tile", default.q, pattern),
        _tile(kv_tile, "kv tile", default.kv, pattern),
    )


def kernel_work(profile: KernelProfile, pattern: Pattern, workload: Workload, tiles: tuple[Grid, Grid]) -> TileWork:
    """Tiles that a kernel visits for one head, or for the heads of one key head where it packs them."""
    if isinstance(pattern, Band):
        if tests_tiles(profile, pattern, workload):
            return pattern.tested_work(workload, *tiles)
        tiling, packed = profile.kv_tiling, packed_rows(profile, pattern, workload)
        if profile.masking.skips_windows == "decode" and windowed(profile, pattern, workload):
            pattern, tiling = replace(pattern, left=max(pattern.left - 1, 0)), "dynamic"
        return pattern.tile_work(workload, *tiles, tiling, packed, profile.masking.empty_rows)
    return pattern.tile_work(workload, *tiles, profile.kv_tiling)


def packed_rows(profile: KernelProfile, pattern: Pattern, workload: Workload) -> int:
    """Query heads that a kernel packs into its Q tiles: bands only, other patterns have a tile for each head."""
    if not isinstance(pattern, Band):
        return 1
    return int(
        packed_heads(
            profile, workload.tokens, workload.cached, workload.gqa_ratio, windowed(profile, pattern, workload)
        )
    )


def _tile(tile: Grid | str | int | None, what: str, default: Grid, pattern: Pattern) -> Grid:
    if tile is None:
        return default
    return checked_tile(as_grid(tile, what), what, pattern)


def checked_tile(shape: Grid, what: str, pattern: Pattern) -> Grid:
    """``shape`` as a tile of the pattern. Raises InputError for a wrong number of axes or an impossible size."""
    axes = pattern.tile_axes
    if axes > 1 and len(shape) != axes:
        raise InputError(
            f"{what} {grid_text(shape)!r} has {len(shape)} axes but pattern '{pattern}' has {axes}: "
            f"expected one length for each axis, e.g. {grid_text((4, 8, 8)[3 - axes :])}"
        )
    if math.prod(shape) > MAX_TILE_TOKENS:
        raise InputError(
            f"{what} {grid_text(shape)!r} has {math.prod(shape):,} tokens: expected at most {MAX_TILE_TOKENS:,}"
        )
    return shape


def tensor_rate(gpu: GPU, dtype: str) -> float:
    """FLOP per clock and SM. Raises InputError for a dtype that the GPU's tensor cores do not take."""
    gpu.peak_flops(dtype)
    return gpu.tensor_flops_per_clock_per_sm[dtype]


def single_call(
    gpu: GPU,
    profile: KernelProfile,
    workload: Workload,
    pattern: Pattern,
    tiles: tuple[Grid, Grid],
    work: TileWork,
    conditions: Conditions,
    cascade: CascadeWork | None = None,
) -> Calls:
    """One workload as arrays of length one; ``cascade`` is the algorithm where it is not the profile's own."""
    q_tile, kv_tile = tiles
    w = workload
    choice = _own_choice(profile, pattern, w, tiles)
    around = _around_bytes(profile, w, conditions)
    append = append_thread(conditions.engine, gpu.arch, DTYPE_BYTES[w.kv_dtype or w.dtype])
    tile_q = math.prod(q_tile)
    run_dim, run_dim_v = profile.head_dims.run(w.head_dim, w.dim_v, w.dtype, math.prod(kv_tile))
    value_columns = choice.value_columns if choice and choice.value_columns else MAX_HEAD_DIM
    values = {
        "batch": w.batch,
        "heads": w.heads,
        "kv_heads": w.kv_heads,
        "queries": w.tokens,
        "keys": w.kv_tokens,
        "dim": w.head_dim,
        "dim_v": w.dim_v,
        "query_bytes": DTYPE_BYTES[w.dtype],
        "kv_bytes": _kv_bytes(profile, w),
        "tensor_rate": _products_rate(gpu, w.dtype, choice),
        "tile_q": tile_q,
        "tile_kv": math.prod(kv_tile),
        "packed": packed_rows(profile, pattern, w),
        "in_flight": _residents(gpu, choice),
        "span": min(w.kv_tokens, w.tokens + pattern.left) if isinstance(pattern, Band) else math.inf,
        "axes": pattern.axes + _window_axes(profile, pattern, w),
        "mask_all": masks_all(profile, pattern, workload, tiles, work),
        "permute_axes": len(q_tile) if profile.permute and pattern.tile_axes > 1 else 0,
        # 2 for writing and reading, at the dtype that frameworks keep scores in.
        "spill_bytes": 2.0 * cascade.spilled_elements * DTYPE_BYTES[w.dtype] if cascade else 0.0,
        "passes": cascade.key_passes if cascade else 1,
        **around,
        "fused": rotates_itself(profile, w, conditions),
        "append_registers": append[0],
        "append_instructions": append[1],
        "append_warps": append_by_warps(conditions.engine) and w.head_dim == w.dim_v,
        "small_kernels": small_kernels(profile.key, conditions, w),
        "append_ctas": append_by_ctas(conditions.engine, profile.family, DTYPE_BYTES[w.kv_dtype or w.dtype]),
        "apart_s": _apart_s(gpu, w, conditions),
        "select_s": _selection_s(gpu, workload, pattern, conditions),
        "warm": conditions.warm_l2,
        "graph": conditions.graph,
        "locked_hz": math.inf if conditions.clock_hz is None else conditions.clock_hz,
        "free_s": SERVING_FREE_S if conditions.engine else FREE_S,
        "calls_before": conditions.calls_before,
        "single": choice.single if choice else False,
        "mask_stall": choice.mask_stall if choice and not windowed(profile, pattern, w) else 0.0,
        "tile_stall": _tile_stall(choice, conditions),
        "tests": tests_tiles(profile, pattern, w),
        "streams_queries": choice.streams_queries if choice else False,
        "value_parts": -(-w.dim_v // value_columns),
        **_compiled(choice),
        "run_dim": run_dim,
        "run_dim_v": min(run_dim_v, value_columns),
        "starts": work.starts,
    }
    columns = np.array(list(values.values()), dtype=np.float64).reshape(-1, 1)
    return Calls(
        **dict(zip(values, columns, strict=True)),
        visited=work.visited,
        full=work.full,
        tested=np.zeros_like(work.visited) if work.tested is None else work.tested,
        count=work.count,
        row=_FIRST,
    )


def _apart_s(gpu: GPU, w: Workload, conditions: Conditions) -> float:
    """Seconds more of an engine's call that appends keys and values of different head dims, element by element."""
    call_s = apart_s(conditions.engine)
    if not (call_s and conditions.appends and w.head_dim != w.dim_v):
        return 0.0
    return call_s + memory.put_seconds(gpu, w.batch * w.tokens * w.kv_heads * (w.head_dim + w.dim_v))


def tests_tiles(profile: KernelProfile, pattern: Pattern, workload: Workload) -> bool:
    """Whether a kernel looks at every KV tile up to the diagonal to learn whether it lies in a window."""
    return (
        profile.masking.skips_windows == "decode"
        and not profile.decodes(workload.tokens, workload.cached)
        and windowed(profile, pattern, workload)
    )


def _own_choice(profile: KernelProfile, pattern: Pattern, w: Workload, tiles: tuple[Grid, Grid]) -> TileChoice | None:
    """The kernel's own tile for a call, where these are its shapes."""
    if len(tiles[0]) != pattern.tile_axes:
        return None
    choice = tile_choice(profile, pattern, w)
    return choice if (choice.q, choice.kv) == tiles else None


def _residents(gpu: GPU, choice: TileChoice | None) -> int:
    """CTAs that share an SM: as the profile tells, else as registers and memory leave room for; 0 where neither is known."""
    if choice is None or choice.in_flight or not (choice.compiled and choice.compiled.registers):
        return choice.in_flight if choice else 0
    return choice.compiled.residents(gpu)


def _tile_stall(choice: TileChoice | None, conditions: Conditions) -> float:
    """Cycles that every KV tile takes beyond its work, in the build that the call runs."""
    if choice is None or (choice.quantised_only and not conditions.quantises):
        return 0.0
    return choice.tile_stall


_OF_CTA = ("shared_bytes", "end_cycles", "end_work_cycles", "frame_bytes", "stored_bytes", "end_stored_bytes")


def _compiled(choice: TileChoice | None) -> dict[str, float]:
    """What a compiler said of a KV tile, and of a CTA's beginning and end."""
    said = choice.compiled if choice else None
    return {name: getattr(said, name) if said else 0 for name in (*pipes.COMPILED, *_OF_CTA)}


def _window_axes(profile: KernelProfile, pattern: Pattern, w: Workload) -> float:
    """What masking a window costs beyond its own coordinate; nothing where it holds all keys (a causal call then)."""
    cuts = isinstance(pattern, Band) and pattern.left < w.kv_tokens - 1
    return profile.masking.window_axes if cuts else 0.0


def _kv_bytes(profile: KernelProfile, w: Workload) -> float:
    """Bytes per element of keys and values as the kernel reads them, the mean of cached and new ones."""
    cached = DTYPE_BYTES[w.kv_dtype or w.dtype]
    new = (
        DTYPE_BYTES[w.dtype]
        if profile.serving.prefill_reads != "cache" and not profile.decodes(w.tokens, w.cached)
        else cached
    )
    return cached + (new - cached) * min(w.tokens / w.kv_tokens, 1.0)


def _products_rate(gpu: GPU, dtype: str, choice: TileChoice | None) -> float:
    """FLOP per clock and SM of the pipe that multiplies."""
    return 2.0 * gpu.fp32_fma_per_clock_per_sm if choice and choice.cuda_cores else tensor_rate(gpu, dtype)


COS_SIN_BYTES = 8.0  # of a pair of dims: an fp32 cosine and sine
ACTIVATION_BYTES = 2.0  # queries, new keys and values as the layer before hands them over: 16 bits


def _around_bytes(profile: KernelProfile, w: Workload, conditions: Conditions) -> dict[str, float]:
    """Bytes read and written by what a call does besides attention (see Calls)."""
    tokens = w.batch * w.tokens
    query = tokens * w.heads * w.head_dim * (ACTIVATION_BYTES + DTYPE_BYTES[w.dtype])
    cast_before = append_by_warps(conditions.engine) and DTYPE_BYTES[w.dtype] < 2 and not conditions.quantises
    handed = DTYPE_BYTES[w.dtype] if cast_before else ACTIVATION_BYTES  # a warp copies bytes as they are
    stored = tokens * w.kv_heads * (w.head_dim + w.dim_v) * DTYPE_BYTES[w.kv_dtype or w.dtype]
    key = stored + tokens * w.kv_heads * (w.head_dim + w.dim_v) * handed
    rotates = conditions.rotates and not rotates_itself(profile, w, conditions)
    # Threads of every query head load its keys and values too, and the cosines and sines of the dims that are rotated.
    angles = COS_SIN_BYTES * (conditions.rotary_dim or w.head_dim) / 2.0
    traffic = query + stored + tokens * w.heads * ((w.head_dim + w.dim_v) * ACTIVATION_BYTES + angles)
    return {
        "append_bytes": key if conditions.appends else 0.0,
        "rotate_bytes": query if rotates else 0.0,
        "rotate_traffic_bytes": traffic if rotates else 0.0,
        "quantise_bytes": query if conditions.quantises and not conditions.rotates else 0.0,
    }


def rotates_itself(profile: KernelProfile, w: Workload, conditions: Conditions) -> bool:
    """Whether the attention kernel rotates the queries and appends, without a pass before it."""
    fused = profile.serving.fused
    return fused is not None and not (fused.within_heads and conditions.rotary_dim > w.head_dim)


# Index of the first class of a single call.
_FIRST = np.zeros(1, dtype=np.int64)


def _selection_s(gpu: GPU, workload: Workload, pattern: Pattern, conditions: Conditions) -> float:
    cost = pattern.selection(workload)
    if cost is None:
        return 0.0
    launch_s = gpu.graph_launch_s if conditions.graph else gpu.launch_s
    return memory.selection_seconds(gpu, cost, tensor_rate(gpu, workload.dtype), conditions.clock_hz, launch_s)


def masks_all(
    profile: KernelProfile, pattern: Pattern, workload: Workload, tiles: tuple[Grid, Grid], work: TileWork
) -> bool:
    """Whether the kernel masks every tile it visits: its own policy, not what the counts would allow."""
    if profile.masking.tiles == "partial":
        return False
    return not pattern.maskless(workload.grid, *tiles)
