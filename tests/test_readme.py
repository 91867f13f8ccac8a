"""The README shows what the commands really print."""

from __future__ import annotations

import importlib.util

from .paths import ROOT


def test_the_outputs_shown_are_those_printed():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.BLOCK.findall(text)) >= 4
    assert readme.refreshed(text, timing=False) == text, "run `make readme`"
