"""JSON lines survive the death of their writer."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attncast import jsonl
from attncast.errors import InputError


def test_records_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert jsonl.read(path) == []
    for number in range(3):
        jsonl.append(path, {"number": number, "text": "a\nb\u2028"})
    assert [record["number"] for record in jsonl.read(path)] == [0, 1, 2]


@pytest.mark.parametrize("half", [b'{"number": 9', b"{" * 100_000, b'{"number": 9}'])
@pytest.mark.parametrize("lines", [0, 2])
def test_half_a_line_is_dropped(tmp_path: Path, half: bytes, lines: int) -> None:
    path = tmp_path / "log.jsonl"
    for number in range(lines):
        jsonl.append(path, {"number": number})
    with path.open("ab") as file:
        file.write(half)
    assert len(jsonl.read(path)) == lines
    jsonl.append(path, {"number": lines})
    assert jsonl.read(path) == [{"number": number} for number in range(lines + 1)]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"number": 1}\nnonsense\n{"number": 2}\n')
    with pytest.raises(InputError, match=r"line 2 of .* is b'nonsense'"):
        jsonl.read(path)
    with pytest.raises(InputError, match="cannot write"):
        jsonl.append(tmp_path / "none" / "log.jsonl", {})


def _append_many(path: Path, writer: int) -> None:
    for number in range(50):
        jsonl.append(path, {"writer": writer, "number": number, "filler": "x" * 3000})


def test_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        list(pool.map(_append_many, [path] * 2, range(2)))
    records = jsonl.read(path)
    for writer in range(2):
        assert [r["number"] for r in records if r["writer"] == writer] == list(range(50))


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    path, said = tmp_path / "log.jsonl", tmp_path / "said"
    code = f"""
import itertools
from attncast import jsonl
with open({str(said)!r}, "w") as said:
    for number in itertools.count():
        jsonl.append({str(path)!r}, {{"number": number, "filler": "x" * 2000}})
        said.write(f"{{number}}\\n"); said.flush()
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writer = subprocess.Popen([sys.executable, "-c", code], env=environment)
    deadline = time.monotonic() + 30
    while not (said.exists() and said.read_text().count("\n") > 5):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    acknowledged = said.read_text().count("\n")
    numbers = [record["number"] for record in jsonl.read(path)]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= acknowledged > 5
