"""The project's own table of measured runs holds what its README says, and every row can be true."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from attncast.hwmodels import gpu_names
from attncast.simulator.profile import profile_names
from attncast.validation.calibrate import by_use
from attncast.validation.compare import forecasts
from attncast.validation.curate import LEAST_TIME_S, LEFT_OUT, OF_A_USE, phase, shape, windowed
from attncast.validation.measured import DATA, LINEAR, load_curated
from attncast.validation.plausible import least_flop, plausible
from attncast.validation.problem import describable

README = (DATA / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def runs():
    return load_curated()


@pytest.fixture(scope="module")
def serving(runs):
    return [run for run in runs if run.id.startswith("aic-")]


def family(run):
    if run.kernel.startswith(LINEAR):
        return "linear"
    if run.direction != "fwd":
        return "backward"
    if run.cached and int(run.grid) <= 16:
        return "decode"
    kind = run.pattern.split()[0]
    return {"na": "neighborhood", "window": "windowed", "dense": "dense", "causal": "causal"}.get(kind, "block-sparse")


def readme_table(title):
    """Rows of the README's table under a heading: {first cells: last cell}."""
    section = README.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line.strip("| \n").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {tuple(cell.strip() for cell in line[:-1]): int(line[-1].replace(",", "")) for line in lines[1:]}


def test_every_row_is_its_own_and_says_where_it_is_from(runs):
    assert len({run.id for run in runs}) == len(runs)
    assert all(run.source and run.method and run.software for run in runs)
    assert {run.gpu for run in runs} <= set(gpu_names())


def test_every_row_can_be_true(runs):
    assert plausible(runs)[1] == []


def test_the_readme_counts_the_rows(runs):
    assert readme_table("Rows by GPU and kernel") == Counter((run.gpu, run.kernel) for run in runs)
    assert readme_table("Rows by GPU and family") == Counter((run.gpu, family(run)) for run in runs)
    assert f"{len(runs):,} rows" in README


def test_the_families_that_forecasts_are_asked_for_are_there(runs):
    found = Counter((run.gpu, family(run)) for run in runs)
    for gpu in ("a100", "h100", "b200", "rtx-pro-6000"):
        assert found[gpu, "causal"] >= 20
        assert found[gpu, "windowed"] + found[f"{gpu}-pcie", "windowed"] >= 13  # A100: the PCIe part's alone
    for gpu in ("a100", "h100", "b200"):
        assert found[gpu, "decode"] >= 20
        assert found[gpu, "backward"] + found[f"{gpu}-pcie", "backward"] >= 20
        assert found[gpu, "linear"] >= 20
    by_family = Counter(family(run) for run in runs)
    for name in ("dense", "neighborhood", "block-sparse"):
        assert by_family[name] >= 15


def test_every_forward_run_of_a_known_kernel_has_a_forecast(runs):
    known = [run for run in runs if run.direction == "fwd" and run.kernel in profile_names()]
    found = forecasts(known)
    assert np.all(np.isfinite(found.time_s))
    assert np.all(found.time_s > 0)


def test_a_kernel_without_a_profile_is_no_error_for_a_fit(runs):
    others = {run.kernel: run for run in runs if run.kernel not in profile_names()}
    assert len(others) >= 10
    assert not any(describable(run) for run in others.values())
    assert not {kernel for kernel in others if re.fullmatch(r"[a-z][a-z0-9-]*", kernel) is None}


def test_serving_rows_follow_the_rules_of_their_selection(serving):
    assert 6000 <= len(serving) <= 8000
    assert sum(len(members) >= OF_A_USE for _, members in by_use(serving)) >= 60
    assert min(run.time_s for run in serving) >= LEAST_TIME_S
    groups = Counter((run.gpu, run.software, phase(run)) for run in serving)
    assert not set(groups) & set(LEFT_OUT)
    assert sum(count >= 200 for count in groups.values()) >= 12
    causal = {shape(run) for run in serving if run.pattern == "causal"}
    cut = [run for run in serving if windowed(run)]
    assert 0.2 <= np.mean([shape(run) in causal for run in cut]) <= 0.5


def test_cold_rows_and_locked_clocks_are_marked(runs):
    flushed = [run for run in runs if "flush" in run.method and "not stated" not in run.method]
    assert flushed
    assert not any(run.warm for run in flushed)
    locked = {run.clock_hz for run in runs if run.kernel in ("cudnn-bsa", "fa4-bsa")}
    assert locked == {847e6}


def test_linear_attention_is_counted_as_its_recurrence(runs):
    run = next(run for run in runs if run.kernel.startswith(LINEAR) and run.direction == "fwd")
    workload = run.workload
    state = workload.head_dim * workload.dim_v
    assert least_flop(run) == 4 * workload.batch * workload.heads * workload.tokens * state
    assert least_flop(replace(run, direction="fwdbwd")) == 2 * least_flop(run)
    # At this length softmax attention takes more work than the tensor peak allows.
    fast = next(run for run in runs if run.id == "helion-0005")
    assert plausible([fast])[1] == []
    assert "tensor peak" in plausible([replace(fast, kernel="other")])[1][0][1]
