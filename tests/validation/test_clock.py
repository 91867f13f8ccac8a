"""The time before the power limit: found again in made-up runs, and what the constant says of the curated table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from attncast.simulator import clock
from attncast.simulator.clock import FREE_S, REST_POWER, SERVING_FREE_S, held_hz
from attncast.validation.clock import best_free_s, best_of, joint_losses, main, series, serving_series
from attncast.validation.measured import DATA, MeasuredRun, load_runs, load_table
from attncast.validation.problem import describable, problem_of

LENGTHS = (8192, 16384, 32768, 65536, 131072)


def made_up(free_s, monkeypatch, heads=(16, 32, 64)):
    """Dense runs that take what the model says with another time before the limit."""
    plain = replace(load_runs(DATA / "neighborhood.csv")[0], gpu="gb200", source="made up", calls_before=0)
    runs = [
        replace(plain, id=f"{count}-{length}", heads=count, heads_kv=count, grid=str(length), software=f"{count} heads")
        for count in heads
        for length in LENGTHS
    ]
    with monkeypatch.context() as patched:
        patched.setattr(clock, "held_hz", lambda *a, **_: held_hz(*a[:4], free_s=free_s))
        times = [problem_of([run]).seconds()[0] for run in runs]
    return [replace(run, time_s=time_s) for run, time_s in zip(runs, times, strict=True)]


@pytest.mark.parametrize("free_s", [0.01, 0.04, 0.2])
def test_a_known_time_is_found_again(free_s, monkeypatch):
    found = series(made_up(free_s, monkeypatch))
    assert len(found) == 3
    best, (low, high), losses = best_free_s(found)
    assert best == free_s
    assert low <= free_s <= high
    assert losses["all"].min() < 0.1 * losses["all"][-1]  # the last is without a limit


def test_runs_that_tell_nothing_of_the_limit_are_left_out(monkeypatch):
    runs = made_up(0.04, monkeypatch, heads=(16,))
    assert len(series(runs)) == 1
    assert not series(runs[:2])  # too few
    assert not series([replace(run, clock_hz=1.2e9) for run in runs])  # locked
    assert series([replace(run, clock_hz=2.05e9) for run in runs])  # locked above what it holds
    assert not series([replace(run, source="NATTEN profiler logs") for run in runs])
    assert not series([replace(run, calls_before=10) for run in runs])
    assert not series([replace(run, pattern="na window=128") for run in runs])
    assert not series([replace(run, grid="2048", time_s=2e-3) for run in runs])  # none is long


def test_the_constants_are_what_the_curated_table_says(capsys):
    main(["--serving"])
    said = f"best: {REST_POWER:g} of the power, {FREE_S * 1e3:g} ms, serving calls {SERVING_FREE_S * 1e3:g} ms"
    assert said in capsys.readouterr().out
    main([])
    out = capsys.readouterr().out
    assert f"{FREE_S * 1e3:g} ms, 80% interval 40 ms to 200 ms" in out
    assert "| no limit |" in out


@pytest.mark.parametrize(
    ("table", "words"),
    [("nowhere.csv", "cannot read 'nowhere.csv'"), ("neighborhood", "'neighborhood' says nothing of the power limit")],
)
def test_a_table_that_cannot_tell_ends_with_one_sentence(capsys, table, words):
    with pytest.raises(SystemExit) as end:
        main([table])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


def test_known_constants_of_serving_calls_are_found_again(monkeypatch):
    curated = [run for run in load_table("curated") if (run.gpu, run.kernel) == ("a100", "fa2")]
    runs = [replace(run, gpu="h100", kernel="fa3", id=f"{run.id} {index}") for index, run in enumerate(curated)]
    runs = [run for run in runs if run.conditions.engine and describable(run)]
    with monkeypatch.context() as patched:
        patched.setattr(clock, "held_hz", lambda *a, **_: held_hz(*a[:4], free_s=0.001, rest_power=0.2))
        times = problem_of(runs).seconds()
    found = serving_series([replace(run, time_s=t) for run, t in zip(runs, times, strict=True)])
    rest, _, serving_s = best_of(joint_losses([], found))
    assert (rest, serving_s) == (0.2, 0.001)


def test_a_measured_clock_reaches_the_forecast():
    run = replace(load_runs(DATA / "neighborhood.csv")[0], time_s=1e-3)
    assert isinstance(run, MeasuredRun)
    free, half = problem_of([run]).seconds(), problem_of([replace(run, clock_hz=0.915e9)]).seconds()
    assert half == pytest.approx(2 * free, rel=0.02)
    both = problem_of([run, replace(run, clock_hz=0.915e9)]).seconds()
    assert np.allclose(both, np.concatenate([free, half]), rtol=1e-12)
