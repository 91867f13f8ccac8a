"""A cascade's graph as a picture, passes in colour. Needs matplotlib and networkx (the extra ``plot``)."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..files import whole_file
from ..simulator.einsum import Cascade, dependency_graph, passes, reduced_ranks

_COLOURS = ("#9ecae9", "#ffbf79", "#88d27a", "#ff9d98", "#d6a5c9", "#f2cf5b")
_GIVEN = "#e6e6e6"


def draw(cascade: Cascade, target: str) -> None:
    """Write the graph as a PNG, whole or not at all.

    Raises:
        InputError: the libraries are not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from networkx import topological_generations  # type: ignore[import-untyped]
    except ImportError as problem:
        raise InputError(f"--png needs {problem.name}, which is not installed: pip install 'attncast[plot]'") from None

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
    figure = Figure(figsize=(max(6.0, 1.5 * len(layers)), max(3.5, 0.95 * max(map(len, layers)) + 1.6)))
    FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0.02, 0.02, 0.96, 0.86))
    axes.set_axis_off()
    for start, end, carried in graph.edges(data="carried"):
        if start == end:
            continue
        arrow = {
            "arrowstyle": "-|>",
            "color": "#777777",
            "shrinkA": 17,
            "shrinkB": 17,
            "linestyle": "--" if carried else "-",
            # A long edge bends out of the way of what lies between its ends.
            "connectionstyle": f"arc3,rad={0.3 if carried else 0.2 if depth[end] - depth[start] > 1 else 0.0}",
        }
        axes.annotate("", xy=place[end], xytext=place[start], arrowprops=arrow)
    for tensor, (x, y) in place.items():
        outline = "#222222" if tensor in cascade.scope.outputs else "#888888"
        box = {
            "boxstyle": "round,pad=0.45",
            "facecolor": _COLOURS[(colour[tensor] - 1) % len(_COLOURS)] if tensor in colour else _GIVEN,
            "edgecolor": outline,
            "linewidth": 2.2 if tensor in cascade.scope.outputs else 1.0,
        }
        axes.text(x, y, tensor, ha="center", va="center", fontsize=10, family="monospace", bbox=box)
    xs, ys = zip(*place.values(), strict=True)
    axes.set_xlim(min(xs) - 1, max(xs) + 1)
    axes.set_ylim(min(ys) - 0.8, max(ys) + 0.8)
    count = max(colour.values(), default=1)
    words = f"{cascade.name}: {count} pass{'es' if count > 1 else ''} over {rank}"
    figure.text(0.02, 0.955, words, fontsize=12, va="center")
    for number in range(1, count + 1):
        shade = {"boxstyle": "round", "facecolor": _COLOURS[(number - 1) % len(_COLOURS)], "edgecolor": "none"}
        figure.text(0.02 + 0.13 * (number - 1), 0.9, f"pass {number}", fontsize=9, va="center", bbox=shade)
    with whole_file(target) as file:
        figure.savefig(file, format="png", dpi=150)


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
