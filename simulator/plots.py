"""Pictures of results, as matplotlib figures. matplotlib is imported when one is drawn, not before.

Colours are told apart by readers who see few of them, and each is one word of the report's style sheet, which swaps them
for others in dark mode (reports/style.css): draw with these and with no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .estimate import Estimate
    from .tiles import TileWork

INK: Final = "#1d2329"
MUTED: Final = "#5c6670"
GRID: Final = "#d9dee3"
SERIES: Final = ("#2a6fb8", "#c2610c", "#0f8a72", "#a8447f", "#8f7410", "#6b7684", "#2295b8", "#a83232")
FULL, PARTIAL = "#4585c4", "#e08a2e"  # tiles; these keep their colour, since pictures of pixels cannot change it
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH, HEIGHT = 4.8, 3.2  # inches: text stays legible when a phone shows the figure 360 pixels wide
_RC: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.parse_math": False,  # a user's dollar sign is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}


def rc() -> Any:
    """A context in which figures are drawn and written. Raises InputError where matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib, which is not installed: pip install 'attncast[plot]'") from None
    return matplotlib.rc_context(_RC)


def new_figure(width: float = WIDTH, height: float = HEIGHT, **grid: Any) -> tuple[Figure, Any]:
    """A figure and its axes (one, or an array of them, as ``Figure.subplots`` gives). Call it inside ``rc()``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(**grid)


def time_axis(axis: Any) -> None:
    """Seconds on an axis, written with the unit that fits each."""
    from matplotlib.ticker import EngFormatter

    axis.set_major_formatter(EngFormatter(unit="s", sep=" "))


def log_axes(axes: Any, x_unit: str = "", y_unit: str = "") -> None:
    """Both axes logarithmic with plain numbers, a thousand written ``1 k`` (an exponent would need mathematical text)."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    axes.set(xscale="log", yscale="log")
    for axis, unit in ((axes.xaxis, x_unit), (axes.yaxis, y_unit)):
        axis.set_major_formatter(EngFormatter(unit=unit, sep=" "))
        axis.set_minor_formatter(NullFormatter())


def bars(axes: Any, values: Mapping[str, float], colour: str = SERIES[0], unit: float = 1.0) -> None:
    """Horizontal bars with their time written beside them, the first at the top; ``unit``: what makes 100%."""
    from .estimate import seconds_text

    names = list(values)
    heights = [values[name] for name in names]
    axes.barh(names, heights, color=colour, height=0.62)
    axes.invert_yaxis()
    most = max([*heights, 1e-30])
    for index, value in enumerate(heights):
        axes.annotate(
            f"{seconds_text(value)}, {value / unit:.0%}",
            (value, index),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_xlim(0, most * 1.5)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def parts_figure(estimate: Estimate) -> Figure:
    """Where the time goes: the parts, which add up to it."""
    with rc():
        parts = {name: value for name, value in estimate.parts_s.items() if value > 0}
        figure, axes = new_figure(height=1.0 + 0.34 * len(parts))
        bars(axes, parts, unit=estimate.time_s)
        axes.set_title("parts of the time, which add up to it")
        return figure


def limits_figure(estimate: Estimate) -> Figure:
    """What each resource alone would take, beside the kernel's time."""
    with rc():
        limits = {name: value for name, value in estimate.limits_s.items() if value > 0}
        limits = dict(sorted(limits.items(), key=lambda item: -item[1]))
        figure, axes = new_figure(height=1.1 + 0.34 * len(limits))
        bars(axes, limits, SERIES[2], unit=estimate.kernel_time_s)
        axes.set_xlim(0, max(axes.get_xlim()[1], 1.15 * estimate.kernel_time_s))
        axes.axvline(estimate.kernel_time_s, color=SERIES[1], linewidth=1.5, linestyle="--")
        axes.set_title("each resource alone; dashed: the kernel")
        return figure


def estimate_figure(estimate: Estimate) -> Figure:
    """The parts of the time, and what each resource alone would take."""
    with rc():
        parts = {name: value for name, value in estimate.parts_s.items() if value > 0}
        limits = {name: value for name, value in estimate.limits_s.items() if value > 0}
        figure, (left, right) = new_figure(2 * WIDTH, 1.1 + 0.34 * max(len(parts), len(limits)), ncols=2)
        bars(left, parts, unit=estimate.time_s)
        left.set_title("parts of the time, which add up to it")
        bars(right, limits, SERIES[2], unit=estimate.kernel_time_s)
        right.set_title("each resource alone, and its share of the kernel")
        return figure


def tiles_figure(work: TileWork, bins: int = 32) -> Figure:
    """How many KV tiles the Q tiles visit: Q tiles by their visited tiles, and the mean of full and partial ones among them."""
    with rc():
        figure, axes = new_figure()
        low, high = float(work.visited.min()), float(work.visited.max())
        edges = np.linspace(low - 0.5, high + 0.5, min(bins, int(high - low) + 1) + 1)
        weight, _ = np.histogram(work.visited, edges, weights=work.count)
        full, _ = np.histogram(work.visited, edges, weights=work.count * work.full)
        visited, _ = np.histogram(work.visited, edges, weights=work.count * work.visited)
        share = np.divide(full, visited, out=np.zeros_like(full), where=visited > 0)
        width = np.diff(edges)
        axes.bar(edges[:-1], weight * share, width, align="edge", color=FULL, label="full", edgecolor="none")
        axes.bar(edges[:-1], weight * (1 - share), width, weight * share, align="edge", color=PARTIAL, label="partial")
        axes.set(xlabel="KV tiles visited by a Q tile", ylabel="Q tiles (one head)")
        axes.set_xlim(min(low - 0.5, high - 3), max(high + 0.5, low + 3))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.22 * max(float(weight.max()), 1e-9))
        axes.legend(loc="upper left", ncols=2, title="bars split by the share of tiles that are", title_fontsize=9)
        return figure
