"""The Chrome trace of a forecast's schedule."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise

import pytest

from attncast import InputError
from attncast.reports.trace import CALL, SMS, trace_of
from attncast.simulator import Workload, predict


def test_the_trace_ends_when_the_forecast_does(attncast, tmp_path):
    path = tmp_path / "trace.json"
    status, _, err = attncast(
        "predict", "-g", "a100", "-i", "8192", "-n", "32", "-d", "128", "-p", "causal", "--trace", str(path)
    )
    assert status == 0
    assert "2,048 CTAs on 108 SMs" in err
    trace = json.loads(path.read_text())
    estimate = predict(Workload(8192, 32, 128), "causal", "a100")
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    lanes = defaultdict(list)
    for event in events:
        assert event["dur"] >= 0
        lanes[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert {tid for pid, tid in lanes if pid == SMS} == set(range(108))
    for spans in lanes.values():
        spans.sort()
        assert all(end <= start + 1e-6 for (_, end), (start, _) in pairwise(spans))
    last_us = max(end for (pid, _), spans in lanes.items() for _, end in spans if pid == SMS)
    assert last_us == pytest.approx(1e6 * (estimate.parts_s["launch"] + estimate.dispatch.span_s), rel=1e-9)
    # The parts lie one after the other and make the whole time.
    assert max(end for _, end in lanes[CALL, 0]) == pytest.approx(1e6 * estimate.time_s, rel=1e-9)
    assert sum(event["args"]["ctas"] for event in events if "args" in event) == 2048
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "thread_name"}
    assert {"SM 0", "SM 107"} <= names


def test_many_ctas_are_merged_and_the_trace_says_so():
    estimate = predict(Workload(131072, 32, 128, batch=4), "causal", "h100")
    trace, words = trace_of(estimate)
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(events) < 21_000
    assert "merged into one event" in words
    assert trace["otherData"]["about"] == words


def test_a_cascade_that_streams_has_no_schedule():
    estimate = predict(Workload(8192, 32, 128), "dense", "h100", cascade="linear_causal")
    with pytest.raises(InputError, match="streams its tokens"):
        trace_of(estimate)


def test_a_trace_is_of_one_gpu(attncast, tmp_path):
    words = ("-i", "4096", "-n", "8", "-d", "128", "--trace", str(tmp_path / "x.json"))
    status, _, err = attncast("predict", "-g", "a100,h100", *words)
    assert status == 2
    assert "expected one" in err
    assert not (tmp_path / "x.json").exists()
