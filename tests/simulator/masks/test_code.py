"""Mask files are code: whatever it does, one sentence, and this process stays as it was."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from attncast import Workload
from attncast.errors import InputError
from attncast.simulator.masks import Mask, read_mask

GOOD = """
import helper_beside_the_mask
import numpy as np
document = np.arange(4096) // helper_beside_the_mask.SIZE
span = [np.array(5)]

def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx

def documents(b, h, q_idx, kv_idx):
    return causal(b, h, q_idx, kv_idx) & (document[q_idx] == document[kv_idx])

def make(size):
    def mask(b, h, q, kv, table=document):
        return (table[q] // 2 == table[kv] // 2) & ((q - kv).abs() <= size)
    return mask

windowed = make(50)
"""


@pytest.fixture
def write(tmp_path):
    def save(text, name="masks.py"):
        (tmp_path / "helper_beside_the_mask.py").write_text("SIZE = 100\n")
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return save


def test_a_file_becomes_a_pattern(write):
    path = write(GOOD)
    workload = Workload((1024,), 2, 64)
    mask = read_mask(f"{path}:documents")
    mask.check(workload)
    work = mask.tile_work(workload, (128,), (64,))
    assert work.pairs == 10 * (100 * 101 // 2) + 24 * 25 // 2
    assert (mask.family, mask.axes, mask.tile_axes, str(mask)) == ("mask", 1, 1, f"mask {path}:documents")
    assert not mask.notes
    windowed = read_mask(f"{path}:windowed").block_map(workload).pairs
    index = np.arange(1024)
    expected = (index[:, None] // 200 == index // 200) & (abs(index[:, None] - index) <= 50)
    assert windowed == expected.sum()
    assert not (Path(path).parent / "__pycache__").exists()
    assert "attncast_user_mask" not in sys.modules


def test_tables_that_are_too_short(write):
    mask = read_mask(f"{write(GOOD)}:documents")
    with pytest.raises(InputError, match="table of shape 4096 with q_idx, which goes up to 8,191"):
        mask.check(Workload((8192,), 1, 64))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return q_idx - kv_idx", "mask 'mask' returns int64, not bool: expected a boolean"),
        ("return (q_idx - kv_idx) * 0.5", "returns float32, not bool"),
        ("return True", "returns True, the same for every pair"),
        ("return None", "returns None"),
        ("return [q_idx]", "returns"),
        ("raise KeyError('no such\\nthing')", "raises KeyError: 'no such.nthing'"),
        ("return undefined_name", "raises NameError"),
        ("return q_idx.no_such_method()", "raises AttributeError"),
        ("return q_idx > kv_idx and kv_idx > 0", "turns an index into a Python value .a truth value."),
        ("return 0 <= q_idx - kv_idx < 5", "chained comparisons"),
        ("return [True, False][q_idx]", "an index of a list"),
        ("return int(q_idx) > kv_idx", "int()"),
        ("return q_idx % 0 == kv_idx", "divides by zero"),
        ("import random\n    return q_idx * random.random() > kv_idx", "different answers for the same indices"),
        ("import sys; sys.exit(3)", "exits Python"),
        ("import os; os._exit(0)", "ended Python while it ran"),
    ],
)
def test_a_wrong_function_is_one_sentence(body, words, write):
    path = write(f"def mask(b, h, q_idx, kv_idx):\n    {body}\n")
    with pytest.raises(InputError, match=words) as caught:
        read_mask(f"{path}:mask")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("def mask(:\n", "mask", "is no Python: line 1"),
        ("1 / 0\n", "mask", "raises ZeroDivisionError while it is loaded"),
        ("import no_such_module\n", "mask", "raises ModuleNotFoundError"),
        (
            "def causal(b, h, q, k): return q >= k\n",
            "casual",
            "has no function 'casual': expected one of causal; did you mean",
        ),
        ("x = 1\n", "mask", "it defines no function"),
        ("x = 1\n", "x", "mask 'x' is a int: expected a function"),
        (
            "def mask(q, kv): return q >= kv\n",
            "mask",
            r"takes \(q, kv\): expected \(b, h, q_idx, kv_idx\); it may be a factory",
        ),
        ("def mask(score, b, h, q, kv): return score\n", "mask", "a score_mod is no mask_mod"),
        ("raise SystemExit\n", "mask", "exits Python"),
    ],
)
def test_a_wrong_file_is_one_sentence(text, name, words, write):
    with pytest.raises(InputError, match=words):
        read_mask(f"{write(text)}:{name}")


def test_what_never_ends_is_ended(write):
    loop = "def mask(b, h, q, kv):\n    while True: pass\n"
    begin = time.monotonic()
    for text in (loop, "while True: pass\n", "input()\nimport time\ntime.sleep(1000)\n"):
        with pytest.raises(InputError, match=r"did not finish within 1.5 s|raises EOFError"):
            read_mask(f"{write(text)}:mask", timeout_s=1.5)
    assert time.monotonic() - begin < 30


def test_side_effects_stay_where_they_are(write, capfd):
    text = (
        "import sys, os\nimport json\nprint('loading'); os.write(1, b'raw'); sys.modules['json'] = None\n"
        "os.environ['ATTNCAST_LEAK'] = '1'\nsys.stdout.close\n"
        "def mask(b, h, q, kv):\n    print('called', file=sys.stderr)\n    return q >= kv\n"
    )
    mask = read_mask(f"{write(text)}:mask")
    assert mask.tile_work(Workload((256,), 1, 64), (128,), (128,)).visited_total == 3
    assert "printed: " in mask.notes[0]
    assert "loading" in mask.notes[0]
    assert capfd.readouterr() == ("", "")
    assert sys.modules["json"] is not None
    import os

    assert "ATTNCAST_LEAK" not in os.environ


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("masks.py", "expected FILE.py:FUNCTION"),
        ("masks.txt:causal", "expected FILE.py:FUNCTION"),
        ("no/such/masks.py:causal", "does not exist"),
        ("", "expected FILE.py:FUNCTION"),
    ],
)
def test_a_wrong_argument(text, words):
    with pytest.raises(InputError, match=words):
        read_mask(text)


def test_a_missing_file_suggests_its_neighbour(write):
    path = write(GOOD)
    with pytest.raises(InputError, match=r"does not exist; did you mean 'masks.py'"):
        read_mask(path.replace("masks.py", "mask.py") + ":causal")


def test_unknown_operations_are_asked_of_the_file(write):
    pytest.importorskip("torch")
    text = "import torch\ndef mask(b, h, q, kv):\n    return (torch.cos(q * 1.0) > 0) & (q >= kv)\n"
    mask = read_mask(f"{write(text)}:mask")
    assert "only known to the function" in mask.notes[-1]
    import torch

    keep = torch.cos(torch.arange(300) * 1.0) > 0
    assert mask.block_map(Workload((300,), 1, 64)).pairs == int((keep * torch.arange(1, 301)).sum())


def test_state_that_changes_is_found():
    calls = []

    def counting(b, h, q_idx, kv_idx):
        calls.append(1)
        return q_idx >= kv_idx + len(calls)

    with pytest.raises(InputError, match="different answers"):
        Mask.from_function(counting)
