"""How far forecasts are from measured runs that nothing was fitted on: by shape, by GPU, for speedups, beside baselines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, unknown
from ..simulator.estimate import seconds_text
from ..simulator.evidence import pattern_kind
from ..simulator.patterns import parse_pattern
from .calibrate import TOO_FEW, Fitted, by_use, calibrate, carried_seconds
from .measured import MeasuredRun
from .problem import Floats, problem_of
from .statistics import Summary, line_errors, repeat_errors, summarise

SIZES_S = ((15e-6, "under 15 us"), (50e-6, "15-50 us"), (1e-3, "50 us - 1 ms"), (np.inf, "over 1 ms"))

Key = tuple[str, str]
Table = dict[Key, Summary]


@dataclass(frozen=True)
class Rows:
    """Every row of the fits, side by side, shape (rows,): what tables, pages and pictures are made of.

    Attributes:
        runs: the rows. uses: of each.
        measured_s, forecast_s, interval: measured, forecast by constants that did not see its shape, and the half width of
            the 80% interval of log(time) that other folds gave.
        prior_s, carried_s, light_s, line_s: forecasts of the priors; of constants carried over from other GPUs (NaN where
            none has its kernel or engine); of the speed of light; and of k * speed of light + c on the same folds.
    """

    runs: tuple[MeasuredRun, ...]
    uses: tuple[str, ...]
    measured_s: Floats
    forecast_s: Floats
    interval: Floats
    prior_s: Floats
    carried_s: Floats
    light_s: Floats
    line_s: Floats

    @property
    def errors(self) -> Floats:
        """Relative errors of the forecasts on held-out shapes."""
        return self.forecast_s / self.measured_s - 1.0

    def where(self, wanted: NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        chosen = np.flatnonzero(wanted)
        columns = {
            item.name: getattr(self, item.name)[wanted] for item in fields(self) if item.name not in ("runs", "uses")
        }
        return Rows(tuple(self.runs[i] for i in chosen), tuple(self.uses[i] for i in chosen), **columns)


@dataclass(frozen=True)
class Validation:
    """Errors on rows that no constant saw; keys of tables are (GPU, kernel) unless said otherwise.

    Attributes:
        rows: those reported. held_out: shapes left out of the fit. priors: nothing fitted at all.
        left_out_gpu: a GPU left out of every fit. decode: of the held-out rows, those of at most 8 queries.
        speedup: window over causal, on pairs of one shape.
        speed_of_light, line: the baselines. noise: what repeated measurements of one call differ by (empty without any).
        coverage_80: share of held-out rows inside the 80% interval of the other folds. left_out: rows not used, by reason.
        unfitted: those left out as too few of their kind, forecast as ``predict`` does: by the priors, or for an engine's
            call by constants of other GPUs where they have its kernel or the engine.
    """

    rows: Rows
    held_out: Table
    priors: Table
    left_out_gpu: Table
    decode: Table
    speedup: Table
    speed_of_light: Table
    line: Table
    noise: Table
    coverage_80: float
    left_out: dict[str, int]
    unfitted: Table


def validate(runs: Sequence[MeasuredRun], data: str, at_least_s: float = 0.0, gpu: str | None = None) -> Validation:
    """Fit by folds and compare.

    Args:
        at_least_s: errors are reported on runs of at least that long; fits use all.
        gpu: errors are reported on this GPU's runs; fits use all, so that the constants of the others can be held to them.

    Raises:
        InputError: the GPU has no runs; no use has enough runs to fit; or no fitted run is to be reported.
    """
    gpus = {run.gpu for run in runs}
    if gpu is not None and gpu not in gpus:
        raise unknown(f"GPU of {data}", gpu, gpus)
    shown = gpus if gpu is None else {gpu}
    fits, left_out = calibrate(runs, data, "attncast validate")
    every = held_out_rows(fits)
    rows = every.where((every.measured_s >= at_least_s) & np.array([run.gpu in shown for run in every.runs]))
    if not rows.runs:
        on, long = f" on {gpu}" if gpu else "", f" of {seconds_text(at_least_s)} or longer" if at_least_s else ""
        raise InputError(f"{data} has no fitted runs{on}{long}: nothing to report")
    errors = rows.errors
    carried = np.isfinite(rows.carried_s)
    decode = np.array([" decode " in f" {use} " for use in rows.uses], dtype=bool)

    def table(values: Floats, wanted: NDArray[np.bool_] | None = None) -> Table:
        return _table(rows, "kernel", values, wanted)

    pairs = speedup_errors(rows)
    return Validation(
        rows=rows,
        held_out=table(errors),
        priors=table(rows.prior_s / rows.measured_s - 1.0),
        left_out_gpu=table(rows.carried_s / rows.measured_s - 1.0, carried),
        decode=table(errors, decode),
        speedup=table(pairs, np.isfinite(pairs)),
        speed_of_light=table(rows.light_s / rows.measured_s - 1.0),
        line=table(rows.line_s / rows.measured_s - 1.0),
        noise={
            key: summarise(found) for key, found in repeat_errors([run for run in runs if run.gpu in shown]).items()
        },
        coverage_80=float(np.mean(np.abs(np.log(rows.forecast_s / rows.measured_s)) <= rows.interval)),
        left_out={reason: count for reason, of in left_out.items() if (count := sum(run.gpu in shown for run in of))},
        unfitted=_unfitted_errors(
            [run for run in left_out.get(TOO_FEW, ()) if run.gpu in shown and run.time_s >= at_least_s], fits
        ),
    )


def _unfitted_errors(runs: Sequence[MeasuredRun], fits: Sequence[Fitted]) -> Table:
    """Errors of runs that no fit takes, by GPU and kernel."""
    errors: dict[Key, list[Floats]] = defaultdict(list)
    for use, members in by_use(runs):
        problem = problem_of(members)
        carried_s = carried_seconds(use, problem, fits) if use.engine else None
        forecast_s = problem.seconds() if carried_s is None else carried_s
        errors[use.gpu, use.kernel].append(forecast_s / problem.measured_s - 1.0)
    return {key: summarise(np.concatenate(parts)) for key, parts in errors.items()}


def errors_by(rows: Rows, by: str) -> Table:
    """Held-out errors by GPU and one of ``GROUPS``."""
    return _table(rows, by, rows.errors)


def _table(rows: Rows, by: str, values: Floats, wanted: NDArray[np.bool_] | None = None) -> Table:
    groups: dict[Key, list[int]] = defaultdict(list)
    for index in range(values.size) if wanted is None else np.flatnonzero(wanted):
        groups[rows.runs[index].gpu, GROUPS[by](rows, int(index))].append(int(index))
    return {name: summarise(values[members]) for name, members in sorted(groups.items())}


def held_out_rows(fits: Sequence[Fitted]) -> Rows:
    """The rows of all fits, one after the other."""
    columns: dict[str, list[Floats]] = defaultdict(list)
    for fit in fits:
        problem = fit.problem
        measured_s = problem.measured_s
        columns["measured_s"].append(measured_s)
        columns["forecast_s"].append((1.0 + fit.held_out) * measured_s)
        columns["interval"].append(fit.held_out_interval)
        columns["prior_s"].append((1.0 + fit.before) * measured_s)
        columns["carried_s"].append(np.full(measured_s.size, np.nan) if fit.carried_s is None else fit.carried_s)
        columns["light_s"].append(problem.speed_of_light_s)
        errors = line_errors(problem.speed_of_light_s, measured_s, problem.fold)
        columns["line_s"].append((1.0 + errors) * measured_s)
    runs = tuple(run for fit in fits for run in fit.problem.runs)
    uses = tuple(str(fit.use) for fit in fits for _ in fit.problem.runs)
    return Rows(runs, uses, **{name: np.concatenate(parts) for name, parts in columns.items()})


def speedup_errors(rows: Rows) -> Floats:
    """Relative error of each row's speedup over the causal run of its own shape; NaN where there is no such run."""
    shapes: dict[tuple[object, ...], dict[str, int]] = defaultdict(dict)
    for index, run in enumerate(rows.runs):
        shape = (run.software, run.batch, run.heads, run.heads_kv, run.grid, run.cached, run.head_dim, run.kv_dtype)
        shapes[rows.uses[index], *shape][run.pattern] = index
    errors = np.full(len(rows.runs), np.nan)
    for patterns in shapes.values():
        whole = patterns.get("causal")
        for text, index in patterns.items():
            if whole is not None and text.startswith("window"):
                forecast = rows.forecast_s[whole] / rows.forecast_s[index]
                errors[index] = forecast / (rows.measured_s[whole] / rows.measured_s[index]) - 1.0
    return errors


