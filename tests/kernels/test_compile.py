"""The compiler's word, checked against the arithmetic of attention: a handful of configurations on every
architecture.

Everything is compiled once for the module, by two processes, into a cache of its own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("triton")

from attncast.errors import InputError
from attncast.kernels import cache, compile_worker
from attncast.kernels.compile import Job, compile_many
from attncast.kernels.facts import CompileFacts
from attncast.kernels.space import KernelConfig

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
FAMILY = {"sm_80": "mma.sync", "sm_90": "wgmma", "sm_100": "tcgen05", "sm_120": "mma.sync"}
# 128 rows on eight warps (four for head_dim 64): configurations that run well everywhere.
GOOD = (KernelConfig(head_dim=128), KernelConfig(head_dim=64, block_n=128, num_warps=4, num_stages=2))
CAUSAL = KernelConfig(pattern="causal", block_m=64, num_warps=4, num_stages=2)
LISTS = KernelConfig(pattern="blocks", head_dim=64, num_warps=4, use_tma=True)
REPEATED = KernelConfig(head_dim=128, block_m=64, num_warps=8)  # more warps than rows for them
SPECIALISED = KernelConfig(use_tma=True, warp_specialize=True)
TOO_LARGE = KernelConfig(block_m=256, block_n=128, num_stages=3)
FP8_ON_AMPERE = KernelConfig(dtype="fp8")
JOBS: list[Job] = [
    *((config, arch) for config in GOOD for arch in ARCHITECTURES),
    (CAUSAL, "sm_90"),
    (LISTS, "sm_100"),
    (REPEATED, "sm_90"),
    (SPECIALISED, "sm_100"),
    (TOO_LARGE, "sm_100"),
    (FP8_ON_AMPERE, "sm_80"),
]
WHOLE = [job for job in JOBS if job[0] not in (TOO_LARGE, FP8_ON_AMPERE)]


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("ATTNCAST_CACHE_DIR", str(path))
        # The rest of the suite may run Triton's interpreter; compilation must not notice.
        patch.setenv("TRITON_INTERPRET", "1")
        yield path


@pytest.fixture(scope="module")
def compiled(own_cache: Path) -> dict[Job, CompileFacts]:
    return dict(zip(JOBS, compile_many(JOBS, workers=2), strict=True))


def name(job: Job) -> str:
    return f"{job[1]}-d{job[0].head_dim}-{job[0].pattern}-{job[0]}".replace(" ", "-")


@pytest.mark.parametrize("job", WHOLE, ids=name)
def test_a_tile_takes_the_mma_work_of_attention(compiled: dict[Job, CompileFacts], job: Job) -> None:
    config, facts = job[0], compiled[job]
    assert [loop.name for loop in facts.loops] == ["full", "partial"], facts
    for loop in facts.loops:
        # Straight from the instructions: nothing here knows what the loop was expected to hold.
        flop = 0
        for mma, count in loop.mma.items():
            groups = config.num_warps // mma.warps if mma.warps else 1
            flop += count * groups * 2 * mma.m * mma.n * mma.k
        half = 2 * config.block_m * config.block_n * config.head_dim
        assert flop == half * loop.copies[0] + half * loop.copies[1]
        assert loop.tiles_per_trip == 1
        if config is not REPEATED:
            assert flop == 4 * config.block_m * config.block_n * config.head_dim


@pytest.mark.parametrize("job", WHOLE, ids=name)
def test_a_tile_takes_one_exponential_a_score_and_the_corrections(compiled: dict[Job, CompileFacts], job: Job) -> None:
    config, facts = job[0], compiled[job]
    for loop in facts.loops:
        lanes = sum(part.instructions.get("exp", 0) * 32 * part.warps for part in loop.parts)
        corrections = lanes - config.block_m * config.block_n * loop.copies[0]
        # One rescaling factor per row, in each thread that holds part of the row.
        per_row, rest = divmod(corrections, config.block_m * loop.copies[0])
        assert rest == 0
        assert 1 <= per_row <= 16
        assert per_row == loop.exp_corrections_per_row


@pytest.mark.parametrize("job", [job for job in WHOLE if job[0] in GOOD], ids=name)
def test_good_configurations_use_the_architecture_s_matrix_instruction(
    compiled: dict[Job, CompileFacts], job: Job
) -> None:
    facts = compiled[job]
    assert {mma.family for loop in facts.loops for mma in loop.mma} == {FAMILY[job[1]]}
    assert facts.isa == "sass"
    assert facts.shared_bytes
    assert facts.registers is not None
    assert 64 < facts.registers <= 255
    assert (facts.tmem_columns or 0) == (256 if job[1] == "sm_100" else 0)
    assert facts.warps == job[0].num_warps
    assert not facts.notes


def test_a_masked_loop_selects_and_a_full_one_does_not(compiled: dict[Job, CompileFacts]) -> None:
    full, partial = compiled[(CAUSAL, "sm_90")].loops
    scores_per_thread = CAUSAL.block_m * CAUSAL.block_n / (32 * CAUSAL.num_warps)
    assert partial.instructions["select"] - full.instructions["select"] >= scores_per_thread
    assert partial.instructions["exp"] == full.instructions["exp"]


def test_specialised_loops_are_put_together_again(compiled: dict[Job, CompileFacts]) -> None:
    facts = compiled[(SPECIALISED, "sm_100")]
    loop = facts.loops[0]
    assert {part.role for part in loop.parts} == {"softmax", "correction", "mma"}
    assert facts.warps is not None
    assert facts.warps > SPECIALISED.num_warps
    assert loop.warp_instructions["tensor"] == loop.instructions["tensor"]
    assert loop.warp_instructions["exp"] == loop.instructions["exp"] * SPECIALISED.num_warps


def test_repeated_work_is_told(compiled: dict[Job, CompileFacts]) -> None:
    facts = compiled[(REPEATED, "sm_90")]
    assert all(max(loop.copies) == 2 for loop in facts.loops)


def test_what_does_not_compile_or_fit_is_a_result_with_its_reason(compiled: dict[Job, CompileFacts]) -> None:
    failed = compiled[(FP8_ON_AMPERE, "sm_80")]
    assert (failed.status, failed.loops, failed.registers) == ("failed", (), None)
    assert "fp8" in failed.reason
    assert "\n" not in failed.reason
    # Triton emits a kernel that could only trap; that it does not fit is for the GPU's limits to say.
    assert (compiled[(TOO_LARGE, "sm_100")].tmem_columns or 0) > 512


def test_answers_are_remembered(compiled: dict[Job, CompileFacts], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(compile_worker, "compile_job", never)
    started = time.monotonic()
    again = compile_many(JOBS)
    assert time.monotonic() - started < 5
    assert again == [compiled[job] for job in JOBS]


def test_a_damaged_entry_is_compiled_again(compiled: dict[Job, CompileFacts], own_cache: Path) -> None:
    config, arch = FP8_ON_AMPERE, "sm_80"
    key = cache.record_key(cache.kernel_hash(config.kernel), config.to_json(), arch)
    cache.store(key, {"status": "ok", "registers": 12})
    again = compile_many([(config, arch)])[0]
    assert dataclasses.replace(again, seconds=0) == dataclasses.replace(compiled[(config, arch)], seconds=0)
    stored = cache.load(key)
    assert stored is not None
    assert stored["status"] == "failed"


def test_an_executor_may_be_handed_in(own_cache: Path) -> None:
    class Recorder(concurrent.futures.Executor):
        """Runs nothing: answers as a worker whose compiler died would."""

        def __init__(self) -> None:
            self.asked: list[str] = []

        def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
            self.asked.append(args[1])
            future: concurrent.futures.Future[dict[str, object]] = concurrent.futures.Future()
            future.set_exception(RuntimeError("lost"))
            return future

    recorder = Recorder()
    config = KernelConfig(block_m=32)
    (facts,) = compile_many([(config, "sm_89")], executor=recorder)
    assert recorder.asked == ["sm_89"]
    assert (facts.status, facts.ok) == ("crashed", False)
    assert "RuntimeError: lost" in facts.reason
    key = cache.record_key(cache.kernel_hash(config.kernel), config.to_json(), "sm_89")
    assert cache.load(key) is None, "a crash is not an answer to keep"


def test_threads_may_compile_too(compiled: dict[Job, CompileFacts], own_cache: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        (facts,) = compile_many([(FP8_ON_AMPERE, "sm_80")], executor=threads, use_cache=False)
    assert facts.status == "failed"
    assert facts.reason == compiled[(FP8_ON_AMPERE, "sm_80")].reason


def _sleeps(scratch: Path) -> dict[str, object]:
    time.sleep(60)
    return {"status": "ok"}


def _dies(scratch: Path) -> dict[str, object]:
    os.write(1, b"kernel.py:3:1: error: something broke\n")  # print would go to pytest's own stdout
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_that_hangs_or_dies_is_a_record() -> None:
    started = time.monotonic()
    assert compile_worker._isolated(_sleeps, 0.3)["status"] == "timeout"
    assert time.monotonic() - started < 10
    died = compile_worker._isolated(_dies, 30)
    assert died["status"] == "crashed"
    assert "signal 9: something broke" in died["reason"]


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown architecture 'sm_91'.*did you mean 'sm_90'"):
        compile_many([(KernelConfig(), "sm_91")])


class _Slow(concurrent.futures.Executor):
    """Answers at once that a job took ``seconds``; keeps what it was asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked: list[int] = []

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.asked.append(args[0]["num_stages"])
        future: concurrent.futures.Future[dict[str, object]] = concurrent.futures.Future()
        future.set_result({"status": "failed", "reason": "pretended", "seconds": self.seconds})
        return future


