"""What surrounds a forecast: its roofline, and forecasts of the same call with other hardware, tiles, strides and kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..errors import InputError
from ..files import names_file
from ..hwmodels import GPU
from .advice import alternatives
from .calibration import Calibration
from .conditions import Conditions
from .estimate import Estimate
from .kernel_choice import kernels_for
from .patterns import Neighborhood, Pattern
from .profile import load_profile
from .workload import Workload, grid_text

FACTORS: Final = (0.8, 1.25)  # each way by the same ratio


@dataclass(frozen=True)
class Roofline:
    """A kernel beside what its GPU can do.

    Attributes:
        peak_flops_s, sustained_flops_s: dense tensor throughput at the stated clock and at the one held under load.
        dram_bytes_s, l2_bytes_s: bandwidths that kernels achieve.
        flops: of the kept pairs, two for a multiply-add. dram_bytes, l2_bytes: what the kernel moves through each.
        seconds: the kernel's.
    """

    peak_flops_s: float
    sustained_flops_s: float
    dram_bytes_s: float
    l2_bytes_s: float
    flops: float
    dram_bytes: float
    l2_bytes: float
    seconds: float


@dataclass(frozen=True)
class Change:
    """The forecast when one figure of the GPU is ``factor`` times what it is."""

    what: str
    factor: float
    time_s: float


@dataclass(frozen=True)
class Otherwise:
    """The forecast when the call is run another way: ``kind`` is "tiles", "stride" or "kernel", ``chosen`` what is run now."""

    kind: str
    what: str
    time_s: float
    masked_tiles: bool
    chosen: bool


@dataclass(frozen=True)
class Explanation:
    """Roofline, sensitivity to the hardware, and other ways to run the call, fastest first."""

    roofline: Roofline
    changes: tuple[Change, ...]
    others: tuple[Otherwise, ...]


def explain(
    again: Callable[..., Estimate],
    estimate: Estimate,
    workload: Workload,
    pattern: Pattern,
    gpu: GPU,
    conditions: Conditions,
    calibration: Calibration | None = None,
) -> Explanation:
    """Forecast the call again with one thing changed at a time.

    Args:
        again: forecasts the call: ``again(gpu, **changes)``, changes being keywords of ``predict``.
        estimate: what it gives unchanged. The rest are the arguments of that prediction.
    """
    others = sorted(_others(again, estimate, workload, pattern, gpu, conditions, calibration), key=lambda o: o.time_s)
    return Explanation(_roofline(estimate, workload, gpu), tuple(_changes(again, gpu)), tuple(others))


def _roofline(estimate: Estimate, workload: Workload, gpu: GPU) -> Roofline:
    peak = gpu.peak_flops(workload.dtype)
    heads = workload.batch * workload.heads
    return Roofline(
        peak_flops_s=peak,
        sustained_flops_s=peak * gpu.sustained_clock_fraction,
        dram_bytes_s=gpu.dram_bandwidth_bytes_s * gpu.dram_efficiency,
        l2_bytes_s=gpu.l2_bandwidth_bytes_s,
        flops=2.0 * estimate.work.pairs * heads * (workload.head_dim + workload.dim_v),
        dram_bytes=estimate.traffic_bytes["dram"],
        l2_bytes=estimate.traffic_bytes["issued"],
        seconds=estimate.kernel_time_s,
    )


def _changes(again: Callable[..., Estimate], gpu: GPU) -> Iterator[Change]:
    for factor in FACTORS:
        sms = round(gpu.sms * factor)
        # Stated peaks follow clock and SMs: a GPU checks that they agree.
        for what, fields in {
            "SM clock": {
                "clock_hz": gpu.clock_hz * factor,
                "clock_max_hz": gpu.clock_max_hz * factor,
                "tensor_peak_flops": gpu.tensor_peak_flops * factor,
            },
            "SMs": {"sms": sms, "tensor_peak_flops": gpu.tensor_peak_flops * sms / gpu.sms},
            "exponential rate": {"exp_per_clock_per_sm": gpu.exp_per_clock_per_sm * factor},
            "L2 bandwidth": {"l2_bandwidth_bytes_s": gpu.l2_bandwidth_bytes_s * factor},
            "DRAM bandwidth": {"dram_bandwidth_bytes_s": gpu.dram_bandwidth_bytes_s * factor},
            "memory latency": {"dram_latency_s": gpu.dram_latency_s * factor},
            "launch time": {"launch_s": gpu.launch_s * factor, "graph_launch_s": gpu.graph_launch_s * factor},
        }.items():
            try:
                altered = replace(gpu, **fields)  # type: ignore[arg-type]
            except InputError:  # no such GPU can be: its DRAM would outrun its L2
                continue
            yield Change(what, factor, again(altered).time_s)


def _others(
    again: Callable[..., Estimate],
    estimate: Estimate,
    workload: Workload,
    pattern: Pattern,
    gpu: GPU,
    conditions: Conditions,
    calibration: Calibration | None,
) -> Iterator[Otherwise]:
    if len(pattern.layers()) > 1:
        return  # kernels and tiles differ by layer
    head_dim = max(workload.head_dim, workload.dim_v)
    profile = load_profile(estimate.kernel, gpu, conditions.engine)
    if calibration is not None:
        profile, gpu_fitted, _ = calibration.apply(profile, gpu, workload, conditions)
    else:
        gpu_fitted = gpu
    shown = (estimate.q_tile, estimate.kv_tile)
    shapes = dict.fromkeys([shown, *((c.q, c.kv) for c in profile.alternatives(pattern.tile_axes, head_dim))])
    for q_tile, kv_tile in shapes:
        other = again(gpu, kernel=estimate.kernel, q_tile=q_tile, kv_tile=kv_tile)
        what = f"{grid_text(q_tile)} | {grid_text(kv_tile)}"
        yield Otherwise("tiles", what, other.time_s, other.limits_s["mask"] > 0, (q_tile, kv_tile) == shown)
    if isinstance(pattern, Neighborhood) and pattern.order is None:
        for choice in alternatives(gpu_fitted, profile, workload, pattern, shown, conditions):
            if (choice.q_tile, choice.kv_tile) == shown:
                same = choice.pattern.stride == pattern.stride
                yield Otherwise("stride", grid_text(choice.pattern.stride), choice.time_s, choice.masked, same)
    try:
        kernels = kernels_for(
            gpu, pattern.family, workload.dtype, workload.head_dim, axes=pattern.tile_axes, value_dim=workload.dim_v
        )
    except InputError:
        kernels = []
    if names_file(profile.key):  # the user's own, which no list has
        kernels.append(profile)
    for kernel in kernels:
        own = kernel.key == estimate.kernel
        try:
            other = estimate if own else again(gpu, kernel=kernel.key, q_tile=None, kv_tile=None)
        except InputError:  # no tile of its own for this head dimension
            continue
        yield Otherwise("kernel", kernel.key, other.time_s, other.limits_s["mask"] > 0, own)
