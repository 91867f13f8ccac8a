"""``attncast measure``: what needs no GPU."""

from __future__ import annotations

import importlib
import json

import pytest

SUITES = {"smoke", "dense", "sparse", "decode", "configs"}


def test_the_suites_and_what_they_take(attncast):
    status, out, _ = attncast("measure", "--list")
    assert status == 0
    assert all(name in out for name in SUITES)
    status, out, _ = attncast("measure", "--list", "--json", "-g", "a100")
    rows = json.loads(out)["results"]
    assert {row["suite"] for row in rows} == SUITES
    for row in rows:
        assert row["sum_s"] == pytest.approx(row["gpu_s"] + row["host_s"])


def test_the_cases_of_a_suite(attncast):
    status, out, _ = attncast("measure", "smoke", "--list", "--json")
    whole = json.loads(out)["results"]
    assert status == 0
    assert all(row["forecast_s"] > 0 for row in whole)
    parts = [
        json.loads(attncast("measure", "smoke", "--list", "--json", "--part", f"{k}/3")[1])["results"]
        for k in (1, 2, 3)
    ]
    assert [row["id"] for part in parts for row in part] == [row["id"] for row in whole]
    assert whole[0]["id"] in attncast("measure", "smoke", "--list")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no suite was named: expected one of"),
        (("smokey",), "unknown suite 'smokey'"),
        (("smoke", "--part", "0/2"), "part '0/2' cannot be read"),
        (("smoke", "--seconds", "-1"), "--seconds"),
        (("smoke", "--dry-run", "-o", "x.jsonl"), "output 'x.jsonl' with --dry-run"),
        (("smoke", "--list", "-g", "h1000"), "unknown GPU 'h1000'"),
    ],
)
def test_bad_input(attncast, arguments, words):
    status, out, err = attncast("measure", *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1


def test_without_a_gpu(attncast, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    status, out, err = attncast("measure", "smoke")
    assert (status, out) == (2, "")
    assert err.startswith("attncast: measuring needs ")
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_bar_counts_what_ends(capsys):
    from rich.console import Console

    from attncast.cli.measure import _Bar
    from attncast.hwmodels import load_gpu
    from attncast.validation.measure.suites import load_suite

    case = load_suite("smoke").cases(load_gpu("h100"))[0]
    with _Bar(Console(force_terminal=True, width=200)) as bar:
        bar.begin("smoke on h100", 7, 2)
        bar.step(case, {"problem": "failed", "reason": "[/red] is no markup"})
        assert (bar._bar.tasks[0].completed, bar._bar.tasks[0].total) == (3, 7)
    assert "failed: [/red] is no markup" in capsys.readouterr().out


def test_a_dry_run_with_problems_ends_with_status_1(attncast, monkeypatch):
    from attncast.validation.measure.campaign import Outcome

    command = importlib.import_module("attncast.cli.measure")
    for problems in (0, 1):
        outcome = Outcome("", measured=2, problems=problems, reasons=[("a case", "a reason")] * problems)
        monkeypatch.setattr(command, "dry_run", lambda *_, found=outcome: found)
        status, out, _ = attncast("measure", "smoke", "--dry-run")
        assert status == problems
        assert "2 right" in out