@pytest.mark.parametrize(
    ("seconds", "left_s", "begun"),
    [
        (1.0, 100.0, 5),
        (60.0, 30.0, 2),
        (1.0, -5.0, 2),
    ],  # time for all; for none after the first of each process; none at all
)
def test_nothing_is_begun_that_would_not_be_ready(
    monkeypatch: pytest.MonkeyPatch, seconds: float, left_s: float, begun: int
) -> None:
    slow = _Slow(seconds)
    monkeypatch.setattr("attncast.kernels.compile._pool", lambda count: contextlib.nullcontext(slow))
    jobs: list[Job] = [(KernelConfig(num_stages=stages), "sm_80") for stages in (1, 2, 3, 4, 5)]
    found = compile_many(jobs, workers=2, until_s=time.monotonic() + left_s, use_cache=False)
    assert slow.asked == [1, 2, 3, 4, 5][:begun]
    assert [facts.status for facts in found] == ["failed"] * begun + ["skipped"] * (5 - begun)


@pytest.mark.parametrize("arch", ["sm_80", "sm_100"])
def test_a_register_cap_is_kept(own_cache: Path, arch: str) -> None:
    free, capped = (KernelConfig(head_dim=64, block_m=64, num_warps=4, num_stages=2, maxnreg=cap) for cap in (0, 80))
    without, under = compile_many([(free, arch), (capped, arch)], workers=2)
    assert without.registers is not None
    assert under.registers is not None
    assert without.registers > 80 >= under.registers
    assert (under.spill_bytes or 0) >= (without.spill_bytes or 0)
    with pytest.raises(InputError, match="maxnreg=300: expected 24 to 255"):
        KernelConfig(maxnreg=300)
