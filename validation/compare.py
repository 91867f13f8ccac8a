"""Forecasts beside measured runs: ``python -m attncast.validation.compare [neighborhood|serving|FILE]``."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..simulator import parse_pattern
from ..simulator.estimate import seconds_text
from .measured import DATA, MeasuredRun, load_runs
from .problem import describable, problem_of
from .statistics import Summary, summarise


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of measured runs, shape (runs,) each.

    Attributes:
        time_s: seconds. interval: half width of the 80% interval of log(time).
    """

    time_s: NDArray[np.float64]
    interval: NDArray[np.float64]


def forecasts(runs: Sequence[MeasuredRun]) -> Forecasts:
    """Forecast each run: one vectorised call for each GPU and kernel.

    Raises:
        InputError: a run that no profile can describe; the message names it.
    """
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        groups[run.gpu, run.kernel, parse_pattern(run.pattern).family].append(index)
    time_s, interval = np.empty(len(runs)), np.empty(len(runs))
    for members in groups.values():
        problem = problem_of([runs[index] for index in members])
        time_s[members] = problem.seconds()
        interval[members] = problem.profile.interval
    return Forecasts(time_s, interval)


def log_errors(runs: Sequence[MeasuredRun], found: Forecasts) -> NDArray[np.float64]:
    """log(forecast / measured) of each run, shape (runs,)."""
    logs: NDArray[np.float64] = np.log(found.time_s / np.array([run.time_s for run in runs]))
    return logs


def partner_speedups(runs: Sequence[MeasuredRun]) -> dict[tuple[str, str], Summary]:
    """Errors of the speedup over dense of neighborhood kernels, on runs that have a dense run of their own workload.

    Nothing is fitted. Keys are (GPU, kernel); the dense partner is the fastest one measured on that GPU.
    """

    def shape(run: MeasuredRun) -> tuple[object, ...]:
        return run.gpu, run.batch, run.heads, run.heads_kv, run.workload.tokens, run.head_dim, run.dtype

    sparse = [run for run in runs if run.pattern.startswith("na ") and run.direction == "fwd"]
    dense: dict[tuple[object, ...], MeasuredRun] = {}
    for run in runs:
        if run.pattern == "dense" and run.direction == "fwd" and describable(run):
            known = dense.get(shape(run))
            if known is None or run.time_s < known.time_s:
                dense[shape(run)] = run
    pairs = [(run, dense[shape(run)]) for run in sparse if shape(run) in dense]
    if not pairs:
        return {}
    found = forecasts([run for pair in pairs for run in pair]).time_s
    errors: dict[tuple[str, str], list[float]] = defaultdict(list)
    for index, (run, partner) in enumerate(pairs):
        speedup = found[2 * index + 1] / found[2 * index]
        errors[run.gpu, run.kernel].append(float(speedup / (partner.time_s / run.time_s) - 1.0))
    return {key: summarise(np.array(values)) for key, values in sorted(errors.items())}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print forecasts beside measured times, and the error by GPU and kernel."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.compare", description=__doc__)
    parser.add_argument("table", nargs="?", default="neighborhood", help="neighborhood, serving, or a CSV file")
    parser.add_argument("--rows", action="store_true", help="print each row of a long table too")
    chosen = parser.parse_args(arguments)
    packaged = DATA / f"{chosen.table}.csv"
    try:
        runs = load_runs(packaged if packaged.is_file() else chosen.table)
        found = forecasts(runs)
    except InputError as problem:
        print(f"attncast: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    if len(runs) <= 50 or chosen.rows:
        _print_rows(runs, found)
    _print_groups(runs, found)


def _print_rows(runs: Sequence[MeasuredRun], found: Forecasts) -> None:
    print("| run | GPU | kernel | measured | forecast | error |\n|---|---|---|---:|---:|---:|")
    for run, time_s in zip(runs, found.time_s, strict=True):
        times = f"{seconds_text(run.time_s)} | {seconds_text(float(time_s))}"
        print(f"| {run.id} | {run.gpu} | {run.kernel} | {times} | {time_s / run.time_s - 1:+.0%} |")
    print()


def _print_groups(runs: Sequence[MeasuredRun], found: Forecasts) -> None:
    logs = log_errors(runs, found)
    inside = np.abs(logs) <= found.interval
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        for key in ((run.gpu, run.kernel), (run.gpu, "all"), ("all", "all")):
            groups[key].append(index)
    print("| GPU | kernel | rows | median error | 90% within | worst | bias | inside the 80% interval |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for (gpu, kernel), members in sorted(groups.items(), key=lambda item: (item[0][0] == "all", item[0])):
        errors = np.expm1(logs[members])
        size = np.abs(errors)
        print(
            f"| {gpu} | {kernel} | {size.size} | {np.median(size):.1%} | {np.quantile(size, 0.9):.1%} | "
            f"{size.max():.1%} | {np.median(errors):+.1%} | {inside[members].mean():.0%} |"
        )


if __name__ == "__main__":
    main()
