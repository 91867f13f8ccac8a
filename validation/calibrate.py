"""Fit the few constants of each use of a kernel to measured runs, and say how far off rows are that no constant saw."""

from __future__ import annotations

import ctypes
import datetime
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator.calibration import BOUNDS, OF_GPU, Constants, Use, query_pass, told_constants, use_of
from ..simulator.carry import carried_constants
from ..simulator.evidence import seen_in
from ..simulator.patterns import parse_pattern
from .measured import MeasuredRun
from .problem import FOLDS, Floats, Problem, described

MIN_ROWS = 40  # fewer say too little about six constants
UNDESCRIBED = "no profile describes it"
TOO_FEW = f"fewer than {MIN_ROWS} runs of its kind"
COVERAGE = 0.8
# mallopt(3): M_TRIM_THRESHOLD, bytes at the top of the heap that are kept, and M_MMAP_THRESHOLD, bytes from which an array is
# mapped on its own (32 MiB at most).
_KEPT = {-1: 1 << 29, -3: 1 << 25}
STEP = 1.5e-8  # of a constant, for slopes: about the root of what a float resolves
SOFT = 0.1  # log(forecast / measured) from which errors count less than squared
# How far a portable constant may lie from its prior, in log: DRAM's share of its peak is known to a tenth.
SPREAD = {
    "overlap": 1.0,
    "round_trips": 1.0,
    "tile_round_trips": 1.0,
    "dram_efficiency": 0.1,
    "query_rate": 1.5,
    "rotation_efficiency": 1.5,
    "call_s": 1.5,
    "sequence_s": 2.0,
    "key_s": 2.0,
}
PORTABLE_ROWS = 100.0
# Where a search starts that has no prior.
START = {"query_rate": 8.0, "rotation_efficiency": 0.3, "call_s": 2e-6, "key_s": 1e-10, "sequence_s": 1e-10}


@dataclass(frozen=True)
class Fitted:
    """What a fit gave for one use.

    Attributes:
        use: what for. problem: its rows. constants: fitted on all of them.
        before, held_out: relative error of each row, shape (rows,): of the priors, and of constants fitted without the row's
            shape.
        held_out_interval: for each row, the half width of the interval found on the other folds.
        carried_s: forecasts of constants carried over from other GPUs; None when no other GPU has its kernel or engine.
    """

    use: Use
    problem: Problem
    constants: Constants
    before: Floats
    held_out: Floats
    held_out_interval: Floats
    carried_s: Floats | None = None

    @property
    def inside(self) -> float:
        """Share of rows inside the interval that other folds gave."""
        return float(np.mean(np.abs(np.log1p(self.held_out)) <= self.held_out_interval))


