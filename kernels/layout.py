"""Where each token of a grid lies once n-D tiles are contiguous: plain integers and numpy, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

MAX_AXES = 3


@dataclass(frozen=True)
class TokenLayout:
    """A grid of tokens of one to three axes (last one fastest), cut into tiles that become contiguous in
    memory.

    Along an axis with dilation d the tokens i with equal i % d form a group of their own. The order in memory
    is groups, then tiles, then tokens inside a tile, each with the last axis fastest. Every group is padded
    to the same whole number of tiles, so ``padded_tokens`` can exceed ``tokens``.
    """

    grid: tuple[int, ...]
    tile: tuple[int, ...]
    dilation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.dilation:
            object.__setattr__(self, "dilation", (1,) * len(self.grid))
        if not 1 <= len(self.grid) <= MAX_AXES:
            raise InputError(f"grid={self.grid}: expected one to three axes")
        for name in ("tile", "dilation"):
            value = getattr(self, name)
            if len(value) != len(self.grid):
                raise InputError(f"{name}={value}: expected {len(self.grid)} sizes, one per axis of grid={self.grid}")
        if min(*self.grid, *self.tile, *self.dilation) < 1:
            raise InputError(
                f"grid={self.grid}, tile={self.tile}, dilation={self.dilation}: expected sizes of 1 or more"
            )

    @property
    def tiles(self) -> tuple[int, ...]:
        """Tiles per axis inside one dilation group."""
        sizes = zip(self.grid, self.tile, self.dilation, strict=True)
        return tuple(_ceil_div(_ceil_div(length, d), tile) for length, tile, d in sizes)

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)

    @property
    def tile_tokens(self) -> int:
        return math.prod(self.tile)

    @property
    def padded_tokens(self) -> int:
        return math.prod(self.dilation) * math.prod(self.tiles) * self.tile_tokens

    @property
    def steps(self) -> tuple[tuple[int, int, int], ...]:
        """Per axis, how far apart in memory neighbouring groups, tiles, and tokens of a tile are."""
        sizes = [*self.dilation, *self.tiles, *self.tile]
        step = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
        axes = len(self.grid)
        return tuple((step[a], step[axes + a], step[2 * axes + a]) for a in range(axes))

    @cached_property
    def source(self) -> NDArray[np.int64]:
        """For each of ``padded_tokens`` places the token's number in the grid's own order, -1 for padding."""
        return _source(self)

    @property
    def is_identity(self) -> bool:
        """True if no token moves, so that the permutation can be left out."""
        return bool((self.source[: self.tokens] == np.arange(self.tokens)).all())

    def kernel_args(self) -> tuple[int, ...]:
        """Per axis of three (length, dilation, group step, tile step, tiles, inner step, tile): the permute
        kernels' args.
        """
        args = [1] * (7 * (MAX_AXES - len(self.grid)))
        for a in range(len(self.grid)):
            group, tile, inner = self.steps[a]
            args += (self.grid[a], self.dilation[a], group, tile, self.tiles[a], inner, self.tile[a])
        return tuple(args)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@lru_cache(maxsize=64)
def _source(layout: TokenLayout) -> NDArray[np.int64]:
    place = np.arange(layout.padded_tokens, dtype=np.int64)
    token = np.zeros_like(place)
    real = np.ones(place.shape, bool)
    for a, length in enumerate(layout.grid):
        d, tile, count = layout.dilation[a], layout.tile[a], layout.tiles[a]
        group_step, tile_step, inner_step = layout.steps[a]
        inside = place // tile_step % count * tile + place // inner_step % tile
        position = inside * d + place // group_step % d
        real &= position < length
        token = token * length + position
    source = np.where(real, token, -1)
    source.setflags(write=False)
    return source
