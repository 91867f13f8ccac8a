"""Fit the few constants of each kernel and GPU to measured runs, and say how far off rows are that no constant saw."""

from __future__ import annotations

import datetime
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import GPU, load_gpu
from ..simulator import parse_pattern
from ..simulator.batch import stack
from ..simulator.calibration import BOUNDS, Constants
from ..simulator.forecast import Calls, forecast
from ..simulator.predict import kernel_work, resolve_tiles, single_call
from ..simulator.profile import KernelProfile, choose_profile
from .measured import MeasuredRun

Floats = NDArray[np.float64]
FOLDS = 5
MIN_ROWS = 40  # fewer say too little about six constants
COVERAGE = 0.8


@dataclass(frozen=True)
class Fitted:
    """What a fit gave for one kernel on one GPU.

    Attributes:
        gpu, kernel: keys. constants: fitted on all rows.
        before, held_out: relative error of each row, shape (rows,): of the priors, and of constants fitted without the row's
            shape.
        inside: share of rows inside the interval, which was found on the other folds.
        runs: the rows. problem: forecasts them with other constants.
    """

    gpu: str
    kernel: str
    runs: Sequence[MeasuredRun]
    problem: Problem
    constants: Constants
    before: Floats
    held_out: Floats
    inside: float


def calibrate(runs: Sequence[MeasuredRun], data: str, command: str) -> tuple[list[Fitted], dict[str, int]]:
    """Fit every GPU and kernel with at least ``MIN_ROWS`` forward runs.

    Returns:
        the fits, and how many runs were left out, by reason.

    Raises:
        InputError: no GPU and kernel has enough runs.
    """
    groups: dict[tuple[str, str], list[MeasuredRun]] = defaultdict(list)
    left_out: dict[str, int] = defaultdict(int)
    for run in runs:
        if run.direction != "fwd":
            left_out["not a forward run"] += 1
        else:
            groups[run.gpu, run.kernel].append(run)
    fits = []
    for (gpu, kernel), members in sorted(groups.items()):
        usable = [run for run in members if _describable(run)]
        left_out["no profile describes it"] += len(members) - len(usable)
        if len(usable) < MIN_ROWS:
            left_out[f"fewer than {MIN_ROWS} runs of its GPU and kernel"] += len(usable)
            continue
        fits.append(_fit_group(gpu, kernel, usable, data, command))
    if not fits:
        raise InputError(f"{data!r} has no GPU and kernel with {MIN_ROWS} forward runs or more: nothing can be fitted")
    return fits, {reason: count for reason, count in left_out.items() if count}


def _describable(run: MeasuredRun) -> bool:
    try:
        pattern, workload = parse_pattern(run.pattern), run.workload
        choose_profile(run.kernel, load_gpu(run.gpu), pattern.family, workload.dtype, workload.head_dim)
        pattern.check(workload)
    except InputError:
        return False
    return True


@dataclass(frozen=True)
class Problem:
    """Runs of one GPU and kernel, ready to be forecast again and again.

    Attributes:
        alone: rows that measure the kernel alone. fold: of each row's shape. speed_of_light_s: the longer of the kept pairs'
            FLOPs at the tensor peak and each tensor's bytes, once, at the DRAM peak.
    """

    gpu: GPU
    profile: KernelProfile
    calls: Calls
    alone: NDArray[np.bool_]
    measured_s: Floats
    fold: NDArray[np.int64]
    speed_of_light_s: Floats

    def seconds(self, constants: Constants, rows: NDArray[np.bool_] | None = None) -> Floats:
        """Forecasts with some constants; all rows are forecast, since a call's work is stored beside the others'."""
        profile, gpu = constants.apply(self.profile, self.gpu)
        costs = forecast(gpu, profile, self.calls)
        found: Floats = np.where(self.alone, costs.kernel_s, costs.time_s)
        return found if rows is None else found[rows]


