"""The command line as a user and a program see it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

GNA = "na window=18x24x24 stride=16x8x8"
HUNYUAN = ["-i", "30x48x80", "-n", "24", "-d", "128", "--dtype", "fp16"]


def test_predict_json_has_the_promised_form(attncast):
    status, out, err = attncast(
        "predict",
        "-g",
        "b200,h100",
        *HUNYUAN,
        "-p",
        GNA,
        "--attention-share",
        "0.607",
        "--sparse-share",
        "0.70",
        "--json",
    )
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document["schema"] == 1
    assert [result["gpu"] for result in document["results"]] == ["b200", "h100"]
    for result in document["results"]:
        assert result["kernel"] == "natten"
        assert result["kernel_time_s"] < result["time_s"]
        assert result["time_low_s"] < result["time_s"] < result["time_high_s"]
        assert result["speedup"] == pytest.approx(result["baseline_time_s"] / result["time_s"])
        assert sum(result["parts_s"].values()) == pytest.approx(result["time_s"])
        assert set(result["bounds"]) == {"flop", "tiles_mean", "tiles_max"}
        assert set(result["tiles"]) == {"q_tiles", "visited", "full", "max_per_q_tile", "min_per_q_tile"}
        assert set(result["end_to_end"]) == {"speedup", "bound_flop", "bound_tiles_max"}
        assert {"pattern", "q_tile", "kv_tile", "baseline_kernel", "bound_by"} <= set(result)
        assert result["end_to_end"]["speedup"] < result["end_to_end"]["bound_flop"] + 1e-9


def test_predict_text_says_what_would_be_faster(attncast):
    status, out, _ = attncast("predict", "-g", "h100", *HUNYUAN, "-p", GNA)
    assert status == 0
    assert "With tiles 2x8x8 | 2x8x8 the same window needs no masks" in out
    for word in ("80% interval", "speedup", "bound by", "tiles max", "permute"):
        assert word in out
    assert "\x1b[" not in out  # plain text when piped


def test_tiles(attncast):
    status, out, _ = attncast("tiles", "-i", "30x48x80", "-p", GNA, "--q-tile", "4x8x8", "--kv-tile", "2x8x8", "--json")
    assert status == 0
    (result,) = json.loads(out)["results"]
    assert (result["visited"], result["full"], result["needs_mask"]) == (38880, 38880, False)
    status, out, _ = attncast("tiles", "-i", "1000", "-p", "causal", "--q-tile", "128", "--kv-tile", "64")
    assert status == 0
    assert "needed in" in out


def test_gpu_show_gives_sources_and_takes_a_file(attncast, tmp_path):
    status, out, _ = attncast("gpu", "show", "h100")
    assert status == 0
    assert "whitepaper" in out
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'kind = "gpu"\nname = "Mine"\nbase = "h100"\n[figures]\n'
        'dram_bandwidth = { value = 4.0, unit = "TB/s", kind = "derived", source = "a wish" }\n'
    )
    status, out, _ = attncast("predict", "-g", f"h100,{mine}", "-i", "1", "--cached", "8191", "-b", "32", "-n", "32",
                              "-d", "128", "-p", "causal", "--json")  # fmt: skip
    assert status == 0
    stock, faster = json.loads(out)["results"]
    assert faster["time_s"] < stock["time_s"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", "-g", "h10", *HUNYUAN], ["'h10'", "did you mean 'h100'"]),
        (["predict", "-g", "h100,,b200", *HUNYUAN], ["'h100,,b200'"]),
        (["predict", "-g", "nosuch.toml", *HUNYUAN], ["nosuch.toml"]),
        (["predict", "-g", "h100", "-i", "30x4o", "-n", "1", "-d", "64"], ["'30x4o'"]),
        (["predict", "-g", "h100", "-i", "1000000000000", "-n", "1", "-d", "64"], ["1,000,000,000,000"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "x", "-d", "64"], ["'x'"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "0", "-d", "64"], ["heads 0"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "24", "--heads-kv", "5", "-d", "64"], ["24", "5"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "8", "-d", "64", "-p", "na window=65"], ["'65'", "'64'"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "8", "-d", "64", "-p", "na window=8 stride=9"], ["'9'", "'8'"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "8", "-d", "64", "--sparse-share", "0.5"], ["0.5"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "8", "-d", "64", "--dtype", "fp32"], ["'fp32'"]),
        (["tiles", "-i", "64", "--q-tile", "0", "--kv-tile", "8"], ["'0'"]),
        (["predict", "-g", "h100", "-i", "64", "-n", "8", "-d", "64", "-p", ""], ["the pattern '' is empty"]),
        (
            ["predict", "-g", "h100", "-i", "64", "-n", "8", "-d", "64", "--engine", "vllm", "--rope"],
            ["--rope", "'vllm'", "rotates no queries"],
        ),
        (["predikt"], ["'predikt'", "did you mean 'predict'"]),
        (["gpu", "show", "rtx590"], ["did you mean 'rtx5090'"]),
    ],
)
def test_bad_input_exits_2_with_one_line(attncast, arguments, words):
    status, out, err = attncast(*arguments)
    assert (status, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_a_gpu_file_that_contradicts_itself_is_refused(attncast, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'kind = "gpu"\nname = "Mine"\nbase = "h100"\n[figures]\n'
        'sms = { value = 200, unit = "1", kind = "derived", source = "a wish" }\n'
    )
    status, _, err = attncast("predict", "-g", str(mine), *HUNYUAN)
    assert status == 2
    assert "200 SMs" in err
    assert "989.4" in err


def test_predict_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['attncast', 'predict', '-g', 'h100', '-i', '64', '-n', '1', '-d', '64', '--json']\n"
        "from attncast.cli import main\nmain()\n"
        "heavy = {'torch', 'triton', 'pandas', 'scipy', 'matplotlib', 'networkx', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_closed_pipe_is_no_error():
    code = f"{sys.executable} -m attncast gpu list | head -n 1"
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


DOCUMENTS = """import numpy as np
doc = np.repeat(np.arange(8), 128)
def causal_document(b, h, q_idx, kv_idx):
    return (q_idx >= kv_idx) & (doc[q_idx] == doc[kv_idx])
