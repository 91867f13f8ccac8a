"""What forecasts without fitted constants are off by: ``python -m attncast.validation.checked -o simulator/checked.csv``."""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from ..files import whole_file
from ..simulator.calibration import Use
from ..simulator.checked import Checked
from ..simulator.evidence import seen_in
from ..simulator.patterns import parse_pattern
from .calibrate import by_use
from .measured import MeasuredRun, load_curated
from .problem import Floats, describable, problem_of

# An engine's shorter calls are made of what it does beside attention, which no prior says.
AT_LEAST_S = 50e-6


def checked_runs(runs: Sequence[MeasuredRun]) -> dict[Use, Checked]:
    """Errors of the priors by use, engines put together: on runs of a kernel alone, and engines' of ``AT_LEAST_S`` or more."""
    errors: dict[Use, list[Floats]] = defaultdict(list)
    held: dict[Use, list[MeasuredRun]] = defaultdict(list)
    wanted = [run for run in runs if (not run.conditions.engine or run.time_s >= AT_LEAST_S) and describable(run)]
    for use, members in by_use(wanted):
        problem = problem_of(members)
        plain = replace(use, engine="")
        errors[plain].append(problem.seconds() / problem.measured_s - 1.0)
        held[plain] += members
    return {use: _checked(np.concatenate(errors[use]), held[use]) for use in sorted(held)}


def _checked(errors: Floats, runs: Sequence[MeasuredRun]) -> Checked:
    seen = seen_in((run.workload, parse_pattern(run.pattern), run.time_s) for run in runs)
    return Checked(errors.size, float(np.mean(np.abs(errors))), float(np.mean(errors)), seen)


def write_checked(path: str | Path, found: Mapping[Use, Checked]) -> None:
    """Write what was found as a table, whole or not at all."""
    names = [item.name for item in (*fields(Use), *fields(Checked))]
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(names)
        for use, of in found.items():
            numbers = (of.rows, f"{of.mape:.5f}", f"{of.bias:.5f}")
            table.writerow([*(getattr(use, item.name) for item in fields(Use)), *numbers, of.seen])


def main() -> None:
    """Forecast the curated runs by priors and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.checked", description=main.__doc__)
    parser.add_argument("-o", "--output", required=True, metavar="FILE")
    write_checked(parser.parse_args().output, checked_runs(load_curated()))


if __name__ == "__main__":
    main()
