"""Into how many parts the keys of each call are cut, by the kernel's own rule (see schedule)."""

from __future__ import annotations

import numpy as np

from ..hwmodels import GPU
from . import schedule
from .calls import Calls
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
