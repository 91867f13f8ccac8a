"""Sweeps: every case once, kept line by line."""

from __future__ import annotations

import pytest

from attncast.autotune import sweep as module
from attncast.autotune.sweep import finished, read_sweep, run_sweep
from attncast.errors import InputError

TEXT = """
gpus = ["a100", "h100"]
patterns = ["causal", "na window=13"]
kernel = "triton"

[[shape]]
grid = 2048
heads = 8
head_dim = 64

[[shape]]
grid = "1"
cached = 2047
heads = 8
heads_kv = 2
head_dim = 64
dtype = "fp16"
"""


@pytest.fixture
def cases(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(TEXT)
    return read_sweep(str(path))


def test_a_sweep_is_every_combination(cases):
    assert len(cases) == 8
    assert [case.gpu.key for case in cases[:4]] == ["a100"] * 4
    assert {case.workload.dtype for case in cases} == {"bf16", "fp16"}
    assert len({case.key for case in cases}) == 8


def test_finished_cases_are_not_tuned_again(cases, tmp_path, monkeypatch):
    log = tmp_path / "log.jsonl"
    first = [found for _, found in run_sweep(cases, log)]
    errors = [found for found in first if isinstance(found, InputError)]
    assert len(errors) == 2  # one query with a neighborhood, on each GPU
    assert "needs the same grid" in str(errors[0])
    assert len(finished(log)) == 6
    # Killed in the middle of its last line.
    text = log.read_text()
    log.write_text(text[:-200])
    count = []
    tune = module.tune
    monkeypatch.setattr(module, "tune", lambda *args, **options: count.append(args) or tune(*args, **options))
    second = [found for _, found in run_sweep(cases, log)]
    assert len(count) == 3  # the torn one, and those that cannot be tuned
    for one, other in zip(first, second, strict=True):
        if not isinstance(one, InputError):
            assert (other.ranking, other.workload, other.space) == (one.ranking, one.workload, one.space)
    assert len(finished(log)) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpus = ['h100']", "patterns is None, expected a list of texts"),
        ("gpus = 'h100'\npatterns = ['causal']", "gpus is 'h100', expected a list"),
        ("gpus = ['h100']\npatterns = ['causal']", "has no shapes"),
        ("gpus = ['h100']\npatterns = ['causal']\n[[shape]]\ngrid = 64\nheads = 2", "shape 1 has no 'head_dim'"),
        ("gpus = ['h100']\npatern = []", r"unknown entry 'patern'.*did you mean 'patterns'"),
        ("gpus = ['h101']\npatterns = ['causal']", "'h101'"),
        ("gpus = [", "is not TOML"),
    ],
)
def test_a_bad_sweep_is_one_sentence(tmp_path, text, message):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_sweep(str(path))


def test_a_missing_sweep_is_named():
    with pytest.raises(InputError, match=r"cannot read sweep 'nowhere.toml'"):
        read_sweep("nowhere.toml")
