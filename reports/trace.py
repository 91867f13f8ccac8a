"""The forecast's schedule as a Chrome trace, for Perfetto (ui.perfetto.dev) or chrome://tracing.

Format: Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU; complete events
("ph": "X") with ``ts`` and ``dur`` in microseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_whole
from ..simulator.estimate import Estimate, seconds_text
from ..simulator.timeline import Timeline, timeline

CALL, SMS = 1, 2  # process ids: the parts of the call, and its SMs


def trace_of(estimate: Estimate) -> tuple[dict[str, Any], str]:
    """The trace, and one sentence on what it shows.

    Process 1 has the parts of the whole call one after the other; process 2 a thread for each SM with its CTAs, from when
    the kernel is launched.

    Raises:
        InputError: the forecast has no CTAs (a cascade that streams tokens).
    """
    if estimate.dispatch is None:
        raise InputError(f"{estimate.title} streams its tokens: expected a forecast with CTAs for a trace")
    found = timeline(estimate.dispatch)
    words = schedule_words(found)
    launch_us = 1e6 * estimate.parts_s["launch"]
    events: list[dict[str, Any]] = [
        _name(CALL, f"{estimate.title} on {estimate.gpu}: parts of the call"),
        _name(SMS, f"schedule over {found.sms} SMs"),
        {"ph": "M", "name": "thread_name", "pid": CALL, "tid": 0, "args": {"name": "parts"}},
    ]
    begin_us = 0.0
    for name, seconds in estimate.parts_s.items():
        if seconds > 0:
            events.append({"ph": "X", "name": name, "pid": CALL, "tid": 0, "ts": begin_us, "dur": 1e6 * seconds})
            begin_us += 1e6 * seconds
    for sm in range(found.sms):
        events.append({"ph": "M", "name": "thread_name", "pid": SMS, "tid": sm, "args": {"name": f"SM {sm}"}})
        if found.fill_s > 0:
            events.append(
                {"ph": "X", "name": "latency", "pid": SMS, "tid": sm, "ts": launch_us, "dur": 1e6 * found.fill_s}
            )
    columns = (found.sm, found.start_s, found.duration_s, found.ctas, found.visited)
    for sm, start_s, duration_s, ctas, visited in zip(*(column.tolist() for column in columns), strict=True):
        events.append(
            {
                "ph": "X",
                "name": f"{visited:.0f} KV tiles" if ctas == 1 else f"{ctas} CTAs, {visited:.0f} KV tiles",
                "pid": SMS,
                "tid": sm,
                "ts": launch_us + 1e6 * start_s,
                "dur": 1e6 * duration_s,
                "args": {"ctas": ctas, "kv_tiles": visited},
            }
        )
    other = {"pattern": estimate.pattern, "gpu": estimate.gpu, "kernel": estimate.kernel, "about": words}
    return {"displayTimeUnit": "ns", "otherData": other, "traceEvents": events}, words


def schedule_words(found: Timeline) -> str:
    """What a timeline is, in a few sentences."""
    words = [f"{int(found.ctas.sum()):,} CTAs on {found.sms} SMs, done after {seconds_text(found.end_s)}"]
    if found.ctas_per_event > 1:
        words.append(f"up to {found.ctas_per_event} neighbouring CTAs of an SM are merged into one event")
    if found.shuffled:
        words.append("CTAs are dealt in a fixed random order, as tile counts do not keep the order of the grid")
    if abs(found.stretch - 1.0) > 5e-4:
        words.append(f"all are stretched by {found.stretch:.3f} so that the last ends when the forecast says")
    return "; ".join(words) + "."


def write_trace(path: str | Path, estimate: Estimate) -> str:
    """Write the trace, whole or not at all; returns the sentence on what it shows. Raises InputError as ``trace_of`` does."""
    trace, words = trace_of(estimate)
    write_whole(path, json.dumps(trace, allow_nan=False).encode())
    return words


def _name(pid: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": name}}
