"""From a workload, a pattern, a GPU and a kernel to an Estimate: the walk of design step 1 to 7 for one call."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Final, Literal

import numpy as np

from ..hwmodels import GPU, load_gpu
from .calibration import Calibration, use_of
from .call import kernel_work, masks_all, packed_rows, resolve_tiles, single_call
from .calls import Costs
from .cascade_call import cascade_work, streaming
from .cascade_call import notes as cascade_notes
from .checked import unfitted_note
from .clock import highest_hz
from .conditions import DEFAULT_CONDITIONS, Conditions
from .estimate import Baseline, Estimate, mean_estimate, with_whole_run
from .forecast import forecast
from .kernel_choice import baseline_profile, choose_profile
from .patterns import Band, Pattern, parse_pattern
from .profile import KernelProfile
from .schedule import Dispatch, history_parts
from .tiles import TileWork
from .workload import DTYPE_BYTES, Grid, Workload


def predict(
    workload: Workload,
    pattern: Pattern | str = "dense",
    gpu: GPU | str = "h100",
    kernel: str = "auto",
    *,
    cascade: str | None = None,
    baseline: str | None = None,
    q_tile: Grid | str | int | None = None,
    kv_tile: Grid | str | int | None = None,
    attention_share: float | None = None,
    sparse_share: float = 1.0,
    conditions: Conditions = DEFAULT_CONDITIONS,
    calibration: Calibration | None = None,
) -> Estimate:
    """Forecast one attention call.

    Args:
        workload: shapes and dtype.
        pattern: a pattern or its text, e.g. ``"na window=18x24x24 stride=16x8x8"``.
        gpu: a name, a path to a TOML file, or a GPU.
        kernel: a kernel profile, the path of one's own (a TOML file), or "auto": what a user of this GPU would run.
        cascade: another algorithm than the kernel's own: a name in the cascade library or the path of a file. The kernel
            ("auto": triton) says how it is tiled and overlapped.
        baseline: the dense kernel to compare with; the best one of this GPU when None.
        q_tile, kv_tile: tile shapes, tokens per axis; the kernel's own default when None.
        attention_share: share of the whole run that dense attention takes (0 to 1), for the end-to-end speedup.
        sparse_share: share of the run's steps that use the pattern (0 to 1).
        conditions: how the call is run.
        calibration: fitted constants in place of the priors (see load_calibration).

    Raises:
        InputError: anything of the above is wrong or does not fit together; one sentence that quotes it.
    """
    gpu = load_gpu(gpu) if isinstance(gpu, str) else gpu
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    pattern.check(workload)
    conditions.check(gpu)
    layers = pattern.layers()
    if len(layers) > 1:
        options = {
            "cascade": cascade,
            "baseline": baseline,
            "q_tile": q_tile,
            "kv_tile": kv_tile,
            "conditions": conditions,
            "calibration": calibration,
        }
        estimates = [predict(workload, part, gpu, kernel, **options) for _, part in layers]  # type: ignore[arg-type]
        estimate = mean_estimate(pattern, [weight for weight, _ in layers], estimates)
        return with_whole_run(estimate, attention_share, sparse_share)
    algorithm = cascade_work(cascade) if cascade is not None else None
    if algorithm is not None and kernel == "auto":
        kernel = "triton"
    profile = _profile(kernel, gpu, pattern, workload, conditions)
    plain_gpu = gpu
    fit_note = ""
    if calibration is not None:
        profile, gpu, fit_note = calibration.apply(profile, gpu, workload, conditions)
    tiles = resolve_tiles(profile, pattern, workload, q_tile, kv_tile)
    work = kernel_work(profile, pattern, workload, tiles)
    calls = single_call(gpu, profile, workload, pattern, tiles, work, conditions, algorithm)
    if algorithm is not None and algorithm.operations is None:
        costs = streaming(gpu, profile, workload, algorithm, calls)
    else:
        costs = forecast(gpu, profile, calls, algorithm.operations if algorithm else None)
    gpu_baseline = dense_baseline(workload, plain_gpu, baseline, conditions, calibration)
    parts = {name: float(value[0]) for name, value in costs.parts.items()}
    time_s = math.fsum(parts.values())
    estimate = Estimate(
        gpu=gpu.key,
        kernel=profile.key,
        title=profile.title if algorithm is None else f"{profile.title} running cascade {algorithm.cascade.name}",
        pattern=str(pattern),
        q_tile=tiles[0],
        kv_tile=tiles[1],
        time_s=time_s,
        kernel_time_s=float(costs.kernel_s[0]),
        time_low_s=time_s * math.exp(-profile.interval),
        time_high_s=time_s * math.exp(profile.interval),
        parts_s=parts,
        limits_s={name: float(value[0]) for name, value in costs.limits.items()},
        bound_by=bound_by(costs),
        work=work,
        splits=int(costs.splits[0]),
        baseline=gpu_baseline,
        notes=(
            _evidence_note(fit_note, calibration, gpu, profile, workload, pattern, conditions, time_s),
            *pattern.notes,
            *_notes(workload, gpu, profile, pattern, tiles, work),
            *_clock_notes(float(highest_hz(gpu, calls.locked_hz)[0]), float(costs.clock_hz[0])),
            *(cascade_notes(algorithm) if algorithm is not None else ()),
            *_spill_notes(costs),
        ),
        traffic_bytes={
            name: float(getattr(costs.traffic, f"{name}_bytes")[0]) for name in ("unique", "issued", "dram", "register")
        },
        dispatch=_dispatch(costs, gpu, profile, work),
    )
    return with_whole_run(estimate, attention_share, sparse_share)


def dense_baseline(
    workload: Workload,
    gpu: GPU,
    kernel: str | None,
    conditions: Conditions,
    calibration: Calibration | None = None,
) -> Baseline:
    """Time of the same workload without a pattern; on the GPU's best dense kernel when ``kernel`` is None.

    Raises:
        InputError: the kernel cannot run it.
    """
    if kernel is None:
        best = baseline_profile(gpu, workload.dtype, workload.head_dim, conditions.engine, workload.dim_v)
        profile = best.program_of(workload)
    else:
        profile = _profile(kernel, gpu, Band(), workload, conditions)
    return _dense(workload, gpu, profile, conditions, calibration)


def _profile(kernel: str, gpu: GPU, pattern: Pattern, w: Workload, conditions: Conditions) -> KernelProfile:
    """The kernel that serves the call where ``kernel`` is asked for; decoding may be left to another."""
    profile = choose_profile(
        kernel, gpu, pattern.family, w.dtype, w.head_dim, w.tokens, w.gqa_ratio, conditions.engine,
        w.kv_dtype or w.dtype, history_parts(w.batch, w.kv_heads, w.kv_tokens), pattern.tile_axes, w.dim_v,
    )  # fmt: skip
    return profile.program_of(w)


@lru_cache(maxsize=1024)
def _dense(
    workload: Workload, gpu: GPU, profile: KernelProfile, conditions: Conditions, calibration: Calibration | None
) -> Baseline:
    if calibration is not None:
        profile, gpu, _ = calibration.apply(profile, gpu, workload, conditions)
    pattern = Band()
    tiles = resolve_tiles(profile, pattern, workload, None, None)
    work = kernel_work(profile, pattern, workload, tiles)
    costs = forecast(gpu, profile, single_call(gpu, profile, workload, pattern, tiles, work, conditions))
    return Baseline(profile.key, float(costs.time_s[0]))


LEAST_BUSY = (
    0.25  # share of the tiles' time below which a pipe decides nothing; perfect turns of four pipes come to as much
)


def bound_by(costs: Costs, call: int = 0) -> str:
    """The resource that decides the time of one call, by its index; the first when left out.

    "launch" or "latency" when more than half of the time is overhead; "dram" or "l2" when memory outlasts the SMs;
    otherwise the slowest pipe of the SM ("mask" when comparing coordinates is what fills the compare pipe), or "chain" where
    that one is idle most of the time: loads, products, softmax and spilled registers of a tile wait for one another.
    """
    parts = {name: float(value[call]) for name, value in costs.parts.items()}
    limits = {name: float(value[call]) for name, value in costs.limits.items()}
    kernel_s = float(costs.kernel_s[call])
    if parts["launch"] + parts["merge"] > 0.5 * kernel_s:
        return "launch"
    dram_or_l2 = "dram" if limits["dram"] >= limits["l2"] else "l2"
    if parts["memory"] > 0 and limits[dram_or_l2] >= 0.5 * kernel_s:
        return dram_or_l2
    if parts["schedule"] > 0.5 * kernel_s:
        return "latency"
    alu = limits["alu"] + limits["mask"]
    pipes: dict[str, float] = {
        name: limits[name] for name in ("tensor", "exp", "fp32", "smem", "sm_l2", "spill") if name in limits
    }
    pipes["mask" if limits["mask"] > limits["alu"] else "alu"] = alu
    slowest = max(pipes, key=lambda name: pipes[name])
    return slowest if pipes[slowest] >= LEAST_BUSY * parts["tiles"] else "chain"


# Which CTAs an order begins with, where not the longest.
_FIRST: Final[Mapping[str, Literal["shortest", "any"]]] = {"by-tile": "shortest", "launch": "any"}


def _dispatch(costs: Costs, gpu: GPU, profile: KernelProfile, work: TileWork) -> Dispatch | None:
    if costs.cta_cycles is None or costs.cta_count is None or costs.fill_s is None or costs.compute_s is None:
        return None
    first: Literal["longest", "shortest", "any"] = _FIRST.get(profile.order, "longest")
    span_s = float(costs.compute_s[0])
    return Dispatch(
        costs.cta_cycles / costs.clock_hz[0], np.ceil(work.visited / costs.splits[0]), costs.cta_count, gpu.sms, first,
        float(costs.fill_s[0]), span_s,
    )  # fmt: skip


def _notes(
    workload: Workload, gpu: GPU, profile: KernelProfile, pattern: Pattern, tiles: tuple[Grid, Grid], work: TileWork
) -> list[str]:
    notes = []
    w = workload
    elements = w.batch * (
        w.tokens * w.heads * (w.head_dim + w.dim_v) + w.kv_tokens * w.kv_heads * (w.head_dim + w.dim_v)
    )
    size = elements * DTYPE_BYTES[w.dtype]
    if size > gpu.dram_bytes:
        notes.append(f"Q, K, V and O take {size / 1e9:,.0f} GB; {gpu.key} has {gpu.dram_bytes / 1e9:,.0f} GB.")
    notes += _padding_notes(workload, profile, tiles)
    if masks_all(profile, pattern, workload, tiles, work):
        notes.append(f"{profile.title} masks every tile of this pattern, {work.full_total:,} full ones included.")
    packed = packed_rows(profile, pattern, workload)
    ended = replace(profile, masking=replace(profile.masking, empty_rows=False)) if profile.masking.empty_rows else None
    if ended and work.visited_total > kernel_work(ended, pattern, w, tiles).visited_total:
        notes.append(
            "The last Q tile visits KV tiles of no key: it goes on to the diagonal of rows that hold no query."
        )
    if packed > 1:
        notes.append(
            f"A Q tile's rows are tokens of {packed} query heads that share keys; the tile counts are of all {packed}."
        )
    if not work.visited_total:
        notes.append("The pattern keeps no query-key pair.")
    return notes


def _evidence_note(
    fit_note: str,
    calibration: Calibration | None,
    gpu: GPU,
    profile: KernelProfile,
    workload: Workload,
    pattern: Pattern,
    conditions: Conditions,
    time_s: float,
) -> str:
    """What holds the forecast, and in what the call lies outside of that."""
    if calibration is None:
        return unfitted_note(gpu, profile.key, workload, pattern, time_s)
    use = use_of(gpu, profile.key, workload, conditions.engine)
    return fit_note + calibration.outside(use, workload, pattern, time_s)


def _padding_notes(w: Workload, profile: KernelProfile, tiles: tuple[Grid, Grid]) -> list[str]:
    run = profile.head_dims.run(w.head_dim, w.dim_v, w.dtype, math.prod(tiles[1]))
    if run == (w.head_dim, w.dim_v):
        return []
    zeros = f"{1.0 - (w.head_dim + w.dim_v) / sum(run):.0%} of the products are of zeros."
    if w.head_dim == w.dim_v and run[0] == run[1]:
        return [f"Head dim {w.head_dim} runs as {run[0]}: {zeros}"]
    return [f"Head dims {w.head_dim} (keys) and {w.dim_v} (values) run as {run[0]} and {run[1]}: {zeros}"]


def _spill_notes(costs: Costs) -> list[str]:
    """What spilled registers add to the traffic of a call."""
    written = float(np.sum(costs.traffic.register_bytes))
    if not written:
        return []
    return [f"Registers spill: {written / 1e9:,.2f} GB of them go to DRAM: CTAs in flight hold more than the L2 keeps."]


def _clock_notes(free_hz: float, held_hz: float) -> list[str]:
    if held_hz > 0.995 * free_hz:
        return []
    return [f"The power limit holds the SMs at {held_hz / 1e6:,.0f} of {free_hz / 1e6:,.0f} MHz on average."]
