"""Rankings held against measured configurations: ``python -m attncast.autotune.judge [FILE]``.

FILE is a table of measured runs with a ``config`` column (see validation.measured); the packaged one holds published
tables and winners, each with its source. Within a shape only: across shapes every model ranks well. No constant of the
ranking is fitted to these rows; but which effects it counts was decided with them in view, so they are no unseen test of it.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator import parse_pattern
from ..simulator.estimate import seconds_text
from ..simulator.tiles import Floats, Ints
from ..simulator.workload import grid_text
from ..validation.measured import MeasuredRun, load_runs
from .rank import feasible, rank, take
from .rank_sure import SPREAD, draws
from .space import Space
from .space_build import build

DATA = Path(__file__).parent / "data"
SPREADS = np.arange(0.02, 0.505, 0.01)
CHANCE_DRAWS = 4_000


@dataclass(frozen=True)
class Judgement:
    """One shape, its measured configurations and what the ranking made of them.

    Attributes:
        shape: GPU, software and problem. configs: measured ones that are in the space.
        predicted_s, measured_s: of each, shape (configs,). ranked: those that the static filter lets through; the others
            are forecast as slower than all.
        place, of: of a single winner, how many configurations of its search the ranking puts before it, and how many there
            are; None where several configurations were measured. lost: how much slower than the ranking's first it is
            forecast. first: that one. chances: that this winner wins, for each of SPREADS that errors may have.
    """

    shape: str
    configs: tuple[str, ...]
    predicted_s: Floats
    measured_s: Floats
    ranked: NDArray[np.bool_]
    place: int | None = None
    of: int = 0
    lost: float = 0.0
    first: str = ""
    chances: Floats | None = None

    def regret(self, most: int) -> float:
        """Measured time of the fastest of the ``most`` configurations ranked first over the fastest of all, less 1."""
        chosen = np.argsort(self.predicted_s, kind="stable")[:most]
        return float(self.measured_s[chosen].min() / self.measured_s.min() - 1.0)

    @property
    def tau(self) -> float:
        """Kendall's tau-b between forecast and measured times."""
        from scipy.stats import kendalltau

        return float(kendalltau(self.predicted_s, self.measured_s).statistic)


