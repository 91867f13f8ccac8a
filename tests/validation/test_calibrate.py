"""Fitting constants to measured runs, and predicting with them."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from attncast import Conditions, InputError, Workload, predict
from attncast.cli.calibrate import calibrate as command
from attncast.hwmodels import load_gpu
from attncast.simulator.calibration import (
    BOUNDS,
    Calibration,
    calibration_text,
    load_calibration,
    packaged_calibration,
)
from attncast.simulator.conditions import engine_conditions, engine_names
from attncast.validation import calibrate as calibrate_module
from attncast.validation.calibrate import START, calibrate, fit, fitted_names, priors
from attncast.validation.measured import save_runs
from attncast.validation.problem import FOLDS, REPLAY_TICK_S, describable, problem_of

from .made_up import TRUTH, constants, made_up, use

VLLM = Conditions(graph=True, appends=True, engine="vllm")


@pytest.fixture(scope="module")
def runs():
    return made_up()


@pytest.fixture(scope="module")
def fitted(runs):
    (fit,), left_out = calibrate(runs, "made up", "a test")
    assert {reason: len(of) for reason, of in left_out.items()} == {}
    return fit


def test_constants_behind_made_up_times_are_found_again(runs, fitted):
    assert str(fitted.use) == "h100 fa3 vllm prefill 16-bit"
    assert np.mean(np.abs(fitted.before)) > 0.1
    assert np.mean(np.abs(fitted.held_out)) < 0.05  # the noise is 3%
    assert fitted.constants.values["call_s"] == pytest.approx(TRUTH["call_s"], rel=0.15)
    # What tensor work costs is known well.
    dense = Workload(16384, 32, 128)
    pair = [
        predict(dense, "causal", "h100", "fa3", conditions=VLLM, calibration=Calibration(name, {fitted.use: known}))
        for name, known in (("truth", constants()), ("found", fitted.constants))
    ]
    assert pair[1].time_s == pytest.approx(pair[0].time_s, rel=0.05)


def test_decoding_tells_the_bandwidth():
    (found,), _ = calibrate(made_up(decode=True), "made up", "a test")
    assert found.use.phase == "decode"
    assert found.constants.values["dram_efficiency"] == pytest.approx(TRUTH["dram_efficiency"], rel=0.08)


def test_errors_are_those_of_shapes_left_out(runs, fitted):
    assert fitted.constants.held_out_mape == pytest.approx(np.mean(np.abs(fitted.held_out)))
    # Constants that saw every row must not reproduce the held-out errors exactly.
    seen = fitted.problem.seconds(fitted.constants.values) / fitted.problem.measured_s - 1.0
    assert np.max(np.abs(seen - fitted.held_out)) > 1e-4
    # Rows of one shape lie in one fold, whatever the window.
    both = problem_of([*runs, *made_up(window=True)])
    assert both.fold[: len(runs)].tolist() == both.fold[len(runs) :].tolist()
    assert set(both.fold) == set(range(FOLDS))
    assert 0.6 < fitted.inside < 0.95


def test_a_fold_knows_nothing_of_its_own_rows(runs, fitted):
    """Whatever its rows measure, they are forecast alike: a search that began where all rows lead would know of them."""
    out = fitted.problem.fold == 0
    moved = [
        replace(run, time_s=run.time_s * (3.0 if of else 1.0)) for run, of in zip(fitted.problem.runs, out, strict=True)
    ]
    (other,), _ = calibrate(moved, "made up", "a test")
    before, after = (np.array((1.0 + each.held_out) * each.problem.measured_s) for each in (fitted, other))
    assert after[out] == pytest.approx(before[out], rel=1e-12)
    assert np.max(np.abs(after[~out] / before[~out] - 1.0)) > 1e-3


def test_where_a_search_begins_moves_no_error(fitted):
    far = {name: 2.0 * value for name, value in fitted.constants.values.items()}
    for near in (None, fitted.constants.values, far):
        seconds = fitted.problem.seconds(fit(fitted.problem, near=near))
        assert seconds == pytest.approx(fitted.problem.seconds(fitted.constants.values), rel=0.02)


def test_the_c_library_is_told_to_keep_what_arrays_leave(monkeypatch):
    """The top of the heap is not trimmed, and arrays of up to 32 MiB are not mapped one by one (mallopt.h: -1 and -3)."""
    told = {}
    library = SimpleNamespace(mallopt=lambda option, size_bytes: told.update({option: size_bytes}))
    monkeypatch.setattr(calibrate_module.ctypes, "CDLL", lambda name: library)
    calibrate_module._keep_memory()
    assert told == {-1: 512 * 1024**2, -3: 32 * 1024**2}


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_another_c_library_is_left_as_it_is(monkeypatch, error):
    asked = []

    def missing(name):
        asked.append(name)
        raise error

    monkeypatch.setattr(calibrate_module.ctypes, "CDLL", missing)
    calibrate_module._keep_memory()
    assert asked == [None]


@pytest.mark.parametrize(
    ("software", "measures", "others"),
    [
        ("VLLM 1.0 fa3", "call+append", {"call_s", "key_s", "sequence_s"}),
        ("TRTLLM 1.0 x", "call+append+rope", {"call_s", "key_s", "rotation_efficiency"}),
        ("cuDNN", "kernel", set()),
    ],
)
def test_six_constants_at_most_and_only_those_that_the_rows_tell(runs, software, measures, others):
    import dataclasses

    problem = problem_of([dataclasses.replace(run, software=software, measures=measures) for run in runs])
    names = fitted_names(problem)
    assert set(names) == {"overlap", "round_trips", "dram_efficiency"} | others
    assert len(names) <= 6
    plain = problem.seconds()
    for name in names:  # each of them moves some forecast
        assert np.max(np.abs(problem.seconds({name: BOUNDS[name].low}) / plain - 1.0)) > 1e-9


def test_rows_repeated_are_forecast_each_with_its_own_constants(runs):
    problem = problem_of(runs)
    values = [{name: value * factor for name, value in priors(problem).items()} for factor in (0.8, 1.0, 1.3)]
    columns = {name: np.repeat([of[name] for of in values], len(runs)) for name in values[0]}
    together = problem.repeated(3).seconds(columns).reshape(3, len(runs))
    assert together == pytest.approx(np.stack([problem.seconds(of) for of in values]), rel=1e-12)


def test_some_of_the_rows_are_forecast_as_they_are_among_all(runs):
    problem = problem_of(runs)
    wanted = np.arange(len(runs)) % 3 > 0
    some = problem.where(wanted)
    assert some.runs == tuple(run for run, kept in zip(runs, wanted, strict=True) if kept)
    assert some.seconds() == pytest.approx(problem.seconds()[wanted], rel=1e-12)
    for name in ("measured_s", "fold", "idle_s", "alone", "speed_of_light_s"):
        assert np.array_equal(getattr(some, name), getattr(problem, name)[wanted])


def test_what_no_profile_describes_is_left_out(runs):
    import dataclasses

    strange = [dataclasses.replace(runs[0], kernel="fla-gla"), dataclasses.replace(runs[0], gpu="a100", kernel="fa4")]
    backward = dataclasses.replace(runs[0], direction="bwd")
    assert not any(map(describable, [*strange, backward]))
    _, left_out = calibrate([*runs, *strange, backward], "made up", "a test")
    assert {reason: len(of) for reason, of in left_out.items()} == {
        "no profile describes it": 2,
        "not a forward run": 1,
    }


def test_a_file_is_read_as_it_was_written(tmp_path, fitted):
    path = tmp_path / "mine.toml"
    path.write_text(calibration_text({fitted.use: fitted.constants}))
    calibration = load_calibration(str(path))
    read = calibration.constants[fitted.use]
    assert read.values == pytest.approx(fitted.constants.values, rel=1e-4)
    assert read.portable == pytest.approx(fitted.constants.portable, rel=1e-4)
    assert (read.rows, read.data, read.date) == (fitted.constants.rows, "made up", fitted.constants.date)
    workload = Workload(8192, 32, 128)
    plain = predict(workload, "causal", "h100", "fa3", conditions=VLLM)
    calibrated = predict(workload, "causal", "h100", "fa3", conditions=VLLM, calibration=calibration)
    assert calibrated.time_s != plain.time_s
    assert np.log(calibrated.time_high_s / calibrated.time_s) == pytest.approx(fitted.constants.interval, rel=1e-3)
    assert calibrated.parts_s["append"] > TRUTH["call_s"] * 0.8
    assert calibrated.notes[0].startswith("Constants of h100 fa3 vllm prefill 16-bit: off by")
    # Another use of this GPU keeps its priors, and says so.
    other = predict(workload, "causal", "h100", "flashinfer", conditions=VLLM, calibration=calibration)
    assert other.time_s == predict(workload, "causal", "h100", "flashinfer", conditions=VLLM).time_s
    assert other.notes[0].startswith("No fitted constants for h100 flashinfer vllm prefill 16-bit: priors")


def test_a_gpu_without_rows_is_forecast_by_the_others(tmp_path, runs):
    fits, _ = calibrate([*runs, *made_up(60, gpu="h200", seed=1)], "made up", "a test")
    calibration = Calibration("made up", {fit.use: fit.constants for fit in fits})
    workload = Workload(8192, 32, 128)
    prior = predict(workload, "causal", "h100-pcie", "fa3", conditions=VLLM)
    carried = predict(workload, "causal", "h100-pcie", "fa3", conditions=VLLM, calibration=calibration)
    assert (
        carried.notes[0] == "No fitted constants for h100-pcie fa3 vllm prefill 16-bit: carried over from other GPUs."
    )
    assert carried.parts_s["append"] > prior.parts_s["append"] + 0.8 * TRUTH["call_s"]
    # Its interval is what held 80% of h100's rows forecast by h200's constants, and of h200's by h100's.
    widths = [fit.constants.left_out_interval for fit in fits]
    assert np.log(carried.time_high_s / carried.time_s) == pytest.approx(sum(widths) / 2)
    # Constants from before there were portable ones carry nowhere.
    path = tmp_path / "old.toml"
    text = calibration_text(calibration.constants)
    path.write_text("".join(line for line in text.splitlines(True) if not line.startswith(("portable", "left_out"))))
    old = predict(workload, "causal", "h100-pcie", "fa3", conditions=VLLM, calibration=load_calibration(str(path)))
    assert old.time_s == prior.time_s


def test_portable_constants_keep_to_their_priors_where_rows_say_nothing():
    # Long prompts tell nothing of what a sequence costs, and little of DRAM.
    (fit,), _ = calibrate(made_up(), "made up", "a test")
    assert fit.constants.portable["overlap"] == pytest.approx(TRUTH["overlap"], rel=0.1)
    assert fit.constants.portable["dram_efficiency"] == pytest.approx(fit.problem.gpu.dram_efficiency, rel=0.3)
    assert START["sequence_s"] / 10 < fit.constants.portable["sequence_s"] < 10 * START["sequence_s"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("overlap = ", "overlp = "), ["'overlp'", "did you mean 'overlap'"]),
        (("overlap = ", "overlap = 7 # "), ["overlap is 7", "0.01 to 5"]),
        (("overlap = ", 'overlap = "x" # '), ["overlap is 'x'", "a number"]),
        (("overlap = ", "overlap = nan # "), ["overlap is nan", "a number"]),
        (("rows = ", "# rows = "), ["has no 'rows'"]),
        (("portable = { overlap", "portable = { overlp"), ["'overlp' in portable", "did you mean 'overlap'"]),
        (("portable = { overlap = ", "portable = { overlap = 8"), ["portable: overlap is 8", "0.01 to 5"]),
        (("portable = ", "portable = 3 # "), ["portable is 3", "a table"]),
        (('phase = "', "phase = 3 # "), ["phase is 3", "text"]),
        (("[[fit]]", "[fit]"), ["[[fit]]"]),
        (("[[fit]]", "[[fit"), ["is not TOML"]),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, fitted, change, words):
    path = tmp_path / "mine.toml"
    path.write_text(calibration_text({fitted.use: fitted.constants}).replace(*change, 1))
    with pytest.raises(InputError) as error:
        load_calibration(str(path))
    for word in words:
        assert word in str(error.value)


def test_the_command_fits_writes_and_shows(tmp_path, runs):
    rows, out = tmp_path / "rows.csv", tmp_path / "mine.toml"
    save_runs(rows, runs)
    done = CliRunner().invoke(command, ["--rows", str(rows), "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.output)["results"]
    assert (result["gpu"], result["kernel"], result["engine"]) == ("h100", "fa3", "vllm")
    assert (result["rows"], len(result["constants"])) == (len(runs), 6)
    shown = CliRunner().invoke(command, ["--show", str(out)])
    for word in ("h100 fa3 vllm prefill", "rows.csv", *result["constants"]):
        assert word in shown.output
    assert "other GPUs take over overlap" in shown.output
    own, packaged = (CliRunner().invoke(command, ["--show", *more]).output for more in ([], ["packaged"]))
    assert own == packaged
    assert "a100 trtllm trtllm prefill" in own
    for arguments in ([], ["--rows", str(rows), "--show", str(out)], ["--rows", str(tmp_path / "none.csv")]):
        assert isinstance(CliRunner().invoke(command, arguments).exception, InputError)
    before = rows.read_bytes()
    for target, words in (
        (rows, "is the file to fit"),
        (tmp_path / "no" / "x.toml", "cannot write"),
        (tmp_path, "a folder"),
    ):
        problem = CliRunner().invoke(command, ["--rows", str(rows), "-o", str(target)]).exception
        assert isinstance(problem, InputError)
        assert words in str(problem)
    assert rows.read_bytes() == before
    save_runs(rows, runs[:10])
    few = CliRunner().invoke(command, ["--rows", str(rows)])
    assert isinstance(few.exception, InputError)
    assert "40 forward runs" in str(few.exception)


def test_the_packaged_constants_say_where_they_are_from():
    fits = packaged_calibration().constants
    assert {use.gpu for use in fits} >= {"a100", "h100", "b200"}
    for found in fits.values():
        assert len(found.values) <= 6
        assert found.command.startswith("attncast calibrate --rows ")
        assert found.rows >= 40
        assert 0 < found.interval < 3


def test_an_engine_is_known_by_name():
    workload = Workload(8192, 32, 128, dtype="fp8")
    assert engine_conditions("TRTLLM", workload).rotates
    assert engine_conditions("vllm", workload).quantises
    assert not engine_conditions("vllm", Workload(8192, 32, 128)).quantises
    with pytest.raises(InputError, match=r"'vlm'.*did you mean 'vllm'"):
        engine_conditions("vlm", workload)
    assert "sglang" in engine_names()
    run = made_up(1)[0]
    assert run.conditions == engine_conditions("vllm", run.workload)
    assert use(run).engine == "vllm"


@pytest.mark.parametrize(("gpu", "kernel", "waits"), [("h100", "fa3", False), ("b200", "trtllm", True)])
def test_a_replay_waits_half_a_tick_on_blackwell(gpu, kernel, waits):
    run = made_up(1, gpu, kernel, f"VLLM 1.0 {kernel}")[0]
    idle_s = 0.5 * REPLAY_TICK_S[load_gpu(gpu).generation] if waits else 0.0
    problem = problem_of([run])
    assert problem.seconds() - problem.costs().time_s == pytest.approx(idle_s)
    streamed = problem_of([replace(run, graph=False)])
    assert streamed.seconds() == pytest.approx(streamed.costs().time_s)
