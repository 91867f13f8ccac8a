"""``python -m attncast.validation.measure``, for machines that have torch and triton but neither click nor rich."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest

from attncast import InputError
from attncast.validation.measure import __main__ as entry
from attncast.validation.measured import DATA, load_runs, save_runs
from attncast.validation.validate import validate

from ..made_up import made_up


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, **path, **environment}
    )


def test_nothing_on_its_way_imports_click_or_rich():
    code = (
        "import sys, importlib, pkgutil\n"
        "for name in ('click', 'rich', 'scipy', 'matplotlib', 'torch', 'triton'): sys.modules[name] = None\n"
        "import attncast.validation.measure as package\n"
        "for module in pkgutil.iter_modules(package.__path__):\n"
        "    if module.name not in ('calls', 'check'):\n"
        "        importlib.import_module(f'{package.__name__}.{module.name}')\n"
    )
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    if importlib.util.find_spec("triton") and importlib.util.find_spec("torch"):
        code = (
            "import sys\nsys.modules['click'] = sys.modules['rich'] = sys.modules['scipy'] = None\n"
            "import attncast.validation.measure.calls, attncast.validation.measure.check\n"
        )
        done = run("-c", code)
        assert done.returncode == 0, done.stderr


def test_without_a_gpu(tmp_path):
    done = run(
        "-m", "attncast.validation.measure", "smoke", "-o", str(tmp_path / "runs.jsonl"), CUDA_VISIBLE_DEVICES=""
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("attncast: measuring needs ")
    assert not list(tmp_path.iterdir())


def test_bad_input(capsys):
    assert entry.main(["smokey"]) == 2
    assert "unknown suite 'smokey'" in capsys.readouterr().err
    assert entry.main(["smoke", "--part", "3/2"]) == 2
    assert "part '3/2'" in capsys.readouterr().err


def test_a_dry_run_tries_every_case_and_writes_nothing(tiny, tmp_path, monkeypatch, capsys):
    if not importlib.util.find_spec("torch"):
        pytest.skip("needs torch")
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    assert entry.main(["tiny", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert out == "8 right, 0 with a problem; nothing was timed\n"
    assert err.count("right, not timed") == 8
    assert set(tmp_path.rglob("*")) == before


def test_a_campaign_by_lines(fake, capsys, monkeypatch):
    monkeypatch.setattr(entry, "measure", lambda suite, output, progress, **_: _measure(fake, progress))
    assert entry.main(["tiny", "-o", str(fake.output)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("8 measured on h100, 0 with a problem, 0 from before")
    assert "tiny on h100: 8 cases, 0 of them done before" in err
    assert "[8/8] sdpa-cudnn/b2 h2:1 i256 c0 d64 bf16/causal/kernel/cold  110 us +- 10.0 us of 5, 1755 MHz" in err


def _measure(fake, progress):
    from attncast.validation.measure.campaign import measure

    return measure("tiny", fake.output, progress, command=fake.command, preparers=0)


def test_measured_lines_are_rows_like_any_other(tmp_path):
    runs = load_runs(DATA / "serving.csv")
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps({"schema": 1, "run": asdict(run)}) + "\n" for run in runs))
    assert load_runs(path) == runs
    again = tmp_path / "again.csv"
    save_runs(again, load_runs(path))
    assert load_runs(again) == runs
    fitted = made_up(60)
    path.write_text("".join(json.dumps({"schema": 1, "run": asdict(run)}) + "\n" for run in fitted))
    assert validate(load_runs(path), "runs.jsonl").held_out["h100", "fa3"].n == 60


GOOD = asdict(load_runs(DATA / "neighborhood.csv")[0])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is no whole line of JSON"),
        ("[1]", "line 2 is no line of attncast measure: expected 'schema': 1"),
        ('{"schema": 2, "run": {}}', "'schema': 1"),
        ('{"schema": 1}', "a 'run' or 'problem'"),
        ('{"schema": 1, "run": 7}', "line 2: 'run' is '7', expected an object"),
        (json.dumps({"schema": 1, "run": {**GOOD, "tme_s": 1}}), "unknown field 'tme_s'; did you mean 'time_s'"),
        (json.dumps({"schema": 1, "run": {**GOOD, "gpu": None}}), "line 2 has no 'gpu'"),
        (json.dumps({"schema": 1, "run": {**GOOD, "time_s": float("nan")}}), "time_s 'nan' is not a positive time"),
        (json.dumps({"schema": 1, "run": {**GOOD, "time_s": -1.0}}), "time_s '-1' is not a positive time"),
        (json.dumps({"schema": 1, "run": {**GOOD, "batch": "two"}}), "batch 'two' is not a whole number"),
        ('{"schema": 1, "run": "' + "x" * 1_000_001 + '"}', "line 2 is longer than 1,000,000 bytes"),
        ("\xff", "line 2 is no whole line of JSON"),
    ],
    ids=lambda value: value[:30],
)
def test_bad_lines(tmp_path, line, words):
    path = tmp_path / "runs.jsonl"
    path.write_bytes((json.dumps({"schema": 1, "run": GOOD}) + "\n" + line + "\n").encode("latin-1"))
    with pytest.raises(InputError, match=words.replace("(", "\\(")):
        load_runs(path)
