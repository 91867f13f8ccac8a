"""Fit how long a call runs before the power limit lowers the clock: ``python -m attncast.validation.clock [TABLE]``."""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..hwmodels import load_gpu
from ..simulator.clock import held_hz
from ..simulator.forecast import forecast
from .measured import MeasuredRun, load_table
from .problem import Floats, Problem, describable, problem_of

LEAST_ROWS = 3
LEAST_S = 1e-3  # shorter calls are told by their latencies
LONGEST_S = 8e-3  # a series without one at least so long says nothing of the power limit
MOST_ROWS = 12  # weight of a series of so many rows, and of a longer one
TRIED_S = (0.001, 0.003, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2, 0.4, np.inf)
SCALE = 0.03  # of a robust loss: errors of a series beyond it have other reasons than the clock
RESAMPLES = 2000


@dataclass(frozen=True)
class Series:
    """Runs that differ in size alone, and what each takes without a power limit, shape (rows,).

    Attributes:
        cycles, product_cycles: see clock.held_hz. other_s: seconds of the call beyond the SMs' work.
    """

    problem: Problem
    cycles: Floats
    product_cycles: Floats
    other_s: Floats

    def loss(self, free_s: float) -> float:
        """Robust squared log error, with the factor on the SMs' cycles that suits the series best."""
        gpu, clock_hz = self.problem.gpu, np.array(self.problem.gpu.clock_hz)
        # What the kernel's profile is off by must not decide.
        cycles = self.cycles * np.geomspace(0.5, 4.0, 401)[:, None]
        busy_s = cycles / held_hz(gpu, clock_hz, cycles, self.product_cycles, free_s)
        logs = np.log((busy_s + self.other_s) / self.problem.measured_s) / SCALE
        robust = 2.0 * SCALE**2 * (np.sqrt(1.0 + logs**2) - 1.0)
        return float(robust.mean(axis=1).min()) * min(self.cycles.size, MOST_ROWS)


def series(runs: Sequence[MeasuredRun]) -> list[Series]:
    """Series of dense and causal forward runs whose clock was free; NATTEN's own are left out, they are for testing."""
    groups: dict[tuple[object, ...], list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        plain = run.pattern in ("dense", "causal") and not run.cached and run.time_s >= LEAST_S
        if plain and not run.source.startswith("NATTEN") and describable(run) and _free(run):
            groups[run.gpu, run.kernel, run.software, run.head_dim, run.dtype, run.pattern].append(run)
    return [
        _series(members)
        for _, members in sorted(groups.items())
        if len(members) >= LEAST_ROWS and max(run.time_s for run in members) >= LONGEST_S
    ]


def _free(run: MeasuredRun) -> bool:
    return run.clock_hz is None or run.clock_hz >= load_gpu(run.gpu).clock_hz


def _series(runs: list[MeasuredRun]) -> Series:
    problem = problem_of(runs)
    # Tensor cores that hold the boost clock when always busy hold it whatever they do: no power limit.
    costs = forecast(replace(problem.gpu, sustained_clock_fraction=1.0), problem.profile, problem.calls)
    assert costs.compute_s is not None
    clock_hz = problem.gpu.clock_hz
    products_s = costs.limits["tensor"] * problem.profile.mma_fraction
    other_s = np.maximum(costs.time_s - costs.compute_s, 0.0)
    return Series(problem, costs.compute_s * clock_hz, products_s * clock_hz, other_s)


def fit(found: Sequence[Series]) -> tuple[float, tuple[float, float], dict[str, Floats]]:
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the loss of each time tried, over all series and by GPU, and the best with its interval."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.clock", description=__doc__)
    parser.add_argument("table", nargs="?", default="curated", help="curated, or a file of measured runs")
    found = series(load_table(parser.parse_args(arguments).table))
    free_s, (low, high), losses = fit(found)
    print(f"| before the limit | {' | '.join(losses)} |\n|---:|{'---:|' * len(losses)}")
    for index, tried_s in enumerate(TRIED_S):
        text = "no limit" if np.isinf(tried_s) else f"{tried_s * 1e3:g} ms"
        print(f"| {text} | {' | '.join(f'{values[index]:.4f}' for values in losses.values())} |")
    rows = sum(one.cycles.size for one in found)
    print(f"\n{rows} runs in {len(found)} series: {free_s * 1e3:g} ms, 80% interval {low * 1e3:g} to {high * 1e3:g} ms")


if __name__ == "__main__":
    main()
