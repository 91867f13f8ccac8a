"""A suite of a few cases, and campaigns on workers that only pretend."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

from attncast.validation.measure import campaign, suites

# As in tests/kernels/conftest.py: the interpreter is chosen when a kernel is decorated.
if importlib.util.find_spec("torch") and "attncast.kernels.attention" not in sys.modules:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")

WORKER = Path(__file__).with_name("fake_worker.py")
TINY = """
title = "eight cases"
seconds = 1
cache = "cold"
sample_seconds = 0.01

[[cases]]
kernels = ["sdpa-flash", "sdpa-cudnn"]
shapes = [[1, "128"], [2, "256"]]
heads = ["2:1"]
head_dims = [64]
patterns = ["dense", "causal"]
"""


class Silent:
    """Remembers what a campaign tells."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, dict]] = []
        self.begun: tuple[str, int, int] | None = None

    def begin(self, title, total, done):
        self.begun = (title, total, done)

    def step(self, case, answer):
        self.steps.append((case.id, answer))

    def note(self, text):
        pass


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder of suites with one of eight cases."""
    folder = tmp_path / "suites"
    folder.mkdir()
    (folder / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(suites, "FOLDER", folder)
    suites.suite_names.cache_clear()
    yield folder
    suites.suite_names.cache_clear()


class Fake:
    """Runs campaigns of the tiny suite on a pretended GPU."""

    def __init__(self, folder: Path) -> None:
        self.behaviour, self.log = folder / "behaviour.json", folder / "asked.log"
        self.output = folder / "runs.jsonl"
        self.command = (sys.executable, str(WORKER), str(self.behaviour), str(self.log))
        self.behave()

    def behave(self, **behaviour) -> None:
        self.behaviour.write_text(json.dumps(behaviour))

    def asked(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def run(self, **options):
        self.progress = Silent()
        return campaign.measure(
            "tiny",
            self.output,
            self.progress,
            command=self.command,
            **{"preparers": 0, "case_limit_s": 30.0, **options},
        )

    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.output.read_text().splitlines()]


@pytest.fixture
def fake(tiny, tmp_path) -> Fake:
    return Fake(tmp_path)
