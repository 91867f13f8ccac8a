"""Error statistics, and the simple baselines a forecast has to beat."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .measured import MeasuredRun

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """Relative errors of n forecasts: mean, median and 90th percentile of their size, the worst, and the median error."""

    n: int
    mape: float
    median: float
    p90: float
    worst: float
    bias: float

    def to_dict(self) -> dict[str, float]:
        """The JSON form."""
        return asdict(self)


def summarise(errors: Floats) -> Summary:
    """Statistics of relative errors (forecast / measured - 1); at least one."""
    size = np.abs(errors)
    return Summary(
        int(size.size),
        float(size.mean()),
        float(np.median(size)),
        float(np.quantile(size, 0.9)),
        float(size.max()),
        float(np.median(errors)),
    )


def line_errors(speed_of_light_s: Floats, measured_s: Floats, fold: NDArray[np.int64]) -> Floats:
    """Relative errors of k * speed of light + c, fitted without the fold of each row.

    k and c minimise the squares of the relative errors: a weighted linear least squares.
    """
    errors = np.empty(measured_s.size)
    for out in np.unique(fold):
        test, train = fold == out, fold != out
        if not train.any():
            train = test
        design = np.stack([speed_of_light_s[train], np.ones(train.sum())], axis=1) / measured_s[train, None]
        k, c = np.linalg.lstsq(design, np.ones(train.sum()), rcond=None)[0]
        errors[test] = (k * speed_of_light_s[test] + c) / measured_s[test] - 1.0
    return errors


def repeat_errors(runs: Sequence[MeasuredRun]) -> dict[tuple[str, str], Floats]:
    """The noise floor: relative distances of repeated measurements of one call from their median, by (GPU, kernel).

    Repeats agree in everything but id, time, spread and samples, and differ in time: a row copied twice is no repeat.
    """
    repeats: dict[MeasuredRun, list[float]] = defaultdict(list)
    for run in runs:
        repeats[replace(run, id="", time_s=1.0, spread_s=None, samples=None)].append(run.time_s)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run, times_s in repeats.items():
        if len(set(times_s)) > 1:
            found[run.gpu, run.kernel] += [time_s / float(np.median(times_s)) - 1.0 for time_s in times_s]
    return {key: np.array(errors) for key, errors in found.items()}
