"""Whether forecasts put what was measured on one shape in its order: which kernel, engine or tile is the fastest there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass

import numpy as np

from .problem import Floats
from .validate import Rows


@dataclass(frozen=True)
class Ranking:
    """Rank quality within a shape, over the shapes of a GPU on which at least two alternatives were measured.

    Attributes:
        shapes: how many. pairs: of alternatives of one shape. ordered: share of those whose faster one is forecast as the
            faster; equal forecasts count half. regret: measured time of the one forecast as fastest over that of the
            fastest, less 1, mean over shapes; worst: the largest.
    """

    shapes: int
    pairs: int
    ordered: float
    regret: float
    worst: float

    def to_dict(self) -> dict[str, float]:
        """The JSON form."""
        return asdict(self)


def rankings(rows: Rows, forecast_s: Floats) -> dict[str, Ranking]:
    """Rank quality of some forecasts of the rows, shape (rows,), by GPU.

    Alternatives did the same work on the same call, under the same conditions, by another kernel or engine, or in other tiles.
    """
    shapes: dict[str, dict[tuple[object, ...], dict[tuple[str, ...], int]]] = defaultdict(lambda: defaultdict(dict))
    for index, run in enumerate(rows.runs):
        shape = (run.workload, run.pattern, run.measures, run.warm, run.graph, run.calls_before, run.clock_hz)
        alternative = (run.kernel, run.conditions.engine, run.q_tile, run.kv_tile, run.config)
        shapes[run.gpu][shape].setdefault(alternative, index)  # a repeat is no alternative
    found = {}
    for gpu, measured in sorted(shapes.items()):
        groups = [np.array(list(members.values())) for members in measured.values() if len(members) > 1]
        if groups:
            found[gpu] = _ranking([(rows.measured_s[group], forecast_s[group]) for group in groups])
    return found


def _ranking(shapes: list[tuple[Floats, Floats]]) -> Ranking:
    ordered: list[Floats] = []
    regret = []
    for measured, forecast in shapes:
        a, b = np.triu_indices(measured.size, 1)
        agree = np.sign(measured[a] - measured[b]) * np.sign(forecast[a] - forecast[b])
        ordered.append(0.5 + 0.5 * agree)
        regret.append(measured[np.argmin(forecast)] / measured.min() - 1.0)
    pairs = np.concatenate(ordered)
    return Ranking(len(shapes), pairs.size, float(pairs.mean()), float(np.mean(regret)), float(np.max(regret)))
