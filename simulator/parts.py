"""Into how many parts the keys of each call are cut, by the kernel's own rule (see schedule), and what a CTA has of that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU
from . import schedule, steps
from .calls import Calls
from .cta_life import search_cycles
from .profile import KernelProfile
from .tiles import Floats


def most_parts(gpu: GPU, profile: KernelProfile, c: Calls, ctas: Floats, longest: Floats) -> Floats | None:
    """Parts that a kernel of the rule "balanced" is launched for, which may then use fewer; None for other rules.

    Where it is more than one the kernel for split keys runs, and a merge after it, however few parts there are in the end.
    """
    splitting = profile.splitting
    if splitting.rule == "balanced":
        blocks = ctas / c.batch
    elif splitting.rule == "balanced-whole":
        blocks = (
            np.ceil(c.batch * c.queries * c.packed / c.tile_q) * c.kv_heads * np.ceil(c.heads / c.kv_heads / c.packed)
        )
    else:
        return None
    most = schedule.fullest_waves(blocks, gpu.sms * profile.in_flight, longest)
    if splitting.captured_tokens:
        decodes = profile.decodes(c.queries, c.keys - c.queries)
        captured = (c.graph > 0) & decodes & (c.batch * c.queries <= splitting.captured_tokens)
        most = np.where(captured, splitting.captured_parts, most)
    return most


def parts_of(
    gpu: GPU,
    profile: KernelProfile,
    c: Calls,
    ctas: Floats,
    longest: Floats,
    most: Floats | None,
    wide: Floats | float,
) -> Floats:
    """Parts that the keys of each call are cut into.

    Args:
        longest: KV tiles of a call's longest Q tile. most: see ``most_parts``. wide: see schedule.widening.
    """
    if profile.splitting.when == "never":
        return np.ones_like(ctas)
    slots, rule = gpu.sms * profile.in_flight, profile.splitting.rule
    if rule == "history":
        splits = schedule.history_splits(ctas, ctas / c.batch, gpu.sms, c.keys)
        if not profile.splitting.empty_parts:
            splits = np.clip(splits, 1.0, np.maximum(longest, 1.0))
    elif rule == "wide":
        splits = schedule.wide_splits(ctas, gpu.sms, c.keys, c.dim, gpu.smem_bytes_per_cta, wide)
    elif rule == "planned":
        places = np.where(c.in_flight > 0, gpu.sms * c.in_flight, slots)
        splits = schedule.planned_splits(ctas, places, longest, c.tile_kv, c.kv_heads)
    else:
        counted = most is not None or rule == "gradual"  # of all keys, those outside a window too
        all_tiles = np.maximum(np.ceil(c.keys / c.tile_kv), longest) if counted else None
        splits = schedule.kv_splits(rule, ctas, slots, longest, c.tile_kv, most, all_tiles)
    if profile.splitting.when != "always":
        few = {"packed": c.packed > 1, "decode": profile.decodes(c.queries, c.keys - c.queries)}
        splits = np.where(few[profile.splitting.when], splits, 1.0)
    return splits


@dataclass(frozen=True)
class Parts:
    """Parts of two lengths: ``tiles`` of most, as many as ``of_parts`` says of all; the ``rest`` take so much less, and start
    last where ``rest_last``. All of shape (calls,)."""

    tiles: Floats
    of_parts: Floats
    rest: Floats
    rest_last: NDArray[np.bool_]


def unequal_parts(profile: KernelProfile, c: Calls, longest: Floats, splits: Floats) -> Parts | None:
    """Where the keys of a sequence are cut into parts of unequal length; None where there are none such."""
    if profile.splitting.rule == "gradual" and (splits > 1.0).any():
        tiles, left = schedule.gradual_tiles(longest, c.tile_kv, splits)
        return Parts(tiles, 1.0 - 1.0 / splits, np.where(splits > 1.0, left / tiles, 1.0), splits > 1.0)
    if profile.splitting.rule == "segments" and (splits > 1.0).any():
        # Of all keys: a window lies in the last ones, and the others find nothing to do.
        tiles = np.minimum(np.ceil(np.maximum(np.ceil(c.keys / c.tile_kv), longest) / splits), longest)
        busy = np.minimum(np.ceil(longest / np.maximum(tiles, 1.0)), splits)
        return Parts(tiles, busy / splits, np.zeros_like(tiles), np.zeros(tiles.shape, dtype=np.bool_))
    return None


def share_of(
    gpu: GPU, profile: KernelProfile, c: Calls, longest: Floats, ctas: Floats, splits: Floats, wide: Floats | float
) -> tuple[Floats | float, Floats | float]:
    """Share of its Q tile's cycles that a CTA takes, where keys are split or threads end early: per class, or 1.

    Also the loads that it waits for, per call, where threads take keys in turns.
    """

    def flat(per_call: Floats) -> Floats:
        return schedule.per_class(per_call, c.row, c.visited.size)

    share: Floats | float = 1.0
    loads: Floats | float = 0.0
    if profile.splitting.unroll > 1:
        turns, loads = steps.turns(profile, c, longest, splits, wide)
        share = share * flat(turns / np.maximum(longest, 1.0))
    elif (splits > 1).any():  # each part takes whole tiles
        parts = np.ceil(c.visited / flat(splits)) / np.maximum(c.visited, 1.0)
        if profile.splitting.empty_parts:  # in several waves, an SM has its share of the parts that visit nothing
            parts = np.minimum(parts, flat(np.where(ctas * splits > gpu.sms, 1.0 / splits, 1.0)))
        share = share * parts
    return share, loads


def idle_seconds(
    gpu: GPU, profile: KernelProfile, c: Calls, ctas: Floats, splits: Floats, in_flight: Floats, clock_hz: Floats
) -> Floats:
    """What the CTAs of a grid take whose parts hold no keys: the last of it, each a memory latency in its place."""
    split = profile.decodes(c.queries, c.keys - c.queries)
    idle = ctas * np.maximum(profile.splitting.grid_parts - splits, 0.0) * split
    latency_s = gpu.l2_latency_s / (gpu.sms * np.maximum(in_flight, 1.0))
    seconds: Floats = idle * np.maximum(latency_s, 1.0 / (gpu.dispatch_ctas_per_clock * clock_hz))
    return seconds


def spare_seconds(gpu: GPU, c: Calls, splits: Floats, in_flight: Floats, clock_hz: Floats) -> Floats:
    """What the CTAs of a grid take whose Q tile no sequence has: a search each, in its place."""
    tokens = np.maximum(np.floor(c.tile_q / c.packed), 1.0)
    spare = np.floor(c.batch * c.queries / tokens) + c.batch * (1.0 - np.ceil(c.queries / tokens))
    life_s = gpu.l2_latency_s + search_cycles(c) / clock_hz
    places = gpu.sms * np.maximum(in_flight, 1.0)
    seconds: Floats = (
        spare * c.kv_heads * splits * np.maximum(life_s / places, 1.0 / (gpu.dispatch_ctas_per_clock * clock_hz))
    )
    return seconds
