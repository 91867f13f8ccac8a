"""Where FlashAttention-3's CTAs have nothing beside them: their first tile, and the ends of calls that memory paces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.calls import Calls
from attncast.simulator.conditions import Conditions, engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns.band import UNLIMITED, Band
from attncast.simulator.predict import predict
from attncast.simulator.profile import load_profile
from attncast.simulator.workload import Workload

H100 = load_gpu("h100")
FA3 = load_profile("fa3", H100, "vllm")
CAUSAL = Band(UNLIMITED, 0)


def call(engine: str = "vllm", conditions: Conditions | None = None, profile=FA3, **values) -> Calls:
    workload = Workload(**{"grid": (1,), "heads": 32, "head_dim": 128, "heads_kv": 8, "dtype": "bf16", **values})
    tiles = resolve_tiles(profile, CAUSAL, workload, None, None)
    work = kernel_work(profile, CAUSAL, workload, tiles)
    conditions = conditions or engine_conditions(engine, workload)
    return single_call(H100, profile, workload, CAUSAL, tiles, work, conditions)


def with_products(overlap: float, **values):
    return replace(FA3, overlap=overlap, products=replace(FA3.products, **values))


def test_the_first_tile_has_nothing_beside_it_whatever_follows():
    short, long = call(grid=(512,), batch=8), call(grid=(4096,), batch=8)

    def more(calls, overlap):
        filled, not_filled = (forecast(H100, with_products(overlap, fills=fills), calls) for fills in (True, False))
        return (filled.cta_cycles - not_filled.cta_cycles).min(), (filled.cta_cycles - not_filled.cta_cycles).max()

    least, most = more(short, 0.5)
    assert 0 < least == pytest.approx(most)  # the same for each CTA, however many tiles it visits
    assert more(long, 0.5) == pytest.approx((least, most))
    assert more(short, 0.25)[0] == pytest.approx(1.5 * least)
    assert more(short, 1.0) == (0.0, 0.0)  # where nothing overlaps, the first tile is like the others


def test_memory_does_not_pace_the_beginning_and_the_end():
    calls = call(batch=128, heads=16, heads_kv=1, cached=32767)
    costs = {n: forecast(H100, replace(FA3, round_trips=n), calls) for n in (1.0, 5.0)}
    assert costs[5.0].parts["memory"][0] > costs[5.0].parts["tiles"][0]  # DRAM decides
    longer = costs[5.0].kernel_s[0] - costs[1.0].kernel_s[0]
    assert longer == pytest.approx(4.0 * H100.dram_latency_s, rel=1e-3)


def test_a_merge_adds_one_part_after_the_other():
    merging = replace(FA3.merging, part_trips=1.0)
    for cached in (16383, 65535):
        calls = call(batch=1, heads=8, heads_kv=1, cached=cached)
        plain, slow = (forecast(H100, replace(FA3, merging=m), calls) for m in (FA3.merging, merging))
        added = (1.0 - FA3.merging.part_trips) * plain.splits[0] * H100.dram_latency_s
        assert slow.parts["merge"][0] - plain.parts["merge"][0] == pytest.approx(added)
        assert plain.splits[0] > 1


def test_later_ctas_of_a_merge_walk_over_sequences():
    none = replace(FA3, merging=replace(FA3.merging, sequences_walked=0))

    def walk_s(batch, heads):
        calls = call(batch=batch, heads=heads, cached=63)
        ours, without = (forecast(H100, profile, calls).parts["merge"][0] for profile in (FA3, none))
        assert without > 0
        return ours - without

    assert walk_s(128, 32) == 0.0  # the first on each SM do it while attention runs
    assert walk_s(512, 128) > walk_s(512, 64) > 0.0


def test_keys_that_come_in_8_bits_are_copied_as_they_are():
    sglang = load_profile("fa3", H100, "sglang")
    values = {"profile": sglang, "grid": (1024,), "dtype": "fp8"}
    cast = Conditions(graph=True, appends=True, engine="sglang")
    before = call(conditions=cast, **values).append_bytes[0]
    own = call(conditions=replace(cast, quantises=True), **values).append_bytes[0]
    assert (before, own) == (2.0 * 1024 * 8 * 256, 3.0 * 1024 * 8 * 256)
    vllm = Conditions(graph=True, appends=True, engine="vllm")  # converts in the appending pass
    assert call(conditions=vllm, **{**values, "profile": FA3}).append_bytes[0] == own


def test_its_overlap_is_what_the_published_ablation_takes():
    # arXiv 2407.08608: 4 sequences of 8448 tokens, 16 heads of 128, not causal, 661 TFLOP/s.
    workload = Workload((8448,), 16, 128, batch=4, dtype="fp16")
    assert predict(workload, "dense", "h100", "fa3").time_s == pytest.approx(3.538e-3, rel=0.01)
