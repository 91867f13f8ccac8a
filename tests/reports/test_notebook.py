"""Results in a notebook: HTML of their own, and figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncast.simulator import Workload, cascades, predict
from attncast.simulator.html import html_table

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def estimate():
    return predict(Workload(4096, 8, 128), "causal", "h100")


def test_results_show_their_numbers(estimate, tuning):
    html = estimate._repr_html_()
    assert "FlashAttention-3" in html
    assert "bound by" in html
    assert f"{estimate.speedup:.2f}x" in html
    assert f"{estimate.work.visited_total:,} of" in estimate.work._repr_html_()
    assert "BLOCK_M=128 BLOCK_N=64 num_warps=8 num_stages=4" in tuning._repr_html_()
    html = cascades.load("three_pass")._repr_html_()
    assert "passes over M" in html
    assert "E*M*P + F*M*P" in html


def test_words_are_escaped(estimate, tuning):
    shown = [
        replace(estimate, pattern=EVIL, notes=(EVIL,))._repr_html_(),
        replace(tuning, pattern=EVIL, notes=(EVIL,))._repr_html_(),
        html_table(EVIL, [EVIL], [[EVIL]], [EVIL]),
    ]
    for html in shown:
        assert "<script" not in html
        assert html.count("&lt;script&gt;") >= 2


def test_plots_are_figures_with_something_in_them(estimate, tuning):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("networkx", reason="networkx is not installed")
    from matplotlib.figure import Figure

    parts = sum(value > 0 for value in estimate.parts_s.values())
    for result, patches in ((estimate, parts), (estimate.work, 1), (tuning, 1), (cascades.load("naive"), 0)):
        figure = result.plot()
        assert isinstance(figure, Figure)
        axes = figure.get_axes()
        drawn = [*axes[0].patches, *axes[0].collections, *axes[0].texts]
        assert len(drawn) >= max(patches, 1)


def test_the_map_of_a_tuning_marks_what_was_ruled_out_and_the_best(tuning):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from attncast.autotune.plots import landscape_figure

    axes = landscape_figure(tuning).get_axes()[:-1]  # the last is the colour bar
    assert len(axes) >= 6
    crosses = [line for place in axes for line in place.lines if line.get_marker() == "x"]
    stars = [(place.get_title("left"), line) for place in axes for line in place.lines if line.get_marker() == "*"]
    assert len(crosses) == len(tuning.ruled_out) == 4
    ((title, star),) = stars
    assert title == "8 warps, 4 stages"
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (1.5, 2.5)  # BLOCK_N 64 of 32, 64, 128; BLOCK_M 128 of 32..256
    (mesh,) = axes[5].collections
    values = mesh.get_array().reshape(4, 3)
    assert values[2, 1] == pytest.approx(1.0)
    assert values.mask[3, 2]
