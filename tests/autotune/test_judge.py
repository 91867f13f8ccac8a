"""The ranking against published configurations: what the project says of it has to stay true."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from attncast.autotune.judge import DATA, judge, likeliest_spread, main, residual_spread
from attncast.autotune.rank_sure import SPREAD
from attncast.errors import InputError
from attncast.validation.measured import load_runs, save_runs

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("scipy"), reason="needs scipy (attncast[fit])")


@pytest.fixture(scope="module")
def judgements():
    return judge(load_runs(DATA / "configurations.csv"))


def test_every_row_has_a_source_and_a_configuration():
    for run in load_runs(DATA / "configurations.csv"):
        assert run.source
        assert run.config
        assert run.method


def test_tables_are_ranked_as_they_were_measured(judgements):
    tables = [one for one in judgements if one.place is None]
    assert len(tables) == 7
    assert all(one.regret(1) <= 0.05 for one in tables)
    assert np.mean([one.tau for one in tables]) > 0.8
    assert residual_spread(tables) < 0.2


def test_winners_are_near_the_top_and_their_times_are_near(judgements):
    winners = [one for one in judgements if one.place is not None]
    assert len(winners) == 26
    # Of the 240 and 450 configurations of the searches, half differ in PRE_LOAD_V alone, and many do not fit.
    assert all(20 <= one.of <= 120 for one in winners)
    assert sum(one.place < 8 for one in winners) >= 18
    logs = np.log([one.predicted_s[0] / one.measured_s[0] for one in winners])
    assert np.median(np.abs(logs)) < 0.10
    assert np.abs(logs).max() < 0.35


def test_what_is_assumed_of_errors_is_what_the_winners_say(judgements):
    winners = [one for one in judgements if one.place is not None]
    assert likeliest_spread(winners) == pytest.approx(SPREAD, abs=0.05)
    # Winners that the ranking has first say that it errs little.
    assert likeliest_spread([one for one in winners if one.place == 0]) < 0.1
    one = winners[0]
    assert ((one.chances > 0) & (one.chances <= 1)).all()


def test_regret_by_hand(judgements):
    one = next(one for one in judgements if one.shape.startswith("rtx4090"))
    worst = np.argmax(one.measured_s)
    assert one.regret(len(one.configs)) == 0.0
    swapped = type(one)(one.shape, one.configs, -one.measured_s, one.measured_s, one.ranked)
    assert swapped.regret(1) == pytest.approx(one.measured_s[worst] / one.measured_s.min() - 1)
    assert swapped.tau == pytest.approx(-1.0)


def test_the_command_prints_both_tables(capsys):
    main([])
    out = capsys.readouterr().out
    assert "7 shapes: mean top-1 regret" in out
    assert "26 winners: median place" in out


def test_bad_rows_are_named(tmp_path, capsys):
    run = load_runs(DATA / "configurations.csv")[0]
    path = tmp_path / "rows.csv"
    for config, message in (("", "has no config"), ("BLOCK_M=48 BLOCK_N=32", "is not in the space of 'triton'")):
        save_runs(path, [replace(run, config=config)])
        with pytest.raises(InputError, match=message):
            judge(load_runs(path))
    with pytest.raises(SystemExit) as ended:
        main([str(path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("attncast: run ")
