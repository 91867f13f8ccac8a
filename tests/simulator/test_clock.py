"""The clock: free while a call is short, then what the power limit leaves; locked where the user locks it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast import Conditions, InputError, Workload, predict
from attncast.hwmodels import load_gpu, parse_frequency
from attncast.simulator.clock import FREE_S, REST_POWER, SERVING_FREE_S, held_hz, highest_hz

H100 = load_gpu("h100")
BOOST = np.float64(H100.clock_hz)
SUSTAINED = H100.clock_hz * H100.sustained_clock_fraction
SHORT, LONG = 0.5 * FREE_S * H100.clock_hz, 1e4 * FREE_S * H100.clock_hz  # cycles


def test_a_short_call_runs_at_the_boost_clock_and_a_long_one_at_what_power_allows():
    assert held_hz(H100, BOOST, SHORT, SHORT) == BOOST
    # A matrix product that is always busy: the definition of the sustained fraction.
    assert held_hz(H100, BOOST, LONG, LONG) == pytest.approx(SUSTAINED, rel=1e-3)
    # Without tensor cores, two fifths of the power: 1.6 times that clock, more than the boost clock.
    assert held_hz(H100, BOOST, LONG, 0.0) == BOOST
    draws = REST_POWER + (1 - REST_POWER) * 0.8
    assert held_hz(H100, BOOST, LONG, 0.8 * LONG) == pytest.approx(SUSTAINED / math.sqrt(draws), rel=1e-3)


def test_only_what_is_left_after_the_free_time_is_slowed():
    cycles = 2 * FREE_S * H100.clock_hz
    time_s = cycles / held_hz(H100, BOOST, cycles, cycles)
    assert time_s == pytest.approx(FREE_S + FREE_S / H100.sustained_clock_fraction, rel=1e-12)


def test_calls_just_before_use_the_free_time_up():
    cycles = 0.3 * FREE_S * H100.clock_hz
    free, part, none = (held_hz(H100, BOOST, cycles, cycles, calls_before=n) for n in (2, 3, 4))
    assert free == BOOST
    # A third of the free time is left when the fourth call begins: 0.1 of 0.3.
    assert cycles / part == pytest.approx((0.1 + 0.2 / H100.sustained_clock_fraction) * FREE_S, rel=1e-9)
    assert none == pytest.approx(SUSTAINED, rel=1e-12)


def test_a_call_in_a_loop_meets_the_power_limit():
    call = Workload(65536, 24, 128, dtype="fp16")
    rested, looped = (predict(call, "dense", "h100", "cudnn", conditions=Conditions(calls_before=n)) for n in (0, 10))
    assert rested.time_s < FREE_S
    assert 1.05 < looped.time_s / rested.time_s < 1 / H100.sustained_clock_fraction
    assert looped.baseline.time_s == looped.time_s
    short = Workload(4096, 24, 128, dtype="fp16")
    assert (
        predict(short, "dense", "h100", conditions=Conditions(calls_before=10)).time_s
        == predict(short, "dense", "h100").time_s
    )
    with pytest.raises(InputError, match="-1 calls before is not a number of calls"):
        Conditions(calls_before=-1)


def test_a_lock_below_the_power_limit_is_held_and_above_the_boost_clock_does_nothing():
    locks = np.array([0.5 * SUSTAINED, H100.clock_max_hz, np.inf])
    free = highest_hz(H100, locks)
    assert free.tolist() == [0.5 * SUSTAINED, H100.clock_hz, H100.clock_hz]
    assert held_hz(H100, free, LONG, LONG)[0] == free[0]


@given(
    st.floats(1e3, 1e13), st.floats(0.0, 1.0), st.floats(1.0, 3.0), st.floats(1.0, 3.0), st.floats(0.2, 1.0),
)  # fmt: skip
def test_more_cycles_or_more_products_never_take_less(cycles, share, longer, busier, lock):
    free = highest_hz(H100, np.float64(lock * H100.clock_hz))
    products = share * cycles

    def time_s(cycles, products):
        return cycles / held_hz(H100, free, cycles, products)

    before = time_s(cycles, products)
    assert time_s(longer * cycles, products) >= before * (1 - 1e-12)
    assert time_s(cycles, min(busier * products, cycles)) >= before * (1 - 1e-12)


def test_a_long_dense_call_is_slowed_and_its_parts_still_add_up():
    workload, hot = Workload(524288, 24, 128, dtype="fp16"), load_gpu("gb200")
    estimate = predict(workload, "dense", hot, "cudnn")
    cool = replace(hot, sustained_clock_fraction=1.0)
    unlimited = predict(workload, "dense", cool, "cudnn")
    assert 1.05 < estimate.time_s / unlimited.time_s < 1 / hot.sustained_clock_fraction
    assert math.fsum(estimate.parts_s.values()) == estimate.time_s
    assert any("power limit" in note for note in estimate.notes)
    assert not any("power limit" in note for note in unlimited.notes)
    # The work of each pipe is done at the same clock.
    slower = estimate.time_s / unlimited.time_s
    assert estimate.limits_s["exp"] == pytest.approx(unlimited.limits_s["exp"] * slower, rel=1e-3)
    assert estimate.limits_s["dram"] == unlimited.limits_s["dram"]


def test_calls_of_a_serving_engine_meet_the_power_limit_sooner():
    call = {"pattern": "causal", "gpu": "h100", "kernel": "fa3"}
    long, short = Workload(16384, 32, 128, batch=4), Workload(1024, 32, 128)
    times = [
        predict(workload, conditions=Conditions(graph=True, engine=engine), calibration=None, **call)
        for workload in (long, short)
        for engine in ("", "sglang")
    ]
    assert SERVING_FREE_S < times[0].time_s < FREE_S
    assert times[1].parts_s["tiles"] > 1.05 * times[0].parts_s["tiles"]
    assert times[3].parts_s["tiles"] == pytest.approx(times[2].parts_s["tiles"], rel=0.02)


@pytest.mark.parametrize("pattern", ["dense", "na window=18x24x24 stride=16x8x8"])
def test_the_sms_follow_a_locked_clock(pattern):
    workload = Workload("32x48x48", 24, 128, dtype="fp16")
    fast, slow = (predict(workload, pattern, "b200", conditions=Conditions(clock_hz=hz)) for hz in (1.6e9, 0.8e9))
    assert slow.parts_s["tiles"] == pytest.approx(2 * fast.parts_s["tiles"], rel=1e-9)
    assert slow.limits_s["l2"] == pytest.approx(2 * fast.limits_s["l2"], rel=1e-9)
    assert slow.limits_s["dram"] == fast.limits_s["dram"]
    assert slow.baseline.time_s == pytest.approx(2 * fast.baseline.time_s, rel=0.02)


def test_dram_does_not_follow_a_locked_clock():
    decode = Workload(1, 32, 128, batch=64, heads_kv=8, cached=8191)
    free, locked = (predict(decode, "causal", "h100", conditions=Conditions(clock_hz=hz)) for hz in (None, 1.4e9))
    assert free.bound_by == "dram"
    assert locked.time_s == pytest.approx(free.time_s, rel=0.01)


def test_a_cascade_that_streams_tokens_follows_a_locked_clock():
    options = {"gpu": "h100", "cascade": "efficient_attention"}
    workload = Workload(8192, 32, 128, batch=8)
    free, locked = (predict(workload, conditions=Conditions(clock_hz=hz), **options) for hz in (1.8e9, 0.9e9))
    assert locked.parts_s["tiles"] == pytest.approx(2 * free.parts_s["tiles"], rel=1e-9)


def test_a_clock_that_cannot_be_is_refused():
    with pytest.raises(
        InputError, match="clock 2,500 MHz is above the boost clock of h100: expected at most 1,980 MHz"
    ):
        predict(Workload(64, 1, 64), "dense", "h100", conditions=Conditions(clock_hz=2.5e9))
    for hz in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="is not a clock"):
            Conditions(clock_hz=hz)


@pytest.mark.parametrize(
    ("text", "hz"), [("1410MHz", 1.41e9), ("1.4 GHz", 1.4e9), (" .5ghz ", 5e8), ("2000000Hz", 2e6)]
)
def test_frequencies_are_read(text, hz):
    assert parse_frequency(text) == pytest.approx(hz, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1410", ["'1410'", "a number and a unit", "MHz"]),
        ("fast", ["'fast'", "e.g. 1410MHz"]),
        ("0MHz", ["'0MHz'"]),
        ("-1MHz", ["'-1MHz'"]),
        ("1.4GHzz", ["'GHzz'", "did you mean 'GHz'"]),
        ("700W", ["'W' measures power", "GHz"]),
    ],
)
def test_other_frequencies_are_refused_in_one_sentence(text, words):
    with pytest.raises(InputError) as error:
        parse_frequency(text)
    for word in words:
        assert word in str(error.value)
