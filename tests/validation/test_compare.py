"""The forecasts beside measured runs: the uncalibrated model's promise."""

from __future__ import annotations

import numpy as np
import pytest

from attncast import InputError
from attncast.validation.compare import forecasts, log_errors, main
from attncast.validation.measured import DATA, load_runs, save_runs


def test_neighborhood_runs_are_forecast_within_the_promise():
    runs = load_runs(DATA / "neighborhood.csv")
    errors = np.expm1(log_errors(runs, forecasts(runs)))
    assert len(runs) == 22
    assert np.median(np.abs(errors)) <= 0.25
    sparse = np.array([run.kernel == "natten" for run in runs])
    assert np.all(errors[sparse] < 1.0)
    assert np.all(errors[sparse] > -0.5)


def test_serving_runs_are_forecast_within_the_promise_on_each_gpu():
    runs = load_runs(DATA / "serving.csv")
    size = np.abs(np.expm1(log_errors(runs, forecasts(runs))))
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
        (lambda text: text.replace("source", "sourc", 1), ["'source'"]),
        (lambda text: text.replace("source", "source,dirction", 1), ["'dirction'", "did you mean 'direction'"]),
        (lambda text: text[:-40], ["unexpected end"]),
        (lambda text: "", ["is empty"]),
        (lambda text: text.replace(",calls_before", ",id", 1), ["'id' 2 times"]),
        (lambda text: text.replace(",10\n", ",10,fast\n", 1), ["line 2", "more cells", "'fast'"]),
        (lambda text: text.replace(",h100,", ",h1000,", 1), ["line 2", "'h1000'", "did you mean 'h100'"]),
        (lambda text: text.replace(",dense,", ",dens,", 1), ["line 2", "'dens'", "did you mean 'dense'"]),
        (lambda text: text.replace(",1,1,1,32768,", ",1,-1,1,32768,", 1), ["line 2", "heads -1"]),
        (lambda text: text.replace(",fp16,", ",fp17,", 1), ["line 2", "'fp17'"]),
        (lambda text: text.replace(",cuDNN (torch SDPA),", ",,", 1), ["line 2", "'software'"]),
    ],
)
def test_a_broken_table_is_refused_as_a_whole(tmp_path, change, words):
    path = tmp_path / "runs.csv"
    path.write_text(change((DATA / "neighborhood.csv").read_text()))
    with pytest.raises(InputError) as error:
        load_runs(path)
    for word in words:
        assert word in str(error.value)


def test_a_table_that_a_spreadsheet_saved_reads_the_same(tmp_path):
    text = (DATA / "neighborhood.csv").read_text()
    (tmp_path / "runs.csv").write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_runs(tmp_path / "runs.csv") == load_runs(DATA / "neighborhood.csv")


def test_tables_are_written_as_they_are_read(tmp_path):
    runs = load_runs(DATA / "neighborhood.csv")
    save_runs(tmp_path / "copy.csv", runs)
    assert load_runs(tmp_path / "copy.csv") == runs
    assert [path.name for path in tmp_path.iterdir()] == ["copy.csv"]
    with pytest.raises(InputError, match="cannot write"):
        save_runs(tmp_path / "no" / "folder.csv", runs)


def test_a_missing_table_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as end:
        main(["nosuch.csv"])
    assert end.value.code == 2
    assert "nosuch.csv" in capsys.readouterr().err
