"""The page of a validation: forecasts beside measured runs, where they are wrong and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .page import Cell, Fact, Number, Page, Picture, Section, Table, count, names_of, percent, seconds
from .validation_figures import (
    Group,
    baselines_figure,
    coverage_figure,
    cumulative_figure,
    errors_figure,
    groups_figure,
    scatter_figure,
)

Floats = NDArray[np.float64]
Words = NDArray[np.str_]
WORST = 60
LEVEL = 0.8  # of the intervals


@dataclass(frozen=True, eq=False)
class ValidationRows:
    """Forecasts that nothing was fitted on, beside what was measured; arrays of shape (rows,), at least one row.

    Attributes:
        measured_s, forecast_s, low_s, high_s: measured and forecast seconds, and the forecast's 80% interval.
        id, gpu, kernel, pattern, size, bound_by: words of each row: its name, GPU, kernel, pattern family, class of size, and
            the resource that decides the forecast.
        baselines: ways to forecast and the mean size of their relative error on these rows, ours first.
        tables: title, header and rows of what else is known (baselines, noise floor, GPUs left out).
        notes: what a reader should know, one sentence each.
    """

    measured_s: Floats
    forecast_s: Floats
    low_s: Floats
    high_s: Floats
    id: Words
    gpu: Words
    kernel: Words
    pattern: Words
    size: Words
    bound_by: Words
    baselines: tuple[tuple[str, float], ...] = ()
    tables: tuple[tuple[str, tuple[str, ...], tuple[tuple[str | float, ...], ...]], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def errors(self) -> Floats:
        """Relative errors: forecast / measured - 1."""
        found: Floats = self.forecast_s / self.measured_s - 1.0
        return found

    @property
    def inside(self) -> NDArray[np.bool_]:
        """Whether the measured time lies inside the forecast's interval."""
        found: NDArray[np.bool_] = (self.low_s <= self.measured_s) & (self.measured_s <= self.high_s)
        return found


def validation_page(rows: ValidationRows, source: str, footer: str) -> Page:
    """The page; ``source`` says where the rows are from."""
    errors, inside = rows.errors, rows.inside
    size = np.abs(errors)
    groups = {what: _groups(words, rows) for what, words in _partitions(rows)}
    facts = (
        Fact("rows", f"{size.size:,}", f"{np.unique(rows.gpu).size} GPUs, {np.unique(rows.kernel).size} kernels"),
        Fact("mean error", f"{size.mean():.1%}", f"median {np.median(size):.1%}"),
        Fact("90% of rows within", f"{np.quantile(size, 0.9):.1%}", f"worst {size.max():.1%}"),
        Fact("within 10%", f"{np.mean(size <= 0.1):.0%}", f"within 25%: {np.mean(size <= 0.25):.0%}"),
        Fact("bias", f"{np.median(errors):+.1%}", "median of forecast / measured - 1"),
        Fact("inside the 80% interval", f"{inside.mean():.0%}", "of rows; 80% is the aim"),
    )
    return Page(
        name="validation",
        title="Forecasts beside measured runs",
        lines=(f"Rows: {source}. No constant was fitted on the row it is judged by.", *rows.notes),
        sections=(
            Section("summary", "In short", facts=facts, blocks=_overall(rows)),
            Section("groups", "Where the errors are", blocks=_by_group(groups)),
            Section("worst", "The worst rows", blocks=(_worst(rows),)),
            Section("intervals", "Do the intervals hold?", blocks=_coverage(groups)),
            Section("baselines", "Beside simpler forecasts", blocks=_baselines(rows)),
        ),
        footer=footer,
    )


def _overall(rows: ValidationRows) -> tuple[Picture | Table, ...]:
    return (
        Picture(
            "scatter",
            "Forecast against measured",
            "Both axes are logarithmic. Bands: within 10% and within 25% of the measured time.",
            scatter_figure(rows.measured_s, rows.forecast_s, rows.gpu),
        ),
        Picture(
            "errors",
            "Error against size",
            "Forecast / measured against the measured time; the same bands.",
            errors_figure(rows.measured_s, rows.errors, rows.gpu),
        ),
        Picture(
            "cumulative",
            "Share of rows within an error",
            "How many rows are at most so far off, by GPU.",
            cumulative_figure(np.abs(rows.errors), rows.gpu),
        ),
    )


