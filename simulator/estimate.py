"""The result of a prediction: seconds, an interval, what bounds it, and the parts, which add up exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .html import html_table
from .patterns.base import Pattern
from .schedule import Dispatch
from .tiles import TileWork, mean_work
from .workload import Grid, grid_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def end_to_end(speedup: float, attention_share: float, sparse_share: float) -> float:
    """Speedup of a whole run in which attention takes a share f of the time and is sparse in a share p of the steps.

    Amdahl's law: 1 / (1 - f p + f p / S).
    """
    touched = attention_share * sparse_share
    return 1.0 / (1.0 - touched + touched / speedup)


@dataclass(frozen=True)
class EndToEnd:
    """Speedups of a whole run: predicted, and with the pattern's bounds in place of the prediction."""

    attention_share: float
    sparse_share: float
    speedup: float
    bound_flop: float
    bound_tiles_max: float


@dataclass(frozen=True)
class Baseline:
    """The dense kernel that a pattern is compared with, on the same GPU."""

    kernel: str
    time_s: float


@dataclass(frozen=True)
class Estimate:
    """A forecast of one attention call on one GPU with one kernel. Prints itself.

    Attributes:
        gpu, kernel, title: keys of the GPU and the kernel profile, and the profile's own name for this GPU.
        pattern: as text. q_tile, kv_tile: tokens per axis.
        time_s: all a user waits for; ``math.fsum(parts_s.values())``.
        kernel_time_s: the attention kernel alone, without token permutation and other extra passes.
        time_low_s, time_high_s: 80% interval of time_s.
        parts_s: seconds by part (see Costs.parts). limits_s: seconds that each resource alone would take.
        bound_by: the resource that decides.
        work: the tiles. splits: parts that the keys are cut into.
        traffic_bytes: bytes of the kernel: "unique", each tensor once; "issued" to the L2; "dram", what reaches DRAM;
            "register", spilled registers among that.
        dispatch: its CTAs and the SMs they go to; None for a cascade that streams tokens.
        notes: what the user should know, one sentence each.
    """

    gpu: str
    kernel: str
    title: str
    pattern: str
    q_tile: Grid
    kv_tile: Grid
    time_s: float
    kernel_time_s: float
    time_low_s: float
    time_high_s: float
    parts_s: dict[str, float]
    limits_s: dict[str, float]
    bound_by: str
    work: TileWork
    splits: int
    baseline: Baseline
    end_to_end: EndToEnd | None = None
    notes: tuple[str, ...] = ()
    traffic_bytes: dict[str, float] = field(default_factory=dict)
    dispatch: Dispatch | None = None

    @property
    def speedup(self) -> float:
        """Time of the baseline over this time."""
        return self.baseline.time_s / self.time_s

    def to_dict(self) -> dict[str, Any]:
        """The JSON form of one result."""
        work = self.work
        result: dict[str, Any] = {
            "gpu": self.gpu,
            "kernel": self.kernel,
            "kernel_title": self.title,
            "pattern": self.pattern,
            "q_tile": grid_text(self.q_tile),
            "kv_tile": grid_text(self.kv_tile),
            "time_s": self.time_s,
            "kernel_time_s": self.kernel_time_s,
            "time_low_s": self.time_low_s,
            "time_high_s": self.time_high_s,
            "baseline_kernel": self.baseline.kernel,
            "baseline_time_s": self.baseline.time_s,
            "speedup": self.speedup,
            "bounds": bounds_dict(work),
            "tiles": tiles_dict(work),
            "bound_by": self.bound_by,
            "parts_s": self.parts_s,
            "limits_s": self.limits_s,
            "kv_splits": self.splits,
            "notes": list(self.notes),
        }
        if self.end_to_end is not None:
            result["end_to_end"] = {
                "speedup": self.end_to_end.speedup,
                "bound_flop": self.end_to_end.bound_flop,
                "bound_tiles_max": self.end_to_end.bound_tiles_max,
            }
        return result

    def __str__(self) -> str:
        lines = [
            f"{self.pattern} on {self.gpu} with {self.title} (tiles {grid_text(self.q_tile)} | {grid_text(self.kv_tile)})",
            f"  time      {seconds_text(self.time_s)}  (80%: {seconds_text(self.time_low_s)} to "
            f"{seconds_text(self.time_high_s)}), bound by {self.bound_by}",
            f"  speedup   {self.speedup:.2f}x over {self.baseline.kernel} dense, {seconds_text(self.baseline.time_s)}",
        ]
        shown = [f"{name} {seconds_text(value)}" for name, value in self.parts_s.items() if value > 0]
        lines.append(f"  parts     {', '.join(shown)}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = [
            [
                "time",
                f"{seconds_text(self.time_s)} (80%: {seconds_text(self.time_low_s)} to {seconds_text(self.time_high_s)})",
            ],
            ["speedup", f"{self.speedup:.2f}x over {self.baseline.kernel} dense, {seconds_text(self.baseline.time_s)}"],
            ["bound by", self.bound_by],
            ["tiles", f"{grid_text(self.q_tile)} | {grid_text(self.kv_tile)}"],
        ]
        parts = [[name, seconds_text(value)] for name, value in self.parts_s.items() if value > 0]
        return html_table(f"{self.pattern} on {self.gpu} with {self.title}", ["", "forecast"], rows + parts, self.notes)

    def plot(self) -> Figure:
        """The parts of the time and what each resource alone would take. Needs matplotlib."""
        from .plots import estimate_figure

        return estimate_figure(self)


