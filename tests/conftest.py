"""Run commands in this process."""

from __future__ import annotations

import sys

import pytest

from attncast.cli import main


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