def _partitions(rows: ValidationRows) -> tuple[tuple[str, Words], ...]:
    return (
        ("GPU", rows.gpu),
        ("kernel", rows.kernel),
        ("pattern", rows.pattern),
        ("size", rows.size),
        ("bound", rows.bound_by),
    )


def _groups(words: Words, rows: ValidationRows) -> list[Group]:
    found = []
    for name in sorted(set(words.tolist()), key=lambda name: float(np.median(rows.measured_s[words == name]))):
        mine = words == name
        found.append(Group(name, rows.errors[mine], float(rows.inside[mine].mean())))
    return found


def _by_group(groups: dict[str, list[Group]]) -> tuple[Picture | Table, ...]:
    blocks: list[Picture | Table] = []
    keys = names_of([f"by-{what}" for what in groups])
    for key, (what, found) in zip(keys, groups.items(), strict=True):
        caption = "Dot: median; thick: quartiles; thin: 10% to 90% of rows. Groups are sorted by their measured time."
        blocks.append(Picture(key, f"By {what}", caption, groups_figure(found)))
    table = [_group_row(what, group) for what, found in groups.items() for group in found]
    header = ("by", "group", "rows", "mean error", "median", "90% within", "worst", "bias", "inside 80%")
    blocks.append(Table("groups", "Errors by group", header, tuple(table)))
    return tuple(blocks)


def _group_row(what: str, group: Group) -> tuple[Cell, ...]:
    size = np.abs(group.errors)
    return (
        what,
        group.name,
        count(size.size),
        percent(float(size.mean())),
        percent(float(np.median(size))),
        percent(float(np.quantile(size, 0.9))),
        percent(float(size.max())),
        percent(float(np.median(group.errors)), signed=True),
        percent(group.inside),
    )


def _worst(rows: ValidationRows) -> Table:
    # As far as a factor goes: half of the time is as wrong as twice the time.
    order = np.argsort(-np.abs(np.log1p(rows.errors)), kind="stable")
    errors, inside = rows.errors, rows.inside
    header = ("row", "GPU", "kernel", "pattern", "measured", "forecast", "error", "bound by", "inside 80%")
    cells = tuple(
        (
            str(rows.id[i]),
            str(rows.gpu[i]),
            str(rows.kernel[i]),
            str(rows.pattern[i]),
            seconds(float(rows.measured_s[i])),
            seconds(float(rows.forecast_s[i])),
            percent(float(errors[i]), signed=True),
            str(rows.bound_by[i]),
            "yes" if inside[i] else "no",
        )
        for i in order
    )
    note = "By factor: a forecast of half the measured time is as far off as one of twice the time."
    return Table("rows", "Rows, the worst first", header, cells, note, shown=WORST)


def _coverage(groups: dict[str, list[Group]]) -> tuple[Picture | Table, ...]:
    caption = "Share of rows whose measured time lies inside the forecast's interval, by group; dashed: 80%, the aim."
    found = [group for name in ("GPU", "kernel", "size") for group in groups[name]]
    return (Picture("coverage", "Coverage of the 80% intervals", caption, coverage_figure(found, LEVEL)),)


def _baselines(rows: ValidationRows) -> tuple[Picture | Table, ...]:
    blocks: list[Picture | Table] = []
    if rows.baselines:
        caption = "Mean size of the relative error of each way to forecast the same rows."
        blocks.append(
            Picture("baselines", "Mean error of each way to forecast", caption, baselines_figure(rows.baselines))
        )
    for key, (title, header, table) in zip(
        names_of([f"table-{title}" for title, _, _ in rows.tables]), rows.tables, strict=True
    ):
        blocks.append(Table(key, title, header, plain_rows(table)))
    return tuple(blocks)


def plain_rows(rows: Sequence[Sequence[str | float]]) -> tuple[tuple[Cell, ...], ...]:
    """Cells of plain rows: words, whole numbers, and fractions as percentages; NaN where there is nothing."""

    def cell(value: str | float) -> Cell:
        if isinstance(value, str):
            return value
        if isinstance(value, int):
            return count(value)
        return Number(value, "-") if value != value else percent(value)

    return tuple(tuple(cell(value) for value in row) for row in rows)
