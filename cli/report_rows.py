"""What ``attncast report validation`` shows, from what the room of validation gives: the one place that joins the two."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..hwmodels import load_gpu
from ..reports.validation import ValidationRows
from ..simulator import parse_pattern, predict
from ..validation.measured import MeasuredRun, load_table
from ..validation.ranking import rankings
from ..validation.validate import Validation, errors_by, size_class, validate

WAYS = (
    ("this model, fitted on other shapes", "held_out"),
    ("this model, GPU left out", "left_out_gpu"),
    ("this model, nothing fitted", "priors"),
    ("k x speed of light + c", "line"),
    ("speed of light", "speed_of_light"),
)


def validation_rows(table: str, at_least_s: float = 0.0) -> ValidationRows:
    """Held-out forecasts of a table of measured runs: a file, or the name of a packaged one.

    Args:
        at_least_s: rows of at least that long are shown; fits use all.

    Raises:
        InputError: no such table, too few runs in it, or none so long.
    """
    found = validate(load_table(table), Path(table).name, at_least_s)
    rows = found.rows
    width = np.exp(rows.interval)
    return ValidationRows(
        measured_s=rows.measured_s,
        forecast_s=rows.forecast_s,
        low_s=rows.forecast_s / width,
        high_s=rows.forecast_s * width,
        id=np.array([run.id for run in rows.runs]),
        gpu=np.array([run.gpu for run in rows.runs]),
        kernel=np.array([run.kernel for run in rows.runs]),
        pattern=np.array([_pattern(run) for run in rows.runs]),
        size=np.array([size_class(time_s) for time_s in rows.measured_s]),
        bound_by=np.array([_bound_by(run) for run in rows.runs]),
        baselines=_baselines(found),
        tables=(_by_kernel(found), _by_use(found), _order(found), _unfitted(found), _noise(found), _unused(found)),
        notes=("What bounds a row is said by the priors, the forecast itself by fitted constants.",),
    )


def _pattern(run: MeasuredRun) -> str:
    words = run.pattern.split()[0]
    return f"{words}, decode" if run.workload.tokens <= 8 else words


def _bound_by(run: MeasuredRun) -> str:
    estimate = predict(
        run.workload,
        parse_pattern(run.pattern),
        load_gpu(run.gpu),
        run.kernel,
        q_tile=run.q_tile or None,
        kv_tile=run.kv_tile or None,
        conditions=run.conditions,
    )
    return estimate.bound_by


def _baselines(found: Validation) -> tuple[tuple[str, float], ...]:
    """Mean errors over rows, each GPU and kernel by its rows."""
    ways = []
    for title, name in WAYS:
        summaries = list(getattr(found, name).values())
        if summaries:
            mean = float(np.average([s.mape for s in summaries], weights=[s.n for s in summaries]))
            ways.append((title, mean))
    return tuple(ways)


Plain = tuple[str, tuple[str, ...], tuple[tuple[str | float, ...], ...]]


def _by_kernel(found: Validation) -> Plain:
    rows = tuple(
        (
            f"{gpu} {kernel}",
            summary.n,
            *(
                getattr(found, name)[gpu, kernel].mape if (gpu, kernel) in getattr(found, name) else float("nan")
                for _, name in WAYS
            ),
        )
        for (gpu, kernel), summary in found.held_out.items()
    )
    header = ("GPU and kernel", "rows", "held out", "GPU left out", "nothing fitted", "k SOL + c", "SOL")
    return "Mean error by GPU and kernel", header, rows


def _by_use(found: Validation) -> Plain:
    by_use = errors_by(found.rows, "use").items()
    rows = tuple((f"{gpu} {use}", e.n, e.mape, e.median, e.p90, e.bias) for (gpu, use), e in by_use)
    return "Held-out error by use of a kernel", ("use", "rows", "mean", "median", "p90", "bias"), rows


def _order(found: Validation) -> Plain:
    """How well kernels and engines measured on one shape are put in order, beside the line."""
    line = rankings(found.rows, found.rows.line_s)
    rows = tuple(
        (gpu, ranking.shapes, ranking.ordered, line[gpu].ordered, ranking.regret, line[gpu].regret)
        for gpu, ranking in rankings(found.rows, found.rows.forecast_s).items()
    )
    header = ("GPU", "shapes", "pairs in order", "by k SOL + c", "slower than the fastest", "by k SOL + c")
    return "Kernels and engines on one shape", header, rows


def _unfitted(found: Validation) -> Plain:
    rows = tuple(
        (f"{gpu} {kernel}", e.n, e.mape, e.median, e.p90, e.bias) for (gpu, kernel), e in found.unfitted.items()
    )
    header = ("GPU and kernel", "rows", "mean", "median", "p90", "bias")
    return "Error on runs too few to be fitted", header, rows


def _noise(found: Validation) -> Plain:
    """How far repeated measurements of one call, and the quartiles of one measurement, are apart."""
    spreads: dict[str, list[float]] = {}
    for run in found.rows.runs:
        spread = spreads.setdefault(f"{run.gpu} {run.kernel}", [])
        if run.spread_s is not None:
            spread.append(run.spread_s / run.time_s)
    repeats = {f"{gpu} {kernel}": e.mape for (gpu, kernel), e in found.noise.items()}
    cells = tuple(
        (name, len(of), float(np.median(of)) if of else float("nan"), repeats.get(name, float("nan")))
        for name, of in spreads.items()
    )
    header = ("GPU and kernel", "rows with a spread", "median spread", "repeats differ by")
    return "Noise floor", header, cells


def _unused(found: Validation) -> Plain:
    rows = tuple((reason, number) for reason, number in found.left_out.items())
    return "Rows left out", ("reason", "rows"), rows
