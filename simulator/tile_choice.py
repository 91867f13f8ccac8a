"""Which of its tiles a kernel takes for a call, and in which dtype it finds the keys."""

from __future__ import annotations

from .patterns import Band, Pattern
from .patterns.band import UNLIMITED
from .profile import KernelProfile
from .tile_table import TileChoice
from .workload import Workload


def tile_choice(profile: KernelProfile, pattern: Pattern, w: Workload) -> TileChoice:
    """The tile that a kernel takes by itself. Raises InputError when it has none for the head dimension."""
    dims, read = profile.head_dims.tile_dim(w.head_dim, w.dim_v, w.dtype), read_dtype(profile, w)
    return profile.tile_for(
        pattern.tile_axes, dims, w.tokens, w.gqa_ratio, w.dtype, read, windowed(profile, pattern, w), w.dim_v, w.cached,
        w.kv_heads,
    )  # fmt: skip


def read_dtype(profile: KernelProfile, w: Workload) -> str:
    """The dtype of the keys and values that attention reads: the cache's, unless it reads what the layer hands over."""
    if profile.serving.prefill_reads == "new" and w.cached == 0 and not profile.decodes(w.tokens, 0):
        return w.dtype
    return w.kv_dtype or w.dtype


def windowed(profile: KernelProfile, pattern: Pattern, w: Workload) -> bool:
    """Whether a kernel is called with a sliding window: it looks at the argument, and may drop a window of all keys."""
    if not isinstance(pattern, Band) or pattern.left >= UNLIMITED:
        return False
    return not (profile.masking.drops_wide_windows and pattern.left >= w.kv_tokens - 1)
