"""Run commands in this process."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings

from attncast.cli import main

# Wall-clock time is measured in benchmarks/, never asserted: a slow machine fails no property.
settings.register_profile("attncast", deadline=None)
settings.load_profile("attncast")


@pytest.fixture
def attncast(capsys, monkeypatch):
    """Run a command; returns status, stdout, stderr."""

    def run(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["attncast", *arguments])
        status = 0
        try:
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        return (status, *capsys.readouterr())

    return run
