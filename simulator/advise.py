"""Search neighborhood patterns: the fastest window, stride, tiles, kernel and token order that keep a share of the pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..hwmodels import GPU
from .advice import SAME
from .batch import stack
from .call import masks_all, single_call
from .conditions import DEFAULT_CONDITIONS, Conditions
from .estimate import seconds_text
from .forecast import forecast
from .kernel_choice import kernels_for
from .patterns import Neighborhood, parse_pattern
from .predict import dense_baseline, predict
from .profile import KernelProfile
from .tile_table import TileChoice
from .workload import Grid, Workload, grid_text, parse_grid

SLACK = 1.10  # windows may keep up to this much more than was asked for
MAX_WINDOWS = 400
LEADING = 8  # windows that are searched again with more strides
MAX_STRIDE_TILES = 8  # longest stride, in Q tiles


@dataclass(frozen=True)
class Option:
    """One way to keep the share: a pattern, how a kernel tiles it, and its forecast.

    Attributes:
        coverage: share of all keys that each query keeps. visited: KV tiles of the busiest Q tile.
        masked: whether the kernel masks tiles element by element. time_s: all a user waits for. order: of tokens in memory.
    """

    pattern: Neighborhood
    kernel: str
    q_tile: Grid
    kv_tile: Grid
    order: str
    coverage: float
    visited: int
    masked: bool
    time_s: float
    kernel_time_s: float

    def to_dict(self, baseline_s: float) -> dict[str, Any]:
        """The JSON form."""
        return {
            "pattern": str(self.pattern),
            "kernel": self.kernel,
            "q_tile": grid_text(self.q_tile),
            "kv_tile": grid_text(self.kv_tile),
            "order": self.order,
            "coverage": self.coverage,
            "visited_max": self.visited,
            "masked": self.masked,
            "time_s": self.time_s,
            "kernel_time_s": self.kernel_time_s,
            "speedup": baseline_s / self.time_s,
        }


@dataclass(frozen=True)
class Advice:
    """What a search found.

    Attributes:
        best: the fastest option; of equally fast ones the finest stride. windows: the best option of other windows, fastest
            first. alternatives: the best window otherwise run, each with a sentence on what it costs.
        searched: options forecast. baseline_s: the GPU's best dense kernel.
    """

    best: Option
    windows: tuple[Option, ...]
    alternatives: tuple[tuple[Option, str], ...]
    searched: int
    baseline_kernel: str
    baseline_s: float


def advise(
    workload: Workload,
    gpu: GPU,
    coverage: float,
    *,
    window: Grid | str | None = None,
    kernel: str = "auto",
    conditions: Conditions = DEFAULT_CONDITIONS,
) -> Advice:
    """Search windows, strides, tiles, kernels and token orders.

    Args:
        coverage: share of the keys that every query shall keep, above 0 and at most 1.
        window: search this window only.
        kernel: search this kernel only; "auto": every kernel of the GPU that takes neighborhood patterns.

    Raises:
        InputError: a share out of range, a window that does not fit, a kernel without neighborhood patterns.
    """
    if not 0.0 < coverage <= 1.0:
        raise InputError(f"coverage {coverage:g} is out of range: expected a share above 0 and at most 1, e.g. 0.09")
    profiles = kernels_for(
        gpu, "na", workload.dtype, workload.head_dim, kernel, len(workload.grid), value_dim=workload.dim_v
    )
    windows = [_window(workload, window)] if window is not None else _windows(workload, profiles, coverage)
    options = [o for p in profiles for o in _options(workload, gpu, p, windows, 1, conditions)]
    leading = list(dict.fromkeys(o.pattern.window for o in sorted(options, key=lambda o: o.time_s)))[:LEADING]
    options += [o for p in profiles for o in _options(workload, gpu, p, leading, MAX_STRIDE_TILES, conditions)]
    options = list(dict.fromkeys(options))
    fastest = min(option.time_s for option in options)
    best = min(
        (o for o in options if o.time_s <= SAME * fastest),
        key=lambda o: (_coarseness(o), _skew(o.pattern.window, workload.grid), o.time_s),
    )
    others: dict[Grid, Option] = {}

    def rank(option: Option) -> tuple[float, ...]:
        # Times that are the same by SAME fall into one step; then the grid's proportions, then the finer stride.
        step = round(math.log(option.time_s / fastest) / math.log(SAME))
        return step, _skew(option.pattern.window, workload.grid), _coarseness(option), option.time_s

    for option in sorted(options, key=rank):
        if option.pattern.window != best.pattern.window:
            others.setdefault(option.pattern.window, option)
    baseline = dense_baseline(workload, gpu, None, conditions)
    return Advice(
        best,
        tuple(others.values())[:4],
        tuple(_alternatives(workload, gpu, best, options, conditions)),
        len(options),
        baseline.kernel,
        baseline.time_s,
    )


def _coarseness(option: Option) -> int:
    """Queries that share one window: 1 is a true sliding window."""
    return math.prod(option.pattern.stride)


def _window(workload: Workload, window: Grid | str) -> Grid:
    shape = parse_grid(window if isinstance(window, str) else grid_text(window), "window")
    Neighborhood(shape, (1,) * len(shape), (1,) * len(shape), (False,) * len(shape)).check(workload)
    return shape


def _tile_choices(profile: KernelProfile, workload: Workload) -> list[TileChoice]:
    return profile.alternatives(len(workload.grid), max(workload.head_dim, workload.dim_v))


def _windows(workload: Workload, profiles: list[KernelProfile], coverage: float) -> list[Grid]:
    """Windows of whole KV tiles that keep the share and at most a little more; closest to it first."""
    steps = [
        sorted({c.kv[axis] for p in profiles for c in _tile_choices(p, workload)}) for axis in range(len(workload.grid))
    ]
    lengths = [
        sorted({length, *(n for step in axis_steps for n in range(step, length + 1, step))})
        for length, axis_steps in zip(workload.grid, steps, strict=True)
    ]
    found: list[tuple[float, Grid]] = []
    closest: tuple[float, Grid] | None = None
    # Lengths of the last axis follow from the others: the shortest that keep the share.
    for head in itertools.product(*lengths[:-1]):
        share = math.prod(head) / workload.tokens
        for last in lengths[-1]:
            kept = share * last
            if kept < coverage * (1 - 1e-9):
                continue
            closest = min(closest or (kept, (*head, last)), (kept, (*head, last)))
            if kept <= SLACK * coverage:
                found.append((kept, (*head, last)))
            break
    if not found:
        assert closest is not None  # the whole grid keeps every share
        found = [closest]
    # Between windows of one share, those of the grid's proportions come first: they reach equally far on every axis.
    found.sort(key=lambda item: (_skew(item[1], workload.grid), item[0]))
    return [shape for _, shape in found[:MAX_WINDOWS]]


def _skew(window: Grid, grid: Grid) -> float:
    shares = [w / length for w, length in zip(window, grid, strict=True)]
    return max(shares) / min(shares)


def _strides(window: Grid, q_tile: Grid, longest: int) -> Iterator[Grid]:
    """Per axis 1, or a power of two of Q tiles up to ``longest`` of them; and the blocked stride, the window itself."""
    powers = [2**n for n in range(longest.bit_length())]
    yield from itertools.product(
        *(sorted({1, *(min(t * n, w) for n in powers)}) for t, w in zip(q_tile, window, strict=True))
    )
    yield window


def _options(
    workload: Workload, gpu: GPU, profile: KernelProfile, windows: list[Grid], longest: int, conditions: Conditions
) -> list[Option]:
    axes = len(workload.grid)
    plain = ((1,) * axes, (False,) * axes)
    cases = [
        (Neighborhood(window, stride, *plain), (choice.q, choice.kv))
        for window in windows
        for choice in _tile_choices(profile, workload)
        for stride in _strides(window, choice.q, longest)
    ]
    works = [pattern.tile_work(workload, *tiles, profile.kv_tiling) for pattern, tiles in cases]
    calls = [
        single_call(gpu, profile, workload, pattern, tiles, work, conditions)
        for (pattern, tiles), work in zip(cases, works, strict=True)
    ]
    costs = forecast(gpu, profile, stack(calls))
    order = "tiles (permuted)" if profile.permute else "row"
    return [
        Option(
            pattern,
            profile.key,
            *tiles,
            order=order,
            coverage=math.prod(pattern.window) / workload.tokens,
            visited=work.visited_max,
            masked=work.needs_mask or masks_all(profile, pattern, workload, tiles, work),
            time_s=float(costs.time_s[index]),
            kernel_time_s=float(costs.kernel_s[index]),
        )
        for index, ((pattern, tiles), work) in enumerate(zip(cases, works, strict=True))
    ]


def _alternatives(
    workload: Workload, gpu: GPU, best: Option, options: list[Option], conditions: Conditions
) -> Iterator[tuple[Option, str]]:
    """The best window otherwise run: finer and coarser strides, other tiles and kernels, tokens left in row order."""

    def say(option: Option) -> str:
        ratio = option.time_s / best.time_s
        return f"{seconds_text(option.time_s)}, {ratio:.2f}x the time"

    same = [o for o in options if o.pattern.window == best.pattern.window and o != best]
    finest = [o for o in same if _coarseness(o) == 1]
    if finest and _coarseness(best) > 1:
        option = min(finest, key=lambda o: o.time_s)
        yield option, f"a true sliding window (stride 1): {say(option)}"
    coarser = [
        o
        for o in same
        if (o.kernel, o.q_tile, o.kv_tile) == (best.kernel, best.q_tile, best.kv_tile)
        and o.visited == best.visited
        and _coarseness(o) > _coarseness(best)
    ]
    for option in coarser[:1]:
        yield (
            option,
            (
                f"stride {grid_text(option.pattern.stride)} visits the same {option.visited} tiles as "
                f"{grid_text(best.pattern.stride)} and gains nothing: {say(option)}"
            ),
        )
    tiles = [o for o in same if o.kernel == best.kernel and (o.q_tile, o.kv_tile) != (best.q_tile, best.kv_tile)]
    tiles = [o for o in tiles if o.pattern == best.pattern]
    if tiles:
        option = min(tiles, key=lambda o: o.time_s)
        yield option, f"other tiles, same pattern: {say(option)}"
    for kernel in sorted({o.kernel for o in same} - {best.kernel}):
        option = min((o for o in same if o.kernel == kernel), key=lambda o: o.time_s)
        yield option, f"kernel {kernel}: {say(option)}"
    if len(workload.grid) > 1:
        yield from _row_order(workload, gpu, best, conditions, say)


def _row_order(
    workload: Workload, gpu: GPU, best: Option, conditions: Conditions, say: Any
) -> Iterator[tuple[Option, str]]:
    """FlexAttention on tokens as they lie: nothing is permuted, but a tile of 128 tokens is a line of the grid."""
    try:
        pattern = parse_pattern(f"{best.pattern} order=row")
        estimate = predict(workload, pattern, gpu, "flex", conditions=conditions)
    except InputError:
        return  # no such kernel on this GPU, or not for this dtype
    option = replace(
        best,
        kernel="flex",
        q_tile=estimate.q_tile,
        kv_tile=estimate.kv_tile,
        order="row",
        visited=estimate.work.visited_max,
        masked=estimate.limits_s["mask"] > 0,
        time_s=estimate.time_s,
        kernel_time_s=estimate.kernel_time_s,
    )
    yield option, f"tokens left in row order, FlexAttention's BlockMask: {say(option)}"
