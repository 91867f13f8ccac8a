"""Tuning: what comes back, with and without a compiler."""

from __future__ import annotations

import importlib.util
import math
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from attncast.autotune import tune as module
from attncast.autotune.compiled import compiled_pattern, kernel_config, problem, promising
from attncast.autotune.tune import Progress, tune
from attncast.errors import InputError
from attncast.hwmodels import load_gpu
from attncast.kernels.check import check_jobs, judge
from attncast.kernels.facts import CompileFacts
from attncast.kernels.space import KernelConfig
from attncast.simulator import Workload, parse_pattern, predict

GPUS = ("a100", "h100", "b200", "rtx5090")
GNA = "na window=18x24x24 stride=16x8x8"
VIDEO = Workload((30, 48, 80), 24, 128, dtype="fp16")
LONG = Workload((4096,), 32, 128)
needs_triton = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton to compile")


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("kernel", ["triton", "flex", "natten"])
def test_an_instant_tuning_is_whole(gpu, kernel):
    found = tune(VIDEO, GNA, gpu, kernel)
    assert (found.gpu, found.kernel, found.effort) == (gpu, kernel, "instant")
    assert found.best is found.ranking[0]
    assert len(found.ranking) == min(module.KEPT, found.space.feasible)
    times = [candidate.time_s for candidate in found.ranking]
    assert times == sorted(times)
    for candidate in found.ranking:
        assert candidate.low_s < candidate.time_s < candidate.high_s
        assert candidate.bound_by
        assert candidate.resources is None
        assert {"q_tile", "kv_tile"} <= set(candidate.config)
    assert found.space.total >= found.space.feasible > 0
    assert found.space.compiled == 0
    assert 0 < found.sure <= 1
    assert found.to_dict()["best"]["config"] == dict(found.best.config)
    assert found.notes or kernel == "triton"


def test_natten_is_forecast_as_predict_does():
    found = tune(VIDEO, GNA, "h100", "natten")
    config = found.best.config
    alone = predict(VIDEO, GNA, "h100", "natten", q_tile=config["q_tile"], kv_tile=config["kv_tile"])
    assert found.best.time_s == pytest.approx(alone.time_s, rel=1e-9)
    assert found.best.bound_by == alone.bound_by


def test_notes_say_what_the_ranking_stands_on():
    assert any("stand" in note or "not at hand" in note for note in tune(LONG, "causal", "h100", "flex").notes)
    assert any("compiled" in note for note in tune(VIDEO, GNA, "h100", "natten", effort="quick").notes)


def test_what_cannot_be_tuned_is_said():
    with pytest.raises(InputError, match=r"unknown effort 'quik'.*did you mean 'quick'"):
        tune(LONG, "causal", "h100", effort="quik")
    with pytest.raises(InputError, match="differs from layer to layer"):
        tune(LONG, "layers 8*dense + 24*causal", "h100", "triton")


def test_a_knob_may_be_left_alone():
    free = tune(LONG, "causal", "b200", "triton")
    assert free.best.config["WARP_SPECIALIZE"]
    found = tune(LONG, "causal", "b200", "triton", leave_alone=("WARP_SPECIALIZE",))
    assert not any(candidate.config["WARP_SPECIALIZE"] for candidate in found.ranking)
    plain = [candidate.time_s for candidate in free.ranking if not candidate.config["WARP_SPECIALIZE"]]
    assert found.best.time_s == plain[0]
    assert found.space.feasible < free.space.feasible


def test_refining_sees_the_ranking():
    seen = []

    def refine(tuning):
        seen.append(tuning)
        return tuning

    assert tune(LONG, "causal", "h100", "triton", refine=refine) is seen[0]


def facts(**changes):
    config = KernelConfig(num_warps=8, **changes.pop("config", {}))
    return CompileFacts(config, "sm_90", **{"status": "ok", "registers": 128, "spill_bytes": 0, "shared_bytes": 65536,
                                           "tmem_columns": 0, "warps": 8, **changes})  # fmt: skip


def test_why_a_compiled_configuration_is_not_proposed():
    h100 = load_gpu("h100")
    assert problem(judge(h100, facts(spill_bytes=256))) == "spills 256 bytes of registers per thread"
    assert "asks for 300,000 bytes of shared memory" in problem(judge(h100, facts(shared_bytes=300_000)))
    assert problem(judge(h100, facts(status="failed", reason="ptxas died"))) == "ptxas died"
    assert problem(judge(h100, facts())) == "its inner loop was not found in the machine code"


