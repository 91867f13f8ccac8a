"""The forms that are plain JSON, and what holds for every form."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from attncast import Workload
from attncast.autotune import writers
from attncast.errors import InputError

from .tunings import candidate, triton_config, tuning

NA = "na window=4x6x8 stride=2x3x4"
GRID = Workload("6x9x8", 2, 16)


# T4 and JSON


def test_t4_has_what_its_schema_asks() -> None:
    ranking = [candidate(triton_config(), measured_s=2e-3, spread_s=1e-5), triton_config(64, 64)]
    problems = {
        "crashed: signal 11": "runtime",
        "no end after 10 s": "timeout",
        "returned wrong numbers": "correctness",
        "does not compile: assertion": "compile",
        "spills 900 bytes": "constraints",
    }
    ruled_out = [candidate(triton_config(16, 16), problem=problem) for problem in problems]
    document = json.loads(writers.formatted([tuning(ranking, ruled_out=ruled_out)], "t4"))
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", document["schema_version"])
    results = document["results"]
    for result in results:  # KernelTuner/kernel_tuner, schema/T4/1.0.0/results-schema.json
        assert {"configuration", "times", "invalidity", "correctness"} <= set(result)
        assert isinstance(result["configuration"], dict)
        assert isinstance(result["times"]["runtimes"], list)
        assert result["invalidity"] in ("timeout", "compile", "runtime", "correctness", "constraints", "correct")
        assert type(result["correctness"]) in (int, float)
        assert set(result["objectives"]) <= {item["name"] for item in result["measurements"]}
        assert all(isinstance(item["value"], float) and item["unit"] == "ms" for item in result["measurements"])
    assert results[0]["times"]["runtimes"] == [2.0]
    assert results[0]["correctness"] == 1
    assert results[1]["objectives"] == ["predicted_time"]
    assert results[1]["correctness"] == 0
    assert [result["invalidity"] for result in results[2:]] == list(problems.values())


def test_json_says_what_was_tuned() -> None:
    one = tuning([triton_config()])
    document = json.loads(writers.formatted([one], "json"))
    assert document["schema"] == 1
    assert document["best"]["config"] == triton_config()
    assert Workload(**{**document["workload"], "kv_grid": None}) == one.workload
    assert len(json.loads(writers.formatted([one, one], "json"))["tunings"]) == 2


# All of them


def test_what_a_form_cannot_hold() -> None:
    one = tuning([triton_config()])
    with pytest.raises(InputError, match=r"unknown format 'tritn': expected .*did you mean 'triton'"):
        writers.formatted([one], "tritn")
    with pytest.raises(InputError, match="format 'flex' cannot hold a tuning of 'triton': expected kernel 'flex'"):
        writers.formatted([one], "flex")
    with pytest.raises(InputError, match="format 'triton' cannot hold 2 tunings: expected one"):
        writers.formatted([one, one], "triton")
    with pytest.raises(InputError, match="cannot hold 0 tunings"):
        writers.formatted([], "json")
    assert set(writers.KERNEL_OF) < set(writers.FORMATS)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.json"
    assert writers.write([tuning([triton_config()])], "json", path) == [path]
    before = path.read_text()

    def full_disk(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(InputError, match="No space left"):
        writers.write([tuning([triton_config(64, 64)])], "json", path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="cannot write"):
        writers.write([tuning([triton_config()])], "json", tmp_path / "none" / "out.json")
