"""What every pattern can do."""

from __future__ import annotations

from typing import Protocol

from ..tiles import TileWork
from ..workload import Grid, Workload
from .neighborhood import KvTiling


class Pattern(Protocol):
    """A set of query-key pairs. ``str(pattern)`` is the text that parses back to it."""

    @property
    def family(self) -> str:
        """What kernels call this kind of pattern: a profile names the families it runs."""
        ...

    @property
    def axes(self) -> int:
        """Coordinates that masking one score has to compare."""
        ...

    @property
    def tile_axes(self) -> int:
        """Axes that a tile of this pattern has: more than 1 when tokens are tiled on the grid itself."""
        ...

    def check(self, workload: Workload) -> None:
        """Raise InputError, quoting the pattern, unless it fits the workload."""
        ...

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Exact TileWork on Q and KV tiles of the given shapes (tokens per axis)."""
        ...

    def maskless(self, grid: Grid, q_tile: Grid, kv_tile: Grid) -> bool:
        """Whether NATTEN's own rule leaves element masks out; False for patterns it does not run."""
        ...