@needs_triton
def test_quick_compiles_and_ranks_again(tmp_path, monkeypatch):
    """Two real compilations for a GPU that is not here; a second run only reads them."""
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "QUICK", 2)
    monkeypatch.setattr(module, "QUICK_S", math.inf)
    steps: list[Progress] = []
    found = tune(
        Workload((4096,), 32, 64), "dense", "a100", "triton", effort="quick", workers=2, on_compiled=steps.append
    )
    assert found.space.compiled == 2
    assert [(step.done, step.total) for step in steps] == [(1, 2), (2, 2)]
    assert len(found.ranking) + len(found.ruled_out) == 2
    for candidate in found.ranking:
        assert candidate.resources is not None
        assert candidate.resources.spill_bytes < 256
        assert candidate.resources.ctas_per_sm >= 1
        # The compiler's instructions and the model's make about the same time.
        instant = {str(c.config): c.time_s for c in tune(Workload((4096,), 32, 64), "dense", "a100", "triton").ranking}
        assert candidate.time_s == pytest.approx(instant[str(candidate.config)], rel=0.25)
    again = tune(Workload((4096,), 32, 64), "dense", "a100", "triton", effort="quick", workers=1)
    assert again.ranking == found.ranking
    assert again.sure == found.sure


@needs_triton
def test_what_is_proposed_unseen_compiles_and_fits(tmp_path, monkeypatch):
    """The first two of an instant tuning, register cap and TMA among them; benchmarks/compiled.py does it for four GPUs."""
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path))
    workload, pattern, gpu = Workload((4096,), 32, 64), parse_pattern("causal"), load_gpu("rtx5090")
    proposed = [candidate.config for candidate in tune(workload, pattern, gpu, "triton").ranking[:2]]
    tiles = [(config["BLOCK_M"], config["BLOCK_N"]) for config in proposed]
    kernels = [kernel_config("attention", c, tile, workload, pattern) for c, tile in zip(proposed, tiles, strict=True)]
    for result in check_jobs([(gpu, kernel) for kernel in kernels], workers=2):
        assert problem(result) == ""
        assert result.facts.shared_bytes <= gpu.smem_bytes_per_cta


def test_what_there_was_no_time_for_is_told(monkeypatch):
    """A compiler that has time for three: the note names the nearest of the others, and nothing uncompiled is proposed."""

    def check_jobs(jobs, *, until_s, on_result, **_):
        assert 0 < until_s - time.monotonic() <= module.QUICK_S
        results = []
        for number, (gpu, config) in enumerate(jobs):
            status = "ok" if number < 3 else "skipped"
            made = replace(facts(), config=config, status=status, reason="" if number < 3 else "no time")
            results.append(judge(gpu, made))
        return results

    monkeypatch.setattr(module, "check_jobs", check_jobs)
    monkeypatch.setattr(module, "problem", lambda result: "" if result.facts.ok else result.reason)
    monkeypatch.setattr(module, "rank", ranked_as_before(module.rank))
    found = tune(LONG, "causal", "h100", "triton", effort="quick")
    assert found.space.compiled == len(found.ranking) == 3
    assert not found.ruled_out
    (note,) = found.notes
    slower = float(re.match(r"Compiled 3 of 16 .* was forecast (\d+)% slower", note)[1])
    fourth = tune(LONG, "causal", "h100", "triton").ranking[3]
    assert slower == pytest.approx(100 * (fourth.time_s / found.best.time_s - 1), abs=1)


def ranked_as_before(rank):
    """The ranking without the compiler's instructions, which a pretended compilation does not have."""
    return lambda *arguments: rank(*arguments[:6])


def test_what_may_be_fastest_is_compiled_first():
    def config(rows, stages):
        return KernelConfig(block_m=rows, num_stages=stages)

    forecasts = [
        (config(64, 2), 1.0), (config(64, 3), 1.0), (config(64, 4), 1.0), (config(32, 3), 1.1), (config(32, 5), 1.1),
        (config(16, 2), 1.5),
    ]  # fmt: skip
    order = promising([c for c, _ in forecasts], np.array([t for _, t in forecasts]))
    # Four stages are the loop of three; what is half as fast again waits for both.
    assert [(c.block_m, c.num_stages) for c in order] == [(64, 2), (64, 3), (32, 3), (64, 4), (32, 5), (16, 2)]


@needs_triton
def test_decoding_is_compiled_once_for_all_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path))
    workload = Workload((1,), 32, 128, heads_kv=8, cached=4095)
    found = tune(workload, "causal", "b200", "triton", effort="quick", workers=1)
    assert (found.space.compiled, found.ruled_out) == (1, ())
    assert len(found.ranking) == module.KEPT
    assert {candidate.resources for candidate in found.ranking} == {found.best.resources}
    assert found.best.resources.spill_bytes == 0
    instant = tune(workload, "causal", "b200", "triton")
    assert found.best.time_s == pytest.approx(instant.best.time_s, rel=0.25)


@pytest.mark.parametrize(
    ("text", "compiled"),
    [
        ("dense", "dense"),
        ("causal", "causal"),
        ("window left=64 right=0", "window"),
        (GNA, "blocks"),
        ("longformer window=64", "blocks"),
    ],
)
def test_how_a_pattern_is_compiled_in(text, compiled):
    assert compiled_pattern(parse_pattern(text)) == compiled
