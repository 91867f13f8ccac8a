"""What cuDNN's calls of few queries and FlashAttention-4's short ones take, as published runs showed it."""

from __future__ import annotations

import pytest

from attncast import Workload, predict
from attncast.simulator.conditions import Conditions


def decode(gpu: str, tokens: int, batch: int = 1):
    workload = Workload(tokens, 64, 128, heads_kv=8, kv_grid=(8192,), batch=batch)
    return predict(workload, "causal", gpu, "cudnn", conditions=Conditions(warm_l2=False))


@pytest.mark.parametrize("gpu", ["a100", "b200"])
def test_only_calls_of_one_token_decode(gpu):
    """cudnn-frontend's decode sweep: 8 and 16 new tokens take the same time, and several times that of one."""
    one, few, more = (decode(gpu, tokens) for tokens in (1, 8, 16))
    assert one.splits > 1
    assert few.splits == more.splits == 1
    assert few.time_s == pytest.approx(more.time_s, rel=0.01)
    assert few.time_s > 4 * one.time_s


def test_few_queries_run_on_half_a_tile_on_ampere():
    assert decode("a100", 16).q_tile == (64,)
    assert decode("a100", 128).q_tile == (128,)


@pytest.mark.parametrize("kernel", ["fa4", "cudnn"])
def test_blackwells_ctas_are_alone_on_their_sm(kernel):
    """The same pairs in sequences of an eighth the length have eight times the CTAs, and as many beginnings and ends."""
    long, short = (
        predict(
            Workload(tokens, heads, 128, batch=batch), "dense", "b200", kernel, conditions=Conditions(warm_l2=False)
        )
        for tokens, heads, batch in ((8192, 37, 1), (1024, 37, 64))  # whole waves of 148 SMs
    )
    assert long.parts_s["tiles"] == pytest.approx(short.parts_s["tiles"], rel=0.01)
    assert short.parts_s["schedule"] == pytest.approx(8 * long.parts_s["schedule"], rel=0.1)
