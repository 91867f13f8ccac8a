"""Head dims that a kernel takes, and those that it runs in their place: a kernel is compiled for few of them.

What a kernel computes, and what its registers and shared memory hold, is of the head dim that it runs; what it loads and stores
is of the call's own, since loads of the columns in between are masked, or filled with zeros by TMA.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import Literal

from .workload import DTYPE_BYTES, MAX_HEAD_DIM

MMA_DIM = 16  # fewest columns that a product of 16-bit operands takes (mma.sync m16n8k16; Triton's dot)
SWIZZLE_BYTES = 128  # of a row of an operand in shared memory


@dataclass(frozen=True)
class HeadDims:
    """Which head dims a kernel takes, and what it runs.

    Attributes:
        least, most: range of head dims that it takes, of values too. fp8_most: its end in fp8 (0: ``most``).
        row_bytes: what the rows of a head must be multiples of.
        exact: head dims beyond the range that it takes as they are. pairs: head dims of keys and of values that it is built
            for where they differ. unequal: any two of the range may differ.
        built: sizes that it is compiled for, the least of which that holds a head dim is run; empty: every one of the range.
        rounds: further, to a "power-of-two" of ``MMA_DIM`` or more, or to "rows": that, or the next multiple of
            ``SWIZZLE_BYTES`` where it is less. step: to the next multiple of it. split: head dims of keys that are run as two
            powers of two, nothing padded.
        values: "kv_tile": values are run in steps of the KV tile's keys.
    """

    least: int = 1
    most: int = MAX_HEAD_DIM
    fp8_most: int = 0
    row_bytes: int = 1
    exact: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()
    unequal: bool = False
    built: tuple[int, ...] = ()
    rounds: Literal["no", "power-of-two", "rows"] = "no"
    step: int = 1
    split: tuple[int, ...] = ()
    values: Literal["same", "kv_tile"] = "same"

    def takes(self, dim: int, dim_v: int, dtype: str) -> bool:
        """Whether it takes a head dim of keys and one of values, for products in ``dtype``."""
        if dim == dim_v and dim in self.exact:
            return True
        if dim != dim_v and self._pair(dim, dim_v) in self.pairs:
            return self._whole_rows(dim, dtype) and self._whole_rows(dim_v, dtype)
        return (dim == dim_v or self.unequal) and self._in_range(dim, dtype) and self._in_range(dim_v, dtype)

    def run(self, dim: int, dim_v: int, dtype: str, kv_tile: int = 1) -> tuple[int, int]:
        """The head dims of keys and of values that are computed with, for a KV tile of so many keys."""
        if dim != dim_v and self._pair(dim, dim_v) in self.pairs:
            dim, dim_v = self._pair(dim, dim_v)
        else:
            dim, dim_v = _least(self.built, dim), _least(self.built, dim_v)
        run_v = self._rounded(dim_v, dtype)
        if self.values == "kv_tile":
            run_v = -(-run_v // kv_tile) * kv_tile
        return dim if dim in self.split else self._rounded(dim, dtype), run_v

    def tile_dim(self, dim: int, dim_v: int, dtype: str) -> int:
        """The head dim whose tiles it takes: one below a split head dim does not take that one's, which run less."""
        run_dim = self.run(dim, dim_v, dtype)[0]
        return max(run_dim if any(dim < size < run_dim for size in self.split) else dim, dim_v)

    def text(self, dtype: str) -> str:
        """What it takes, as an error says it."""
        most, step = self._most(dtype), max(1, int(self.row_bytes / DTYPE_BYTES[dtype]))
        sizes = []
        if most >= self.least:
            least = -(-self.least // step) * step
            sizes.append(f"{least} to {most}" if step == 1 else f"multiples of {step} from {least} to {most}")
        sizes += [str(size) for size in self.exact if size > most]
        sizes += [f"{dim} with values of {dim_v}" for dim, dim_v in self.pairs]
        return sizes[0] if len(sizes) == 1 else f"{', '.join(sizes[:-1])} or {sizes[-1]}"

    def _most(self, dtype: str) -> int:
        return self.fp8_most if self.fp8_most and DTYPE_BYTES[dtype] < 2 else self.most

    def _whole_rows(self, dim: int, dtype: str) -> bool:
        return dim * DTYPE_BYTES[dtype] % self.row_bytes == 0

    def _in_range(self, dim: int, dtype: str) -> bool:
        return self.least <= dim <= self._most(dtype) and self._whole_rows(dim, dtype)

    def _pair(self, dim: int, dim_v: int) -> tuple[int, int]:
        """The sizes that two different head dims are run as where the kernel is built for some sizes, else themselves."""
        if not self.built:
            return dim, dim_v
        keys, values = ({*self.built, *(pair[side] for pair in self.pairs)} for side in (0, 1))
        return _least(tuple(sorted(keys)), dim), _least(tuple(sorted(values)), dim_v)

    def _rounded(self, dim: int, dtype: str) -> int:
        dim = -(-dim // self.step) * self.step
        if self.rounds == "no":
            return dim
        power = max(power_of_two(dim), MMA_DIM)
        columns = int(SWIZZLE_BYTES / DTYPE_BYTES[dtype])
        return min(power, -(-dim // columns) * columns) if self.rounds == "rows" else power


def _least(sizes: tuple[int, ...], dim: int) -> int:
    """The least of rising ``sizes`` that holds ``dim``, or itself where none does."""
    place = bisect_left(sizes, dim)
    return sizes[place] if place < len(sizes) else dim


def power_of_two(dim: int) -> int:
    """The least one that holds ``dim``."""
    return 1 << (dim - 1).bit_length()
