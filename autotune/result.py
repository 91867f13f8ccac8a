"""The result of a tuning: configurations, best first, with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..simulator import Workload
from ..simulator.estimate import seconds_text
from ..simulator.html import html_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Knobs = Mapping[str, int | bool | str]


@dataclass(frozen=True)
class Resources:
    """What a compiled configuration takes, as the compiler says.

    Attributes:
        registers, spill_bytes: for each thread. shared_bytes, tmem_columns: for each CTA. ctas_per_sm: CTAs an SM holds.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    tmem_columns: int
    ctas_per_sm: int


@dataclass(frozen=True)
class Candidate:
    """One configuration.

    Attributes:
        config: knob -> value, the kernel's own names ("BLOCK_M", "num_warps", "q_tile").
        time_s, low_s, high_s: predicted seconds of the kernel and their 80% interval.
        bound_by: the resource that decides.
        resources: None before it was compiled.
        measured_s, spread_s: median seconds on a GPU and half the distance of the quartiles; None before that.
        problem: why it was ruled out when it was compiled or run ("" when it was not).
    """

    config: Knobs
    time_s: float
    low_s: float
    high_s: float
    bound_by: str
    resources: Resources | None = None
    measured_s: float | None = None
    spread_s: float | None = None
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        found: dict[str, Any] = {
            "config": dict(self.config),
            "time_s": self.time_s,
            "low_s": self.low_s,
            "high_s": self.high_s,
            "bound_by": self.bound_by,
            "resources": None if self.resources is None else vars(self.resources).copy(),
            "measured_s": self.measured_s,
            "spread_s": self.spread_s,
        }
        if self.problem:
            found["problem"] = self.problem
        return found


@dataclass(frozen=True)
class SpaceCounts:
    """How many configurations there are, may run by the static estimate, were compiled, were measured."""

    total: int
    feasible: int
    compiled: int = 0
    measured: int = 0


@dataclass(frozen=True)
class Tuning:
    """Configurations of one kernel for one problem on one GPU.

    Attributes:
        gpu, kernel: keys of the hardware model and of the space ("triton", "flex", "natten").
        workload, pattern: the problem; the pattern as text.
        effort: "instant", "quick" or "full".
        ranking: best first, at least one; what was ruled out is not among them.
        ruled_out: configurations that did not compile, spilled badly, crashed, hung or returned wrong numbers.
        space: counts. seconds: wall-clock time it took.
        sure: chance that the first is within 5% of the best, from the intervals of the ranking's errors (0 to 1).
        notes: what the user should know, one sentence each.
    """

    gpu: str
    kernel: str
    workload: Workload
    pattern: str
    effort: Literal["instant", "quick", "full"]
    ranking: tuple[Candidate, ...]
    ruled_out: tuple[Candidate, ...]
    space: SpaceCounts
    seconds: float
    sure: float
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        """The configuration to run."""
        return self.ranking[0]

    def _repr_html_(self) -> str:
        rows = [
            [
                " ".join(f"{knob}={value}" for knob, value in c.config.items()),
                seconds_text(c.time_s),
                "-" if c.measured_s is None else seconds_text(c.measured_s),
                c.bound_by,
            ]
            for c in self.ranking[:10]
        ]
        title = f"{self.kernel} on {self.gpu}: {self.pattern}, the best of {self.space.total:,} configurations"
        return html_table(title, ["configuration", "predicted", "measured", "bound by"], rows, self.notes)

    def plot(self) -> Figure:
        """Predicted time over tile sizes, warps and stages. Needs matplotlib."""
        from .plots import landscape_figure

        return landscape_figure(self)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as ``attncast tune --json`` prints it."""
        return {
            "schema": 1,
            "gpu": self.gpu,
            "kernel": self.kernel,
            "pattern": self.pattern,
            "effort": self.effort,
            "best": self.best.to_dict(),
            "ranking": [candidate.to_dict() for candidate in self.ranking],
            "ruled_out": [candidate.to_dict() for candidate in self.ruled_out],
            "space": vars(self.space).copy(),
            "sure": self.sure,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }
