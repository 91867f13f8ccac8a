"""A cascade's graph as a figure, passes in colour. Needs matplotlib and networkx (the extra ``plot``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ...errors import InputError
from ..plots import INK, MUTED, rc
from .footprint import reduced_ranks
from .graph import dependency_graph
from .passes import passes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .ir import Cascade

# Light fills, that the names written on them in INK_ON_FILL stand out in light and in dark mode.
FILLS: Final = ("#9ecae9", "#ffbf79", "#88d27a", "#ff9d98", "#d6a5c9", "#f2cf5b")
GIVEN: Final = "#e6e6e6"
INK_ON_FILL: Final = "#14171a"
HEAD_INCHES: Final = 0.72  # name and legend


def cascade_figure(cascade: Cascade) -> Figure:
    """The tensors and who reads them, from left to right; the colour is the pass that makes a tensor.

    Raises:
        InputError: the libraries are not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from networkx import topological_generations  # type: ignore[import-untyped]
    except ImportError as problem:
        raise InputError(
            f"the graph needs {problem.name}, which is not installed: pip install 'attncast[plot]'"
        ) from None

    graph = dependency_graph(cascade)
    onward = graph.copy()
    # What a state carries to the next step points backwards; without those edges the graph has layers.
    onward.remove_edges_from([(a, b, k) for a, b, k, carried in graph.edges(keys=True, data="carried") if carried])
    onward.remove_edges_from([(a, b, k) for a, b, k in onward.edges(keys=True) if a == b])
    depth = {tensor: x for x, layer in enumerate(topological_generations(onward)) for tensor in layer}
    for tensor in cascade.scope.inputs:  # beside what it is first used with, not all in the first column
        depth[tensor] = min((depth[reader] for reader in onward.successors(tensor)), default=1) - 1
    layers = [[tensor for tensor in graph if depth[tensor] == x] for x in range(max(depth.values()) + 1)]
    rank, colour = _pass_of(cascade)
    place = {
        tensor: (x * 1.9, -(y - (len(layer) - 1) / 2) * 1.1)
        for x, layer in enumerate(layers)
        for y, tensor in enumerate(layer)
    }
    with rc():
        height = max(2.6, 0.72 * max(map(len, layers)) + HEAD_INCHES + 0.4)
        figure = Figure(figsize=(max(6.0, 1.4 * len(layers)), height))
        FigureCanvasAgg(figure)
        axes: Any = figure.add_axes((0.02, 0.02, 0.96, 0.96 - HEAD_INCHES / height))
        axes.set_axis_off()
        for start, end, carried in graph.edges(data="carried"):
            if start == end:
                continue
            arrow = {
                "arrowstyle": "-|>",
                "color": MUTED,
                "shrinkA": 17,
                "shrinkB": 17,
                "linestyle": "--" if carried else "-",
                # A long edge bends out of the way of what lies between its ends.
                "connectionstyle": f"arc3,rad={0.3 if carried else 0.2 if depth[end] - depth[start] > 1 else 0.0}",
            }
            axes.annotate("", xy=place[end], xytext=place[start], arrowprops=arrow)
        for number, (tensor, (x, y)) in enumerate(place.items()):
            result = tensor in cascade.scope.outputs
            box = {
                "boxstyle": "round,pad=0.45",
                "facecolor": FILLS[(colour[tensor] - 1) % len(FILLS)] if tensor in colour else GIVEN,
                "edgecolor": INK if result else MUTED,
                "linewidth": 2.2 if result else 1.0,
            }
            text = axes.text(x, y, tensor, ha="center", va="center", fontsize=10, color=INK_ON_FILL, bbox=box)
            text.set_gid(f"on-colour-{number}")
        xs, ys = zip(*place.values(), strict=True)
        axes.set_xlim(min(xs) - 1, max(xs) + 1)
        axes.set_ylim(min(ys) - 0.8, max(ys) + 0.8)
        count = max(colour.values(), default=1)
        words = f"{cascade.name}: {count} pass{'es' if count > 1 else ''} over {rank}"
        figure.text(0.02, 1 - 0.2 / height, words, fontsize=12, va="center")
        for number in range(1, count + 1):
            shade = {"boxstyle": "round", "facecolor": FILLS[(number - 1) % len(FILLS)], "edgecolor": "none"}
            where = (
                0.02 + 0.8 * (number - 1) / figure.get_figwidth() + 0.08 / figure.get_figwidth(),
                1 - 0.52 / height,
            )
            label = figure.text(*where, f"pass {number}", fontsize=9, va="center", color=INK_ON_FILL, bbox=shade)
            label.set_gid(f"on-colour-pass-{number}")
        return figure


def _pass_of(cascade: Cascade) -> tuple[str, dict[str, int]]:
    """The rank with the most passes (of those the most traversed), and the pass each tensor is made in."""
    results = [passes(cascade, rank) for rank in reduced_ranks(cascade)]
    if not results:
        return "no rank", {}
    result = max(results, key=lambda r: (r.count, len(r.traverses)))
    made: dict[str, int] = {}
    for number, when in result.runs.items():
        tensor = cascade.scope.einsums[number].target.tensor
        made[tensor] = max(when, made.get(tensor, 0))
    return result.rank, made
