"""The page of a sweep: speedups against sequence length, density, and whatever its patterns vary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..simulator.plots import GRID, MARKERS, MUTED, SERIES, log_axes, new_figure, rc
from ..simulator.sweep import Row
from .page import Cell, Fact, Number, Page, Picture, Section, Table, count, names_of, percent, seconds, times

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LINES = 8
MAX_GPUS = 8
MANY = 1500  # points; more are drawn as pixels
Line = tuple[str, list[float], list[float]]


def sweep_page(rows: Sequence[Row], source: str, footer: str) -> Page:
    """The page; at least one of ``rows`` was forecast, ``source`` names the file that asked for them."""
    good = [row for row in rows if not row.problem]
    bad = len(rows) - len(good)
    gpus = list(dict.fromkeys(row.gpu for row in good))
    best = max(good, key=lambda row: row.speedup)
    facts = (
        Fact("forecasts", f"{len(good):,}", f"{bad:,} more calls cannot be run" if bad else ""),
        Fact("GPUs", str(len(gpus)), ", ".join(gpus)),
        Fact("patterns", str(len({row.pattern for row in good}))),
        Fact("largest speedup", f"{best.speedup:.2f}x", f"{best.pattern}, {best.tokens:,} tokens, {best.gpu}"),
    )
    sections = [Section("summary", "In short", facts=facts, blocks=(_density(good),))]
    tokens = tuple(picture for picture in (_by_tokens(good, gpu) for gpu in gpus[:MAX_GPUS]) if picture is not None)
    if tokens:
        sections.append(Section("tokens", "Against sequence length", (_OVER,), blocks=tokens))
    names = list(dict.fromkeys(word.split("=")[0] for row in good for word in row.values.split()))
    values = tuple(picture for picture in (_by_value(good, name) for name in names) if picture is not None)
    if values:
        sections.append(Section("values", "Against what the patterns vary", (_OVER,), blocks=values))
    sections.append(Section("rows", "Every forecast", blocks=_tables(rows)))
    return Page("sweep", f"Sweep: {source}", (f"{len(rows):,} forecasts.",), tuple(sections), footer)


_OVER = "A point is the geometric mean over everything else that the sweep varies. Dashed: the dense baseline."


def _density(rows: Sequence[Row]) -> Picture:
    caption = (
        "Each point is a forecast. Dotted: dense pairs over kept pairs, the bound if only kept pairs cost anything."
    )
    with rc():
        figure, axes = new_figure(height=3.8)
        kept = [row for row in rows if row.density > 0]
        for index, gpu in enumerate(dict.fromkeys(row.gpu for row in kept)):
            mine = [row for row in kept if row.gpu == gpu]
            axes.plot(
                [row.density for row in mine],
                [row.speedup for row in mine],
                MARKERS[index % len(MARKERS)],
                color=SERIES[index % len(SERIES)],
                markersize=4.5,
                markeredgewidth=0,
                alpha=0.8,
                label=gpu,
                rasterized=len(kept) > MANY,
            )
        shares = sorted({row.density for row in kept})
        axes.plot(shares, [1 / share for share in shares], color=MUTED, linestyle=":")
        axes.axhline(1.0, color=MUTED, linestyle="--", linewidth=0.8)
        log_axes(axes)
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axes.set(xlabel="density: share of the pairs that are kept", ylabel="speedup over dense")
        axes.grid(True, color=GRID, linewidth=0.6)
        figure.legend(loc="outside upper left", ncols=4, handletextpad=0.1, columnspacing=1.0)
    return Picture("density", "Speedup against density", caption, figure)


def _by_tokens(rows: Sequence[Row], gpu: str) -> Picture | None:
    mine = [row for row in rows if row.gpu == gpu]
    lines = _lines(mine, lambda row: row.pattern, lambda row: float(row.tokens))
    if max(len(line[1]) for line in lines) < 2:
        return None
    caption = f"{gpu}: a line for each pattern{_left_out(len({row.pattern for row in mine}))}."
    (key,) = names_of([f"tokens-{gpu}"])
    return Picture(
        key,
        f"{gpu}: speedup against sequence length",
        caption,
        _curves(lines, "tokens of a sequence", [row.pattern for row in rows]),
    )


def _by_value(rows: Sequence[Row], name: str) -> Picture | None:
    def value(row: Row) -> float | None:
        words = dict(word.split("=", 1) for word in row.values.split() if "=" in word)
        try:
            return float(words[name])
        except (KeyError, ValueError):
            return None

    numbered = [(row, found) for row in rows if (found := value(row)) is not None]
    at = {id(row): found for row, found in numbered}
    mine = [row for row, _ in numbered]
    if len(set(at.values())) < 2:
        return None
    longest = max(row.tokens for row in mine)
    mine = [row for row in mine if row.tokens == longest]
    lines = _lines(mine, lambda row: row.gpu, lambda row: at[id(row)])
    caption = (
        f"At {longest:,} tokens, the longest sequence; a line for each GPU{_left_out(len({r.gpu for r in mine}))}."
    )
    (key,) = names_of([f"value-{name}"])
    return Picture(key, f"Speedup against {name}", caption, _curves(lines, name, [row.gpu for row in rows]))


def _left_out(number: int) -> str:
    return f" (the {MAX_LINES} fastest of {number})" if number > MAX_LINES else ""


def _lines(rows: Sequence[Row], by: Callable[[Row], str], x: Callable[[Row], float]) -> list[Line]:
    """A line for each group: x, rising, and the geometric mean of the speedups there; the fastest groups first."""
    groups: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        groups.setdefault(by(row), {}).setdefault(x(row), []).append(math.log(row.speedup))
    lines: list[Line] = []
    for name, points in groups.items():
        xs = sorted(points)
        lines.append((name, xs, [math.exp(math.fsum(points[x]) / len(points[x])) for x in xs]))
    return sorted(lines, key=lambda line: -max(line[2]))[:MAX_LINES]


def _curves(lines: Sequence[Line], label: str, names: Sequence[str]) -> Figure:
    """The lines; ``names`` are those of all figures of the kind, so that a name has one colour in all that fit the palette."""
    known = list(dict.fromkeys(names))
    style = {
        name: index for index, name in enumerate(known if len(known) <= MAX_LINES else [name for name, *_ in lines])
    }
    with rc():
        figure, axes = new_figure(height=3.4 + 0.16 * len(lines))
        for name, xs, ys in lines:
            index = style[name]
            short = name if len(name) <= 52 else f"{name[:51]}…"
            axes.plot(xs, ys, marker=MARKERS[index], color=SERIES[index], markersize=5, linewidth=1.5, label=short)
        axes.axhline(1.0, color=MUTED, linestyle="--", linewidth=0.8)
        log_axes(axes)
        ticks = sorted({x for _, xs, _ in lines for x in xs})
        if len(ticks) <= 8:
            _ticks(axes, ticks)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}x")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}x" if f"{value:.0e}"[0] in "25" else "")
        axes.tick_params(axis="y", which="minor", labelsize=9)
        axes.set(xlabel=label, ylabel="speedup over dense")
        axes.grid(True, color=GRID, linewidth=0.6)
        figure.legend(loc="outside upper left", ncols=1)
        return figure


def _ticks(axes: Any, values: Sequence[float]) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xticks(
        values, [f"{value / 1024:g}k" if value >= 1024 and value % 1024 == 0 else f"{value:g}" for value in values]
    )
    axes.xaxis.set_minor_locator(NullLocator())


def _tables(rows: Sequence[Row]) -> tuple[Table, ...]:
    header = (
        "GPU", "kernel", "pattern", "tokens", "batch", "heads", "head dim", "dtype", "density", "time", "speedup", "bound by",
    )  # fmt: skip
    good: tuple[tuple[Cell, ...], ...] = tuple(
        (
            row.gpu,
            row.kernel,
            row.pattern,
            count(row.tokens),
            count(row.batch),
            count(row.heads),
            Number(row.head_dim, str(row.head_dim)),
            row.dtype,
            percent(row.density),
            seconds(row.time_s),
            times(row.speedup),
            row.bound_by,
        )
        for row in rows
        if not row.problem
    )
    tables = [Table("forecasts", "Forecasts", header, good, "sweep.csv has every column.", shown=500)]
    bad = tuple((row.gpu, row.kernel, row.pattern, row.grid, row.problem) for row in rows if row.problem)
    if bad:
        reasons = ("GPU", "kernel", "pattern", "grid", "why")
        tables.append(Table("problems", "Calls that cannot be run", reasons, bad, shown=200))
    return tuple(tables)
