"""The page of a validation: how large it gets, whatever it is given."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from attncast.reports.page import render
from attncast.reports.validation import WORST, ValidationRows, validation_page

MOST_BYTES = 3_000_000


def made_up(count):
    """So many rows, with words as long as real ones."""
    draw = np.random.default_rng(0)
    measured = np.exp(draw.uniform(np.log(1e-5), np.log(0.5), count))
    forecast = measured * np.exp(draw.normal(0, 0.15, count))

    def word(*known):
        return np.array(known)[draw.integers(len(known), size=count)]

    return ValidationRows(
        measured_s=measured,
        forecast_s=forecast,
        low_s=forecast / 1.2,
        high_s=forecast * 1.2,
        id=np.array([f"aic-context-attention-{index}" for index in range(count)]),
        gpu=word("a100", "b200", "gb200", "h100", "rtx-pro-6000"),
        kernel=word("fa2", "fa3", "trtllm", "trtllm-decode", "mmha", "xqa", "cudnn", "flashinfer"),
        pattern=word("causal", "causal, decode", "window", "window, decode", "dense"),
        size=word("15-50 us", "50 us - 1 ms", "over 1 ms"),
        bound_by=word("tensor", "exp", "mask", "dram", "l2", "latency"),
        baselines=(("this model", 0.1), ("speed of light", 0.7)),
    )


@pytest.mark.parametrize("count", [40, 60_000])  # the fewest that are validated, and all rows of NVIDIA's tables
def test_it_stays_small(count):
    html = render(validation_page(made_up(count), "made up", ""))
    assert 50_000 < len(html.encode()) < MOST_BYTES
    assert html.count('id="h-') > 8
    shown = html[html.index('data-table="rows"') :]
    assert shown[: shown.index("</table>")].count("<tr>") == 1 + min(count, WORST)
