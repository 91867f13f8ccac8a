"""Fit how long a call runs before the power limit lowers the clock: ``python -m attncast.validation.clock [TABLE]``.

With ``--serving`` the same of serving engines' calls too, and the share of power that tensor cores have no part in, of both
together. Serving kernels' own constants come from calls too short for the limit.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator.calibration import Use, use_of, with_constants
from ..simulator.clock import REST_POWER, held_hz
from ..simulator.forecast import forecast
from .calibrate import MIN_ROWS, fit
from .measured import MeasuredRun, load_table
from .problem import Floats, Problem, describable, problem_of

LEAST_ROWS = 3
LEAST_S = 1e-3  # shorter calls are told by their latencies
LONGEST_S = 8e-3  # a series without one at least so long says nothing of the power limit
MOST_ROWS = 12  # weight of a series of so many rows, and of a longer one
TRIED_S = (0.001, 0.003, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.4, np.inf)
SHORT_S, LONG_S = 1.5e-3, 4e-3  # serving calls that the limit leaves alone, and those that tell of it
TRIED_SERVING_S = (0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.04, np.inf)
TRIED_REST = (0.0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6)
SCALE = 0.03  # of a robust loss: errors of a series beyond it have other reasons than the clock
RESAMPLES = 2000


@dataclass(frozen=True)
class Series:
    """Runs that differ in size alone, and what each takes without a power limit, shape (rows,).

    Attributes:
        cycles, product_cycles: see clock.held_hz. other_s: seconds of the call beyond the SMs' work.
        factors: on the SMs' cycles, of which the best counts: what the kernel's profile is off by must not decide.
    """

    problem: Problem
    cycles: Floats
    product_cycles: Floats
    other_s: Floats
    factors: Floats

    def loss(self, free_s: float, rest_power: float = REST_POWER) -> float:
        """Robust squared log error, with the factor on the SMs' cycles that suits the series best."""
        gpu, clock_hz = self.problem.gpu, np.array(self.problem.gpu.clock_hz)
        cycles = self.cycles * self.factors[:, None]
        busy_s = cycles / held_hz(gpu, clock_hz, cycles, self.product_cycles, free_s, rest_power)
        logs = np.log((busy_s + self.other_s) / self.problem.measured_s) / SCALE
        robust = 2.0 * SCALE**2 * (np.sqrt(1.0 + logs**2) - 1.0)
        return float(robust.mean(axis=1).min()) * min(self.cycles.size, MOST_ROWS)


