"""Figures of a prediction's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..simulator.estimate import Estimate, seconds_text
from ..simulator.explain import Change, Otherwise, Roofline
from ..simulator.patterns.picture import Picture
from ..simulator.plots import FULL, GRID, INK, MUTED, PARTIAL, SERIES, WIDTH, log_axes, new_figure, rc, time_axis
from ..simulator.schedule import Dispatch
from ..simulator.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LANES = 48  # SMs drawn; evenly spaced when there are more
SHADES = 6  # lengths of CTAs told apart


def pattern_figure(cells: Picture) -> Figure:
    """Cells of the pattern: empty, partial, full."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    with rc():
        figure, axes = new_figure(height=WIDTH)
        colours = np.array([(0, 0, 0, 0), to_rgba(PARTIAL), to_rgba(FULL)])
        axes.imshow((colours[cells.cells] * 255).astype(np.uint8), interpolation="none", aspect="auto")
        for side in ("top", "right"):
            axes.spines[side].set_visible(True)
        axes.set(xlabel=f"keys, cells of {cells.kv_cell:,}", ylabel=f"queries, cells of {cells.q_cell:,}")
        found = [(FULL, "full"), (PARTIAL, "partial")]
        figure.legend(handles=[Patch(color=c, label=n) for c, n in found], loc="outside upper left", ncols=2)
        return figure


def roofline_figure(roofline: Roofline) -> Figure:
    """Throughput against FLOPs per byte, under the roofs of the tensor cores, the L2 and the DRAM."""
    r = roofline
    with rc():
        figure, axes = new_figure(height=3.6)
        points = [r.flops / max(size, 1.0) for size in (r.dram_bytes, r.l2_bytes)]
        reached = r.flops / r.seconds
        ridge = r.sustained_flops_s / r.dram_bytes_s
        low, high = min([ridge / 30, *(p / 4 for p in points if p > 0)]), max([ridge * 30, *(p * 4 for p in points)])
        x = np.geomspace(low, high, 200)
        for bandwidth, name, colour in ((r.dram_bytes_s, "DRAM", SERIES[0]), (r.l2_bytes_s, "L2", SERIES[2])):
            axes.plot(
                x,
                np.minimum(x * bandwidth, r.sustained_flops_s),
                color=colour,
                label=f"{name} {bandwidth / 1e12:.2f} TB/s",
            )
        peak = f"peak {r.peak_flops_s / 1e12:,.0f} TFLOP/s"
        axes.axhline(r.peak_flops_s, color=MUTED, linestyle=":", label=peak)
        if r.flops > 0:
            axes.plot(
                points[1], reached, "o", markersize=8, color=SERIES[1], markerfacecolor="none", markeredgewidth=1.8
            )
            share = f"this kernel: {reached / 1e12:,.0f} TFLOP/s, {reached / r.peak_flops_s:.0%} of peak"
            axes.plot(points[0], reached, "o", markersize=8, color=SERIES[1], label=share)
            floor = min(reached / 5, x[0] * r.dram_bytes_s)
        else:
            floor = x[0] * r.dram_bytes_s
        log_axes(axes, y_unit="FLOP/s")
        axes.set(xlabel="FLOP per byte")
        axes.set_ylim(max(floor, r.peak_flops_s / 1e5), r.peak_flops_s * 2)
        axes.grid(True, linewidth=0.6)
        figure.legend(loc="outside lower left", ncols=2)
        return figure


def schedule_figure(lane: Timeline, dispatch: Dispatch) -> Figure:
    """CTAs on SMs against time; longer CTAs have the stronger colour."""
    from matplotlib.collections import PolyCollection

    with rc():
        figure, axes = new_figure(height=3.6)
        drawn = np.unique(np.linspace(0, lane.sms - 1, min(LANES, lane.sms)).astype(int))
        row = np.full(lane.sms, -1)
        row[drawn] = np.arange(drawn.size)
        keep = row[lane.sm] >= 0
        y, x0, width = row[lane.sm[keep]], lane.start_s[keep], lane.duration_s[keep]
        x1 = x0 + width
        corners = np.stack(
            [np.stack([x0, y], 1), np.stack([x1, y], 1), np.stack([x1, y + 0.86], 1), np.stack([x0, y + 0.86], 1)], 1
        )
        each = lane.visited[keep] / np.maximum(lane.ctas[keep], 1)
        longest = max(float(each.max(initial=0.0)), 1.0)
        level = np.clip(np.ceil(SHADES * each / longest), 1, SHADES)
        for shade in range(1, SHADES + 1):
            # Pixels, since there may be thousands; one hue, so that light and dark pages show the same order.
            part = corners[level == shade]
            share = 0.25 + 0.75 * shade / SHADES
            axes.add_collection(PolyCollection(part, facecolor=FULL, alpha=share, edgecolor="none", rasterized=True))
        axes.axvline(lane.first_idle_s, color=SERIES[1], linestyle="--", linewidth=1.4)
        axes.set_xlim(0, lane.end_s * 1.02)
        axes.set_ylim(drawn.size, 0)
        some = "" if drawn.size == lane.sms else f" ({drawn.size} of {lane.sms} drawn)"
        axes.set(xlabel="time from the start of the kernel's work", ylabel=f"SM{some}", yticks=[])
        time_axis(axes.xaxis)
        words = (
            f"stronger colour: longer CTAs, up to {dispatch.visited.max(initial=0):.0f} KV tiles; dashed: first idle SM"
        )
        axes.set_title(words, fontsize=9)
        return figure


