"""``attncast check``: limits, warnings, JSON and messages, on made-up facts so that nothing is compiled."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner

from attncast import InputError
from attncast.cli.check import check as command
from attncast.hwmodels import load_gpu
from attncast.kernels import check as check_module
from attncast.kernels.check import judge, to_json
from attncast.kernels.facts import CompileFacts
from attncast.kernels.loops import KvLoop, Part, Tile
from attncast.kernels.occupancy import occupancy
from attncast.kernels.sass import Mma
from attncast.kernels.space import ARCHITECTURES, KernelConfig, attention_space

WGMMA = Mma("wgmma", 64, 64, 16, 4)
GOOD = CompileFacts(
    KernelConfig(),
    "sm_90",
    "ok",
    registers=168,
    spill_bytes=0,
    shared_bytes=131072,
    tmem_columns=0,
    warps=8,
    isa="sass",
    loops=(
        KvLoop(
            "full",
            (Part("all", 8, {"tensor": 12, "exp": 34}),),
            {WGMMA: 12},
            1,
            1,
            1,
            (1, 1),
            Tile(128, 64, 128, 128),
        ),
    ),
)


def with_mma(*kinds: Mma, **changes: Any) -> CompileFacts:
    loop = dataclasses.replace(GOOD.loops[0], mma=dict.fromkeys(kinds, 4))
    return dataclasses.replace(GOOD, loops=(loop,), **changes)


# Each line worked out with NVIDIA's occupancy calculator's rules, by hand.
@pytest.mark.parametrize(
    ("gpu", "registers", "shared", "warps", "tmem", "ctas", "limiter"),
    [
        ("h100", 168, 0, 4, 0, 3, "registers"),  # 168 -> 5376 a warp, 3 warps a quarter
        ("h100", 128, 98304, 8, 0, 2, "registers"),
        ("h100", 64, 98304, 8, 0, 2, "shared"),  # 99328 with the reserve, 233472 in all
        ("h100", 32, 0, 8, 0, 8, "registers"),
        ("h100", 24, 0, 8, 0, 8, "threads"),
        ("h100", 8, 0, 1, 0, 32, "slots"),
        ("a100", 128, 81920, 4, 0, 2, "shared"),
        ("rtx5090", 64, 49152, 4, 0, 2, "shared"),
        ("rtx5090", 40, 1024, 8, 0, 6, "registers"),
        ("b200", 128, 50000, 4, 256, 2, "tmem"),
        ("b200", 128, 50000, 4, 130, 2, "tmem"),  # 130 columns take 256
        ("b200", 128, 50000, 4, 512, 1, "tmem"),
        ("b200", 255, 240000, 8, 0, 0, "shared"),
    ],
)
def test_occupancy(gpu: str, registers: int, shared: int, warps: int, tmem: int, ctas: int, limiter: str) -> None:
    held = occupancy(load_gpu(gpu), registers=registers, shared_bytes=shared, warps=warps, tmem_columns=tmem)
    assert held.ctas == ctas
    assert held.limiter == limiter


def test_occupancy_takes_arrays() -> None:
    gpu = load_gpu("h100")
    held = occupancy(gpu, registers=[128, 255], shared_bytes=[[1024], [131072]], warps=8)
    assert held.ctas.tolist() == [[2, 1], [1, 1]]


def test_a_good_configuration_has_nothing_to_remark() -> None:
    result = judge(load_gpu("h100"), GOOD)
    assert (result.fits, result.ctas_per_sm, result.warnings) == (True, 1, ())


@pytest.mark.parametrize(
    ("gpu", "changes", "reason"),
    [
        ("rtx5090", {}, "asks for 131,072 bytes of shared memory, rtx5090 gives a CTA 101,376"),
        ("b200", {"tmem_columns": 640}, "asks for 640 columns of tensor memory, b200 has 512"),
        ("h100", {"warps": 40}, "asks for 1280 threads, h100 gives a CTA 1024"),
        ("h100", {"warps": 16, "registers": 255}, "asks for 255 registers in 16 warps"),
        ("h100", {"status": "failed", "reason": "no"}, "no"),
    ],
)
def test_what_does_not_fit_says_why(gpu: str, changes: dict[str, Any], reason: str) -> None:
    result = judge(load_gpu(gpu), dataclasses.replace(GOOD, **changes))
    assert not result.fits
    assert result.ctas_per_sm == 0
    assert reason in result.reason


@pytest.mark.parametrize(
    ("facts", "warning"),
    [
        (
            dataclasses.replace(GOOD, spill_bytes=88),
            "spills 88 bytes of registers per thread, none in",
        ),
        (
            with_mma(Mma("mma.sync", 16, 8, 16, 1)),
            "mma.sync on Hopper: no wgmma, at most 63% of the tensor peak",
        ),
        (with_mma(Mma("mma.sync", 16, 8, 16, 1), arch="sm_100"), "mma.sync on Blackwell"),
        (with_mma(Mma("wgmma", 64, 32, 16, 4)), "MMA narrower than the tile: wgmma m64n32k16"),
        (
            with_mma(Mma("wgmma", 64, 32, 16, 4), config=KernelConfig(block_n=32)),
            "fewer than 64 columns do not reach the peak rate",
        ),
        (
            with_mma(Mma("tcgen05", 64, 64, 16, 0), arch="sm_100"),
            "fewer than 128 rows run at half rate",
        ),
        (
            dataclasses.replace(GOOD, loops=(dataclasses.replace(GOOD.loops[0], copies=(2, 1)),)),
            "compute the scores 2 and the output 1 times over",
        ),
        (dataclasses.replace(GOOD, config=KernelConfig(use_tma=True), arch="sm_80"), "sm_80 has no TMA"),
        (dataclasses.replace(GOOD, notes=("a note",)), "a note"),
    ],
)
def test_warnings(facts: CompileFacts, warning: str) -> None:
    assert any(warning in told for told in judge(load_gpu("h100"), facts).warnings)


def test_json_is_as_documented() -> None:
    document = to_json([judge(load_gpu("h100"), GOOD)])
    assert document["schema"] == 1
    (result,) = document["results"]
    assert list(result)[:11] == [
        "gpu", "arch", "config", "fits", "registers", "spill_bytes", "shared_bytes", "tmem_columns",
        "ctas_per_sm", "mma", "loop",
    ]  # fmt: skip
    assert result["config"]["block_m"] == 128
    assert {"tensor", "exp", "fp32", "integer", "shared", "global", "barrier"} <= set(result["loop"])
    assert result["loop"]["exp"] == 34
    failed = to_json([judge(load_gpu("h100"), CompileFacts(KernelConfig(), "sm_90", "timeout", "slow"))])
    assert failed["results"][0]["fits"] is False
    assert failed["results"][0]["registers"] is None
    json.dumps([document, failed], allow_nan=False)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(jobs: list[Any], **_: Any) -> list[CompileFacts]:
        return [dataclasses.replace(GOOD, config=config, arch=arch) for config, arch in jobs]

    monkeypatch.setattr(check_module, "compile_many", answer)


@pytest.mark.usefixtures("compiler")
def test_the_command_prints_json_and_tables() -> None:
    run = CliRunner().invoke(command, ["-g", "a100, h100", "--json"])
    assert run.exit_code == 0
    assert [result["gpu"] for result in json.loads(run.stdout)["results"]] == ["a100", "h100"]
    table = CliRunner().invoke(command, ["-g", "h100,rtx5090"])
    assert table.exit_code == 0
    assert "rtx5090: asks for 131,072 bytes" in table.stdout
    grid = CliRunner().invoke(command, ["-g", "h100", "--grid", "-d", "64"])
    assert grid.exit_code == 0
    assert grid.stdout.rstrip().endswith("104 of 104 fit.")
    pruned = CliRunner().invoke(command, ["-g", "rtx5090", "--grid", "--prune", "--json"])
    kept = json.loads(pruned.stdout)["results"]
    assert 30 < len(kept) < 80
    tiles = {(result["config"]["block_m"], result["config"]["block_n"]) for result in kept}
    assert (128, 64) in tiles
    assert (256, 128) not in tiles


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--kernel", "atention"],
            "unknown kernel 'atention': expected one of attention, decode; did you mean",
        ),
        (
            ["--dtype", "bf17"],
            "unknown dtype 'bf17': expected one of bf16, fp16, fp32, fp8; did",
        ),
        (["-g", "h10"], "unknown GPU 'h10'"),
        (["-g", ","], "--gpu ',' names no GPU"),
        (["--block-m", "96"], "block_m=96: expected a power of two from 16 to 1024"),
        (["--block-n", "0"], "block_n=0: expected a power of two"),
        (["--num-warps", "3"], "num_warps=3: expected one of 1, 2, 4, 8, 16"),
        (["--num-stages", "0"], "num_stages=0: expected 1 to 8"),
        (["-d", "512"], "head_dim=512: expected 1 to 256"),
        (["--pattern", "dens"], "unknown pattern 'dens'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(arguments: list[str], message: str) -> None:
    run = CliRunner().invoke(command, arguments)
    assert isinstance(run.exception, InputError)  # which the entry point turns into one line and status 2
    assert message in str(run.exception)
    assert "\n" not in str(run.exception)


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys; from attncast.cli.check import check; check(['--help'], standalone_mode=False);"
        "print(sorted({'torch', 'triton', 'rich'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.rstrip().endswith("[]")


def test_the_space_is_large_enough_and_without_repeats() -> None:
    for arch in ARCHITECTURES:
        for head_dim in (64, 128):
            space = list(attention_space(arch, (head_dim,)))
            assert len(space) == len(set(space)) >= 72
