"""Fit the few constants of each use of a kernel to measured runs, and say how far off rows are that no constant saw."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator.calibration import BOUNDS, OF_GPU, Constants, Use, use_of
from .measured import MeasuredRun
from .problem import FOLDS, Floats, Problem, describable, problem_of

MIN_ROWS = 40  # fewer say too little about six constants
COVERAGE = 0.8
# Where a search starts that has no prior.
START = {"query_efficiency": 0.5, "call_s": 2e-6, "key_s": 1e-10, "sequence_s": 1e-10}


@dataclass(frozen=True)
class Fitted:
    """What a fit gave for one use.

    Attributes:
        use: what for. problem: its rows. constants: fitted on all of them.
        before, held_out: relative error of each row, shape (rows,): of the priors, and of constants fitted without the row's
            shape.
        held_out_interval: for each row, the half width of the interval found on the other folds.
    """

    use: Use
    problem: Problem
    constants: Constants
    before: Floats
    held_out: Floats
    held_out_interval: Floats

    @property
    def inside(self) -> float:
        """Share of rows inside the interval that other folds gave."""
        return float(np.mean(np.abs(np.log1p(self.held_out)) <= self.held_out_interval))


def calibrate(runs: Sequence[MeasuredRun], data: str, command: str) -> tuple[list[Fitted], dict[str, int]]:
    """Fit every use with at least ``MIN_ROWS`` forward runs.

    Returns:
        the fits, and how many runs were left out, by reason.

    Raises:
        InputError: no use has enough runs.
    """
    groups: dict[Use, list[MeasuredRun]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    for run in runs:
        if run.direction != "fwd":
            left_out["not a forward run"] += 1
        elif not describable(run):
            left_out["no profile describes it"] += 1
        else:
            groups[use_of(load_gpu(run.gpu), run.kernel, run.workload, run.conditions.engine)].append(run)
    fits = []
    for use, members in sorted(groups.items()):
        if len(members) < MIN_ROWS:
            left_out[f"fewer than {MIN_ROWS} runs of its kind"] += len(members)
        else:
            fits.append(_fit_use(use, problem_of(members), data, command))
    if not fits:
        raise InputError(f"{data!r} has no {MIN_ROWS} forward runs of one kernel on one GPU: nothing can be fitted")
    return fits, dict(left_out)


def fitted_names(problem: Problem) -> list[str]:
    """The constants that a problem's rows can tell: six at most.

    An engine's call has its own costs. How fast it rotates or quantises queries matters more than what a sequence costs.
    """
    calls = problem.calls
    names = ["overlap", "round_trips", "dram_efficiency"]
    if calls.append_bytes.any():
        names += ["call_s", "key_s"]
    if (calls.rotate_bytes + calls.quantise_bytes).any():
        names.append("query_efficiency")
    elif problem.profile.chain == "loads" and ((calls.cycles == 0) | (calls.waits > 0)).any():
        names.append("tile_round_trips")
    elif calls.append_bytes.any():
        names.append("sequence_s")
    return names


def priors(problem: Problem) -> dict[str, float]:
    """Where a search for the constants of a problem begins: their priors, or a start where there is none."""
    found = {}
    for name in fitted_names(problem):
        value = getattr(problem.gpu if name in OF_GPU else problem.profile, name)
        found[name] = START[name] if name in START else float(value)
    return found


def fit(problem: Problem, rows: NDArray[np.bool_]) -> dict[str, float]:
    """Constants that fit some rows: least squares of log(forecast / measured), robust, within bounds."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("fitting needs scipy: install it with pip install 'attncast[fit]'") from None
    begin = priors(problem)
    names = list(begin)
    low, high = (np.log([getattr(BOUNDS[name], side) for name in names]) for side in ("low", "high"))
    start = np.clip(np.log(list(begin.values())), low + 1e-6, high - 1e-6)

    def values(x: Floats) -> dict[str, float]:
        return dict(zip(names, map(float, np.exp(x)), strict=True))

    def residuals(x: Floats) -> Floats:
        logs: Floats = np.log(problem.seconds(values(x))[rows] / problem.measured_s[rows])
        return logs

    # soft_l1 beyond 10%: a few rows of another kernel than the profile's shall not decide.
    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=60)
    return values(found.x)


def _fit_use(use: Use, problem: Problem, data: str, command: str) -> Fitted:
    measured_s, fold = problem.measured_s, problem.fold
    held_out, interval = np.empty(measured_s.size), np.empty(measured_s.size)
    for index in range(FOLDS):
        out = fold == index
        if out.any():
            held_out[out] = _held_out(problem, out) / measured_s[out] - 1.0
    logs = np.abs(np.log1p(held_out))
    for index in range(FOLDS):
        out = fold == index
        interval[out] = _quantile(logs[~out] if (~out).any() else logs)
    constants = Constants(
        fit(problem, np.ones(measured_s.size, dtype=bool)),
        interval=_quantile(logs),
        rows=measured_s.size,
        held_out_mape=float(np.mean(np.abs(held_out))),
        data=data,
        date=datetime.date.today().isoformat(),
        command=command,
    )
    return Fitted(use, problem, constants, problem.seconds() / measured_s - 1.0, held_out, interval)


def _held_out(problem: Problem, out: NDArray[np.bool_]) -> Floats:
    """Forecasts of the rows of a fold by constants of the others; by priors where these are too few."""
    values: Mapping[str, float] = fit(problem, ~out) if (~out).sum() >= MIN_ROWS // 2 else {}
    return problem.seconds(values)[out]


def _quantile(logs: Floats) -> float:
    """Conformal: the smallest half width that holds 80% of rows like these and one more."""
    rank = min(1.0, np.ceil(COVERAGE * (logs.size + 1)) / logs.size)
    return float(np.quantile(logs, rank, method="higher"))