def sensitivity_figure(changes: Sequence[Change], time_s: float) -> Figure:
    """A bar each way for each figure of the GPU, the most telling at the top."""
    with rc():
        names = sorted(
            {change.what for change in changes},
            key=lambda name: max(abs(c.time_s / time_s - 1) for c in changes if c.what == name),
            reverse=True,
        )
        figure, axes = new_figure(height=1.3 + 0.3 * len(names))
        factors = sorted({change.factor for change in changes})
        for factor, colour in zip(factors, (SERIES[1], SERIES[0]), strict=True):
            values = {c.what: c.time_s / time_s - 1 for c in changes if c.factor == factor}
            axes.barh(
                names, [values.get(name, 0.0) for name in names], color=colour, height=0.6, label=f"{factor:g} times"
            )
        axes.axvline(0, color=MUTED, linewidth=0.8)
        most = max([0.01, *(abs(c.time_s / time_s - 1) for c in changes)])
        axes.set_xlim(-1.15 * most, 1.15 * most)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.0%}" if most >= 0.05 else f"{value:+.1%}")
        axes.locator_params(axis="x", nbins=6)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("change of the time")
        figure.legend(loc="outside lower left", ncols=2)
        return figure


def others_figure(options: Sequence[Otherwise]) -> Figure:
    """Times of other choices, fastest first; those with masked tiles in another colour and hatched."""
    with rc():
        figure, axes = new_figure(height=1.1 + 0.3 * len(options))
        for index, option in enumerate(options):
            axes.barh(
                index,
                option.time_s,
                color=SERIES[4] if option.masked_tiles else SERIES[0],
                edgecolor=INK if option.chosen else "none",
                linewidth=1.6 if option.chosen else 0.0,
                height=0.64,
            )
            note = f"{seconds_text(option.time_s)}{', masks' if option.masked_tiles else ''}"
            axes.annotate(note, (option.time_s, index), (4, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(range(len(options)), [_short(option.what) for option in options])
        axes.set_xlim(0, 1.45 * max(option.time_s for option in options))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        return figure


def gpus_figure(estimates: Sequence[Estimate], asked: set[str]) -> Figure:
    """Time on each GPU with its interval, on a log axis."""
    from matplotlib.ticker import NullFormatter

    with rc():
        figure, axes = new_figure(1.6 * WIDTH, 1.1 + 0.3 * len(estimates))
        for index, e in enumerate(estimates):
            colour = SERIES[0]
            axes.plot([e.time_low_s, e.time_high_s], [index, index], color=colour, linewidth=2, alpha=0.55)
            face = colour if e.gpu in asked else "none"
            axes.plot(e.time_s, index, "o", color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.6)
            note = f"{seconds_text(e.time_s)}, {e.speedup:.2f}x over dense"
            axes.annotate(note, (e.time_high_s, index), (6, 0), textcoords="offset points", va="center", fontsize=9)
        axes.set_yticks(range(len(estimates)), [_short(f"{e.gpu} ({e.kernel})") for e in estimates])
        axes.set_xscale("log")
        lows, highs = [e.time_low_s for e in estimates], [e.time_high_s for e in estimates]
        span = max(highs) / min(lows)
        axes.set_xlim(min(lows) / 1.15, max(highs) * span**0.45 * 1.3)
        time_axis(axes.xaxis)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, axis="x", color=GRID, linewidth=0.6)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        return figure


def _short(text: str, most: int = 26) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
