"""The page of a tuning: the landscape of the space, the best configurations, and what was measured of them."""

from __future__ import annotations

from ..autotune.plots import config_text, landscape_figure, measured_figure, top_figure
from ..autotune.result import Candidate, Tuning
from ..simulator.estimate import seconds_text
from .page import Cell, Fact, Number, Page, Picture, Section, Table, count, seconds, times
from .predict import workload_words

RESOURCES = ("registers", "spill_bytes", "shared_bytes", "tmem_columns", "ctas_per_sm")


def tuning_page(tuning: Tuning, footer: str) -> Page:
    """The page of one tuning."""
    best, space = tuning.best, tuning.space
    facts = [
        Fact("fastest", seconds_text(best.time_s), f"80%: {seconds_text(best.low_s)} to {seconds_text(best.high_s)}"),
        Fact("within 5% of the best", f"{tuning.sure:.0%}", "the chance that it is"),
        Fact("configurations", f"{space.total:,}", f"{space.feasible:,} may run"),
        Fact("compiled", f"{space.compiled:,}", f"{len(tuning.ruled_out):,} ruled out"),
        Fact("measured", f"{space.measured:,}", f"effort {tuning.effort}, {tuning.seconds:.2g} s"),
    ]
    if best.measured_s is not None:
        facts.insert(
            1, Fact("measured", seconds_text(best.measured_s), f"{best.time_s / best.measured_s - 1:+.1%} predicted")
        )
    sections = [
        Section("best", "The configuration to run", (config_text(best), *tuning.notes), tuple(facts)),
        Section("landscape", "The space", blocks=(_landscape(tuning),)),
        Section("top", "The best configurations", blocks=(_top(tuning), _ranking(tuning))),
    ]
    if any(candidate.measured_s is not None for candidate in tuning.ranking):
        sections.append(Section("measured", "Predicted against measured", blocks=_measured(tuning)))
    if tuning.ruled_out:
        sections.append(Section("out", "Ruled out", blocks=(_ruled_out(tuning),)))
    return Page(
        name="tune",
        title=f"{tuning.kernel} on {tuning.gpu}: {tuning.pattern}",
        lines=(workload_words(tuning.workload),),
        sections=tuple(sections),
        footer=footer,
    )


def _landscape(tuning: Tuning) -> Picture:
    caption = (
        "Each cell: the fastest configuration of its tile, as a multiple of the fastest of all (star). Crosses: ruled out; "
        "empty: not in the space, or it may not run."
    )
    return Picture("landscape", "Predicted time over tile sizes", caption, landscape_figure(tuning), wide=True)


def _top(tuning: Tuning) -> Picture:
    caption = (
        "Dots: predicted, with the 80% interval. Diamonds: measured, where they were. "
        "TMA: loads by tensor descriptors; WS: specialised warps."
    )
    return Picture("top", "The fastest, in the order of the ranking", caption, top_figure(tuning))


def _ranking(tuning: Tuning) -> Table:
    header = (
        "rank", "configuration", "predicted", "times the best", "low", "high", "bound by", "measured", "spread",
        "registers", "spilled B", "shared B", "tensor memory columns", "CTAs per SM",
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            count(rank),
            config_text(c),
            seconds(c.time_s),
            times(c.time_s / tuning.best.time_s),
            seconds(c.low_s),
            seconds(c.high_s),
            c.bound_by,
            _seconds(c.measured_s),
            _seconds(c.spread_s),
            *_resources(c),
        )
        for rank, c in enumerate(tuning.ranking, 1)
    )
    note = (
        "Registers and spills are for each thread, memory for each CTA, as the compiler says; - before it was compiled."
    )
    return Table("ranking", "Ranking", header, rows, note, shown=200)


def _measured(tuning: Tuning) -> tuple[Picture | Table, ...]:
    measured = [(c, c.measured_s) for c in tuning.ranking if c.measured_s is not None]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (config_text(c), seconds(c.time_s), seconds(found_s), times(c.time_s / found_s)) for c, found_s in measured
    )
    caption = (
        "Bands: within 10% and 25%. Horizontal lines: the spread of the measurement. Star: the configuration to run."
    )
    return (
        Picture("measured", "Predicted against measured", caption, measured_figure(tuning)),
        Table("measured-table", "Measured configurations", ("configuration", "predicted", "measured", "ratio"), rows),
    )


def _ruled_out(tuning: Tuning) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (config_text(c), seconds(c.time_s), c.problem, *_resources(c)) for c in tuning.ruled_out
    )
    header = (
        "configuration",
        "predicted",
        "why",
        "registers",
        "spilled B",
        "shared B",
        "tensor memory columns",
        "CTAs per SM",
    )
    return Table("ruled-out", "Configurations that were ruled out", header, rows, shown=200)


def _resources(candidate: Candidate) -> tuple[Number, ...]:
    if candidate.resources is None:
        return tuple(_NOTHING for _ in RESOURCES)
    return tuple(count(getattr(candidate.resources, name)) for name in RESOURCES)


def _seconds(value: float | None) -> Number:
    return _NOTHING if value is None else seconds(value)


_NOTHING = Number(float("nan"), "-")
