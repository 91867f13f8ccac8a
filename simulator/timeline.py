"""A forecast's schedule as a timeline: which SM runs CTAs of which length, and when. For pictures and traces."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from .schedule import Dispatch
from .tiles import Floats, Ints

MAX_CTAS = 1_000_000  # handed out one by one; beyond it, so many of a class at a time
MAX_EVENTS = 20_000


@dataclass(frozen=True)
class Timeline:
    """Events on SMs, shape (events,) each, sorted by SM and start.

    Attributes:
        sm: the SM. start_s, duration_s: from the start of the kernel's work on the SMs. ctas: CTAs of the event.
        visited: KV tiles of its CTAs together.
        ctas_per_event: CTAs merged into one event at most.
        stretch: factor on all durations that makes the last event end when the forecast says. The forecast uses a formula
            for the end of a schedule; handing out CTAs one by one gives one schedule that it stands for.
        fill_s: latency before the first event. end_s: end of the last event.
        shuffled: CTAs were dealt in a fixed random order, since tile counts do not keep the order of the grid.
    """

    sm: Ints
    start_s: Floats
    duration_s: Floats
    ctas: Ints
    visited: Floats
    sms: int
    ctas_per_event: int
    stretch: float
    fill_s: float
    end_s: float
    shuffled: bool

    @property
    def first_idle_s(self) -> float:
        """When the first SM has nothing left to do: the tail is from here to the end."""
        ends = np.zeros(self.sms)
        np.maximum.at(ends, self.sm, self.start_s + self.duration_s)
        return float(ends.min())

    @property
    def busy_share(self) -> float:
        """Share of all SMs' time, from start to end, in which they run a CTA."""
        return float(self.duration_s.sum()) / (self.sms * self.end_s) if self.end_s > 0 else 0.0


def timeline(dispatch: Dispatch, max_events: int = MAX_EVENTS) -> Timeline:
    """Hand the CTAs of a forecast to its SMs, each to the SM that is free first.

    Args:
        max_events: neighbouring CTAs of an SM are merged until about so many events are left.
    """
    counts = np.diff(np.rint(np.cumsum(dispatch.count)), prepend=0.0).astype(np.int64)
    bundle = max(1, -(-int(counts.sum()) // MAX_CTAS))
    bundles = -(-counts // bundle)
    kind = np.repeat(np.arange(counts.size), bundles)
    size = np.full(kind.size, bundle, dtype=np.int64)
    used = bundles > 0
    size[np.cumsum(bundles)[used] - 1] = (counts - (bundles - 1) * bundle)[used]
    # Where CTAs are not sorted, the order of the grid decides, which counts by class do not keep.
    shuffled = dispatch.first == "any" and kind.size > dispatch.sms and np.unique(kind).size > 1
    if shuffled:
        order = np.random.default_rng(0).permutation(kind.size)
        kind, size = kind[order], size[order]
    elif dispatch.first == "shortest":
        kind, size = kind[::-1], size[::-1]
    duration = dispatch.cta_s[kind] * size
    sm, start = _deal(duration, dispatch.sms)
    end = float((start + duration).max(initial=0.0))
    stretch = (dispatch.span_s - dispatch.fill_s) / end if end > 0 else 1.0
    per_event = max(1, -(-kind.size // max_events))
    order = np.lexsort((start, sm))
    sm, start, duration, size, kind = sm[order], start[order], duration[order], size[order], kind[order]
    first = np.flatnonzero(_place_on_sm(sm) % per_event == 0)
    return Timeline(
        sm=sm[first],
        start_s=dispatch.fill_s + start[first] * stretch,
        duration_s=_sums(duration, first) * stretch,
        ctas=_sums(size, first).astype(np.int64),
        visited=_sums(dispatch.visited[kind] * size, first),
        sms=dispatch.sms,
        ctas_per_event=per_event * bundle,
        stretch=stretch,
        fill_s=dispatch.fill_s,
        end_s=dispatch.fill_s + end * stretch,
        shuffled=shuffled,
    )


def _deal(duration: Floats, sms: int) -> tuple[Ints, Floats]:
    """SM and start of each CTA, in the order they are handed out."""
    free = [(0.0, sm) for sm in range(sms)]
    sm, start = np.empty(duration.size, dtype=np.int64), np.empty(duration.size)
    for index, seconds in enumerate(duration.tolist()):
        when, which = free[0]
        sm[index], start[index] = which, when
        heapq.heapreplace(free, (when + seconds, which))
    return sm, start


def _place_on_sm(sm: Ints) -> Ints:
    """0, 1, 2, ... along the events of each SM; events are sorted by SM."""
    begins = np.flatnonzero(np.diff(sm, prepend=-1))
    place: Ints = np.arange(sm.size) - np.repeat(begins, np.diff(begins, append=sm.size))
    return place


def _sums(values: Floats | Ints, first: Ints) -> Floats:
    return np.add.reduceat(values, first) if first.size else np.zeros(0)