def series(runs: Sequence[MeasuredRun]) -> list[Series]:
    """Series of dense and causal forward runs whose clock was free. Serving engines are apart, and NATTEN for testing."""
    groups: dict[tuple[object, ...], list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        plain = (
            run.pattern in ("dense", "causal")
            and not run.cached
            and run.time_s >= LEAST_S
            and not run.conditions.engine
        )
        if plain and not run.source.startswith("NATTEN") and describable(run) and _free(run):
            groups[run.gpu, run.kernel, run.software, run.head_dim, run.dtype, run.pattern].append(run)
    return [
        _series(members)
        for _, members in sorted(groups.items())
        if len(members) >= LEAST_ROWS and max(run.time_s for run in members) >= LONGEST_S
    ]


def _free(run: MeasuredRun) -> bool:
    """Whether neither a lock nor calls before it held the clock down."""
    return not run.calls_before and (run.clock_hz is None or run.clock_hz >= load_gpu(run.gpu).clock_hz)


def _series(runs: list[MeasuredRun]) -> Series:
    return _of_problem(problem_of(runs), {}, np.ones(len(runs), dtype=bool), np.geomspace(0.5, 4.0, 401))


def serving_series(runs: Sequence[MeasuredRun]) -> dict[float, list[Series]]:
    """Long calls of each use of a serving engine's prompts, with constants fitted to its short ones.

    Returns:
        by each time of ``TRIED_SERVING_S``: short calls that the limit would act on within that time are fitted as such.
    """
    groups: dict[Use, list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        if run.conditions.engine and describable(run) and _free(run):
            groups[use_of(load_gpu(run.gpu), run.kernel, run.workload, run.conditions.engine)].append(run)
    found: dict[float, list[Series]] = {min(tried_s, SHORT_S): [] for tried_s in TRIED_SERVING_S}
    for use, members in sorted(groups.items()):
        times_s = np.array([run.time_s for run in members])
        short, long = times_s < SHORT_S, times_s >= LONG_S
        if use.phase == "prefill" and short.sum() >= MIN_ROWS and long.sum() >= LEAST_ROWS:
            problem = problem_of(members)
            for free_s, of_time in found.items():
                tried = replace(problem, calls=replace(problem.calls, free_s=np.full(times_s.size, free_s)))
                of_time.append(_of_problem(problem, fit(tried.where(short)), long, np.ones(1)))
    return {tried_s: found[min(tried_s, SHORT_S)] for tried_s in TRIED_SERVING_S}


def _of_problem(problem: Problem, values: Mapping[str, float], rows: NDArray[np.bool_], factors: Floats) -> Series:
    profile, gpu = with_constants(problem.profile, problem.gpu, values)
    # Without a power limit: nothing acts within the time of a call.
    costs = forecast(gpu, profile, replace(problem.calls, free_s=np.full(len(problem.runs), np.inf)))
    assert costs.compute_s is not None
    clock_hz = gpu.clock_hz
    products_s = costs.limits["tensor"] * profile.products.mma_fraction
    other_s = np.maximum(costs.time_s - costs.compute_s, 0.0)
    chosen = replace(problem, gpu=gpu, profile=profile, measured_s=problem.measured_s[rows])
    cycles, products = (seconds[rows] * clock_hz for seconds in (costs.compute_s, products_s))
    return Series(chosen, cycles, products, other_s[rows], factors)


def best_free_s(found: Sequence[Series]) -> tuple[float, tuple[float, float], dict[str, Floats]]:
    """The time that fits best, its 80% interval over resampled series, and the losses.

    Returns:
        free_s; (low, high); losses of ``TRIED_S`` by GPU, shape (tried,), "all" among them.
    """
    losses = np.array([[one.loss(free_s) for one in found] for free_s in TRIED_S])
    names = np.array([one.problem.gpu.key for one in found])
    by_gpu = {str(gpu): losses[:, names == gpu].sum(axis=1) for gpu in np.unique(names)}
    drawn = np.random.default_rng(0).integers(0, len(found), (RESAMPLES, len(found)))
    best = np.array(TRIED_S)[losses[:, drawn].sum(axis=2).argmin(axis=0)]
    low, high = (float(np.quantile(best, share, method="nearest")) for share in (0.1, 0.9))
    total = losses.sum(axis=1)
    return TRIED_S[int(total.argmin())], (low, high), {"all": total, **by_gpu}


def joint_losses(plain: Sequence[Series], serving: Mapping[float, Sequence[Series]]) -> tuple[Floats, Floats]:
    """Losses of plain and of serving calls for each share of ``TRIED_REST`` and time tried, each of shape (shares, times)."""
    first, second = (
        np.array([[sum(one.loss(t, rest) for one in found) for t, found in tried.items()] for rest in TRIED_REST])
        for tried in (dict.fromkeys(TRIED_S, plain), serving)
    )
    return first, second


def best_of(losses: tuple[Floats, Floats]) -> tuple[float, float, float]:
    """The share of other power that suits both kinds of calls best together, and the time of each before the limit."""
    plain, serving = losses
    best = int((plain.min(axis=1) + serving.min(axis=1)).argmin())
    return TRIED_REST[best], TRIED_S[int(plain[best].argmin())], TRIED_SERVING_S[int(serving[best].argmin())]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the loss of each time tried, over all series and by GPU, and the best with its interval."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.clock", description=__doc__)
    parser.add_argument("table", nargs="?", default="curated", help="curated, or a file of measured runs")
    parser.add_argument(
        "--serving", action="store_true", help="fit serving engines' calls, and the share of other power"
    )
    chosen = parser.parse_args(arguments)
    try:
        runs = load_table(chosen.table)
        plain, serving = series(runs), serving_series(runs) if chosen.serving else {}
        if not plain or (chosen.serving and not any(serving.values())):
            raise InputError(
                f"{chosen.table!r} says nothing of the power limit: expected {LEAST_ROWS} runs or more that differ in length "
                f"alone, one of {LONGEST_S * 1e3:g} ms or longer"
                + (", and as many prompts of a serving engine" if chosen.serving else "")
            )
    except InputError as problem:
        print(f"attncast: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    if chosen.serving:
        _print_joint(joint_losses(plain, serving))
    else:
        _print_free(plain)


def _print_free(found: Sequence[Series]) -> None:
    free_s, (low, high), losses = best_free_s(found)
    print(f"| before the limit | {' | '.join(losses)} |\n|---:|{'---:|' * len(losses)}")
    for index, tried_s in enumerate(TRIED_S):
        print(f"| {_ms(tried_s)} | {' | '.join(f'{values[index]:.4f}' for values in losses.values())} |")
    rows = sum(one.cycles.size for one in found)
    print(f"\n{rows} runs in {len(found)} series: {_ms(free_s)}, 80% interval {_ms(low)} to {_ms(high)}")


def _print_joint(losses: tuple[Floats, Floats]) -> None:
    plain, serving = losses
    print("| other power | plain calls | loss | serving calls | loss | together |\n|---:|---:|---:|---:|---:|---:|")
    for rest, one, two in zip(TRIED_REST, plain, serving, strict=True):
        times = _ms(TRIED_S[int(one.argmin())]), _ms(TRIED_SERVING_S[int(two.argmin())])
        print(
            f"| {rest:g} | {times[0]} | {one.min():.4f} | {times[1]} | {two.min():.4f} | {one.min() + two.min():.4f} |"
        )
    rest, free_s, serving_s = best_of(losses)
    print(f"\nbest: {rest:g} of the power, {_ms(free_s)}, serving calls {_ms(serving_s)}")


def _ms(time_s: float) -> str:
    return "no limit" if np.isinf(time_s) else f"{time_s * 1e3:g} ms"


if __name__ == "__main__":
    main()
