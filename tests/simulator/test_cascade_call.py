"""Operation counts of tiles come from cascades, and a user's cascade can be forecast."""

from __future__ import annotations

import numpy as np
import pytest

from attncast import InputError, Workload, predict
from attncast.simulator.cascade_call import cascade_work
from attncast.simulator.tile_operations import TileCount, library_operations

WORKLOAD = Workload(16384, 32, 128)
MINE = """# Softmax attention with a gate on the scores.
input Q[E, P], K[E, M], V[F, M]
rank M = M1*M0
rank M0 default 128
const scale = 1 / sqrt(E)
iterate m1 until m1 == M1
QS[e, p] = Q[e, p] * scale
RD[0, p] = 0
RNV[0, f, p] = 0
QK[m1, m0, p] = sum(e) QS[e, p] * K[e, m1*M0+m0]
G[m1, m0, p] = exp(tanh(QK[m1, m0, p]))
GD[m1, p] = sum(m0) G[m1, m0, p]
GV[m1, f, p] = sum(m0) G[m1, m0, p] * V[f, m1*M0+m0]
RD[m1+1, p] = GD[m1, p] + RD[m1, p]
RNV[m1+1, f, p] = GV[m1, f, p] + RNV[m1, f, p]
AV[f, p] = RNV[M1, f, p] / RD[M1, p]
output AV
"""


def value(count: TileCount, rows, keys, dim, dim_v):
    return float(count.at(*(np.array([float(n)]) for n in (rows, keys, dim, dim_v)))[0])


def test_flash_attention_2_counts_by_hand():
    ops = library_operations("flash_attention_2")
    m, n, e, f = 128, 64, 96, 80
    size = (m, n, e, f)
    assert value(ops.tensor_flops, *size) == 2 * m * n * (e + f)
    assert value(ops.exp, *size) == m * n + m  # one for each score, one correction for each row
    assert value(ops.fp32, *size) == 2 * m * n + 3 * m  # subtract and sum; the denominator's multiply, add and subtract
    assert value(ops.alu, *size) == 1.5 * m * n + m  # maximum and half a conversion; the running maximum
    assert value(ops.rescale_fp32, *size) == m * f


def test_more_passes_are_more_operations_and_traffic():
    one, three = library_operations("flash_attention_2"), library_operations("three_pass")
    assert value(three.exp, 128, 128, 128, 128) > 1.9 * value(one.exp, 128, 128, 128, 128)  # division is a reciprocal
    assert cascade_work("flash_attention_2").spilled == ()
    assert cascade_work("three_pass").spilled == ("QK", "SN")
    fast = predict(WORKLOAD, "dense", "h100", cascade="flash_attention_2")
    slow = predict(WORKLOAD, "dense", "h100", cascade="three_pass")
    assert slow.bound_by == "dram"
    # QK and SN, written and read in bf16: 4 * 2 bytes * 32 * 16384^2.
    assert slow.limits_s["dram"] - fast.limits_s["dram"] == pytest.approx(
        8 * 32 * 16384**2 / (3.35e12 * 0.89), rel=0.01
    )


def test_a_short_fiber_of_scores_stays_on_chip():
    short = Workload(192, 32, 128, batch=64)
    spilling = predict(WORKLOAD, "dense", "h100", cascade="three_pass")
    staying = predict(short, "dense", "h100", cascade="three_pass")
    dense = predict(short, "dense", "h100", cascade="flash_attention_2")
    assert staying.limits_s["dram"] == dense.limits_s["dram"]
    assert spilling.limits_s["dram"] > 10 * predict(WORKLOAD, "dense", "h100", "triton").limits_s["dram"]


def test_the_profiles_own_cascade_changes_nothing():
    own = predict(WORKLOAD, "causal", "h100", "triton")
    named = predict(WORKLOAD, "causal", "h100", "triton", cascade="flash_attention_2")
    assert named.parts_s == own.parts_s


def test_a_users_file_is_forecast_with_a_pattern(tmp_path):
    path = tmp_path / "tanh.cascade"
    path.write_text(MINE)
    assert len(MINE.splitlines()) < 20
    dense = predict(WORKLOAD, "dense", "b200", cascade=str(path))
    causal = predict(WORKLOAD, "causal", "b200", cascade=str(path))
    assert "tanh" in dense.title
    assert 1.7 < dense.time_s / causal.time_s < 2.1
    # Two special functions for each score where softmax has one: on B200 that is what bounds it.
    assert dense.bound_by == "exp"
    assert dense.time_s > predict(WORKLOAD, "dense", "b200", "triton").time_s


def test_without_scores_the_call_is_a_roofline_linear_in_tokens():
    short, long = (
        predict(Workload(n, 32, 128, batch=8), "dense", "h100", cascade="efficient_attention") for n in (8192, 32768)
    )
    assert 3.5 < long.time_s / short.time_s < 4.5
    assert any("no score matrix" in note for note in short.notes)
    assert sum(short.parts_s.values()) == pytest.approx(short.time_s)


@pytest.mark.parametrize("name", ["fa2", "FlashAttention-2", "1-pass"])
def test_a_cascade_goes_by_the_names_that_its_own_command_takes(name):
    assert predict(WORKLOAD, "dense", "h100", cascade=name) == predict(
        WORKLOAD, "dense", "h100", cascade="flash_attention_2"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("flash_attention_22", ["'flash_attention_22'", "did you mean 'flash_attention_2'"]),
        ("nosuch.cascade", ["nosuch.cascade"]),
        ("gqa", ["'gqa'", "'G'"]),
        ("flash_attention_2_causal", ["every pair of one rank", "-p"]),
    ],
)
def test_what_cannot_be_forecast_says_why(name, words):
    with pytest.raises(InputError) as error:
        predict(WORKLOAD, "dense", "h100", cascade=name)
    for word in words:
        assert word in str(error.value)


def test_a_filter_on_the_scores_is_refused(tmp_path):
    path = tmp_path / "causal.cascade"
    path.write_text(
        "input Q[E, P], K[E, M], V[F, M]\nrank P = M\nQK[m, p] = sum(e) Q[e, p] * K[e, m] where m <= p\n"
        "A[m, p] = sigmoid(QK[m, p])\nAV[f, p] = sum(m) A[m, p] * V[f, m]\noutput AV\n"
    )
    with pytest.raises(InputError, match="leave filters out"):
        predict(WORKLOAD, "dense", "h100", cascade=str(path))
