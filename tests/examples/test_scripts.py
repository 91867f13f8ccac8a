"""Every example runs, and what it shows is what attncast says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from attncast import Workload, predict
from attncast.simulator.calibration import load_calibration, packaged_calibration
from attncast.simulator.conditions import engine_conditions

from ..paths import ROOT

FOLDER = ROOT / "examples"
NEEDS = {"check_my_measurements": "scipy"}
# script -> arguments, and words of what it prints
SHOWS = {
    "choose_a_window": ([], ["h100: dense cudnn takes", "stride=18x24x24", "every tile", "ways to keep 9%"]),
    "serving_windows": ([], ["W = 4,096", "rtx-pro-6000", "carried"]),
    "compare_gpus": (["b200", "a100"], ["prefill", "decode", "b200", "dram"]),
    "own_mask": ([], ["4,608", "227.6x", "FlexAttention"]),
    "triton_configs": (["b200", "configs.py"], ["may run on b200", "wrote configs.py"]),
    "check_my_measurements": (
        ["aiconfigurator", str(FOLDER / "data" / "attention_h100.csv"), "mine.toml"],
        ["held out", "h100 fa3 vllm decode 16-bit", "wrote mine.toml"],
    ),
}


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_is_shown_here_and_in_the_readme():
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"documents"}  # a mask, which own_mask.py runs
    assert scripts == set(SHOWS)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in [*FOLDER.glob("*.py"), *FOLDER.glob("*.ipynb"), *FOLDER.glob("*.md")]:
        assert path.name in readme or path.name == "README.md"


@pytest.mark.parametrize("name", SHOWS)
def test_it_runs_as_a_user_runs_it(name, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is not installed")
    arguments, words = SHOWS[name]
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    found = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONUTF8": "1"}
    )
    assert (found.returncode, found.stderr) == (0, "")
    for word in words:
        assert word in found.stdout
    if name == "check_my_measurements":
        uses = load_calibration(str(tmp_path / "mine.toml")).constants
        assert {str(use) for use in uses} == {f"h100 fa3 vllm {phase} 16-bit" for phase in ("prefill", "decode")}


def test_a_stride_that_divides_the_tiles_needs_no_masks():
    found = {e.pattern: e for e in load("choose_a_window").forecasts("h100")}
    assert len(found) == 12
    sliding, strided = (found[f"na window=18x24x24 stride={s}"] for s in ("1x1x1", "16x8x8"))
    assert sliding.limits_s["mask"] > 0
    assert strided.limits_s["mask"] == 0
    assert strided.time_s < sliding.time_s
    for e in found.values():
        # Amdahl: 61% of the run, in 70% of the steps.
        assert e.end_to_end.speedup == pytest.approx(1 / (1 - 0.607 * 0.7 * (1 - 1 / e.speedup)))
        assert e.speedup < e.work.bound_tiles_max


def test_all_context_lengths_at_once_are_what_single_forecasts_say():
    script = load("serving_windows")
    for gpu, engine, pattern in (("h100", "trtllm", "causal"), ("a100", "vllm", "window left=1023 right=0")):
        times_s, _ = script.seconds(gpu, engine, pattern)
        for place in (0, 30, 59):
            call = Workload(1, 32, 128, batch=32, heads_kv=8, cached=int(script.CONTEXTS[place]) - 1)
            alone = predict(
                call, pattern, gpu, script.KERNELS[gpu, engine],
                conditions=engine_conditions(engine, call, warm_l2=False), calibration=packaged_calibration(),
            )  # fmt: skip
            assert times_s[place] == pytest.approx(alone.time_s, rel=1e-9)


def test_gpus_come_fastest_first_and_half_the_bandwidth_halves_decoding_alone():
    script = load("compare_gpus")
    for name, low, high in (("prefill", 0.99, 1.01), ("decode", 1.9, 2.1)):
        found = script.forecasts(script.CALLS[name], ["b200", "h100", script.OWN])
        assert [e.gpu for e in found] == ["b200", "h100", "h100-slow-memory"]
        assert low < found[2].time_s / found[1].time_s < high


def test_the_tiles_of_the_mask_are_those_of_its_definition():
    for size, work in load("own_mask").tiles().items():
        documents, per = 128, 1024 // size
        assert work.visited_total == documents * per * (per + 1) // 2
        assert work.visited_total - work.full_total == documents * per  # those on the diagonal


def test_the_module_that_is_written_ranks_its_own_configurations(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    script = load("triton_configs")
    from attncast.autotune.writers import write

    tuning = script.tuned("b200")
    (path,) = write([tuning], "triton", tmp_path / "configs.py")
    configs = script.load(path)
    first, best = configs.CONFIGS[0], tuning.best.config
    assert {name: first.kwargs[name] for name in ("BLOCK_M", "BLOCK_N")} == {
        name: best[name] for name in ("BLOCK_M", "BLOCK_N")
    }
    short, long = (np.array(script.expected_s(configs, tokens)) for tokens in (2048, 8192))
    assert (long / short > 8).all()
    assert (long / short < 20).all()  # 16 times the pairs


def test_the_fit_is_better_than_the_priors_on_shapes_it_did_not_see():
    pytest.importorskip("scipy", reason="scipy is not installed")
    script = load("check_my_measurements")
    found = script.fits("aiconfigurator", script.SAMPLE)
    assert sum(fit.held_out.size for fit in found) == 160
    for fit in found:
        assert np.abs(fit.held_out).mean() < np.abs(fit.before).mean()
