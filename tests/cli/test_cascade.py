"""``attncast cascade`` as a user and a program see it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attncast.simulator import cascades

MINE = """# Attention with a sigmoid-gated maximum, to try things out.
input Q[E, P], K[E, M], V[F, M]
const scale = 1 / sqrt(E)
QK[m, p] = sum(e) Q[e, p] * K[e, m]
GM[p] = max(m) QK[m, p]
SN[m, p] = exp((QK[m, p] - GM[p]) * scale)
SD[p] = sum(m) SN[m, p]
SNV[f, p] = sum(m) SN[m, p] * V[f, m]
AV[f, p] = SNV[f, p] / SD[p]
output AV
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.cascade"
    path.write_text(MINE)
    return str(path)


def test_list(attncast):
    status, out, _ = attncast("cascade", "list")
    assert status == 0
    assert out.count("\n") == 1 + len(cascades.names())
    document = json.loads(attncast("cascade", "list", "--json")[1])
    found = {each["name"]: each["passes"] for each in document["results"]}
    assert found["three_pass"]["M"] == 3
    assert found["flash_attention_2"]["M"] == 1


def test_show_json_with_sizes(attncast):
    status, out, err = attncast("cascade", "show", "fa2", "--sizes", "E=128,F=128,M=65536,P=65536", "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert (document["schema"], document["name"]) == (1, "flash_attention_2")
    assert document["passes"]["M"] == 1
    assert document["ops"]["mul_add"] == 256 * 65536**2
    assert document["ops"]["exp"] == 65536**2 + 512 * 65536
    assert document["ops"]["divide"] == 128 * 65536
    assert document["footprint"]["QK"] == 128


def test_show_json_is_symbolic_without_sizes(attncast):
    document = json.loads(attncast("cascade", "show", "three_pass", "--json")[1])
    assert document["ops"]["max"] == "M*P"
    assert document["footprint"]["QK"] == "O(M)"


@pytest.mark.parametrize(
    "spelling",
    ["fa2", "FA2", "flash_attention_2", "flash-attention-2", "FlashAttention-2", "Flash Attention 2", "1-pass"],
)
def test_common_spellings(attncast, spelling):
    assert json.loads(attncast("cascade", "show", spelling, "--json")[1])["name"] == "flash_attention_2"


def test_show_text_says_what_forces_a_pass(attncast):
    out = attncast("cascade", "show", "3-pass")[1]
    assert "3 over M" in out
    assert "SN reads it again after GM is complete" in out
    assert "QK[m, p] = sum(e) QS[e, p] * K[e, m]" in out


def test_a_file_of_your_own(attncast, mine):
    document = json.loads(attncast("cascade", "show", mine, "--json")[1])
    assert document["passes"]["M"] == 2
    status, out, _ = attncast("cascade", "check", mine)
    assert status == 0
    assert "mine agrees with naive" in out


def test_compare(attncast):
    status, out, _ = attncast("cascade", "compare", "three_pass", "fa2")
    assert status == 0
    assert "M*P + M1*P" in out
    out = attncast("cascade", "compare", "three_pass", "fa2", "--sizes", "E=64,F=64,M=1024,P=1024,M0=128")[1]
    assert "0.062x" in out  # F P divisions instead of M P
    results = json.loads(attncast("cascade", "compare", "three_pass", "fa2", "--json")[1])["results"]
    assert [each["passes"]["M"] for each in results] == [3, 1]


@pytest.mark.parametrize(
    "name", ["fa2", "three_pass", "three_pass_deferred", "two_pass", "naive_deferred", "fusemax", "fa4"]
)
def test_check_agrees(attncast, name):
    status, out, _ = attncast("cascade", "check", name, "--json")
    assert status == 0
    document = json.loads(out)
    assert document["agrees"] is True
    assert document["difference"] < 1e-12


def test_check_that_fails_ends_with_status_1(attncast, mine):
    Path(mine).write_text(MINE.replace(" * scale", ""))  # the scale is forgotten
    status, out, _ = attncast("cascade", "check", mine)
    assert status == 1
    assert "DIFFERS from naive" in out
    status, out, _ = attncast("cascade", "check", "flash_attention_2_causal")
    assert status == 1
    assert "--against" in out


def test_png_is_written_whole_or_not_at_all(attncast, tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need the extra 'plot'")
    target = tmp_path / "graph.png"
    assert attncast("cascade", "show", "three_pass", "--png", str(target))[0] == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [target]
    status, _, err = attncast("cascade", "show", "fa2", "--png", str(tmp_path / "no" / "graph.png"))
    assert status == 2
    assert "cannot write" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["show", "flash_atention_2x"], "did you mean 'flash_attention_2'?"),
        (["show", "./no.cascade"], "'./no.cascade'"),
        (["show", "fa2", "--sizes", "E:4"], "size 'E:4' is not clear"),
        (["show", "fa2", "--sizes", "E=4,E=5"], "rank 'E' has two sizes"),
        (["show", "fa2", "--sizes", "E=4"], "needs the size of rank"),
        (["show", "fa2", "--sizes", "X=4"], "unknown rank of cascade 'flash_attention_2' 'X'"),
        (["compare", "fa2", "three_pass", "--sizes", "X=4"], "unknown rank of cascades"),
        (["check", "gqa"], "expected the same inputs"),
    ],
)
def test_mistakes_end_with_one_sentence(attncast, arguments, says):
    status, _, err = attncast("cascade", *arguments)
    assert status == 2
    assert says in err
    assert err.count("\n") == 1