"""


def test_a_mask_file_is_counted_and_forecast(attncast, tmp_path):
    path = tmp_path / "masks.py"
    path.write_text(DOCUMENTS)
    mask = ["-i", "1024", "--mask", f"{path}:causal_document"]
    status, out, err = attncast("tiles", *mask, "--q-tile", "128", "--kv-tile", "64", "--json")
    assert (status, err) == (0, "")
    (result,) = json.loads(out)["results"]
    assert (result["visited"], result["full"], result["pairs"]) == (16, 0, 8 * 128 * 129 // 2)
    status, out, err = attncast("predict", "-g", "h100", "-n", "8", "-d", "64", *mask, "--json")
    assert (status, err) == (0, "")
    (result,) = json.loads(out)["results"]
    assert result["kernel"] == "flex"
    assert result["bounds"]["flop"] == pytest.approx(1024**2 / (8 * 128 * 129 / 2))


def test_a_mask_and_a_pattern_exclude_each_other(attncast, tmp_path):
    path = tmp_path / "masks.py"
    path.write_text(DOCUMENTS)
    arguments = ["tiles", "-i", "1024", "--q-tile", "64", "--kv-tile", "64", "--mask"]
    status, _, err = attncast(*arguments, f"{path}:causal_document", "-p", "causal")
    assert status == 2
    assert "both given" in err
    status, _, err = attncast(*arguments, f"{path}:causal_documents")
    assert status == 2
    assert "did you mean 'causal_document'" in err


def test_advise(attncast):
    status, out, err = attncast(
        "advise", "-g", "h100", "-i", "30x48x80", "-n", "24", "-d", "128", "--coverage", "0.09", "--json"
    )
    assert (status, err) == (0, "")
    (result,) = json.loads(out)["results"]
    assert result["best"]["coverage"] >= 0.09
    assert result["best"]["speedup"] > 5
    assert result["alternatives"]
    status, _, err = attncast("advise", "-g", "h100", "-i", "30x48x80", "-n", "24", "-d", "128")
    assert status == 2
    assert "--coverage" in err
    status, _, err = attncast("advise", "-g", "h100", "-i", "64x64", "-n", "8", "-d", "64", "--coverage", "0")
    assert status == 2
    assert "coverage 0 is out of range" in err


def test_a_neighborhood_in_row_order_is_advised_without_tile_shapes(attncast):
    call = ("-i", "8x16x16", "-n", "2", "-d", "64", "-p", "na window=4x8x8 stride=2x8x8 order=row")
    status, out, err = attncast("predict", "-g", "h100", *call)
    assert (status, err) == (0, "")
    assert "faster" in out


@pytest.mark.parametrize(
    "command", ["report predict -g h100 -i 64 -n 1 -d 64", "report validation", "report cascades", "sweep x.toml"]
)
def test_what_a_page_needs_is_asked_for_before_any_work(attncast, monkeypatch, tmp_path, command):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else real(name, *rest)
    )
    status, _, err = attncast(*command.split(), "-o", str(tmp_path / "out"))
    assert status == 2
    assert "needs matplotlib, not installed here: expected pip install 'attncast[report]'" in err
    assert not (tmp_path / "out").exists()


def test_a_locked_clock(attncast):
    call = ["predict", "-g", "h100", "-i", "8192", "-n", "32", "-d", "128"]
    times = {}
    for clock in ("1.6GHz", "800MHz"):
        status, out, _ = attncast(*call, "--clock", clock, "--json")
        assert status == 0
        times[clock] = json.loads(out)["results"][0]["parts_s"]["tiles"]
    assert times["800MHz"] == pytest.approx(2 * times["1.6GHz"])
    for clock, words in (
        ("1600", "a number and a unit"),
        ("9GHz", "expected at most 1,980 MHz"),
        ("1W", "measures power"),
    ):
        status, out, err = attncast(*call, "--clock", clock)
        assert (status, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