def family(run: MeasuredRun) -> str:
    """Kind of a run's pattern, for tables: dense, causal, window, or the pattern family."""
    return _kind(run.pattern)


@lru_cache(maxsize=1024)
def _kind(pattern: str) -> str:
    return pattern_kind(parse_pattern(pattern))


def size_class(time_s: float) -> str:
    """Size class of a measured time."""
    return next(name for limit_s, name in SIZES_S if time_s < limit_s)


def left_out_means(left_out_gpu: Table) -> dict[str, tuple[int, float]]:
    """Rows of each GPU that other GPUs' constants forecast, and their mean error, of a table by (GPU, kernel)."""
    means: dict[str, tuple[int, float]] = {}
    for (gpu, _), summary in left_out_gpu.items():
        rows, mean = means.get(gpu, (0, 0.0))
        total = rows + summary.n
        means[gpu] = total, (mean * rows + summary.mape * summary.n) / total
    return means


# What errors are shown by, beside the GPU: the name of a row's group. Numbers stand aligned, so that names sort as they do.
GROUPS: Mapping[str, Callable[[Rows, int], str]] = MappingProxyType(
    {
        "kernel": lambda rows, i: rows.runs[i].kernel,
        "family": lambda rows, i: family(rows.runs[i]),
        "size": lambda rows, i: size_class(rows.measured_s[i]),
        "use": lambda rows, i: rows.uses[i].removeprefix(f"{rows.runs[i].gpu} "),
        "dim": lambda rows, i: f"{rows.runs[i].kernel}, head dim {rows.runs[i].head_dim:>4}",
        "heads": lambda rows, i: (
            f"{rows.runs[i].kernel}, {rows.runs[i].heads // rows.runs[i].heads_kv:>3} on a KV head"
        ),
    }
)
