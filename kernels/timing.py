"""Seconds of single calls on a GPU, by CUDA events: the one loop that the benchmark and the measuring suites share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

FLUSH_BYTES = 256 << 20  # more than any L2


def flush_buffer(device: str) -> torch.Tensor:
    """Return memory larger than any L2; writing it leaves nothing else there."""
    return torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)


def time_calls(
    call: Callable[[], Any],
    samples: int,
    flush: torch.Tensor,
    *,
    warm: bool = False,
    lead: int = 0,
    while_running: Callable[[], Any] | None = None,
) -> list[float]:
    """Return the seconds of ``samples`` single calls.

    Every call has a pair of events of its own, and without ``warm`` the L2 is overwritten before it. All are
    queued before anything is waited for; ``lead`` writes of ``flush`` go first and keep the GPU busy while
    the host queues what follows, so that launches from Python are not what is timed. ``while_running`` is
    called once everything is queued: the moment to read the clock.
    """
    events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(samples)]
    for _ in range(lead):
        flush.zero_()
    if warm:
        call()  # after the writes of the lead, what the call reads is not in the L2
    for begin, end in events:
        if not warm:
            flush.zero_()
        begin.record()
        call()
        end.record()
    if while_running is not None:
        while_running()
    torch.cuda.synchronize()
    return [float(begin.elapsed_time(end)) / 1e3 for begin, end in events]
