"""What is between the events, in which order, and how many calls: on a GPU that only takes notes."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest

from attncast.validation.measure.device import CudaDevice, Timing, call_counts
from attncast.validation.measure.sensors import Reading, Sensor

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torch", "triton")), reason="needs torch and triton"
)


class Queue:
    """A GPU's queue: each piece of work takes its time, events remember when they came."""

    def __init__(self, monkeypatch, call_s=2e-3, write_s=1e-4):
        import torch

        self.now_s, self.log = 0.0, []
        queue = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at_s = queue.now_s
                queue.log.append("event")

            def elapsed_time(self, end):
                assert "sync" in queue.log
                return (end.at_s - self.at_s) * 1e3

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: self.log.append("sync"))
        self.call = lambda: self._work("call", call_s)
        self.flush = SimpleNamespace(zero_=lambda: self._work("write", write_s))

    def _work(self, what, seconds):
        self.now_s += seconds
        self.log.append(what)


def test_only_the_call_is_between_the_events(monkeypatch):
    from attncast.kernels.timing import time_calls

    queue = Queue(monkeypatch)
    seconds = time_calls(queue.call, 3, queue.flush, lead=2, while_running=lambda: queue.log.append("read"))
    assert seconds == pytest.approx([2e-3] * 3)
    assert queue.log == ["write"] * 2 + ["write", "event", "call", "event"] * 3 + ["read", "sync"]


def test_warm_calls_follow_one_another(monkeypatch):
    from attncast.kernels.timing import time_calls

    queue = Queue(monkeypatch)
    assert time_calls(queue.call, 2, queue.flush, warm=True, lead=1) == pytest.approx([2e-3] * 2)
    assert queue.log == ["write", "call"] + ["event", "call", "event"] * 2 + ["sync"]


@pytest.mark.parametrize(("warm", "samples"), [(False, 47), (True, 50)])
def test_a_case_is_warmed_up_and_fills_its_seconds(monkeypatch, warm, samples):
    import torch

    queue = Queue(monkeypatch)
    device = object.__new__(CudaDevice)
    device._torch, device._flush = torch, queue.flush
    device._sensor = Sensor("nvml", lambda: Reading(1.755e9, 45.0, 600.0))
    timing = device.time(queue.call, warm=warm, budget_s=0.1)
    assert len(timing.samples_s) == samples
    assert (timing.median_s, timing.spread_s) == (pytest.approx(2e-3), pytest.approx(0.0, abs=1e-9))
    assert list(timing.readings) == ["before", "during", "after"]
    assert "25 warm-up calls" in timing.method
    assert timing.calls_before == 25 + samples // 2
    assert ("L2 warm" if warm else "L2 overwritten before each") in timing.method
    assert "SM 1755/1755/1755 MHz" in timing.method


def test_counts():
    assert call_counts(1e-3, 0.0, 0.05) == (50, 50)
    assert call_counts(0.5, 1e-4, 0.1) == (3, 5)  # long calls: few, but a median
    assert call_counts(1e-6, 1e-4, 0.1) == (500, 60)


def test_median_and_spread_by_hand():
    timing = Timing((1.0, 2.0, 3.0, 4.0, 50.0), "by hand")
    assert (timing.median_s, timing.spread_s) == (3.0, 1.0)
