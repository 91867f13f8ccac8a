"""Forecasts beside measured runs: ``python -m attncast.validation.compare [neighborhood|serving|FILE]``."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator import parse_pattern
from ..simulator.batch import stack
from ..simulator.estimate import seconds_text
from ..simulator.forecast import Calls, forecast
from ..simulator.predict import resolve_tiles, single_call
from ..simulator.profile import choose_profile
from .measured import DATA, MeasuredRun, load_runs


def predicted_seconds(runs: Sequence[MeasuredRun]) -> NDArray[np.float64]:
    """Forecast of each run, shape (runs,): one vectorised call for each GPU and kernel.

    Raises:
        InputError: a run that no profile can describe; the message names it.
    """
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        groups[run.gpu, run.kernel, parse_pattern(run.pattern).family].append(index)
    result = np.empty(len(runs))
    for (gpu_name, kernel, family), members in groups.items():
        gpu = load_gpu(gpu_name)
        calls: list[Calls] = []
        for index in members:
            run = runs[index]
            workload, pattern = run.workload, parse_pattern(run.pattern)
            profile = choose_profile(kernel, gpu, family, workload.dtype, workload.head_dim)
            tiles = resolve_tiles(profile, pattern, workload, run.q_tile or None, run.kv_tile or None)
            work = pattern.tile_work(workload, *tiles, profile.kv_tiling)
            calls.append(single_call(gpu, profile, workload, pattern, tiles, work, run.conditions))
        costs = forecast(gpu, profile, stack(calls))
        alone = np.array([runs[index].measures == "kernel" for index in members])
        result[members] = np.where(alone, costs.kernel_s, costs.time_s)
    return result


def relative_errors(runs: Sequence[MeasuredRun]) -> NDArray[np.float64]:
    """(forecast - measured) / measured of each run, shape (runs,)."""
    errors: NDArray[np.float64] = predicted_seconds(runs) / np.array([run.time_s for run in runs]) - 1.0
    return errors


def main(arguments: Sequence[str] | None = None) -> None:
    """Print forecasts beside measured times, and the error by GPU and kernel."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.compare", description=__doc__)
    parser.add_argument("table", nargs="?", default="neighborhood", help="neighborhood, serving, or a CSV file")
    parser.add_argument("--rows", action="store_true", help="print each row of a long table too")
    chosen = parser.parse_args(arguments)
    packaged = DATA / f"{chosen.table}.csv"
    try:
        runs = load_runs(packaged if packaged.is_file() else chosen.table)
        errors = relative_errors(runs)
    except InputError as problem:
        print(f"attncast: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    if len(runs) <= 50 or chosen.rows:
        _print_rows(runs, errors)
    _print_groups(runs, errors)


def _print_rows(runs: Sequence[MeasuredRun], errors: NDArray[np.float64]) -> None:
    print("| run | GPU | kernel | measured | forecast | error |\n|---|---|---|---:|---:|---:|")
    for run, error in zip(runs, errors, strict=True):
        times = f"{seconds_text(run.time_s)} | {seconds_text(run.time_s * (1 + error))}"
        print(f"| {run.id} | {run.gpu} | {run.kernel} | {times} | {error:+.0%} |")
    print()


def _print_groups(runs: Sequence[MeasuredRun], errors: NDArray[np.float64]) -> None:
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for run, error in zip(runs, errors, strict=True):
        for key in ((run.gpu, run.kernel), (run.gpu, "all"), ("all", "all")):
            groups[key].append(float(error))
    print("| GPU | kernel | rows | median error | 90% within | worst | bias |\n|---|---|---:|---:|---:|---:|---:|")
    for (gpu, kernel), values in sorted(groups.items(), key=lambda item: (item[0][0] == "all", item[0])):
        size = np.abs(values)
        print(
            f"| {gpu} | {kernel} | {size.size} | {np.median(size):.1%} | {np.quantile(size, 0.9):.1%} | "
            f"{size.max():.1%} | {np.median(values):+.1%} |"
        )


if __name__ == "__main__":
    main()
