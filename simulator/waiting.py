"""A CTA that waits, stated once: what bounds the CTAs that share an SM.

A CTA's step over a KV tile has *work*, cycles of the busiest pipe of its SM, and a *chain*, the cycles that it takes alone: its
products, softmax and reductions one after the other, and the memory latencies that no stage of a pipeline hides. CTAs that are
resident on an SM together work while others wait. So n of them take a step each in

    max(n * work, chain)

and all CTAs of a call take no less than their work on the SMs, and no less than their chains in the places that SMs have for
them. Both bounds hold for CTAs of unequal length and for calls of few CTAs, where nobody fills a gap. What the bytes in flight
let memory deliver (Little's law) is the second bound, a chain of latencies for each ``n`` tiles.

Kernels whose CTAs alternate between tiles by themselves (warp groups that take turns, loads stages ahead) have no chain but
their work: how well pipes overlap then tells what an SM does, and only latencies of a CTA's own life are left to wait for.
CTAs that are all alike and load for themselves do not drift apart, so that none fills another's gaps: see steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU
from . import schedule, sections
from .tiles import Floats, Ints

REGISTER_UNIT = 8  # registers of a thread are handed out in eights (CUDA C++ Programming Guide, occupancy)


@dataclass(frozen=True)
class Compiled:
    """What a compiler says of a CTA, where it was asked.

    Attributes:
        threads, registers: of a CTA, and of each of its threads. shared_bytes, tensor_bytes: its shared and tensor memory.
        cycles: of a KV tile for a CTA alone, from a walk over the machine code of its loop: instructions in order, each after
            its stall count and the scoreboards that it waits for; with spilled registers and the time that loads take to pass,
            without the latency of loads and the pipe time of asynchronous products.
        work_cycles: of each CTA where an SM is full of them, over their number. test_cycles, test_work_cycles: both for a tile
            that is looked at and left. end_cycles, end_work_cycles: both before the first KV tile and after the last.
        waits: loads of keys, values and of where they lie that the walk waits for one after the other in a KV tile.
            ahead: KV tiles by which asynchronous loads run ahead, so that ``ahead`` tiles take no less than one memory latency.
        frame_bytes: of local memory that a thread spills registers to. stored_bytes: what it stores there in a KV tile, and
            end_stored_bytes before the first and after the last. Told where CTAs in flight may hold more than a part of the L2
            (see memory.written_back).
    """

    threads: int
    registers: int = 0
    shared_bytes: int = 0
    tensor_bytes: int = 0
    cycles: int = 0
    work_cycles: int = 0
    test_cycles: int = 0
    test_work_cycles: int = 0
    end_cycles: int = 0
    end_work_cycles: int = 0
    waits: float = 0.0
    ahead: int = 0
    frame_bytes: int = 0
    stored_bytes: int = 0
    end_stored_bytes: int = 0

    def residents(self, gpu: GPU) -> int:
        """CTAs that an SM holds; one at least."""
        registers = -(-self.registers // REGISTER_UNIT) * REGISTER_UNIT * self.threads
        fitting = [gpu.max_ctas_per_sm, gpu.max_threads_per_sm // self.threads]
        fitting += [gpu.registers_per_sm // registers] if registers else []
        fitting.append(gpu.smem_bytes_per_sm // (self.shared_bytes + gpu.smem_reserved_bytes_per_cta))
        fitting += [gpu.tmem_bytes_per_sm // self.tensor_bytes] if self.tensor_bytes else []
        return max(1, min(fitting))


@dataclass(frozen=True)
class Ctas:
    """The CTAs of calls, and the places that SMs have for them.

    Attributes:
        count: CTAs in each class, of all heads; the classes of a call lie together, longest first. row: index of each call's
            first class. heads: times that they come round in the order of the grid, shape (calls,).
        sms: of the GPU. residents: CTAs that an SM holds at once, shape (calls,). longest_first: the order they start in, of
            all calls or of each. dealt: calls whose CTAs are dealt to SMs beforehand, shape (calls,).
        sequences, section: of each call, and the heads of a section, where they start section by section (see sections).
        rising: the shortest start first, in all calls.
    """

    count: Floats
    row: Ints
    heads: Floats
    sms: int
    residents: Floats
    longest_first: NDArray[np.bool_] | bool
    dealt: NDArray[np.bool_] | bool = False
    sequences: Floats | None = None
    section: Floats | None = None
    rising: bool = False

    def with_two_lengths(self, first: Floats, rest_last: NDArray[np.bool_]) -> Ctas:
        """Two classes for each: a share ``first`` of its CTAs, and the rest, which may be shorter and start last."""
        share = np.repeat(first, schedule.class_counts(self.row, self.count.size))
        count = np.stack([self.count * share, self.count * (1.0 - share)], axis=1).ravel()
        return replace(self, count=count, row=2 * self.row, longest_first=self.longest_first | rest_last, rising=False)

    def makespan(self, cost: Floats, places: Floats | int) -> Floats:
        """Time until the last is done; places beyond one for each SM are shared."""
        if self.rising:
            return schedule.rising_makespan(cost, self.count, self.row, places)
        shared = np.asarray(places) > self.sms
        span = schedule.makespan(cost, self.count, self.row, places, self.longest_first, self.heads, shared)
        if self.dealt is not False and np.any(self.dealt):
            span = np.where(self.dealt, schedule.dealt_makespan(cost, self.count, self.row, self.sms, self.heads), span)
        if self.section is None or self.sequences is None:
            return span
        once = self.count / np.repeat(self.heads, schedule.class_counts(self.row, cost.size))
        return span * sections.stretch(
            cost, once, self.row, self.heads / self.sequences, self.sequences, self.section, self.sms
        )


def span_cycles(work: Floats, chain: Floats, latency: Floats, ctas: Ctas, fills_gaps: bool) -> Floats:
    """SM cycles from the first CTA's start to the last one's end, per call.

    Args:
        work, chain: cycles of a CTA of each class on its SM's busiest pipe, and alone, latencies included.
        latency: cycles of the memory latencies in a CTA's life, shape (calls,): the first fill and the last drain of an SM have
            no work of others to hide behind.
        fills_gaps: where CTAs wait longer than the others on their SM can fill, that is hidden too: in their time already. Not
            where what is resident is tiles of one CTA that goes on.
    """
    residents = ctas.residents
    held = schedule.per_class(residents, ctas.row, chain.size)
    stepped = np.maximum(work, chain / held)
    worked = ctas.makespan(stepped, ctas.sms)
    fill = np.where(residents > 1.0, latency, 0.0)
    span: Floats = worked + fill  # no less than a chain in its own place: the fill is a whole latency
    if not fills_gaps:
        return span
    if (stepped > work).any():
        span = np.maximum(worked, ctas.makespan(work, ctas.sms) + fill)
    if (residents <= 1.0).all():  # a place is an SM: the chains in theirs are in the first bound
        return span
    return np.maximum(span, ctas.makespan(chain, ctas.sms * residents))


def in_turn(work: Floats, moving: Floats, residents: Floats) -> Floats:
    """What CTAs that load a tile, wait for it and then work take beyond the longer of their SM's work and of what memory takes.

    n of them on an SM, which take turns at two stations: no more than the n-th part of the shorter, by the balanced job bound
    (Zahorjan et al., Balanced job bound analysis of queueing networks, CACM 25, 1982). That they take all of the bound is read
    off rows that validation counts (SGLang's decoding on H100, B200 and RTX PRO 6000); jobs whose turns never vary would need
    none of it. Any unit of time; shapes (calls,).
    """
    return np.minimum(work, moving) / residents
