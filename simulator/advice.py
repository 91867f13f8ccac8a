"""What would make a call faster, in one sentence: a tile or stride that avoids masks, or what bounds it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

from ..hwmodels import GPU
from .batch import stack
from .calibration import Calibration
from .call import single_call
from .calls import Calls
from .conditions import DEFAULT_CONDITIONS, Conditions
from .estimate import Estimate, seconds_text
from .forecast import forecast
from .patterns import Neighborhood, Pattern
from .profile import KernelProfile, load_profile
from .workload import Grid, Workload, grid_text

SAME = 1.005  # times that differ by less are the same: the finer stride is preferred
WORTH_SAYING = 0.97  # of the present time: a smaller gain is within what the model cannot tell apart
MAX_CANDIDATES = 600

BY_BOUND = {
    "launch": "Launching takes most of the time: give each call more work{graph}.",
    "latency": "Memory latency and the last wave decide: more, smaller CTAs (a smaller Q tile, more KV splits) would help.",
    "dram": "DRAM bandwidth decides: only fewer bytes help (fewer key/value heads, a narrower KV dtype).",
    "l2": "L2 bandwidth decides: a larger Q tile reads each key fewer times.",
    "sm_l2": "Each SM's path to the L2 decides: a larger Q tile reads each key fewer times.",
    "tensor": "The tensor cores decide, and no tile is wasted on masks: only fewer tiles, or a narrower dtype, help.",
    "exp": "The exponential unit decides: computing part of the exponentials on the FMA pipe would help.",
    "spill": "Accumulators that do not fit the registers decide: 16-bit products need only one.",
    "smem": "Shared-memory bandwidth decides: a larger Q tile per MMA operand read would help.",
    "alu": "The integer and compare pipe decides: a kernel that forms addresses ahead of time would help.",
    "fp32": "The fp32 pipe decides: fewer rescalings of the accumulator (larger KV tiles) would help.",
    "mask": "Masking decides: {masks}.",
    "chain": "What a tile does one after the other decides (loads, products, softmax, spilled registers), and no pipe is busy "
    "a quarter of the time: more CTAs on an SM, or loads further ahead, would help.",
}
SPILLED = (
    "Spilled registers decide, which go to DRAM: a smaller tile, or more warps for it, would keep them on the chip."
)
# What is done around the products, where it takes more than half of the time.
BY_PART = {
    "merge": "Merging the results of split keys takes {part} of {whole}: a kernel that splits them less would help.",
    "append": "Appending the new keys and values takes {part} of {whole}: attention itself is the smaller part.",
    "select": "Choosing blocks takes {part} of {whole}: choose them less often, or for more queries at once.",
}


@dataclass(frozen=True)
class Alternative:
    """Another way to run the same window, and its forecast."""

    pattern: Neighborhood
    q_tile: Grid
    kv_tile: Grid
    time_s: float
    masked: bool


def advice(
    estimate: Estimate,
    workload: Workload,
    pattern: Pattern,
    gpu: GPU,
    conditions: Conditions = DEFAULT_CONDITIONS,
    calibration: Calibration | None = None,
) -> str:
    """One sentence on what would make the estimated call faster. The arguments are those of the prediction."""
    profile = load_profile(estimate.kernel, gpu, conditions.engine)
    if calibration is not None:
        profile, gpu, _ = calibration.apply(profile, gpu, workload, conditions)
    if isinstance(pattern, Neighborhood) and pattern.order is None:
        found = alternatives(gpu, profile, workload, pattern, (estimate.q_tile, estimate.kv_tile), conditions)
        same_pattern = [choice for choice in found if choice.pattern == pattern]
        for choices in (same_pattern, found):
            best = _finest(choices)
            if best is not None and best.time_s < WORTH_SAYING * estimate.time_s:
                return _sentence(estimate, pattern, best)
    permute = estimate.parts_s["permute"]
    if permute > 0.2 * estimate.time_s:
        spent = f"takes {seconds_text(permute)} of {seconds_text(estimate.time_s)}"
        if profile.packing.by_copying:
            return f"Copying query heads that share keys side by side {spent}: a kernel that reads them in place would help."
        return f"Permuting tokens {spent}: keep them in tile order from one layer to the next."
    for name, sentence in BY_PART.items():
        if estimate.parts_s[name] > 0.5 * estimate.time_s:
            return sentence.format(part=seconds_text(estimate.parts_s[name]), whole=seconds_text(estimate.time_s))
    if estimate.bound_by == "dram" and estimate.traffic_bytes["register"] > 0.5 * estimate.traffic_bytes["dram"]:
        return SPILLED
    return BY_BOUND[estimate.bound_by].format(
        graph="" if conditions.graph else ", or launch it in a CUDA graph",
        masks="no stride or tile of this kernel avoids it for this window"
        if isinstance(pattern, Neighborhood)
        else "smaller tiles would leave fewer pairs to mask",
    )


def _finest(choices: list[Alternative]) -> Alternative | None:
    """Of those that take as little time as any, the one of the finest stride; None of none."""
    fastest_s = min((choice.time_s for choice in choices), default=0.0)
    same = [choice for choice in choices if choice.time_s <= SAME * fastest_s]
    return min(same, key=lambda choice: (math.prod(choice.pattern.stride), choice.time_s), default=None)


def _sentence(estimate: Estimate, pattern: Neighborhood, best: Alternative) -> str:
    changes = []
    if best.pattern.stride != pattern.stride:
        changes.append(f"stride {grid_text(best.pattern.stride)}")
    if (best.q_tile, best.kv_tile) != (estimate.q_tile, estimate.kv_tile):
        changes.append(f"tiles {grid_text(best.q_tile)} | {grid_text(best.kv_tile)}")
    masks = "fewer tiles" if best.masked else "no masks"
    return (
        f"With {' and '.join(changes)} the same window needs {masks}: {seconds_text(best.time_s)} instead of "
        f"{seconds_text(estimate.time_s)} ({estimate.time_s / best.time_s:.2f}x)."
    )


def alternatives(
    gpu: GPU,
    profile: KernelProfile,
    workload: Workload,
    pattern: Neighborhood,
    tiles: tuple[Grid, Grid],
    conditions: Conditions,
) -> list[Alternative]:
    """Forecasts of the same window with other strides and the tiles that the kernel offers, in one vectorised call."""
    shapes = [(choice.q, choice.kv) for choice in profile.alternatives(pattern.tile_axes, workload.head_dim)]
    if tiles not in shapes:
        shapes.append(tiles)
    candidates: list[tuple[Neighborhood, tuple[Grid, Grid]]] = []
    for shape in shapes:
        axes = zip(pattern.window, pattern.stride, shape[0], strict=True)
        strides = [sorted({s, w, *(t for t in (tq, 2 * tq) if t <= w)}) for w, s, tq in axes]
        candidates += [(replace(pattern, stride=stride), shape) for stride in itertools.product(*strides)]
    candidates = candidates[:MAX_CANDIDATES]
    calls: list[Calls] = []
    for other, shape in candidates:
        work = other.tile_work(workload, *shape, profile.kv_tiling)
        calls.append(single_call(gpu, profile, workload, other, shape, work, conditions))
    costs = forecast(gpu, profile, stack(calls))
    return [
        Alternative(other, *shape, float(time_s), bool(mask))
        for (other, shape), time_s, mask in zip(candidates, costs.time_s, costs.limits["mask"] > 0, strict=True)
        if math.isfinite(time_s)
    ]
