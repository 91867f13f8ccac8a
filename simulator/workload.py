"""What is asked of an attention call: batch, heads, token grids, head dims, dtype, cached tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from ..errors import InputError, unknown

# Kernels index tokens with 32-bit integers; past this no library kernel runs.
MAX_TOKENS = 2**31 - 1
MAX_COUNT = 2**20  # batch and heads: past this a typing error is likelier than a workload
MAX_HEAD_DIM = 1024
MAX_AXES = 3

# Bytes of one element as it lies in memory.
DTYPE_BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "fp4": 0.5}
_DTYPE_ALIASES = {
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float8": "fp8",
    "e4m3": "fp8",
    "float32": "fp32",
}

Grid = tuple[int, ...]


def parse_int(text: str, what: str, minimum: int = 1, maximum: int = MAX_TOKENS) -> int:
    """Read one whole number between ``minimum`` and ``maximum``; ``what`` names it in the error."""
    try:
        value = int(text)
    except ValueError:
        raise InputError(f"{what} {text!r} is not a whole number: expected e.g. {max(minimum, 128)}") from None
    if not minimum <= value <= maximum:
        raise InputError(f"{what} {text!r} is out of range: expected {minimum} to {maximum:,}")
    return value


@lru_cache(maxsize=4096)  # a table of runs names few grids
def parse_grid(text: str, what: str = "grid") -> Grid:
    """Read ``"30x48x80"`` or ``"4096"`` into a tuple of 1 to 3 axis lengths (tokens).

    Raises:
        InputError: not 1 to 3 whole numbers of at least 1 joined by ``x``, or more tokens than a kernel can index.
    """
    parts = text.lower().replace("×", "x").split("x")
    if not 1 <= len(parts) <= MAX_AXES or not all(part.strip() for part in parts):
        raise InputError(f"{what} {text!r} cannot be read: expected 1 to 3 whole numbers joined by x, e.g. 30x48x80")
    grid = []
    for part in parts:
        try:
            length = int(part)
        except ValueError:
            raise InputError(
                f"{what} {text!r} cannot be read: {part.strip()!r} is not a whole number, expected e.g. 30x48x80"
            ) from None
        if length < 1:
            raise InputError(f"{what} {text!r} has an axis of {length}: every axis must be at least 1")
        grid.append(length)
    check_tokens(math.prod(grid), what, text)
    return tuple(grid)


def check_tokens(tokens: int, what: str, text: str) -> None:
    """Raise InputError when ``tokens`` is more than a kernel can index."""
    if tokens > MAX_TOKENS:
        raise InputError(f"{what} {text!r} has {tokens:,} tokens: expected at most {MAX_TOKENS:,} (32-bit indices)")


def grid_text(grid: Grid) -> str:
    """Write a grid the way it is typed: ``(30, 48, 80)`` becomes ``"30x48x80"``."""
    return "x".join(map(str, grid))


def parse_dtype(text: object) -> str:
    """Return the canonical dtype name (``"bf16"``) of a name or alias (``"bfloat16"``, ``torch.bfloat16``)."""
    text = str(text)
    name = text.lower().removeprefix("torch.")
    name = _DTYPE_ALIASES.get(name, name)
    if name not in DTYPE_BYTES:
        raise unknown("dtype", text, DTYPE_BYTES)
    return name


@dataclass(frozen=True)
class Workload:
    """One attention call.

    Attributes:
        grid: query token grid, 1 to 3 axes.
        heads: query heads.
        head_dim: head dimension of queries and keys.
        batch: sequences in the call.
        heads_kv: key/value heads; ``heads`` when None (MHA). Must divide ``heads``.
        kv_grid: key token grid; the query grid when None. Not together with ``cached``.
        cached: key tokens already in the cache, in front of the query tokens (1-D grids).
        dtype: dtype of Q, K, V and of the products ("bf16", "fp16", "fp8").
        kv_dtype: dtype of K and V in memory; ``dtype`` when None.
        head_dim_v: head dimension of values; ``head_dim`` when None.

    Raises:
        InputError: a count out of range, heads that do not divide, an unknown dtype.
    """

    grid: Grid
    heads: int
    head_dim: int
    batch: int = 1
    heads_kv: int | None = None
    kv_grid: Grid | None = None
    cached: int = 0
    dtype: str = "bf16"
    kv_dtype: str | None = None
    head_dim_v: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", as_grid(self.grid, "grid"))
        for name, limit in (("heads", MAX_COUNT), ("batch", MAX_COUNT), ("head_dim", MAX_HEAD_DIM)):
            _check_count(name, getattr(self, name), limit)
        object.__setattr__(self, "dtype", parse_dtype(self.dtype))
        object.__setattr__(self, "kv_dtype", parse_dtype(self.kv_dtype or self.dtype))
        if self.heads_kv is None:
            object.__setattr__(self, "heads_kv", self.heads)
        if self.head_dim_v is None:
            object.__setattr__(self, "head_dim_v", self.head_dim)
        _check_count("heads_kv", self.heads_kv, MAX_COUNT)
        _check_count("head_dim_v", self.head_dim_v, MAX_HEAD_DIM)
        if self.heads % self.kv_heads:
            near = [n for n in range(1, self.heads + 1) if self.heads % n == 0]
            best = min(near, key=lambda n: (abs(n - self.kv_heads), -n))
            raise InputError(
                f"{self.heads} query heads cannot share {self.kv_heads} key/value heads: "
                f"expected a divisor of {self.heads}; did you mean {best}?"
            )
        _check_count("cached", self.cached, MAX_TOKENS, minimum=0)
        if self.cached:
            if len(self.grid) > 1:
                raise InputError(
                    f"cached {self.cached} with grid {grid_text(self.grid)!r}: cached tokens need a 1-D grid"
                )
            if self.kv_grid is not None:
                raise InputError(
                    f"cached {self.cached} and kv grid {grid_text(self.kv_grid)!r} were both given: "
                    "expected one, the other follows"
                )
        kv_grid = self.kv_grid if self.kv_grid is not None else self.grid
        kv_grid = as_grid(kv_grid, "kv grid")
        if self.cached:
            kv_grid = (self.grid[0] + self.cached,)
        object.__setattr__(self, "kv_grid", kv_grid)
        check_tokens(self.kv_tokens, "the key sequence", grid_text(kv_grid))

    @property
    def kv_heads(self) -> int:
        """Key/value heads."""
        assert self.heads_kv is not None
        return self.heads_kv

    @property
    def keys(self) -> Grid:
        """Key token grid, cached tokens included."""
        assert self.kv_grid is not None
        return self.kv_grid

    @property
    def dim_v(self) -> int:
        """Head dimension of the values."""
        assert self.head_dim_v is not None
        return self.head_dim_v

    @property
    def tokens(self) -> int:
        """Query tokens of one sequence."""
        return math.prod(self.grid)

    @property
    def kv_tokens(self) -> int:
        """Key tokens of one sequence, cached tokens included."""
        return math.prod(self.keys)

    @property
    def gqa_ratio(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads


def as_grid(grid: object, what: str) -> Grid:
    """A grid of what a caller gave: its text, whole numbers, or one of them. Raises InputError for anything else."""
    if isinstance(grid, str):
        return parse_grid(grid, what)
    if isinstance(grid, int) and not isinstance(grid, bool):
        grid = (grid,)
    if not isinstance(grid, (tuple, list)) or not all(isinstance(n, int) for n in grid):
        raise InputError(f"{what} {grid!r} cannot be read: expected 1 to 3 whole numbers, e.g. (30, 48, 80)")
    return parse_grid(grid_text(tuple(grid)), what)


def _check_count(name: str, value: object, maximum: int, minimum: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name} {value!r} is not a whole number")
    if not minimum <= value <= maximum:
        raise InputError(f"{name} {value} is out of range: expected {minimum} to {maximum:,}")