def mean_estimate(pattern: Pattern, weights: Sequence[float], estimates: Sequence[Estimate]) -> Estimate:
    """The mean layer of a schedule: ``weights`` (adding up to 1) of the layers that each estimate is for.

    Times are means over layers; tile counts are rounded means; kernel, tiles and bound are those of the layers that take
    most of the time, and the notes say what the parts are.
    """
    most = max(range(len(estimates)), key=lambda index: weights[index] * estimates[index].time_s)
    first = estimates[most]

    def mean(values: Sequence[float]) -> float:
        return math.fsum(weight * value for weight, value in zip(weights, values, strict=True))

    parts_s = {name: mean([e.parts_s[name] for e in estimates]) for name in first.parts_s}
    shown = [
        f"{weight:.0%} {e.pattern} ({e.kernel}) {seconds_text(e.time_s)}"
        for weight, e in zip(weights, estimates, strict=True)
    ]
    return replace(
        first,
        pattern=str(pattern),
        time_s=math.fsum(parts_s.values()),
        kernel_time_s=mean([e.kernel_time_s for e in estimates]),
        time_low_s=mean([e.time_low_s for e in estimates]),
        time_high_s=mean([e.time_high_s for e in estimates]),
        parts_s=parts_s,
        limits_s={name: mean([e.limits_s[name] for e in estimates]) for name in first.limits_s},
        work=mean_work([e.work for e in estimates], tuple(weights)),
        notes=(f"Mean of the layers: {', '.join(shown)}.", *first.notes),
    )


def bounds_dict(work: TileWork) -> dict[str, float | None]:
    """Speedup bounds of a pattern over dense; None where nothing is attended at all."""
    bounds = {"flop": work.bound_flop, "tiles_mean": work.bound_tiles_mean, "tiles_max": work.bound_tiles_max}
    return {name: value if math.isfinite(value) else None for name, value in bounds.items()}


def tiles_dict(work: TileWork) -> dict[str, int]:
    """Tile counts of one head of one sequence."""
    return {
        "q_tiles": work.q_tiles,
        "visited": work.visited_total,
        "full": work.full_total,
        "max_per_q_tile": work.visited_max,
        "min_per_q_tile": work.visited_min,
    }


def seconds_text(seconds: float) -> str:
    """Seconds with a fitting unit, three significant digits: ``13.4 ms``."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{_three_digits(seconds / scale)} {unit}"
    return f"{_three_digits(seconds / 1e-9)} ns"


def _three_digits(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def with_whole_run(estimate: Estimate, attention_share: float | None, sparse_share: float) -> Estimate:
    """The estimate with the speedup of the whole run, when the share that attention takes of it is known.

    Raises:
        InputError: a share outside of 0 to 1.
    """
    if attention_share is None:
        return estimate
    for name, share in (("attention share", attention_share), ("sparse share", sparse_share)):
        if not 0.0 <= share <= 1.0:
            raise InputError(f"{name} {share:g} is out of range: expected a share from 0 to 1, e.g. 0.607")
    shares = (attention_share, sparse_share)
    work = estimate.work
    speedups = (end_to_end(s, *shares) for s in (estimate.speedup, work.bound_flop, work.bound_tiles_max))
    return replace(estimate, end_to_end=EndToEnd(*shares, *speedups))
