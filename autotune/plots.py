"""Pictures of a tuning, as matplotlib figures. matplotlib is imported when one is drawn, not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..simulator.estimate import seconds_text
from ..simulator.plots import GRID, INK, MUTED, SERIES, WIDTH, log_axes, new_figure, rc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .result import Candidate, Tuning

# What spans a map, the first that the configurations have; what its panels are told apart by.
ACROSS: Final = (("BLOCK_N", "BLOCK_M"), ("block_n", "block_m"), ("kv_tile", "q_tile"))
PANELS: Final = ("num_warps", "num_stages")
MAX_PANELS = 12
TOP = 12


def config_text(candidate: Candidate) -> str:
    """``BLOCK_M=128 num_warps=8``."""
    return " ".join(f"{knob}={value}" for knob, value in candidate.config.items())


def landscape_figure(tuning: Tuning) -> Figure:
    """Predicted time over tile sizes, a panel for each number of warps and stages: of each cell, its fastest configuration."""
    every = (*tuning.ranking, *tuning.ruled_out)
    x_knob, y_knob = _axes_knobs(every)
    panels = _panels(every)
    xs, ys = (_levels(every, knob) for knob in (x_knob, y_knob))
    low = min(c.time_s for c in every)
    high = min(max(c.time_s for c in every), 4.0 * low)
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    width = max(WIDTH, 1.6 + across * max(1.3, 0.42 * len(xs)))
    with rc():
        height = 0.6 + down * (0.6 + 0.34 * len(ys))
        figure, grid = new_figure(width, height, nrows=down, ncols=across, squeeze=False)
        drawn: Any = None
        for index, (place, panel) in enumerate(zip(grid.flat, panels, strict=False)):
            times = np.full((len(ys), len(xs)), np.nan)
            out = np.zeros_like(times, dtype=bool)
            for candidate in every:
                if _panel(candidate) != panel:
                    continue
                y, x = ys.index(candidate.config[y_knob]), xs.index(candidate.config[x_knob])
                out[y, x] |= bool(candidate.problem)
                if not candidate.problem:
                    times[y, x] = np.fmin(times[y, x], candidate.time_s)
            drawn = place.pcolormesh(
                np.ma.masked_invalid(times / low), cmap="cividis_r", vmin=1.0, vmax=max(high / low, 1.01)
            )
            for y, x in zip(*np.nonzero(out & np.isnan(times)), strict=True):
                place.plot(x + 0.5, y + 0.5, "x", color=MUTED, markersize=6)
            if _panel(tuning.best) == panel:
                where = (xs.index(tuning.best.config[x_knob]) + 0.5, ys.index(tuning.best.config[y_knob]) + 0.5)
                place.plot(*where, "*", color="#ffffff", markeredgecolor="#111111", markersize=13)
            place.set_xticks(np.arange(len(xs)) + 0.5, [str(x) for x in xs], rotation=0 if len(str(xs[-1])) < 5 else 45)
            place.set_yticks(np.arange(len(ys)) + 0.5, [str(y) for y in ys] if index % across == 0 else [])
            place.tick_params(length=0)
            words = ", ".join(f"{value} {knob.removeprefix('num_')}" for knob, value in panel)
            place.set_title(words or " ", fontsize=8.5)
            if index % across == 0:
                place.set_ylabel(y_knob)
            if index // across == down - 1:
                place.set_xlabel(x_knob)
        for place in grid.flat[len(panels) :]:
            place.set_axis_off()
        bar = figure.colorbar(drawn, ax=grid, shrink=0.9, extend="max", aspect=25)
        bar.set_label("times the fastest")
        return figure


def _axes_knobs(every: Sequence[Candidate]) -> tuple[str, str]:
    for pair in ACROSS:
        if all(knob in candidate.config for candidate in every for knob in pair):
            return pair
    common = [knob for knob in every[0].config if all(knob in c.config for c in every)]
    varied = sorted(common, key=lambda knob: -len(_levels(every, knob)))
    return varied[0], varied[min(1, len(varied) - 1)]


def _levels(every: Sequence[Candidate], knob: str) -> list[int | bool | str]:
    found = {candidate.config[knob] for candidate in every}
    return sorted(
        found, key=lambda value: (isinstance(value, str), value if not isinstance(value, str) else 0, str(value))
    )


def _panel(candidate: Candidate) -> tuple[tuple[str, int | bool | str], ...]:
    return tuple((knob, candidate.config[knob]) for knob in PANELS if knob in candidate.config)


def _panels(every: Sequence[Candidate]) -> list[tuple[tuple[str, int | bool | str], ...]]:
    """Panels in order; with more than fit, those of the fastest configurations."""
    best: dict[tuple[tuple[str, int | bool | str], ...], float] = {}
    for candidate in every:
        best[_panel(candidate)] = min(candidate.time_s, best.get(_panel(candidate), float("inf")))
    return sorted(sorted(best, key=lambda panel: best[panel])[:MAX_PANELS])


def top_figure(tuning: Tuning) -> Figure:
    """The fastest configurations: predicted time with its interval, and the measured time where there is one."""
    top = tuning.ranking[:TOP]
    with rc():
        figure, axes = new_figure(1.15 * WIDTH, 1.3 + 0.3 * len(top))
        for index, c in enumerate(top):
            axes.plot([c.low_s, c.high_s], [index, index], color=SERIES[0], linewidth=2, alpha=0.55)
            axes.plot(c.time_s, index, "o", color=SERIES[0], markersize=6, label="predicted" if index == 0 else None)
            if c.measured_s is not None:
                axes.plot(c.measured_s, index, "D", color=SERIES[1], markersize=6)
        if any(c.measured_s is not None for c in top):
            axes.plot([], [], "D", color=SERIES[1], label="measured")
        axes.set_yticks(range(len(top)), [_short(c) for c in top])
        axes.xaxis.set_major_formatter(lambda value, _: seconds_text(value) if value > 0 else "0")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(True, axis="x", color=GRID, linewidth=0.6)
        axes.tick_params(axis="y", length=0, labelsize=8.5)
        axes.invert_yaxis()
        figure.legend(loc="outside lower left", ncols=2)
        return figure


def measured_figure(tuning: Tuning) -> Figure:
    """Predicted against measured seconds of the configurations that were measured (at least one)."""
    measured = [c for c in tuning.ranking if c.measured_s is not None]
    with rc():
        figure, axes = new_figure(height=WIDTH)
        x, y = np.array([c.measured_s for c in measured], dtype=float), np.array([c.time_s for c in measured])
        both = np.concatenate([x, y])
        line = np.array([both.min() / 1.2, both.max() * 1.2])
        for width, alpha in ((0.25, 0.12), (0.1, 0.2)):
            axes.fill_between(line, line * (1 - width), line * (1 + width), color=MUTED, alpha=alpha, linewidth=0)
        axes.plot(line, line, color=MUTED, linewidth=0.8)
        spread = np.array([c.spread_s or 0.0 for c in measured])
        axes.errorbar(x, y, xerr=spread, fmt="o", color=SERIES[0], markersize=5, elinewidth=1)
        axes.plot(x[0], y[0], "*", color=SERIES[1], markeredgecolor=INK, markersize=13)
        if line[1] > 8 * line[0]:
            log_axes(axes, "s", "s")
        else:
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(lambda value, _: seconds_text(value) if value > 0 else "0")
                axis.get_major_locator().set_params(nbins=5)
        axes.set(xlim=tuple(line), ylim=tuple(line), xlabel="measured", ylabel="predicted", aspect="equal")
        return figure


def _short(candidate: Candidate, most: int = 40) -> str:
    # Switches by name where they are on: what tells two configurations apart must not be cut off.
    knobs = (k if v is True else f"{k}={v}" for k, v in candidate.config.items() if v is not False)
    words = " ".join(knobs).replace("BLOCK_", "").replace("num_", "").replace("USE_", "")
    words = words.replace("WARP_SPECIALIZE", "WS")
    return words if len(words) <= most else f"{words[: most - 1]}…"