def _problem(gpu_name: str, kernel: str, runs: Sequence[MeasuredRun]) -> Problem:
    gpu = load_gpu(gpu_name)
    calls, flops = [], []
    profile = None
    for run in runs:
        workload, pattern = run.workload, parse_pattern(run.pattern)
        profile = choose_profile(kernel, gpu, pattern.family, workload.dtype, workload.head_dim)
        tiles = resolve_tiles(profile, pattern, workload, run.q_tile or None, run.kv_tile or None)
        work = kernel_work(profile, pattern, workload, tiles)
        calls.append(single_call(gpu, profile, workload, pattern, tiles, work, run.conditions))
        heads = workload.batch * workload.heads
        flops.append(2.0 * work.pairs * heads * (workload.head_dim + workload.dim_v) / gpu.peak_flops(workload.dtype))
    assert profile is not None
    stacked = stack(calls)
    moving_s = forecast(gpu, profile, stacked).traffic.unique_bytes / gpu.dram_bandwidth_bytes_s
    return Problem(
        gpu,
        profile,
        stacked,
        np.array([run.measures == "kernel" for run in runs]),
        np.array([run.time_s for run in runs]),
        np.array([_fold(run) for run in runs]),
        np.maximum(np.array(flops), moving_s),
    )


def _fold(run: MeasuredRun) -> int:
    """Fold of a run: the same for every run of its shape, whatever the software."""
    shape = (run.batch, run.heads, run.heads_kv, run.grid, run.cached, run.head_dim, run.pattern)
    return int.from_bytes(hashlib.sha256(repr(shape).encode()).digest()[:4], "big") % FOLDS


def _fit_group(gpu: str, kernel: str, runs: Sequence[MeasuredRun], data: str, command: str) -> Fitted:
    problem = _problem(gpu, kernel, runs)
    prior = Constants(
        overlap=problem.profile.overlap,
        clock=problem.gpu.sustained_clock_fraction,
        round_trips=float(problem.profile.round_trips),
        dram_efficiency=problem.gpu.dram_efficiency,
        call_s=2e-6,
        token_s=1e-10,
        interval=problem.profile.interval,
        rows=len(runs),
        held_out_mape=0.0,
        data=data,
        date=datetime.date.today().isoformat(),
        command=command,
    )
    before = problem.seconds(_without_call(prior)) / problem.measured_s - 1.0
    held_out = np.empty(len(runs))
    for fold in range(FOLDS):
        out = problem.fold == fold
        if not out.any():
            continue
        constants = _fit(problem, prior, ~out) if (~out).sum() >= MIN_ROWS // 2 else prior
        held_out[out] = problem.seconds(constants, out) / problem.measured_s[out] - 1.0
    logs = np.abs(np.log1p(held_out))
    inside = [
        float(np.mean(logs[problem.fold == fold] <= np.quantile(logs[problem.fold != fold], COVERAGE)))
        for fold in range(FOLDS)
        if (problem.fold == fold).any() and (problem.fold != fold).any()
    ]
    fitted = _fit(problem, prior, np.ones(len(runs), dtype=bool))
    constants = _with(
        fitted, interval=float(np.quantile(logs, COVERAGE)), held_out_mape=float(np.mean(np.abs(held_out)))
    )
    return Fitted(gpu, kernel, runs, problem, constants, before, held_out, float(np.mean(inside)))


def _without_call(prior: Constants) -> Constants:
    """The priors as predictions take them: nothing beyond the launches and bytes of an append."""
    return _with(prior, call_s=0.0, token_s=0.0)


def _with(constants: Constants, **changes: float) -> Constants:
    return replace(constants, **changes)  # type: ignore[arg-type]


def _fit(problem: Problem, prior: Constants, rows: NDArray[np.bool_]) -> Constants:
    """Constants that fit some rows: least squares of log(forecast / measured), robust, within bounds."""
    try:
        from scipy.optimize import least_squares
    except ImportError:
        raise InputError("fitting needs scipy: install it with pip install 'attncast[fit]'") from None
    names = list(BOUNDS)
    low, high = (np.log([getattr(BOUNDS[name], side) for name in names]) for side in ("low", "high"))
    start = np.clip(np.log([getattr(prior, name) for name in names]), low + 1e-6, high - 1e-6)

    def constants(x: Floats) -> Constants:
        return _with(prior, **dict(zip(names, map(float, np.exp(x)), strict=True)))

    def residuals(x: Floats) -> Floats:
        logs: Floats = np.log(problem.seconds(constants(x), rows) / problem.measured_s[rows])
        return logs

    # soft_l1 beyond 10%: a few rows of another kernel than the profile's shall not decide.
    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, max_nfev=60)
    return constants(found.x)