def judge(runs: Sequence[MeasuredRun]) -> list[Judgement]:
    """Rank the configurations of each shape, and compare.

    Raises:
        InputError: a run without a configuration, or that no space describes; the message names it.
    """
    shapes: dict[tuple[Any, ...], list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        shapes[run.gpu, run.kernel, run.software, run.workload, run.pattern].append(run)
    return [_judged(group) for group in shapes.values()]


def residual_spread(judgements: Sequence[Judgement]) -> float:
    """Standard deviation of log(forecast / measured) within a shape, pooled over shapes of several configurations."""
    squares, freedom = 0.0, 0
    for one in judgements:
        if one.measured_s.size > 1:
            logs = np.log(one.predicted_s / one.measured_s)[one.ranked]
            squares += float(((logs - logs.mean()) ** 2).sum())
            freedom += logs.size - 1
    return float(np.sqrt(squares / freedom)) if freedom else float("nan")


def likeliest_spread(winners: Sequence[Judgement]) -> float:
    """The scatter of errors (standard deviation of the logarithm) under which these winners are likeliest to have won."""
    likelihood = sum(np.log(one.chances) for one in winners if one.chances is not None)
    return float(SPREADS[int(np.argmax(likelihood))])


def _chances(time_s: Floats, codes: NDArray[np.float64], winner: int) -> Floats:
    """Chance that ``winner`` is the fastest of some configurations, for each of SPREADS; half a draw at least."""
    errors = draws(codes, CHANCE_DRAWS)
    first = [np.argmin(np.log(time_s) + spread * errors, axis=1) == winner for spread in SPREADS]
    return np.array([(won.sum() + 0.5) / CHANCE_DRAWS for won in first])


def _judged(runs: Sequence[MeasuredRun]) -> Judgement:
    run = runs[0]
    gpu, workload, pattern = load_gpu(run.gpu), run.workload, parse_pattern(run.pattern)
    space = build(run.kernel, gpu, workload, pattern)
    searched = _searched(run)
    if searched:
        space = replace(space, profile=replace(space.profile, order=searched["order"]))
    wanted = [_config(run) for run in runs]
    places = [_find(space, config, run) for config, run in zip(wanted, runs, strict=True)]
    index, held = feasible(space, gpu, workload)
    name = f"{run.gpu} {run.software.partition(',')[0]} {grid_text(workload.grid)} h{run.heads}/{run.heads_kv} d{run.head_dim}"
    measured_s = np.array([run.time_s for run in runs])
    if len(runs) == 1:
        keep = np.flatnonzero(_in_search(space, index, searched) | (index == places[0]))
        found = rank(
            space, gpu, workload, run.conditions, index[keep], None if held is None else take(held, keep, index.size)
        )
        at = np.flatnonzero(found.index == places[0])
        if not at.size:
            raise InputError(f"run {run.id!r}: the ranking rules its configuration out ({run.config!r})")
        place = int(np.searchsorted(found.time_s, found.time_s[at[0]] * (1 - 1e-9)))
        return Judgement(
            name, (run.config,), found.time_s[at], measured_s, np.ones(1, dtype=bool), place, int(found.index.size),
            max(0.0, float(found.time_s[at[0]] / found.time_s[0] - 1.0)), _text(space, int(found.index[0])),
            _chances(found.time_s, space.codes(found.index), int(at[0])),
        )  # fmt: skip
    keep = np.flatnonzero(np.isin(index, places))
    found = rank(
        space, gpu, workload, run.conditions, index[keep], None if held is None else take(held, keep, index.size)
    )
    forecast = {int(i): float(t) for i, t in zip(found.index, found.time_s, strict=True)}
    # What the ranking rules out it would never choose.
    predicted_s = np.array([forecast.get(place, np.inf) for place in places])
    inside = np.isfinite(predicted_s)
    predicted_s = np.where(inside, predicted_s, 10 * predicted_s[inside].max())
    return Judgement(name, tuple(run.config for run in runs), predicted_s, measured_s, inside)


def _config(run: MeasuredRun) -> dict[str, str]:
    if not run.config:
        raise InputError(
            f"run {run.id!r} has no config: expected e.g. 'BLOCK_M=128 BLOCK_N=64 num_warps=8 num_stages=3'"
        )
    return dict(word.split("=", 1) for word in run.config.split())


def _find(space: Space, config: dict[str, str], run: MeasuredRun) -> int:
    """The configuration in the space; knobs that the run does not name at their default."""
    keep = np.ones(space.size, dtype=bool)
    for knob in space.knobs:
        value = config.get(knob.name)
        keep &= space.columns[knob.name].astype(str) == (value if value is not None else str(knob.default))
    if not keep.any():
        raise InputError(
            f"run {run.id!r}: configuration {run.config!r} is not in the space of {run.kernel!r} on {run.gpu}"
        )
    return int(np.flatnonzero(keep)[0])


def _text(space: Space, index: int) -> str:
    return " ".join(f"{name}={value}" for name, value in space.config(index).items())


def _searched(run: MeasuredRun) -> dict[str, Any]:
    for table in tomllib.loads((DATA / "spaces.toml").read_text(encoding="utf-8"))["space"]:
        if run.software.startswith(table["software"]) and run.gpu == table["gpu"]:
            return dict(table)
    return {}


def _in_search(space: Space, index: Ints, searched: dict[str, Any]) -> Any:
    keep = np.ones(index.size, dtype=bool)
    columns = {name: column[index] for name, column in space.columns.items()}
    for knob in space.knobs:
        if knob.name in searched:
            keep &= np.isin(columns[knob.name], searched[knob.name])
        elif searched:
            keep &= columns[knob.name] == knob.default
    if searched.get("rows_at_least_keys"):
        keep &= columns["BLOCK_M"] >= columns["BLOCK_N"]
    return keep


def main(arguments: Sequence[str] | None = None) -> None:
    """Print regret and tau of tables, and the place of winners."""
    parser = argparse.ArgumentParser(prog="python -m attncast.autotune.judge", description=__doc__)
    parser.add_argument(
        "table", nargs="?", default=str(DATA / "configurations.csv"), help="a CSV table of measured runs"
    )
    chosen = parser.parse_args(arguments)
    try:
        judgements = judge(load_runs(chosen.table))
    except InputError as problem:
        print(f"attncast: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    tables = [one for one in judgements if one.place is None]
    winners = [one for one in judgements if one.place is not None]
    if tables:
        _print_tables(tables)
    if winners:
        _print_winners(winners)


def _print_tables(tables: Sequence[Judgement]) -> None:
    print("| shape | configurations | top-1 regret | top-8 regret | Kendall tau | first measured | first forecast |")
    print("|---|---:|---:|---:|---:|---|---|")
    for one in tables:
        best, first = (one.configs[int(np.argmin(times))] for times in (one.measured_s, one.predicted_s))
        eight = f"{one.regret(8):.1%}" if len(one.configs) > 8 else "-"
        print(
            f"| {one.shape} | {len(one.configs)} | {one.regret(1):.1%} | {eight} | {one.tau:+.2f} | {best} | {first} |"
        )
    regrets = [one.regret(1) for one in tables]
    print(
        f"\n{len(tables)} shapes: mean top-1 regret {np.mean(regrets):.1%}, mean tau {np.mean([t.tau for t in tables]):+.2f}; "
    )
    print(f"errors within a shape scatter by {residual_spread(tables):.1%} (standard deviation of the logarithm)\n")


def _print_winners(winners: Sequence[Judgement]) -> None:
    print(
        "| shape | winner | measured | forecast | error | place | of | slower than the first forecast | first forecast |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---|")
    for one in winners:
        assert one.place is not None
        times = f"{seconds_text(one.measured_s[0])} | {seconds_text(one.predicted_s[0])}"
        error = f"{one.predicted_s[0] / one.measured_s[0] - 1:+.0%}"
        place = f"{one.place + 1} | {one.of} | {one.lost:.1%} | {one.first}"
        print(f"| {one.shape} | {one.configs[0]} | {times} | {error} | {place} |")
    logs = np.abs(np.log([one.predicted_s[0] / one.measured_s[0] for one in winners]))
    percentiles = [(one.place or 0) / one.of for one in winners]
    print(
        f"\n{len(winners)} winners: median place in the first {np.median(percentiles):.0%} of the ranking, "
        f"{sum(one.lost <= 0.05 for one in winners)} within 5% of the first forecast, "
        f"{sum((one.place or 0) < 8 for one in winners)} among the first eight; "
        f"median error of their time {np.expm1(np.median(logs)):.0%}"
    )
    print(
        f"they are likeliest to have won if errors scatter by {likeliest_spread(winners):.0%}; {SPREAD:.0%} is assumed"
    )


if __name__ == "__main__":
    main()
