"""The forecasts beside measured runs: the uncalibrated model's promise."""

from __future__ import annotations

import numpy as np
import pytest

from attncast import InputError
from attncast.validation.compare import main, relative_errors
from attncast.validation.measured import DATA, load_runs


def test_neighborhood_runs_are_forecast_within_the_promise():
    runs = load_runs(DATA / "neighborhood.csv")
    errors = relative_errors(runs)
    assert len(runs) == 22
    assert np.median(np.abs(errors)) <= 0.25
    sparse = np.array([run.kernel == "natten" for run in runs])
    assert np.all(errors[sparse] < 1.0)
    assert np.all(errors[sparse] > -0.5)


def test_serving_runs_are_forecast_within_the_promise_on_each_gpu():
    runs = load_runs(DATA / "serving.csv")
    size = np.abs(relative_errors(runs))
    gpus = np.array([run.gpu for run in runs])
    assert set(gpus) == {"a100", "h100", "b200", "rtx-pro-6000"}
    for gpu in set(gpus):
        assert (gpus == gpu).sum() == 75
        assert np.median(size[gpus == gpu]) <= 0.20, gpu


def test_the_table_prints(capsys):
    main(["neighborhood"])
    out = capsys.readouterr().out
    assert out.count("| hunyuan-gna") == 4
    assert "median error" in out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("time_s", "time", 1), ["'time_s'"]),
        (lambda text: text.replace("0.000787392", "-1"), ["'-1'", "positive"]),
        (lambda text: text.replace("0.000787392", "nan"), ["'nan'", "positive"]),
        (lambda text: text.replace("0.000787392", "fast"), ["'fast'", "not a number", "line 2"]),
        (lambda text: text.replace(",kernel,1,0,", ",everything,1,0,", 1), ["'everything'"]),
        (lambda text: text[:-40], ["unexpected end"]),
    ],
)
def test_a_broken_table_is_refused_as_a_whole(tmp_path, change, words):
    path = tmp_path / "runs.csv"
    path.write_text(change((DATA / "neighborhood.csv").read_text()))
    with pytest.raises(InputError) as error:
        load_runs(path)
    for word in words:
        assert word in str(error.value)


def test_a_missing_table_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        main(["nosuch.csv"])
    assert end.value.code == 2
    assert "nosuch.csv" in capsys.readouterr().err
