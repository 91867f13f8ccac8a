"""The page of a prediction: what the call costs on each GPU, why, and what would change it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..simulator.estimate import Estimate, seconds_text
from ..simulator.explain import Explanation
from ..simulator.patterns.picture import Picture as Cells
from ..simulator.plots import limits_figure, parts_figure, tiles_figure
from ..simulator.timeline import timeline
from ..simulator.workload import Workload, grid_text
from .page import Cell, Fact, Number, Page, Picture, Section, Table, count, names_of, percent, rows_of, seconds, times
from .predict_figures import (
    gpus_figure,
    others_figure,
    pattern_figure,
    roofline_figure,
    schedule_figure,
    sensitivity_figure,
)
from .trace import schedule_words

MAX_OPTIONS = 10  # drawn; the table has all


@dataclass(frozen=True, eq=False)
class Forecast:
    """One GPU's forecast, and what the page shows beside it.

    Attributes:
        estimate: the forecast. advice: what would make it faster, in one sentence.
        explanation: its roofline, sensitivities and alternatives.
        cells: the pattern's picture; None for one that is known by its statistics, or differs by layer.
    """

    estimate: Estimate
    advice: str
    explanation: Explanation
    cells: Cells | None


def prediction_page(
    workload: Workload,
    forecasts: Sequence[Forecast],
    everywhere: Sequence[Estimate],
    refused: Sequence[tuple[str, str]],
    footer: str,
) -> Page:
    """The page.

    Args:
        forecasts: of the GPUs asked for, at least one. everywhere: forecasts of every GPU that runs the call, for comparison.
        refused: GPU and reason, of those that do not run it. footer: what made the page.
    """
    first = forecasts[0].estimate
    tags = names_of([found.estimate.gpu for found in forecasts])
    several = len(forecasts) > 1
    sections = [part for tag, found in zip(tags, forecasts, strict=True) for part in _gpu_sections(found, tag, several)]
    sections.append(_comparison(everywhere, refused, {found.estimate.gpu for found in forecasts}))
    return Page(
        name="predict",
        title=f"{first.pattern} on {', '.join(found.estimate.gpu for found in forecasts)}",
        lines=(workload_words(workload),),
        sections=tuple(sections),
        footer=footer,
    )


def workload_words(w: Workload) -> str:
    """A workload in one line."""
    heads = f"{w.heads} heads" if w.kv_heads == w.heads else f"{w.heads} query heads on {w.kv_heads} key/value heads"
    dims = f"head dim {w.head_dim}" if w.dim_v == w.head_dim else f"head dims {w.head_dim} and {w.dim_v}"
    grid = f"{grid_text(w.grid)} = " if len(w.grid) > 1 else ""
    keys = "" if w.keys == w.grid else f" on {w.kv_tokens:,} keys"
    dtype = w.dtype if w.kv_dtype == w.dtype else f"{w.dtype}, keys and values {w.kv_dtype}"
    return f"Batch {w.batch}, {heads}, {grid}{w.tokens:,} queries{keys}, {dims}, {dtype}."


def _gpu_sections(found: Forecast, tag: str, several: bool) -> list[Section]:
    e = found.estimate
    of = f"{e.gpu}: " if several else ""
    facts = [
        Fact("time", seconds_text(e.time_s), f"80%: {seconds_text(e.time_low_s)} to {seconds_text(e.time_high_s)}"),
        Fact("speedup", f"{e.speedup:.2f}x", f"over {e.baseline.kernel} dense, {seconds_text(e.baseline.time_s)}"),
        Fact("bound by", e.bound_by, e.title),
        Fact("tiles", f"{grid_text(e.q_tile)} | {grid_text(e.kv_tile)}", "queries | keys and values"),
    ]
    if e.end_to_end is not None:
        about = f"attention takes {e.end_to_end.attention_share:.0%} of it"
        facts.append(Fact("whole run", f"{e.end_to_end.speedup:.2f}x", about))
    return [
        Section(f"forecast-{tag}", f"{of}Forecast", (found.advice, *e.notes), tuple(facts), (_bounds(e, tag),)),
        Section(f"pattern-{tag}", f"{of}Pattern and tiles", blocks=_pattern_blocks(found, tag)),
        Section(f"time-{tag}", f"{of}Where the time goes", blocks=_time_blocks(found, tag)),
        Section(f"change-{tag}", f"{of}What would change it", blocks=_change_blocks(found, tag)),
    ]


def _bounds(e: Estimate, tag: str) -> Table:
    work = e.work
    rows: list[tuple[str, float, str]] = [
        ("forecast", e.speedup, "this kernel beside the dense baseline"),
        ("FLOPs", work.bound_flop, "if only the kept pairs cost anything"),
        ("tiles, mean", work.bound_tiles_mean, "if every visited tile costs the same"),
        ("tiles, longest", work.bound_tiles_max, "if the Q tile with most work sets the pace"),
    ]
    return Table(
        f"speedup-{tag}",
        "Speedup over dense, and what bounds it",
        ("what", "speedup", "meaning"),
        tuple((what, _finite(value), about) for what, value, about in rows),
    )


def _finite(value: float) -> Number:
    return times(value) if math.isfinite(value) else Number(0.0, "no pairs")


def _pattern_blocks(found: Forecast, tag: str) -> tuple[Picture | Table, ...]:
    e = found.estimate
    work = e.work
    blocks: list[Picture | Table] = []
    if found.cells is not None:
        exact = (found.cells.q_cell, found.cells.kv_cell) == (math.prod(e.q_tile), math.prod(e.kv_tile))
        what = (
            f"the kernel's own tiles of {grid_text(e.q_tile)} queries and {grid_text(e.kv_tile)} keys, in their order"
            if exact
            else f"cells of {found.cells.q_cell} queries and {found.cells.kv_cell} keys, in the order of memory"
        )
        caption = f"Cells are {what}. Empty cells are skipped; partial ones are computed whole and masked."
        blocks.append(Picture(f"pattern-{tag}", "Who attends to whom", caption, pattern_figure(found.cells)))
    if work.visited_min == work.visited_max:
        caption = f"{work.visited_max:,} KV tiles for each of the {work.q_tiles:,} Q tiles of one head."
    else:
        caption = (
            f"{work.visited_min:,} to {work.visited_max:,} KV tiles for each of {work.q_tiles:,} Q tiles of one head. "
            "Q tiles of unequal length make the tail of the schedule."
        )
    blocks.append(Picture(f"tiles-{tag}", "KV tiles of each Q tile", caption, tiles_figure(work)))
    dense = work.dense_q_tiles * work.dense_kv_tiles
    rows: tuple[tuple[Cell, ...], ...] = (
        ("dense", count(dense), percent(1.0)),
        ("visited", count(work.visited_total), percent(work.visited_total / dense)),
        ("full, no mask needed", count(work.full_total), percent(work.full_total / dense)),
        (
            "partial",
            count(work.visited_total - work.full_total),
            percent((work.visited_total - work.full_total) / dense),
        ),
    )
    table = Table(f"tile-counts-{tag}", "KV tiles of one head", ("tiles", "count", "of dense"), rows)
    return (*blocks, table)


def _time_blocks(found: Forecast, tag: str) -> tuple[Picture | Table, ...]:
    e, roofline = found.estimate, found.explanation.roofline
    blocks: list[Picture | Table] = [
        Picture(
            f"parts-{tag}",
            "Parts of the time",
            "tiles: the work of the SM's pipes. schedule: latencies and the tail. memory: what DRAM or L2 take beyond those.",
            parts_figure(e),
        ),
        Picture(
            f"limits-{tag}",
            "Each resource alone",
            "Seconds that each pipe or memory would take if it never waited. "
            f"The kernel takes {seconds_text(e.kernel_time_s)}.",
            limits_figure(e),
        ),
        Picture(
            f"roofline-{tag}",
            "Roofline",
            "FLOPs of the kept pairs only. Filled: against the bytes from DRAM; hollow: against the bytes asked of the L2.",
            roofline_figure(roofline),
        ),
    ]
    if e.dispatch is not None:
        lane = timeline(e.dispatch)
        idle = 1.0 - lane.first_idle_s / lane.end_s if lane.end_s > 0 else 0.0
        tail = f"SMs are busy {lane.busy_share:.0%} of that; from the first idle SM to the end is {idle:.0%}."
        caption = f"{schedule_words(lane)} {tail}"
        figure = schedule_figure(lane, e.dispatch)
        blocks.append(Picture(f"schedule-{tag}", "Schedule over the SMs", caption, figure))
    rows = [("part", name, value) for name, value in e.parts_s.items()]
    rows += [("resource alone", name, value) for name, value in e.limits_s.items()]
    table = Table(
        f"times-{tag}",
        "Parts and limits",
        ("kind", "name", "seconds", "of the whole"),
        tuple((kind, name, seconds(value), percent(value / e.time_s)) for kind, name, value in rows),
    )
    return (*blocks, table)


def _change_blocks(found: Forecast, tag: str) -> tuple[Picture | Table, ...]:
    e, explanation = found.estimate, found.explanation
    blocks: list[Picture | Table] = [
        Picture(
            f"sensitivity-{tag}",
            "Other hardware",
            "Change of the time when one figure of the GPU is 0.8 or 1.25 times what it is and the rest stay.",
            sensitivity_figure(explanation.changes, e.time_s),
        )
    ]
    for kind, title, about in (
        ("tiles", "Other tiles", "The tiles that this kernel offers (queries | keys)."),
        ("stride", "Other strides", "The same window with other strides, on these tiles."),
        ("kernel", "Other kernels", "Kernels that run this pattern on this GPU, each with its own tiles."),
    ):
        options = [option for option in explanation.others if option.kind == kind]
        if len(options) > 1:
            shown = [option for index, option in enumerate(options) if index < MAX_OPTIONS or option.chosen]
            figure = others_figure(shown)
            blocks.append(Picture(f"other-{kind}-{tag}", title, f"{about} Outlined: what is forecast here.", figure))
    blocks.append(
        Table(
            f"changes-{tag}",
            "Other hardware",
            ("figure", "times", "seconds", "change"),
            rows_of(
                explanation.changes,
                lambda c: (c.what, times(c.factor), seconds(c.time_s), percent(c.time_s / e.time_s - 1, signed=True)),
            ),
        )
    )
    if explanation.others:
        blocks.append(
            Table(
                f"others-{tag}",
                "Other ways to run it",
                ("what", "choice", "seconds", "of this time", "masked tiles", "chosen"),
                rows_of(
                    explanation.others,
                    lambda o: (
                        o.kind,
                        o.what,
                        seconds(o.time_s),
                        times(o.time_s / e.time_s),
                        "yes" if o.masked_tiles else "no",
                        "chosen" if o.chosen else "",
                    ),
                ),
            )
        )
    return tuple(blocks)


def _comparison(everywhere: Sequence[Estimate], refused: Sequence[tuple[str, str]], asked: set[str]) -> Section:
    ordered = sorted(everywhere, key=lambda e: e.time_s)
    blocks: list[Picture | Table] = [
        Picture(
            "gpus",
            "The same call on every GPU",
            "Lines: the 80% interval. Filled: the GPUs asked for.",
            gpus_figure(ordered, asked),
            wide=True,
        ),
        Table(
            "gpus-table",
            "The same call on every GPU",
            ("GPU", "kernel", "time", "low", "high", "speedup", "bound by"),
            rows_of(
                ordered,
                lambda e: (
                    e.gpu,
                    e.kernel,
                    seconds(e.time_s),
                    seconds(e.time_low_s),
                    seconds(e.time_high_s),
                    times(e.speedup),
                    e.bound_by,
                ),
            ),
        ),
    ]
    if refused:
        blocks.append(Table("refused", "GPUs that do not run it", ("GPU", "reason"), tuple(refused)))
    return Section("gpus-section", "GPUs", blocks=tuple(blocks))
