"""Cases for real, tiny, on the CPU: our kernels interpreted, libraries that need a GPU replaced by their documented API."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace

import pytest

from attncast.validation.measure.case import Case
from attncast.validation.measure.device import Timing, TryingDevice
from attncast.validation.measure.libraries import LIBRARIES
from attncast.validation.measure.worker import run_case

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "triton")), reason="needs torch and triton"
)
BAND = Case("attncast", 2, 4, 2, "128", 0, 64, "bf16", "causal")
GRID = Case("attncast", 1, 2, 2, "4x8x8", 0, 64, "bf16", "na window=2x4x4 stride=2x2x2")
CONFIG = "BLOCK_M=32 BLOCK_N=64 num_warps=4 num_stages=2 USE_TMA=0 WARP_SPECIALIZE=0"


def change(case: Case, **values) -> Case:
    return Case.from_dict({**case.to_dict(), **values})


@pytest.fixture(autouse=True)
def interpreted():
    import torch
    import triton

    from attncast.kernels.attention import attention_forward_kernel

    if isinstance(attention_forward_kernel, triton.JITFunction) or torch.cuda.is_available():
        pytest.skip("the kernels are compiled here, not interpreted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small operations: threads only wait for each other
    yield
    torch.set_num_threads(threads)


RIGHT = {
    "causal": BAND,
    "window": change(BAND, pattern="window left=30 right=0", dtype="fp16"),
    "config": change(BAND, config=CONFIG),
    "sdpa": change(BAND, kernel="sdpa-cudnn"),
    "flex": change(BAND, kernel="flex", pattern="window left=30 right=10"),
    "decode": change(BAND, kernel="attncast-decode", grid="1", cached=99),
    "sdpa decode": change(BAND, kernel="sdpa-flash", grid="1", cached=99),
    "na": GRID,
    "na call": change(GRID, measures="call"),
    "na config": change(GRID, config=CONFIG),
    "na flex": change(GRID, kernel="flex"),
    "blocks": change(GRID, grid="512", pattern="documents lengths=128,384 causal=0"),
    "blocks flex": change(GRID, kernel="flex", grid="512", pattern="documents lengths=128,384 causal=0"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_results(name):
    case = RIGHT[name]
    assert LIBRARIES[case.kernel].takes(case)
    answer = run_case(case, TryingDevice(), "test", 0.0)
    assert answer.get("tried"), answer
    assert 0 < answer["max_error"] < 0.05


def test_preparing_runs_the_call_and_checks_nothing(monkeypatch):
    from attncast.validation.measure import check

    monkeypatch.setattr(check, "check_output", None)
    assert run_case(RIGHT["sdpa"], TryingDevice(), "test", 0.0, prepare_only=True) == {"prepared": True}


def test_rows_can_be_forecast_and_are_read_as_other_tables_are():
    """What a case becomes: a row that the simulator takes, tiles included."""
    from attncast.validation.compare import forecasts
    from attncast.validation.measured import MeasuredRun

    class Timer(TryingDevice):
        name = "NVIDIA H100 80GB HBM3"

        def time(self, call, *, warm, budget_s):
            return Timing((1e-4, 2e-4), "pretended")

    answers = [run_case(RIGHT[name], Timer(), "test", 0.0) for name in ("causal", "decode", "na", "na call", "blocks")]
    runs = [MeasuredRun(**answer["run"]) for answer in answers]
    assert [run.kernel for run in runs] == ["triton"] * 5
    assert [run.measures for run in runs] == ["kernel", "kernel", "kernel", "call", "kernel"]
    assert all(run.workload and run.clock_hz is None and run.time_s == pytest.approx(1.5e-4) for run in runs)
    times = forecasts(runs).time_s
    assert (times > 0).all()
    assert times[3] > times[2]  # the permutation


@pytest.mark.parametrize("asked", [BAND, GRID, RIGHT["decode"]])
def test_a_wrong_result_is_never_timed(asked, monkeypatch):
    """Every kernel is given another pattern than it was asked for."""
    from attncast.validation.measure import calls

    def off_by_one(case, given):
        other = {"causal": "window left=100 right=1", GRID.pattern: "na window=2x4x4 stride=2x2x1"}[case.pattern]
        if case.cached:
            other = "window left=98 right=0"
        return prepare(change(case, pattern=other), given)

    class Timer(TryingDevice):
        def time(self, call, *, warm, budget_s):
            raise AssertionError("timed")

    prepare = calls.prepare
    monkeypatch.setattr(calls, "prepare", off_by_one)
    answer = run_case(asked, Timer(), "test", 0.0)
    assert answer["problem"] == "wrong result"
    assert "rows looked at" in answer["reason"]


def test_a_time_that_cannot_be_true_is_no_run():
    class Timer(TryingDevice):
        name = "NVIDIA H100 80GB HBM3"

        def time(self, call, *, warm, budget_s):
            return Timing((1e-8,) * 5, "pretended")

    answer = run_case(RIGHT["sdpa"], Timer(), "test", 0.0)
    assert (answer["problem"], answer["reason"].split(":")[0]) == ("implausible", "above the tensor peak")


def test_what_else_is_wrong(monkeypatch):
    import torch

    from attncast.validation.measure import calls
    from attncast.validation.measure.check import WrongResult, check_output

    given = calls.tensors(BAND, "cpu")
    right = calls.prepare(BAND, given).call()
    check_output(BAND, given, right)
    for wrong, words in (
        (right[:, :, 1:], "expected"),
        (right.float(), "expected"),
        (torch.where(torch.arange(128)[:, None] == 77, torch.nan, right), "not finite"),
        (right.roll(1, dims=0), "rows looked at"),
    ):
        with pytest.raises(WrongResult, match=words):
            check_output(BAND, given, wrong)


def test_what_cannot_run_says_so():
    asked = change(GRID, grid="512", pattern="streaming sink=4 window=100")
    answer = run_case(asked, TryingDevice(), "test", 0.0)
    assert answer["problem"] == "cannot run"
    assert "keeps parts of blocks of 128" in answer["reason"]
    answer = run_case(change(BAND, kernel="sdpa-flash", grid="2", cached=98), TryingDevice(), "test", 0.0)
    assert (answer["problem"], "one query over a cache" in answer["reason"]) == ("cannot run", True)


def test_a_kernel_that_raises_is_a_problem(monkeypatch):
    from attncast.validation.measure import calls

    def fails(case, given):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(calls, "prepare", fails)
    assert run_case(BAND, TryingDevice(), "test", 0.0) == {
        "problem": "failed", "reason": "RuntimeError: no kernel image is available"
    }  # fmt: skip


def _reference(q, k, v, mask):
    """Attention of [batch, tokens, heads, dim] under a bool mask, heads last as these libraries have them."""
    from attncast.kernels.reference import attention_reference

    out, _ = attention_reference(*(t.transpose(1, 2) for t in (q, k, v)), mask)
    return out.transpose(1, 2).to(q.dtype)


def _band(q, k, causal, window_size):
    from attncast.kernels.reference import band_mask

    left, right = (None if side < 0 else side for side in window_size)
    return band_mask(q.shape[1], k.shape[1], left, 0 if causal else right)


def _flash(q, k, v, causal=False, window_size=(-1, -1)):
    return _reference(q, k, v, _band(q, k, causal, window_size))


def _natten(q, k, v, *, kernel_size, stride, dilation, is_causal):
    from attncast.kernels.reference import neighborhood_reference

    grid = tuple(q.shape[1:-2])
    mask = neighborhood_reference(grid, kernel_size, stride, dilation, is_causal)
    flat = (t.flatten(1, len(grid)) for t in (q, k, v))
    return _reference(*flat, mask).reshape(q.shape)


def _single_prefill(q, k, v, causal=False, window_left=-1):
    return _reference(q[None], k[None], v[None], _band(q[None], k[None], causal, (window_left, -1)))[0]


def _single_decode(q, k, v, window_left=-1):
    return _single_prefill(q[None], k, v, causal=True, window_left=window_left)[0]


@pytest.mark.parametrize(
    "case",
    [
        change(BAND, kernel="flash-attn"),
        change(BAND, kernel="flash-attn", pattern="window left=30 right=0"),
        change(BAND, kernel="flash-attn", grid="1", cached=99),
        change(BAND, kernel="flash-attn-3", pattern="dense"),
        change(GRID, kernel="natten", measures="call"),
        change(GRID, kernel="natten", measures="call", pattern="na window=2x3x4 dilation=1x2x2 causal=1x0x0"),
        change(BAND, kernel="flashinfer", batch=1, pattern="window left=30 right=0"),
        change(BAND, kernel="flashinfer", batch=1, grid="1", cached=99),
    ],
    ids=lambda case: case.id,
)
def test_libraries_get_their_own_layouts(case, monkeypatch):
    flash = SimpleNamespace(flash_attn_func=_flash, flash_attn_with_kvcache=_flash)
    for name, module in (
        ("flash_attn", flash),
        ("flash_attn_interface", flash),
        ("natten", SimpleNamespace(na3d=_natten, na2d=_natten, na1d=_natten)),
        (
            "flashinfer",
            SimpleNamespace(single_prefill_with_kv_cache=_single_prefill, single_decode_with_kv_cache=_single_decode),
        ),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    assert LIBRARIES[case.kernel].takes(case)
    answer = run_case(case, TryingDevice(), "test", 0.0)
    assert answer.get("tried"), answer


def test_versions_are_recorded():
    import torch

    from attncast.validation.measure.worker import software

    assert software("attncast").startswith(f"attncast: attncast 0.1.0, torch {torch.__version__}, triton 3.")
    assert software("sdpa-flash").startswith(f"sdpa-flash: torch {torch.__version__}")


def test_the_tiles_of_a_row_are_those_that_ran():
    from attncast.validation.measure import calls

    given = calls.tensors(GRID, "cpu")
    prepared = calls.prepare(change(GRID, config=CONFIG), given)
    tokens = [[int(n) for n in tile.split("x")] for tile in (prepared.q_tile, prepared.kv_tile)]
    assert [n[0] * n[1] * n[2] for n in tokens] == [32, 64]
    assert prepared.config == CONFIG
    band = calls.prepare(change(BAND, config=CONFIG), calls.tensors(BAND, "cpu"))
    assert (band.q_tile, band.kv_tile) == ("32", "64")
