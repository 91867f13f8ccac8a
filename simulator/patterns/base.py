"""What every pattern can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..tiles import KvTiling, TileWork
from ..workload import Grid, Workload


@dataclass(frozen=True)
class SelectionCost:
    """What choosing blocks costs before (or beside) the attention kernel, for the whole call: all batches and heads.

    Attributes:
        flops: operations, a multiply-add counted as two; those of matrix products only.
        bytes: bytes read and written in global memory.
        kernels: launches.
    """

    flops: float
    bytes: float
    kernels: int

    def __add__(self, other: SelectionCost) -> SelectionCost:
        return SelectionCost(self.flops + other.flops, self.bytes + other.bytes, self.kernels + other.kernels)


class Pattern(Protocol):
    """A set of query-key pairs. ``str(pattern)`` is the text that parses back to it."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should hear about the pattern, one sentence each."""
        ...

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

    def selection(self, workload: Workload) -> SelectionCost | None:
        """What choosing the pairs costs at run time; None for a pattern known ahead."""
        ...

    def layers(self) -> tuple[tuple[float, Pattern], ...]:
        """Weight and pattern of the layers that run one after the other; one of weight 1 unless it is a schedule."""
        ...


class PatternBase:
    """Base of patterns that are known ahead, run in one launch, and are not NATTEN's."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Nothing to say."""
        return ()

    def maskless(self, grid: Grid, q_tile: Grid, kv_tile: Grid) -> bool:
        """NATTEN does not run it."""
        return False

    def selection(self, workload: Workload) -> SelectionCost | None:
        """Nothing is chosen at run time."""
        return None

    def layers(self: Pattern) -> tuple[tuple[float, Pattern], ...]:
        """The same in every layer."""
        return ((1.0, self),)