def calibrate(
    runs: Sequence[MeasuredRun], data: str, command: str
) -> tuple[list[Fitted], dict[str, list[MeasuredRun]]]:
    """Fit every use with at least ``MIN_ROWS`` forward runs.

    Returns:
        the fits, and the runs that were left out, by reason.

    Raises:
        InputError: no use has enough runs.
    """
    left_out: dict[str, list[MeasuredRun]] = defaultdict(list)
    uses: dict[Use, list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        if run.direction != "fwd":
            left_out["not a forward run"].append(run)
            continue
        try:
            uses[_use(run)].append(run)
        except InputError:
            left_out[UNDESCRIBED].append(run)
    groups = sorted(uses.items())
    one = partial(_fit_use, data=data, command=command)
    if (workers := min(os.cpu_count() or 1, len(groups))) > 1:
        # The largest first, so that none is left to run alone at the end.
        order = sorted(range(len(groups)), key=lambda index: -len(groups[index][1]))
        with ProcessPoolExecutor(workers, initializer=_keep_memory) as pool:
            done = dict(zip(order, pool.map(one, *zip(*(groups[index] for index in order), strict=True)), strict=True))
        found = [done[index] for index in range(len(groups))]
    else:
        found = [one(use, members) for use, members in groups]
    fits = []
    for fitted, few, others in found:
        left_out[UNDESCRIBED] += others
        left_out[TOO_FEW] += few
        if fitted:
            fits.append(fitted)
    if not fits:
        raise InputError(f"{data!r} has no {MIN_ROWS} forward runs of one kernel on one GPU: nothing can be fitted")
    return [_with_others(fitted, fits) for fitted in fits], {reason: of for reason, of in left_out.items() if of}


def _keep_memory() -> None:
    """Let the C library keep what arrays leave, where it can be told to: a forecast's come and go by the megabyte, and pages
    that are handed back and asked for again took a fifth of the time of a calibration."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    for option, size_bytes in _KEPT.items():
        mallopt(option, size_bytes)


def by_use(runs: Iterable[MeasuredRun]) -> list[tuple[Use, list[MeasuredRun]]]:
    """Runs that profiles describe, by use."""
    groups: dict[Use, list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        groups[_use(run)].append(run)
    return sorted(groups.items())


def _use(run: MeasuredRun) -> Use:
    return use_of(load_gpu(run.gpu), run.kernel, run.workload, run.conditions.engine)


def fitted_names(problem: Problem) -> list[str]:
    """The constants that a problem's rows can tell: six at most."""
    calls = problem.calls
    over_queries = query_pass(bool(calls.rotate_bytes.any()), bool(calls.quantise_bytes.any()))
    waits = bool(((calls.cycles == 0) | (calls.waits > 0)).any())
    return told_constants(problem.profile, bool(calls.append_bytes.any()), over_queries, waits)


def priors(problem: Problem) -> dict[str, float]:
    """Where a search for the constants of a problem begins: their priors, or a start where there is none."""
    found = {}
    for name in fitted_names(problem):
        value = getattr(problem.gpu if name in OF_GPU else problem.profile, name)
        found[name] = START[name] if name in START else float(value)
    return found


def fit(problem: Problem, portable: bool = False, near: Mapping[str, float] | None = None) -> dict[str, float]:
    """Constants that fit a problem's rows: least squares of log(forecast / measured), robust, within bounds.

    Where ``portable``, a constant's distance from its prior counts as a row's error does: ``SPREAD`` of it as
    much as a row that is off by 10%, beside a hundred rows. What the rows do not tell then stays near its prior, rather than
    on a bound where it makes up for some other constant. The search begins at the priors, or ``near`` where that is told.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("fitting needs scipy: install it with pip install 'attncast[fit]'") from None
    begin = priors(problem)
    names = list(begin)
    low, high = (np.log([getattr(BOUNDS[name], side) for name in names]) for side in ("low", "high"))
    prior, start = (
        np.clip(np.log([of[name] for name in names]), low + 1e-6, high - 1e-6)
        for of in (begin, {**begin, **(near or {})})
    )
    spread = np.array([SPREAD[name] for name in names])

    rows = problem.measured_s.size
    beside = problem.repeated(1 + len(names))
    weight = np.sqrt(PORTABLE_ROWS / rows) if portable else 1.0

    def values(x: Iterable[float]) -> dict[str, float]:
        return dict(zip(names, map(math.exp, x), strict=True))

    @lru_cache(maxsize=1)  # slopes are asked for where residuals have just been
    def stepped(at: tuple[float, ...]) -> tuple[Floats, Floats]:
        """A step of each constant; and all rows as they are and after each step, shape (1 + steps, rows), in one forecast."""
        x = np.array(at)
        steps = STEP * np.maximum(1.0, np.abs(x))
        steps = np.where(x + steps > high, -steps, steps)
        points = np.repeat(np.exp(x + np.vstack([np.zeros_like(x), np.diag(steps)])), rows, axis=0)
        return steps, beside.seconds(dict(zip(names, points.T, strict=True))).reshape(-1, rows)

    def residuals(x: Floats) -> Floats:
        _, seconds = stepped(tuple(x))
        logs: Floats = weight * np.log(seconds[0] / problem.measured_s)
        return np.concatenate([logs, SOFT * (x - prior) / spread]) if portable else logs

    def slopes(x: Floats) -> Floats:
        """Derivatives of the residuals by x, shape (residuals, x)."""
        steps, seconds = stepped(tuple(x))
        by_rows: Floats = weight * np.log(seconds[1:] / seconds[0]).T / steps
        return np.concatenate([by_rows, np.diag(SOFT / spread)]) if portable else by_rows

    # soft_l1 beyond 10%: a few rows of another kernel than the profile's shall not decide.
    # A step that gains less than a ten-thousandth of the loss moves no error that a table shows.
    stop = {"ftol": 1e-4, "xtol": 1e-4, "gtol": 1e-4, "max_nfev": 60}
    found = least_squares(residuals, start, slopes, bounds=(low, high), loss="soft_l1", f_scale=SOFT, **stop)
    return values(found.x)


def carried_seconds(use: Use, problem: Problem, fits: Sequence[Fitted]) -> Floats | None:
    """What the other GPUs' fits say of a use's rows, in seconds, shape (rows,); None where they have nothing to say."""
    portable = {other.use: other.constants.portable for other in fits if other.use.gpu != use.gpu}
    values = carried_constants(use, problem.profile, fitted_names(problem), portable)
    return None if values is None else problem.seconds(values)


def _with_others(fitted: Fitted, fits: Sequence[Fitted]) -> Fitted:
    problem = fitted.problem
    carried_s = carried_seconds(fitted.use, problem, fits)
    if carried_s is None:
        return fitted
    interval = _quantile(np.abs(np.log(carried_s / problem.measured_s)))
    return replace(fitted, constants=replace(fitted.constants, left_out_interval=interval), carried_s=carried_s)


def _fit_use(
    use: Use, runs: Sequence[MeasuredRun], data: str, command: str
) -> tuple[Fitted | None, Sequence[MeasuredRun], list[MeasuredRun]]:
    """The fit of a use; or its runs, where they are too few; and the runs that no profile describes."""
    problem, others = described(runs)
    if problem is None or len(problem.runs) < MIN_ROWS:
        return None, problem.runs if problem else (), others
    return _fitted(use, problem, data, command), (), others


def _fitted(use: Use, problem: Problem, data: str, command: str) -> Fitted:
    measured_s, fold = problem.measured_s, problem.fold
    held_out, interval = np.empty(measured_s.size), np.empty(measured_s.size)
    folds: list[Mapping[str, float]] = []
    for index in range(FOLDS):
        out = fold == index
        if out.any():
            folds.append(_without(problem, out))
            held_out[out] = problem.seconds(folds[-1])[out] / measured_s[out] - 1.0
    logs = np.abs(np.log1p(held_out))
    for index in range(FOLDS):
        out = fold == index
        interval[out] = _quantile(logs[~out] if (~out).any() else logs)
    # What most rows gave is near what all give; a fold itself begins at the priors, as it must not know of its rows.
    # So do portable ones: from what fits best they seldom find back.
    constants = Constants(
        fit(problem, near=_middle(folds)),
        interval=_quantile(logs),
        rows=measured_s.size,
        held_out_mape=float(np.mean(np.abs(held_out))),
        data=data,
        date=datetime.date.today().isoformat(),
        command=command,
        portable=fit(problem, portable=True),
        seen=seen_in((run.workload, parse_pattern(run.pattern), run.time_s) for run in problem.runs),
    )
    return Fitted(use, problem, constants, problem.seconds() / measured_s - 1.0, held_out, interval)


def _without(problem: Problem, out: NDArray[np.bool_]) -> Mapping[str, float]:
    """Constants that did not see the rows of a fold; none, so that priors count, where the others are too few."""
    return fit(problem.where(~out)) if (~out).sum() >= MIN_ROWS // 2 else {}


def _middle(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each constant over fits."""
    names = {name for values in found for name in values}
    return {name: float(np.median([values[name] for values in found if name in values])) for name in names}


def _quantile(logs: Floats) -> float:
    """Conformal: the smallest half width that holds 80% of rows like these and one more."""
    rank = min(1.0, np.ceil(COVERAGE * (logs.size + 1)) / logs.size)
    return float(np.quantile(logs, rank, method="higher"))
