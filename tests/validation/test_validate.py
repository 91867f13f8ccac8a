"""Held-out errors, baselines and their command."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from attncast import InputError
from attncast.cli.validate import validate as command
from attncast.validation.calibrate import TOO_FEW, calibrate
from attncast.validation.compare import partner_speedups
from attncast.validation.measured import DATA, load_runs, save_runs
from attncast.validation.problem import problem_of
from attncast.validation.statistics import Summary, line_errors, repeat_errors, summarise
from attncast.validation.validate import GROUPS, errors_by, left_out_means, validate

from .made_up import made_up


@pytest.fixture(scope="module")
def runs():
    h100 = [*made_up(60), *made_up(60, window=True), *made_up(60, decode=True, seed=1)]
    return [*h100, *made_up(60, gpu="h200", dram_efficiency=0.85, seed=2)]


@pytest.fixture(scope="module")
def found(runs):
    return validate(runs, "made up")


def test_a_summary_by_hand():
    summary = summarise(np.array([0.1, -0.3, 0.2, -0.1]))
    assert (summary.n, summary.worst) == (4, pytest.approx(0.3))
    assert (summary.mape, summary.median, summary.bias) == pytest.approx((0.175, 0.15, 0.0))


def test_the_line_finds_a_line_and_is_fitted_on_the_other_folds():
    light = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    fold = np.array([0, 1, 0, 1, 0, 1])
    assert line_errors(light, 2.0 * light + 3.0, fold) == pytest.approx(np.zeros(6), abs=1e-9)
    measured = 2.0 * light + 3.0
    measured[fold == 0] *= 2.0
    errors = line_errors(light, measured, fold)
    assert errors[fold == 0] == pytest.approx(np.full(3, -0.5))  # from constants that saw none of these rows
    assert errors[fold == 1] == pytest.approx(np.full(3, 1.0))


def test_held_out_errors_beat_the_baselines(found):
    assert set(found.held_out) == {("h100", "fa3"), ("h200", "fa3")}
    for key, summary in found.held_out.items():
        assert summary.mape < 0.06
        assert summary.mape < found.priors[key].mape
        assert summary.mape < found.line[key].mape < found.speed_of_light[key].mape
        assert found.speed_of_light[key].bias < 0  # nothing is faster than light
    assert 0.7 < found.coverage_80 < 0.9
    assert found.left_out == {}


def test_tables_split_the_rows(found, runs):
    assert sum(e.n for e in found.held_out.values()) == len(runs) == len(found.rows.runs)
    assert found.decode["h100", "fa3"].n == 60
    assert ("h200", "fa3") not in found.decode
    assert {name for _, name in errors_by(found.rows, "family")} == {"causal", "window"}
    for by in GROUPS:
        assert sum(e.n for e in errors_by(found.rows, by).values()) == len(runs)
    assert errors_by(found.rows, "use")["h100", "fa3 vllm decode 16-bit"].n == 60
    assert errors_by(found.rows, "kernel") == found.held_out


def test_groups_of_numbers_stand_in_their_order(found, runs):
    dims = sorted({run.head_dim for run in runs})
    assert len(dims) > 1
    by_dim = errors_by(found.rows, "dim")
    assert [name for gpu, name in by_dim if gpu == "h100"] == [f"fa3, head dim {dim:>4}" for dim in dims]
    chosen = [error for run, error in zip(found.rows.runs, found.rows.errors, strict=True) if run.head_dim == dims[0]]
    assert sum(e.n for (_, name), e in by_dim.items() if name.endswith(f" {dims[0]}")) == len(chosen)


def test_only_long_runs_are_reported_but_all_are_fitted(runs, found):
    long = validate(runs, "made up", 1e-3)
    assert 0 < long.held_out["h100", "fa3"].n < found.held_out["h100", "fa3"].n
    assert long.rows.measured_s.min() >= 1e-3
    assert long.rows.forecast_s.tolist() == found.rows.forecast_s[found.rows.measured_s >= 1e-3].tolist()


def test_a_gpu_left_out_takes_the_constants_of_the_others(runs, found):
    # The engine's costs carry over, and those of the same program: h200 without rows of its own is near. DRAM is its own prior.
    assert found.left_out_gpu["h200", "fa3"].mape < 0.3 * found.priors["h200", "fa3"].mape
    fits, _ = calibrate(runs, "made up", "a test")
    by_use = {str(fit.use): fit for fit in fits}
    assert by_use["h100 fa3 vllm decode 16-bit"].carried_s is None  # no other GPU decodes
    assert by_use["h100 fa3 vllm decode 16-bit"].constants.left_out_interval == 0
    left_out = by_use["h200 fa3 vllm prefill 16-bit"]
    logs = np.abs(np.log(left_out.carried_s / left_out.problem.measured_s))
    assert np.mean(logs <= left_out.constants.left_out_interval) == pytest.approx(0.8, abs=0.04)


def test_nothing_read_off_a_gpus_rows_helps_its_forecast(runs):
    # All times of h200 ten times as long: its forecasts from h100 stay what they were.
    slower = [dataclasses.replace(run, time_s=run.time_s * (10 if run.gpu == "h200" else 1)) for run in runs]
    both = [calibrate(measured, "made up", "a test")[0] for measured in (runs, slower)]
    before, after = ({str(fit.use): fit for fit in fits}["h200 fa3 vllm prefill 16-bit"] for fits in both)
    assert after.carried_s.tolist() == before.carried_s.tolist()
    assert after.constants.values["overlap"] != pytest.approx(before.constants.values["overlap"], rel=0.1)


def test_speedups_of_windows_come_from_pairs_of_one_shape(found):
    assert 55 <= found.speedup["h100", "fa3"].n <= 60  # a shape drawn twice counts once
    assert found.speedup["h100", "fa3"].mape < 0.08
    assert ("h200", "fa3") not in found.speedup


def test_repeats_make_the_noise_floor(runs):
    run = runs[0]
    again = [
        dataclasses.replace(run, id=f"again-{i}", time_s=run.time_s * (1 + e)) for i, e in enumerate((0.0, 0.1, 0.2))
    ]
    copied = dataclasses.replace(runs[1], id="copied")
    noise = repeat_errors([*again, runs[1], copied])
    assert np.sort(noise["h100", "fa3"]) == pytest.approx([-0.1 / 1.1, 0.0, 0.1 / 1.1])
    assert noise["h100", "fa3"].size == 3


def test_neighborhood_speedups_beside_their_dense_partners():
    runs = load_runs(DATA / "neighborhood.csv")
    found = partner_speedups(runs)
    assert {gpu for gpu, _ in found} == {"h100", "b200"}
    assert sum(e.n for e in found.values()) == 14
    assert partner_speedups([run for run in runs if run.pattern != "dense"]) == {}


def test_the_mean_of_a_gpu_left_out_is_over_its_rows():
    kernels = {("h100", "fa2"): (1, 0.4), ("h100", "fa3"): (3, 0.2), ("h200", "fa3"): (5, 0.1)}
    table = {key: Summary(n, mape, mape, mape, mape, 0.0) for key, (n, mape) in kernels.items()}
    assert left_out_means(table) == {"h100": (4, pytest.approx(0.25)), "h200": (5, pytest.approx(0.1))}


def test_runs_of_too_few_of_their_kind_are_forecast_as_predict_does(runs):
    """Without an engine by the priors, with one by the constants of the other GPUs that have it."""
    alone = dataclasses.replace(runs[0], software="fa3", measures="kernel", time_s=1e-3)
    called = [
        dataclasses.replace(run, gpu="h200", id=f"h200-{i}") for i, run in enumerate(runs[:5]) if run.gpu == "h100"
    ]
    fitted = [run for run in runs if run.gpu == "h100"]
    found = validate([*fitted, alone, *called], "made up")
    assert found.left_out == {TOO_FEW: 1 + len(called)}
    prior_s = problem_of([alone]).seconds()[0]
    assert found.unfitted["h100", "fa3"].bias == pytest.approx(prior_s / alone.time_s - 1.0)
    by_priors = problem_of(called)
    carried = found.unfitted["h200", "fa3"]
    assert carried.n == len(called)
    assert carried.mape != pytest.approx(np.mean(np.abs(by_priors.seconds() / by_priors.measured_s - 1.0)), rel=1e-3)
    assert ("h100", "fa3") not in validate([*fitted, alone], "made up", at_least_s=2e-3).unfitted


def test_the_command(tmp_path, runs):
    rows = tmp_path / "rows.csv"
    save_runs(rows, runs)
    done = CliRunner().invoke(command, ["--rows", str(rows), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert document["schema"] == 1
    assert set(document["held_out"]["h100"]["fa3"]) == {"n", "mape", "median", "p90", "worst", "bias"}
    assert set(document) >= {"left_out_gpu", "speedup", "decode", "baselines", "coverage_80", "noise", "by_size"}
    shown = CliRunner().invoke(command, ["--rows", str(rows), "--above", "200us", "--leave-out-gpu", "h100"]).output
    assert "h100 fa3" in shown
    assert "h200 fa3" not in shown
    # One kernel alone: what the GPU's mean says is what the kernel's column says.
    left_out = document["left_out_gpu"]["h100"]["fa3"]
    every = CliRunner().invoke(command, ["--rows", str(rows)]).output
    assert f"h100 left out of every fit: {left_out['n']:,} rows, mean {left_out['mape']:.1%}" in every
    assert "h200 left out of every fit" not in shown
    # Every line of the page is of that GPU alone, though the fits are of all.
    alone = json.loads(CliRunner().invoke(command, ["--rows", str(rows), "--leave-out-gpu", "H100", "--json"]).output)
    assert alone["held_out"] == {"h100": document["held_out"]["h100"]}
    assert alone["left_out_gpu"]["h100"] == document["left_out_gpu"]["h100"]
    assert alone["all"] == alone["held_out"]["h100"]["fa3"] != document["all"]
    assert "vllm decode 16-bit" in CliRunner().invoke(command, ["--rows", str(rows), "--by", "use"]).output
    for arguments, quoted in (
        (["--above", "50"], "time '50'"),
        (["--above", "-1us"], "time '-1us'"),
        (["--above", "infus"], "time 'infus'"),
        (["--above", "10s"], "no fitted runs of 10.0 s or longer"),
        (["--leave-out-gpu", "h10"], "did you mean 'h100'"),
    ):
        with pytest.raises(InputError, match=quoted):
            CliRunner().invoke(command, ["--rows", str(rows), *arguments], catch_exceptions=False)


def test_a_gpu_has_one_name_however_it_is_written(tmp_path):
    (run,) = made_up(1)
    save_runs(tmp_path / "rows.csv", [dataclasses.replace(run, gpu=name) for name in (run.gpu, run.gpu.upper())])
    assert {read.gpu for read in load_runs(tmp_path / "rows.csv")} == {run.gpu}
