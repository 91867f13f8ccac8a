"""Cycles of a tile by unit, the order of configurations, and the figures on the static estimate."""

from __future__ import annotations

import dataclasses

import pytest

from attncast.hwmodels import load_gpu
from attncast.kernels.best_configs import table
from attncast.kernels.check import CheckResult, judge
from attncast.kernels.facts import CompileFacts
from attncast.kernels.loops import KvLoop, Part, Tile
from attncast.kernels.rank import rank, tile_cycles
from attncast.kernels.sass import Mma
from attncast.kernels.space import KernelConfig
from attncast.kernels.static_report import fit, report, verdicts

TILE = Tile(128, 128, 128, 128)
WIDE = Mma("wgmma", 64, 128, 16, 4)


def loop(warps: int = 8, mma: Mma = WIDE, count: int = 16, **instructions: int) -> KvLoop:
    part = Part("all", warps, {"tensor": count, "exp": 66, **instructions}, shared_bytes=1024)
    return KvLoop("full", (part,), {mma: count}, 1, TILE.mma_flop, 66 * 32 * warps, (1, 1), TILE)


def compiled(config: KernelConfig | None = None, **changes: object) -> CompileFacts:
    config = config or KernelConfig(block_n=128)
    facts = CompileFacts(config, "sm_90", "ok", "", 200, 0, 0, 0, 98304, 0, 8, 1, "sass", (loop(),))
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


def results(*facts: CompileFacts) -> list[CheckResult]:
    return [judge(load_gpu("h100"), fact) for fact in facts]


def test_cycles_of_a_tile_on_an_h100() -> None:
    cycles = tile_cycles(load_gpu("h100"), loop(fp32=128, select=64), "bf16")
    # 128 x 128 x 128: 4 M N d / 4096 FLOP per clock; 66 exponentials in 256 threads at 16 a clock, and so on.
    assert cycles.units["tensor"] == pytest.approx(2048)
    assert cycles.units["exp"] == pytest.approx(66 * 256 / 16)
    assert cycles.units["fp32"] == pytest.approx(128 * 256 / 128)
    assert cycles.units["alu"] == pytest.approx(64 * 256 / 64)
    assert cycles.units["shared"] == pytest.approx(8 * 1024 / 128)
    assert cycles.units["issue"] == pytest.approx((16 + 66 + 128 + 64) * 8 / 4)
    assert (cycles.bound, cycles.overlapped) == ("tensor", cycles.units["tensor"])
    assert cycles.serial == pytest.approx(sum(cycles.units.values()))


@pytest.mark.parametrize(
    ("gpu", "mma", "slower"),
    [
        ("h100", Mma("wgmma", 64, 32, 16, 4), 2),
        ("h100", Mma("mma.sync", 16, 8, 16, 1), 1 / 0.63),
        ("a100", Mma("mma.sync", 16, 8, 16, 1), 1),
        ("b200", Mma("tcgen05", 128, 128, 16, 0), 1),
        ("b200", Mma("tcgen05", 64, 128, 16, 0), 2),
        ("b200", Mma("mma.sync", 16, 8, 16, 1), 4),
    ],
)
def test_instructions_that_miss_the_peak_take_longer(gpu: str, mma: Mma, slower: float) -> None:
    found = load_gpu(gpu)
    count = TILE.mma_flop // mma.flop // (8 // mma.warps if mma.warps else 1)
    cycles = tile_cycles(found, loop(mma=mma, count=count), "bf16")
    ideal = TILE.mma_flop / (found.peak_flops("bf16") / (found.sms * found.clock_hz))
    assert cycles.units["tensor"] == pytest.approx(ideal * slower)


def test_the_order_is_by_cycles_and_leaves_out_what_does_not_fit() -> None:
    slow = compiled(loops=(loop(local=500),))
    failed = CompileFacts(KernelConfig(), "sm_90", "failed", "no")
    unknown = compiled(loops=(loop(warps=0),))
    too_large = compiled(shared_bytes=300_000)
    order = rank(results(slow, failed, unknown, too_large, compiled()))
    assert [item.result.facts for item in order] == [compiled(), slow]
    best = order[0]
    assert 0 < best.peak_share_serial < best.score < best.peak_share_overlapped <= 1


def test_the_table_has_the_resources() -> None:
    text = table(results(compiled(), compiled(KernelConfig(block_m=64), spill_bytes=1000)))
    assert "## h100 (sm_90), head dim 128" in text
    assert "2 configurations, 2 compile, 2 fit." in text
    rows = [line for line in text.splitlines() if line.startswith("| 1") or line.startswith("| 6")]
    assert len(rows) == 1, "the one that spills is left out"
    assert "98,304" in rows[0]
    assert "wgmma m64n128k16" in rows[0]


def test_verdicts_count_the_four_cases() -> None:
    def case(shared: int, config: KernelConfig, **changes: object) -> CompileFacts:
        return compiled(config, shared_bytes=shared, registers=128, **changes)

    small, large = KernelConfig(), KernelConfig(block_n=128, num_stages=4)
    told = verdicts(
        results(
            case(131072, small),  # fits, and is not called hopeless
            case(294912, large),  # does not fit, and is called so
            case(131072, small, spill_bytes=300),  # spills: not foreseen
            case(200000, large),  # fits in truth, called hopeless
            CompileFacts(small, "sm_90", "failed", "an assertion"),
        )
    )
    assert (told.total, told.broken, told.hopeless, told.called_hopeless, told.both) == (5, 1, 2, 2, 1)
    assert (told.precision, told.recall) == (0.5, 0.5)


def test_the_report_and_the_fit_run_on_results() -> None:
    some = [
        compiled(KernelConfig(head_dim=64, block_m=m, block_n=n), registers=40 + m // 4 + n // 4)
        for m in (64, 128)
        for n in (32, 64, 128)
    ]
    constants = fit(results(*some))
    assert set(constants) == {"wgmma"}
    assert all(value >= 0 for value in constants["wgmma"])
    assert "| h100 | 64 | 6 | 0 |" in report(results(*some))
