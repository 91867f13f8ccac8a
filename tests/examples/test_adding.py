"""What ``examples/adding.md`` says is done: its commands run, on a copy of the project where they edit it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from attncast import Workload, predict
from attncast.hwmodels import load_gpu
from attncast.simulator.profile import load_profile
from attncast.validation.calibrate import calibrate
from attncast.validation.importers import import_runs
from attncast.validation.measured import load_runs, save_runs

from ..paths import ROOT

PAGE = (ROOT / "examples" / "adding.md").read_text(encoding="utf-8")


def commands(title: str) -> list[list[str]]:
    """The commands of a section's code block."""
    (block,) = re.findall(rf"^## {title}\n.*?```sh\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for line in block.splitlines()]


def test_every_section_has_commands_and_every_link_leads_somewhere():
    for title in re.findall(r"^## (.*)$", PAGE, re.MULTILINE):
        assert len(commands(title)) >= 1
    for link in re.findall(r"\]\((.*?)\)", PAGE):
        assert (ROOT / "examples" / link).is_file(), link


@pytest.mark.parametrize("title", ["A GPU", "A kernel", "An algorithm"])
def test_files_of_ones_own_go_where_names_go(title, attncast, monkeypatch):
    monkeypatch.chdir(ROOT)
    for name, *words in commands(title):
        assert name == "attncast"
        status, out, err = attncast(*words)
        assert (status, err) == (0, ""), words
        assert out


def test_the_gpu_differs_where_its_file_says():
    mine, base = load_gpu(str(ROOT / "examples/add_gpu/h100-slow-memory.toml")), load_gpu("h100")
    assert mine.dram_bandwidth_bytes_s == base.dram_bandwidth_bytes_s / 2
    assert mine.tensor_peak_flops == base.tensor_peak_flops


def test_the_kernel_differs_where_its_file_says_and_is_faster():
    path = str(ROOT / "examples" / "add_kernel" / "pingpong.toml")
    mine, base = load_profile(path, load_gpu("h100")), load_profile("triton", load_gpu("h100"))
    assert (mine.overlap, mine.in_flight, mine.tiles) == (0.35, 2, base.tiles)
    call = Workload(8192, 32, 128)
    assert predict(call, "causal", "h100", path).time_s < predict(call, "causal", "h100", "triton").time_s


def test_its_constants_can_be_fitted_to_runs_of_it(tmp_path):
    pytest.importorskip("scipy", reason="scipy is not installed")
    path = tmp_path / "mine.toml"
    path.write_text('base = "fa3"\nsource = "a test"\n')
    sample = import_runs("aiconfigurator", ROOT / "examples" / "data" / "attention_h100.csv").runs
    runs = [replace(run, kernel=str(path)) for run in sample if run.workload.tokens == 1]
    save_runs(tmp_path / "rows.csv", runs)
    (fit,), left_out = calibrate(load_runs(tmp_path / "rows.csv"), "a test", "")
    assert (fit.use.kernel, fit.held_out.size, left_out) == (str(path), len(runs), {})
    assert abs(fit.held_out).mean() < abs(fit.before).mean()


def test_the_algorithm_is_right_and_the_check_can_fail(attncast, tmp_path):
    folder = ROOT / "examples" / "add_cascade"
    wrong = tmp_path / "wrong.cascade"
    wrong.write_text((folder / "sink.cascade").read_text().replace("RD[0, p] = 1", "RD[0, p] = 0"))
    plain = str(folder / "sink_plain.cascade")
    assert attncast("cascade", "check", str(folder / "sink.cascade"), "--against", plain)[0] == 0
    status, out, _ = attncast("cascade", "check", str(wrong), "--against", plain)
    assert status == 1
    assert "DIFFERS" in out


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_steps_that_add_a_pattern_add_it(tmp_path):
    copy = tmp_path / "attncast"  # the folder is the package: its name is the import's
    skipped = shutil.ignore_patterns(".*", "__pycache__", "build", "out", "gallery", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=skipped)
    # Git would look for a repository above the copy.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GIT_CEILING_DIRECTORIES": str(tmp_path)}
    printed = ""
    for words in commands("A pattern"):
        command = {"attncast": [sys.executable, "-m", "attncast"], "python": [sys.executable]}.get(words[0], words[:1])
        done = subprocess.run(
            [*command, *words[1:]], cwd=copy, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        printed += done.stdout
    assert "kv tiles visited: 10" in printed  # 4 x 4 frames: 10 on and below the diagonal, all full
    assert "kv tiles full: 10" in printed
    assert re.search("^frame-causal$", printed, re.MULTILINE)  # the forecast's title; 1560 is the default
    passed = re.search(r"(\d+) passed", printed)
    assert passed is not None
    assert int(passed[1]) >= 2  # against brute force, and what the library asks of each pattern
    assert "frame-causal" not in (ROOT / "simulator" / "patterns" / "library.py").read_text(encoding="utf-8")
