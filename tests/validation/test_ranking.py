"""Rank quality of alternatives on one shape, against counting by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from attncast.cli.validate import validate as command
from attncast.validation.measured import save_runs
from attncast.validation.ranking import Ranking, rankings
from attncast.validation.validate import Rows

from .made_up import made_up


def rows_of(runs, measured_s):
    measured = np.array(measured_s)
    nothing = np.full(measured.size, np.nan)
    return Rows(tuple(runs), ("",) * len(runs), measured, nothing, nothing, nothing, nothing, nothing, nothing)


@pytest.fixture(scope="module")
def run():
    return made_up(1)[0]


def kernels(run, *names):
    return [replace(run, kernel=name) for name in names]


def test_three_kernels_on_one_shape_by_hand(run):
    rows = rows_of(kernels(run, "fa2", "fa3", "triton"), [10.0, 20.0, 30.0])
    # fa2 before fa3 is right; triton is forecast before both of them, wrongly, and takes three times the fastest.
    found = rankings(rows, np.array([2.0, 3.0, 1.0]))
    assert found == {"h100": Ranking(1, 3, pytest.approx(1 / 3), pytest.approx(2.0), pytest.approx(2.0))}


def test_equal_forecasts_count_half(run):
    rows = rows_of(kernels(run, "fa2", "fa3"), [20.0, 10.0])
    assert rankings(rows, np.array([1.0, 1.0]))["h100"].ordered == 0.5


def test_shapes_are_averaged_and_the_worst_is_kept(run):
    longer = replace(run, batch=run.batch + 1)
    runs = [*kernels(run, "fa2", "fa3"), *kernels(longer, "fa2", "fa3")]
    found = rankings(rows_of(runs, [10.0, 15.0, 10.0, 12.0]), np.array([1.0, 2.0, 4.0, 3.0]))["h100"]
    assert (found.shapes, found.pairs, found.ordered) == (2, 2, 0.5)
    assert (found.regret, found.worst) == pytest.approx((0.1, 0.2))


def test_other_work_another_version_and_a_repeat_are_no_alternatives(run):
    engine = run.software.split()[0]
    others = [
        replace(run, measures="kernel", kernel="fa2"),
        replace(run, warm=not run.warm, kernel="fa2"),
        replace(run, pattern="dense", kernel="fa2"),
        replace(run, gpu="a100", kernel="fa2"),
        replace(run, software=f"{engine} 99.9"),
        replace(run, id="again"),
    ]
    assert rankings(rows_of([run, *others], np.arange(1.0, 8.0)), np.arange(1.0, 8.0)) == {}
    engines = [run, replace(run, software=f"Not{engine} 1.0")]
    assert rankings(rows_of(engines, [1.0, 2.0]), np.array([1.0, 2.0]))["h100"].pairs == 1


def test_a_perfect_forecast_orders_every_pair_of_many(run):
    measured = np.random.default_rng(0).permutation(20) + 1.0
    rows = rows_of([replace(run, q_tile=str(64 * (i + 1))) for i in range(20)], measured)
    found = rankings(rows, 3.0 * measured)["h100"]
    assert (found.pairs, found.ordered, found.regret) == (190, 1.0, 0.0)
    assert rankings(rows, -measured)["h100"].ordered == 0.0


def test_the_command_says_it_beside_the_line(tmp_path):
    rows = tmp_path / "rows.csv"
    save_runs(rows, [*made_up(45), *(replace(run, id=f"s{run.id}") for run in made_up(45, software="SGLang 1.0 fa3"))])
    document = json.loads(CliRunner().invoke(command, ["--rows", str(rows), "--json"]).output)
    ours, line = (document["rank"][name]["h100"] for name in ("held_out", "line"))
    assert set(ours) == {"shapes", "pairs", "ordered", "regret", "worst"}
    assert ours["shapes"] == line["shapes"] > 30
    shown = CliRunner().invoke(command, ["--rows", str(rows)]).output
    assert (
        f"h100 kernels and engines on one shape: {ours['shapes']} shapes, {ours['ordered']:.0%} of pairs in order"
        in shown
    )
    assert f"{ours['regret']:.1%} slower than the fastest (k SOL + c {line['regret']:.1%})" in shown
