"""Campaigns on a pretended GPU: nothing measured is lost, nothing is measured twice, no kernel ends the suite."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from attncast import InputError
from attncast.validation.measure.suites import load_suite
from attncast.validation.measured import load_runs

DRIVER = """
import sys
from pathlib import Path
from attncast.validation.measure import suites, campaign
from attncast.validation.measure.lines import Lines
folder, output, *command = sys.argv[1:]
suites.FOLDER = Path(folder)
campaign.measure("tiny", output, Lines(), command=command, preparers=0)
"""


def test_every_case_becomes_a_row_that_can_be_read_back(fake):
    outcome = fake.run()
    assert (outcome.gpu, outcome.measured, outcome.problems, outcome.left) == ("h100", 8, 0, 0)
    runs = load_runs(fake.output)
    assert [run.id for run in runs] == [f"h100/{case}" for case in fake.asked()]
    assert len({run.id for run in runs}) == 8
    run = runs[0]
    assert (run.gpu, run.kernel, run.software) == ("h100", "fa2", "sdpa-flash: pretended 1.0")
    assert (run.batch, run.heads, run.heads_kv, run.grid, run.head_dim) == (1, 2, 1, "128", 64)
    assert (run.warm, run.graph, run.measures) == (False, False, "kernel")
    assert (run.time_s, run.spread_s, run.samples) == (1.1e-4, pytest.approx(1e-5), 5)
    assert run.calls_before == 7
    assert run.clock_hz == 1.755e9  # while it ran
    assert run.source.startswith("attncast measure tiny, 20")
    record = fake.records()[0]
    assert record["readings"]["during"] == {"clock_hz": 1.755e9, "temperature_c": 45.0, "power_w": 640.0}
    assert len(record["samples_s"]) == 5
    assert fake.progress.begun == ("tiny on h100", 8, 0)
    assert [name for name, _ in fake.progress.steps] == fake.asked()


def test_what_is_done_is_not_done_again(fake):
    fake.run()
    before = fake.output.read_bytes()
    outcome = fake.run()
    assert (outcome.measured, outcome.earlier) == (0, 8)
    assert fake.output.read_bytes() == before
    assert len(fake.asked()) == 8


@pytest.mark.parametrize(
    ("what", "kind", "reason"),
    [
        ("crash", "crashed", "signal 9: Xid 31: page fault"),
        ("lost", "failed", "illegal memory access"),
        ("wrong", "wrong result", "off by 1"),
    ],
)
def test_a_kernel_that_fails_ends_its_case_only(fake, what, kind, reason):
    fake.behave(**{"sdpa-cudnn": what})
    outcome = fake.run()
    assert (outcome.measured, outcome.problems) == (4, 4)
    problems = [record for record in fake.records() if "problem" in record]
    assert {record["case"]["kernel"] for record in problems} == {"sdpa-cudnn"}
    assert {record["problem"] for record in problems} == {kind}
    assert all(reason in record["reason"] for record in problems)
    assert {run.kernel for run in load_runs(fake.output)} == {"fa2"}  # problems are no rows
    assert any(reason in line for line in outcome.lines())


def test_a_problem_is_tried_again_when_asked_only(fake):
    fake.behave(**{"sdpa-cudnn": "wrong"})
    fake.run()
    fake.behave()
    assert fake.run().measured == 0
    outcome = fake.run(retry=True)
    assert (outcome.measured, outcome.earlier) == (4, 4)
    assert len(load_runs(fake.output)) == 8
    assert fake.run(retry=True).measured == 0


def test_a_kernel_that_hangs_is_ended(fake):
    fake.behave(**{"sdpa-cudnn": "hang"})
    start = time.monotonic()
    outcome = fake.run(case_limit_s=1.0, part=(1, 4))
    assert (outcome.measured, outcome.problems) == (1, 1)
    assert outcome.reasons[0][1] == "no end: no end after 1 s"
    assert time.monotonic() - start < 20


def test_parts_are_the_whole(fake):
    for number in (1, 2, 3):
        fake.run(part=(number, 3))
    whole = [case.id for case in load_suite("tiny").cases(_h100())]
    assert fake.asked() == whole
    assert fake.run().earlier == 8


def test_the_seconds_end_it_cleanly_and_the_rest_follows(fake):
    fake.behave(pause_s=0.8)
    outcome = fake.run(seconds=5.0)
    assert 0 < outcome.measured < 8
    assert outcome.left == 8 - outcome.measured
    assert any("goes on" in line for line in outcome.lines())
    fake.behave()
    assert fake.run().measured == outcome.left
    assert fake.run(seconds=0.0).earlier == 8


def test_a_case_cut_off_by_the_seconds_is_no_problem(fake, monkeypatch):
    monkeypatch.setattr("attncast.validation.measure.campaign.GRACE_S", -1.0)
    fake.behave(**{"sdpa-flash": "hang"})
    outcome = fake.run(seconds=4.0)
    assert (outcome.measured, outcome.problems, outcome.left) == (0, 0, 8)
    assert fake.output.read_bytes() == b""


@pytest.mark.parametrize("wait_s", [0.3, 0.9])
def test_kill_9_loses_the_case_in_progress_and_nothing_else(fake, tiny, wait_s):
    fake.behave(pause_s=0.25)
    code = [sys.executable, "-c", DRIVER, str(tiny), str(fake.output), *fake.command]
    process = subprocess.Popen(code, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": _path()})
    _until(lambda: len(fake.asked()) > 0)
    time.sleep(wait_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    asked = fake.asked()
    kept = [run.id for run in load_runs(fake.output)]
    # What was asked for before the last case is on the disk; the last may be, if it had just ended.
    assert kept in ([f"h100/{case}" for case in asked[:-1]], [f"h100/{case}" for case in asked])
    assert 0 < len(asked) < 8
    time.sleep(0.4)
    assert fake.asked() == asked  # the worker went with it
    fake.behave()
    outcome = fake.run()
    assert (outcome.earlier, outcome.measured) == (len(kept), 8 - len(kept))
    assert len({run.id for run in load_runs(fake.output)}) == len(load_runs(fake.output)) == 8


def test_half_a_line_at_the_end_is_dropped(fake):
    fake.run()
    whole = fake.output.read_bytes()
    lines = whole.splitlines(keepends=True)
    fake.output.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    with pytest.raises(InputError, match="line 8 is no whole line"):
        load_runs(fake.output)
    outcome = fake.run()
    assert (outcome.earlier, outcome.measured) == (7, 1)
    assert [record["run"]["id"] for record in fake.records()] == [json.loads(line)["run"]["id"] for line in lines]


def test_a_file_of_something_else_is_left_alone(fake):
    fake.output.write_text("id,gpu\nx,h100\n")
    with pytest.raises(InputError, match="line 1 is no whole line of JSON"):
        fake.run()
    assert fake.output.read_text() == "id,gpu\nx,h100\n"
    fake.output = fake.output.parent / "nowhere" / "runs.jsonl"
    with pytest.raises(InputError, match="No such file"):
        fake.run()


def test_two_campaigns_do_not_write_one_file(fake):
    from attncast.validation.measure.journal import Journal

    with Journal(fake.output), pytest.raises(InputError, match="written by another"):
        fake.run()


def test_compiling_ahead_measures_the_same(fake):
    folder = fake.output.parent / "suites"
    text = (folder / "tiny.toml").read_text()
    (folder / "tiny.toml").write_text(text.replace('"sdpa-cudnn"', '"flex"'))
    outcome = fake.run(preparers=2)
    assert outcome.measured == 8
    assert len(fake.asked()) == 8  # preparing is no measuring


def test_a_gpu_without_a_hardware_model(fake, tmp_path):
    script = tmp_path / "t4.py"
    script.write_text('print(\'{"device": "Tesla T4"}\', flush=True)\ninput()\n')
    fake.command = (sys.executable, str(script))
    with pytest.raises(InputError, match=r"unknown GPU 'Tesla T4': expected one of a100, .*h100"):
        fake.run()
    assert not fake.output.exists()


def test_a_worker_that_cannot_start(fake):
    fake.command = (sys.executable, "-c", "raise SystemExit('no such driver')")
    with pytest.raises(InputError, match="cannot start: the process died with exit status 1: no such driver"):
        fake.run()


def _h100():
    from attncast.hwmodels import load_gpu

    return load_gpu("h100")


def _path() -> str:
    return os.pathsep.join(filter(None, sys.path))


def _until(ready, limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)
