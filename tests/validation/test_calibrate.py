"""Fitting constants to measured runs, and predicting with them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from click.testing import CliRunner

from attncast import Conditions, InputError, Workload, predict
from attncast.cli.calibrate import calibrate as command
from attncast.simulator.calibration import BOUNDS, Calibration, calibration_text, load_calibration
from attncast.validation.calibrate import calibrate
from attncast.validation.measured import DATA, load_runs, save_runs


@pytest.fixture(scope="module")
def serving():
    return [run for run in load_runs(DATA / "serving.csv") if (run.gpu, run.kernel) == ("h100", "fa3")]


@pytest.fixture(scope="module")
def fitted(serving):
    fits, left_out = calibrate(serving, "serving.csv", "a test")
    assert left_out == {}
    (fit,) = fits
    return fit


def made_up(runs, constants):
    """The runs with the times that some constants give, and 3% of noise."""
    calibration = Calibration("made up", {("h100", "fa3"): constants})
    rng = np.random.default_rng(0)
    made = []
    for run in runs:
        estimate = predict(
            run.workload, run.pattern, run.gpu, run.kernel, conditions=run.conditions, calibration=calibration
        )
        made.append(dataclasses.replace(run, time_s=estimate.time_s * float(np.exp(rng.normal(0, 0.03)))))
    return made


def test_constants_behind_made_up_times_are_found_again(serving, fitted):
    truth = dataclasses.replace(
        fitted.constants, overlap=0.5, clock=0.7, round_trips=8.0, dram_efficiency=0.7, call_s=9e-6, token_s=1e-9
    )
    (found,), _ = calibrate(made_up(serving, truth), "made up", "a test")
    assert np.mean(np.abs(found.before)) > 0.1
    assert np.mean(np.abs(found.held_out)) < 0.06
    assert found.constants.dram_efficiency == pytest.approx(0.7, rel=0.08)
    # What tensor work costs is known well, which share of it is clock and which overlap less so.
    dense = Workload(16384, 32, 128)
    pair = [
        predict(dense, "causal", "h100", "fa3", calibration=Calibration(name, {("h100", "fa3"): constants})).time_s
        for name, constants in (("truth", truth), ("found", found.constants))
    ]
    assert pair[1] == pytest.approx(pair[0], rel=0.08)


def test_errors_are_those_of_shapes_left_out(serving, fitted):
    assert fitted.held_out.size == len(serving)
    assert np.mean(np.abs(fitted.held_out)) < np.mean(np.abs(fitted.before))
    assert fitted.constants.held_out_mape == pytest.approx(np.mean(np.abs(fitted.held_out)))
    # Predicting with the constants that saw all rows must not reproduce the held-out errors exactly.
    calibration = Calibration("fit", {("h100", "fa3"): fitted.constants})
    seen = [
        predict(r.workload, r.pattern, r.gpu, r.kernel, conditions=r.conditions, calibration=calibration).time_s
        / r.time_s
        - 1
        for r in serving
    ]
    assert np.max(np.abs(np.array(seen) - fitted.held_out)) > 1e-3
    for name, bounds in BOUNDS.items():
        assert bounds.low * 0.99 <= getattr(fitted.constants, name) <= bounds.high * 1.01
    assert len(BOUNDS) <= 6


def test_a_file_is_read_as_it_was_written(tmp_path, fitted):
    path = tmp_path / "mine.toml"
    path.write_text(calibration_text({("h100", "fa3"): fitted.constants}))
    read = load_calibration(str(path)).constants["h100", "fa3"]
    for name, value in dataclasses.asdict(fitted.constants).items():
        assert getattr(read, name) == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5))
    workload = Workload(8192, 32, 128)
    plain = predict(workload, "causal", "h100", "fa3")
    calibrated = predict(workload, "causal", "h100", "fa3", calibration=load_calibration(str(path)))
    other = predict(workload, "causal", "h100", "flashinfer", calibration=load_calibration(str(path)))
    assert calibrated.time_s != plain.time_s
    assert np.log(calibrated.time_high_s / calibrated.time_s) == pytest.approx(fitted.constants.interval, rel=1e-4)
    assert other.time_s == predict(workload, "causal", "h100", "flashinfer").time_s
    serving = Conditions(graph=True, appends=True)
    appended = predict(workload, "causal", "h100", "fa3", conditions=serving, calibration=load_calibration(str(path)))
    assert appended.parts_s["append"] > fitted.constants.call_s


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("overlap = ", "overlp = "), ["'overlp'", "did you mean 'overlap'"]),
        (("overlap = ", "overlap = 7 # "), ["overlap is 7", "0.01 to 1.5"]),
        (("overlap = ", 'overlap = "x" # '), ["overlap is 'x'", "a number"]),
        (("clock = ", "# clock = "), ["has no 'clock'"]),
        (("[h100.fa3]", "h100 = 3"), ["[GPU.KERNEL]"]),
        (("[h100.fa3]", "[h100.fa3"), ["is not TOML"]),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, fitted, change, words):
    path = tmp_path / "mine.toml"
    path.write_text(calibration_text({("h100", "fa3"): fitted.constants}).replace(*change, 1))
    with pytest.raises(InputError) as error:
        load_calibration(str(path))
    for word in words:
        assert word in str(error.value)


def test_the_command_fits_writes_and_shows(tmp_path, serving):
    rows, out = tmp_path / "rows.csv", tmp_path / "mine.toml"
    save_runs(rows, serving)
    done = CliRunner().invoke(command, ["--rows", str(rows), "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.output)["results"]
    assert (result["gpu"], result["kernel"], result["rows"]) == ("h100", "fa3", len(serving))
    assert set(result["constants"]) == set(BOUNDS)
    shown = CliRunner().invoke(command, ["--show", str(out)])
    for word in ("h100 fa3", "rows.csv", *BOUNDS):
        assert word in shown.output
    for arguments in ([], ["--rows", str(rows), "--show", str(out)], ["--rows", str(tmp_path / "none.csv")]):
        assert isinstance(CliRunner().invoke(command, arguments).exception, InputError)
    save_runs(rows, serving[:10])
    few = CliRunner().invoke(command, ["--rows", str(rows)])
    assert isinstance(few.exception, InputError)
    assert "40 forward runs" in str(few.exception)
