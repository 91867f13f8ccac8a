"""``attncast pattern list`` and ``attncast pattern show``."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from attncast import InputError
from attncast.cli.pattern import pattern
from attncast.simulator.patterns.library import PATTERNS


def run(*words):
    return CliRunner().invoke(pattern, words)


def test_list_names_every_pattern_with_its_source():
    result = run("list")
    assert result.exit_code == 0
    for entry in PATTERNS.values():
        assert f"{entry.name}: {entry.about}" in result.output
        assert entry.source in result.output
    listed = json.loads(run("list", "--json").output)["results"]
    assert [item["name"] for item in listed] == list(PATTERNS)


def test_show_takes_the_grid_of_the_pattern():
    (shown,) = json.loads(run("show", "radial frames=30 tokens=3840 decay=0.95", "--json").output)["results"]
    assert shown["queries"] == "115200"
    assert shown["counts"] == "exact"
    assert 1 - shown["tile_density"] == pytest.approx(0.725, abs=0.005)


def test_show_draws_tokens():
    result = run("show", "causal", "-i", "4")
    assert result.exit_code == 0
    assert "█···\n██··\n███·\n████" in result.output


def test_show_counts_more_tokens_than_it_draws():
    result = run("show", "causal", "-i", "134217728")  # a picture of them took 4 GB and a minute
    assert result.exit_code == 0
    assert "no picture: more than 4,194,304 tokens" in result.output
    assert "█" not in result.output


def test_show_of_a_dynamic_pattern_names_the_cost_of_choosing():
    (shown,) = json.loads(run("show", "hip", "-i", "131072", "-n", "32", "--json").output)["results"]
    assert shown["counts"] == "expected"
    assert shown["choosing_flops"] > 0


def test_show_writes_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "swin.png"
    result = run("show", "swin window=4 shift=2", "-i", "16x16", "--png", str(path))
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("show", "causall", "-i", "64"), "did you mean 'causal'"),
        (("show", "causal"), "give a grid"),
        (("show", "na window=3x3", "-i", "8x8", "--q-tile", "8"), "has 1 axes"),
        (("show", "hip", "-i", "4096", "--png", "x.png"), "no fixed set of pairs"),
        (("show", "causal", "-i", "134217728", "--png", "x.png"), "expected at most 4,194,304 to draw"),
        (("show", "causal", "-i", "8", "--png", "no/such/folder/x.png"), "cannot write 'no/such/folder/x.png'"),
    ],
)
def test_bad_input_is_a_sentence(words, said):
    result = run(*words)
    assert isinstance(result.exception, InputError)  # which the entry point turns into one line and status 2
    assert said in str(result.exception)
