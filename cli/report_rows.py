"""What ``attncast report validation`` shows, from what the room of validation gives: the one place that joins the two."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..hwmodels import load_gpu
from ..reports.validation import ValidationRows
from ..simulator import parse_pattern, predict
from ..validation.calibrate import calibrate
from ..validation.measured import DATA, MeasuredRun, load_runs
from ..validation.validate import Validation, validate

SIZES = ((50e-6, "under 50 us"), (500e-6, "50 to 500 us"), (5e-3, "0.5 to 5 ms"), (float("inf"), "above 5 ms"))
WAYS = (
    ("this model, fitted on other shapes", "held_out"),
    ("this model, GPU left out", "left_out_gpu"),
    ("this model, nothing fitted", "priors"),
    ("k x speed of light + c", "line"),
    ("speed of light", "speed_of_light"),
)


def validation_rows(table: str) -> ValidationRows:
    """Held-out forecasts of a table of measured runs: a file, or the name of a packaged one.

    Raises:
        InputError: no such table, or too few runs in it.
    """
    packaged = DATA / f"{table}.csv"
    runs = load_runs(packaged if packaged.is_file() else table)
    name = Path(table).name
    fits, _ = calibrate(runs, name, "attncast report validation")
    found = validate(runs, name)
    rows = [run for fit in fits for run in fit.runs]
    measured = np.concatenate([fit.problem.measured_s for fit in fits])
    forecast = measured * (1.0 + np.concatenate([fit.held_out for fit in fits]))
    width = np.exp(np.concatenate([np.full(len(fit.runs), fit.constants.interval) for fit in fits]))
    return ValidationRows(
        measured_s=measured,
        forecast_s=forecast,
        low_s=forecast / width,
        high_s=forecast * width,
        id=np.array([run.id for run in rows]),
        gpu=np.array([run.gpu for run in rows]),
        kernel=np.array([run.kernel for run in rows]),
        pattern=np.array([_pattern(run) for run in rows]),
        size=np.array([next(name for most, name in SIZES if run.time_s < most) for run in rows]),
        bound_by=np.array([_bound_by(run) for run in rows]),
        baselines=_baselines(found),
        tables=(_by_kernel(found), _noise(rows), _unused(found)),
        notes=(
            "The intervals are those of the final fit; the share of rows inside intervals that were found on other folds is "
            f"{found.coverage_80:.0%}.",
        ),
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


def _noise(rows: Sequence[MeasuredRun]) -> Plain:
    """How far measurements of one thing are apart: half the distance of the quartiles, over the median."""
    groups: dict[str, list[float]] = {}
    for run in rows:
        groups.setdefault(f"{run.gpu} {run.kernel}", [])
        if run.spread_s is not None:
            groups[f"{run.gpu} {run.kernel}"].append(run.spread_s / run.time_s)
    cells = tuple(
        (name, len(found), float(np.median(found)) if found else float("nan")) for name, found in groups.items()
    )
    return "Noise floor (spread of the measurements)", ("GPU and kernel", "rows with a spread", "median spread"), cells


def _unused(found: Validation) -> Plain:
    rows = tuple((reason, number) for reason, number in found.left_out.items())
    return "Rows left out", ("reason", "rows"), rows
