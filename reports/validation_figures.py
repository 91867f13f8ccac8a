"""Figures of a validation's page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..simulator.plots import (
    GRID,
    INK,
    MARKERS,
    MUTED,
    SERIES,
    WIDTH,
    log_axes,
    new_figure,
    rc,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]
Words = NDArray[np.str_]
MANY = 1500  # points; more are drawn as pixels, since each would be an element of the page
BANDS = ((0.25, 0.12), (0.1, 0.2))  # relative error, opacity


@dataclass(frozen=True, eq=False)
class Group:
    """Relative errors of some rows, and the share of them inside the interval."""

    name: str
    errors: Floats
    inside: float


def scatter_figure(measured_s: Floats, forecast_s: Floats, by: Words) -> Figure:
    """Forecast against measured seconds."""
    with rc():
        figure, axes = new_figure(height=WIDTH)
        both = np.concatenate([measured_s, forecast_s])
        low, high = both.min() / 1.5, both.max() * 1.5
        line = np.array([low, high])
        for width, alpha in BANDS:
            axes.fill_between(line, line * (1 - width), line * (1 + width), color=MUTED, alpha=alpha, linewidth=0)
        axes.plot(line, line, color=MUTED, linewidth=0.8)
        _points(figure, axes, measured_s, forecast_s, by)
        log_axes(axes, "s", "s")
        axes.set(xlim=(low, high), ylim=(low, high), xlabel="measured", ylabel="forecast", aspect="equal")
        return figure


def errors_figure(measured_s: Floats, errors: Floats, by: Words) -> Figure:
    """Forecast over measured against measured seconds; a factor is as far up as its inverse is down."""
    from matplotlib.ticker import NullFormatter, NullLocator

    with rc():
        figure, axes = new_figure(height=WIDTH)
        for width, alpha in BANDS:
            axes.axhspan(1 - width, 1 + width, color=MUTED, alpha=alpha, linewidth=0)
        axes.axhline(1, color=MUTED, linewidth=0.8)
        _points(figure, axes, measured_s, 1.0 + errors, by)
        axes.set(xscale="log", yscale="log", xlabel="measured", ylabel="forecast / measured")
        time_axis(axes.xaxis)
        axes.xaxis.set_minor_formatter(NullFormatter())
        most = max(1.5, 1.1 * float(np.exp(np.abs(np.log1p(errors)).max())))
        axes.set_ylim(1 / most, most)
        ticks = [t for t in (1.25, 2, 4, 10, 100) if t < most]
        axes.set_yticks([*(1 / t for t in reversed(ticks)), 1, *ticks])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}x")
        return figure


def _points(figure: Figure, axes: Any, x: Floats, y: Floats, by: Words) -> None:
    for index, name in enumerate(sorted(set(by.tolist()))):
        mine = by == name
        axes.plot(
            x[mine],
            y[mine],
            MARKERS[index % len(MARKERS)],
            color=SERIES[index % len(SERIES)],
            markersize=4.5 if x.size <= MANY else 3,
            markeredgewidth=0,
            alpha=0.75,
            label=name,
            rasterized=x.size > MANY,
            zorder=3 - mine.mean(),  # the few are seen on top of the many
        )
    scale = 1 if x.size <= MANY else 2
    figure.legend(loc="outside upper left", ncols=4, handletextpad=0.1, columnspacing=1.0, markerscale=scale)


def cumulative_figure(sizes: Floats, by: Words) -> Figure:
    """Share of rows whose error is at most so large, for all rows and by group."""
    with rc():
        figure, axes = new_figure(height=3.6)
        for at in (0.1, 0.25):
            axes.axvline(at, color=MUTED, linewidth=0.8, linestyle=":")
        for index, name in enumerate(sorted(set(by.tolist()))):
            ordered = np.sort(sizes[by == name])
            style = ("-", "--", "-.", ":")[index // len(SERIES) % 4]
            axes.plot(*_steps(ordered), color=SERIES[index % len(SERIES)], linewidth=1.3, linestyle=style, label=name)
        axes.plot(*_steps(np.sort(sizes)), color=INK, linewidth=2, label="all")
        axes.set(xlim=(0, max(0.3, min(1.0, float(np.quantile(sizes, 0.98))))), ylim=(0, 1))
        axes.set(xlabel="size of the error", ylabel="share of rows")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(True, color=GRID, linewidth=0.6)
        figure.legend(loc="outside upper left", ncols=4, columnspacing=1.0, handlelength=1.4)
        return figure


def _steps(ordered: Floats, most: int = 400) -> tuple[Floats, Floats]:
    shares = np.arange(1, ordered.size + 1) / ordered.size
    keep = np.unique(np.linspace(0, ordered.size - 1, min(most, ordered.size)).astype(int))
    return ordered[keep], shares[keep]


def groups_figure(groups: Sequence[Group]) -> Figure:
    """Median, quartiles, and the middle 80% of each group's errors."""
    with rc():
        figure, axes = new_figure(height=1.2 + 0.36 * len(groups))
        for width, alpha in BANDS:
            axes.axvspan(-width, width, color=MUTED, alpha=alpha, linewidth=0)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for index, group in enumerate(groups):
            p10, p25, p50, p75, p90 = np.quantile(group.errors, (0.1, 0.25, 0.5, 0.75, 0.9))
            axes.plot([p10, p90], [index, index], color=SERIES[0], linewidth=1.4)
            axes.plot([p25, p75], [index, index], color=SERIES[0], linewidth=6, solid_capstyle="butt")
            axes.plot(p50, index, "o", color=SERIES[1], markersize=6)
        axes.set_yticks(range(len(groups)), [f"{group.name} ({group.errors.size:,})" for group in groups])
        axes.set_ylim(len(groups) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.0%}")
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("error (bands: 10% and 25%)")
        return figure


def coverage_figure(groups: Sequence[Group], level: float) -> Figure:
    """Share of each group's rows inside the interval."""
    with rc():
        figure, axes = new_figure(height=1.2 + 0.3 * len(groups))
        axes.axvline(level, color=SERIES[1], linestyle="--", linewidth=1.4)
        shares = [group.inside for group in groups]
        axes.barh(range(len(groups)), shares, color=SERIES[0], height=0.6)
        for index, share in enumerate(shares):
            axes.annotate(f"{share:.0%}", (1.02, index), va="center", fontsize=9)  # a column, clear of the dashed line
        axes.set_yticks(range(len(groups)), [f"{group.name} ({group.errors.size:,})" for group in groups])
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1.16), xticks=[0, 0.2, 0.4, 0.6, 0.8, 1.0], xlabel="rows inside the 80% interval")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.invert_yaxis()
        return figure


def baselines_figure(baselines: Sequence[tuple[str, float]]) -> Figure:
    """Mean error of each way to forecast; ours, the first, in another colour."""
    with rc():
        figure, axes = new_figure(height=1.0 + 0.36 * len(baselines))
        values = [value for _, value in baselines]
        axes.barh(range(len(values)), values, color=[SERIES[0], *[SERIES[5]] * (len(values) - 1)], height=0.62)
        for index, value in enumerate(values):
            axes.annotate(f"{value:.1%}", (value, index), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(range(len(values)), [name for name, _ in baselines])
        axes.set_xlim(0, 1.2 * max(values))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        return figure
