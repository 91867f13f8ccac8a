"""``attncast tune`` as a user sees it."""

from __future__ import annotations

import importlib.util
import json

import pytest

PROBLEM = ("-i", "30x48x80", "-n", "24", "-d", "128", "-p", "na window=18x24x24 stride=16x8x8")
PLAIN = ("-i", "2048", "-n", "8", "-d", "64", "-p", "causal", "-k", "triton")


def test_the_top_five_are_printed(attncast):
    status, out, err = attncast("tune", "-g", "b200", *PROBLEM)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("b200, kernel natten, na window=18x24x24 stride=16x8x8: best of 7 configurations")
    assert lines[1].split()[0] == "configuration"
    assert sum(line.startswith("q_tile=") for line in lines) == 5
    assert any(line.startswith("sure ") and "within 5% of the best" in line for line in lines)
    assert any(line.startswith("note ") for line in lines)


def test_json_has_the_promised_form(attncast):
    status, out, _ = attncast("tune", "-g", "rtx5090", *PLAIN, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["schema"] == 1
    assert (found["gpu"], found["kernel"], found["effort"]) == ("rtx5090", "triton", "instant")
    best = found["best"]
    assert best == found["ranking"][0]
    assert {"BLOCK_M", "BLOCK_N", "num_warps", "num_stages", "USE_TMA"} <= set(best["config"])
    assert best["low_s"] < best["time_s"] < best["high_s"]
    assert set(found["space"]) == {"total", "feasible", "compiled", "measured"}
    assert found["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-i", "2048", "-n", "8", "-d", "64"), "-g is missing"),
        (("-g", "h100", *PLAIN, "--effort", "slow"), "unknown effort 'slow'"),
        (("-g", "h100", *PLAIN, "-f", "tritn"), "unknown format 'tritn'"),
        (("-g", "h100", *PLAIN, "--budget", "120s"), "budget '120s' was given without --measure"),
        (("-g", "h100", *PLAIN, "--measure", "--budget", "soon"), "budget 'soon' cannot be read"),
        (("-g", "h100", *PLAIN[:-1], "natten"), "'natten' cannot run this pattern"),
        (("--sweep", "nowhere.toml", "-o", "x"), "cannot read sweep 'nowhere.toml'"),
        (("--sweep", "nowhere.toml"), "needs -o DIRECTORY"),
        (("--sweep", "nowhere.toml", "-g", "h100"), "--sweep and -g 'h100' were both given"),
    ],
)
def test_bad_input_is_one_sentence(attncast, arguments, message):
    status, out, err = attncast("tune", *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("attncast: ")
    assert message in err
    assert err.count("\n") == 1


def _has_gpu():
    if not importlib.util.find_spec("torch"):
        return False
    import torch

    return torch.cuda.is_available()


@pytest.mark.skipif(_has_gpu(), reason="there is a GPU here")
def test_measuring_needs_a_gpu(attncast):
    status, _, err = attncast("tune", "-g", "h100", *PLAIN, "--measure")
    assert status == 2
    assert "--measure needs a CUDA GPU" in err


def test_a_result_is_written_whole(attncast, tmp_path):
    target = tmp_path / "tuned.json"
    status, out, _ = attncast("tune", "-g", "a100", *PLAIN, "-o", str(target))
    assert status == 0
    assert "sure" in out
    assert "BLOCK_M" in target.read_text()
    assert list(tmp_path.iterdir()) == [target]


A100 = "kernel=triton,device_name=NVIDIA_A100-SXM4-80GB,dtype=bf16.json"


def test_a_sweep_writes_a_file_for_each_gpu_and_resumes(attncast, tmp_path):
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        "gpus = ['a100', 'rtx5090']\npatterns = ['causal']\nkernel = 'triton'\n"
        "[[shape]]\ngrid = 2048\nheads = 8\nhead_dim = 64\n[[shape]]\ngrid = 4096\nheads = 8\nhead_dim = 64\n"
    )
    folder = tmp_path / "tuned"
    status, out, _ = attncast("tune", "--sweep", str(sweep), "-o", str(folder))
    assert status == 0
    assert [line.split()[1:] for line in out.splitlines()] == [["2", "tunings"]] * 2
    assert {path.name for path in folder.iterdir()} == {
        A100,
        "kernel=triton,device_name=NVIDIA_GeForce_RTX_5090,dtype=bf16.json",
        "sweep.jsonl",
    }
    log = (folder / "sweep.jsonl").read_text()
    assert len(log.splitlines()) == 4
    written = (folder / A100).read_text()
    json.loads(written)
    status, _, _ = attncast("tune", "--sweep", str(sweep), "-o", str(folder))
    assert status == 0
    assert (folder / "sweep.jsonl").read_text() == log
    assert (folder / A100).read_text() == written
