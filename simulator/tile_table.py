"""Entries of a kernel profile's tables of tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .waiting import Compiled
from .workload import Grid


@dataclass(frozen=True)
class TileChoice:
    """Q and KV tile shapes (tokens per axis) that a kernel uses up to a head dimension.

    Only for products in ``dtypes`` and keys and values in ``kv_dtypes`` unless these are empty, only with a sliding window
    or only without one where ``windowed`` says so, for values of at most ``max_value_dim`` (0: as for keys), for at most
    ``max_rows`` rows of Q, packed heads included (0: any number; as a decode tile four times its own), and, as a decode tile,
    for ``min_keys`` keys or more and at most ``max_key_heads`` key heads (0: any number), where a kernel is compiled for each.
    ``in_flight`` of its CTAs share an SM and hide each other's latencies (0: as the profile says). ``cuda_cores``: its
    products are fused multiply-adds, not MMA. ``single`` where a CTA works on one Q tile alone; otherwise it alternates
    between two, as the kernel's overlap assumes. ``mask_stall``: cycles that a warp of a warpgroup stalls for each score that
    its threads mask where no window is, beyond the operations: a branch around each. ``tile_stall``: cycles that every KV tile
    takes beyond its work; where ``quantised_only``, in calls alone that quantise their queries themselves, whose output is then
    of 16 bits and which run another build. ``value_columns``: columns of the output
    that a CTA makes, where a head has more of them; the CTAs of the others compute the same scores once more (0: all).
    ``streams_queries``: queries come from the L2 again with the keys of each KV tile, as shared memory has no room for them.

    ``compiled``: what a compiler says of its CTA.
    """

    max_head_dim: int
    q: Grid
    kv: Grid
    dtypes: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    windowed: bool | None = None
    max_rows: int = 0
    max_value_dim: int = 0
    min_keys: int = 0
    max_key_heads: int = 0
    in_flight: int = 0
    cuda_cores: bool = False
    single: bool = False
    mask_stall: float = 0.0
    value_columns: int = 0
    streams_queries: bool = False
    tile_stall: float = 0.0
    quantised_only: bool = False
    compiled: Compiled | None = None

    def serves(self, head_dim: int, dtype: str, kv_dtype: str, windowed: bool, value_dim: int = 0) -> bool:
        """Whether it is for calls of this head dimension, with these dtypes, and with or without a sliding window."""
        return (
            head_dim <= self.max_head_dim
            and (value_dim or head_dim) <= (self.max_value_dim or self.max_head_dim)
            and dtype in (self.dtypes or (dtype,))
            and kv_dtype in (self.kv_dtypes or (kv_dtype,))
            and self.windowed in (None, windowed)
        )


def read_tile(table: Mapping[str, Any]) -> TileChoice:
    """The entry that a table of a profile's file describes."""
    values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in table.items()}
    if "compiled" in values:
        values["compiled"] = Compiled(**values["compiled"])
    return TileChoice(**values)
