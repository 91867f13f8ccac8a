"""Patterns made of patterns: union, intersection, a mixture over heads, a schedule over layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, runtime_checkable

from ...errors import InputError
from ..tiles import KvTiling, TileWork, mean_work
from ..workload import Grid, Workload, parse_int
from .base import Pattern, PatternBase, SelectionCost
from .engine import Combined, Rule, tile_work
from .sequence import StreamingLlm
from .spec import Described, Group, number, parameter, whole


def betas(text: str, key: str) -> tuple[tuple[float, int], ...]:
    """Read ``"0.125:290,1:75"``: a share of the length, and how many heads have it."""
    out = []
    for part in text.split(","):
        beta, _, heads = part.partition(":")
        out.append((number(0, 1, 0.5)(beta, key), parse_int(heads or "1", key)))
    return tuple(out)


@runtime_checkable
class Ruled(Protocol):
    """A pattern whose pairs are known before the call."""

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        ...


def own_grid(pattern: Pattern) -> Grid | None:
    """Tokens that a pattern, or a part of it, asks for by its own parameters; None when it fits any number."""
    parts = getattr(pattern, "parts", None) if isinstance(pattern, Combination) else getattr(pattern, "patterns", None)
    grids = [own_grid(part) for part in parts or ()]
    return next((grid for grid in grids if grid is not None), getattr(pattern, "own_grid", None))


def rule_of(pattern: Pattern, workload: Workload) -> Rule:
    """Which pairs a pattern keeps. Raises InputError for one that is known by its statistics, or is several."""
    if not isinstance(pattern, Ruled):
        raise InputError(f"pattern '{pattern}' has no fixed set of pairs: expected one that is known before the call")
    return pattern.rule(workload)


@dataclass(frozen=True)
class Combination(PatternBase):
    """Union ("|") or intersection ("&") of patterns, token by token as they lie in memory."""

    op: Literal["|", "&"]
    parts: tuple[Pattern, ...]

    def __str__(self) -> str:
        return f" {self.op} ".join(map(str, self.parts))

    @property
    def family(self) -> str:
        """What kernels call this kind of pattern."""
        return "mask"

    @property
    def axes(self) -> int:
        """Coordinates that masking one score has to compare: those of every part."""
        return sum(part.axes for part in self.parts)

    @property
    def tile_axes(self) -> int:
        """Tiles are runs of tokens in the order of memory."""
        return 1

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        orders = {getattr(part, "order", None) or "row" for part in self.parts if hasattr(part, "order")}
        if len(orders) > 1:
            raise InputError(
                f"pattern '{self}' has tokens in different orders ({', '.join(sorted(orders))}): expected one"
            )
        return Combined("any" if self.op == "|" else "all", tuple(rule_of(part, workload) for part in self.parts))

    def check(self, workload: Workload) -> None:
        """Raise InputError unless every part fits the workload."""
        for part in self.parts:
            part.check(workload)
        self.rule(workload)

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Exact TileWork; KV tiles are aligned to key 0 whatever ``tiling`` says."""
        return tile_work(self.rule(workload), math.prod(q_tile), math.prod(kv_tile))

    def maskless(self, grid: Grid, q_tile: Grid, kv_tile: Grid) -> bool:
        """NATTEN does not run these patterns."""
        return False


@dataclass(frozen=True)
class Mixture(PatternBase):
    """Different patterns for different heads of a call, or for different layers of a model.

    Attributes:
        over: "heads": one launch with all of them. "layers": launches one after the other, so a forecast adds up the
            times of the parts by their weights instead of using the mean below.
        weights, patterns: how many heads or layers have each pattern; only their ratios matter.
    """

    over: Literal["heads", "layers"]
    weights: tuple[float, ...]
    patterns: tuple[Pattern, ...]

    def __str__(self) -> str:
        parts = (f"{weight:g}*{pattern}" for weight, pattern in zip(self.weights, self.patterns, strict=True))
        return f"{self.over} {' + '.join(parts)}"

    def parts(self, workload: Workload) -> tuple[tuple[float, Pattern], ...]:
        """Weight and pattern of each part, whatever the workload."""
        return tuple(zip(self.weights, self.patterns, strict=True))

    def layers(self) -> tuple[tuple[float, Pattern], ...]:
        """The parts, when they are layers; else the mixture itself."""
        if self.over == "heads":
            return ((1.0, self),)
        return tuple(zip((weight / math.fsum(self.weights) for weight in self.weights), self.patterns, strict=True))

    def selection(self, workload: Workload) -> SelectionCost | None:
        """Mean cost of choosing over the heads: each part chooses for its own share of them."""
        costs = [(part.selection(workload), weight / math.fsum(self.weights)) for weight, part in self.parts(workload)]
        chosen = [(cost, share) for cost, share in costs if cost is not None]
        if not chosen:
            return None
        return SelectionCost(
            flops=math.fsum(cost.flops * share for cost, share in chosen),
            bytes=math.fsum(cost.bytes * share for cost, share in chosen),
            kernels=sum(cost.kernels for cost, _ in chosen),
        )

    @property
    def family(self) -> str:
        """What kernels call this kind of pattern: the parts' own when they agree, else an element mask over tiles."""
        families = {part.family for part in self.patterns}
        return families.pop() if len(families) == 1 else "mask"

    @property
    def axes(self) -> int:
        """Coordinates that masking one score has to compare."""
        return max(part.axes for part in self.patterns)

    @property
    def tile_axes(self) -> int:
        """Axes of a tile, the same for all parts."""
        return self.patterns[0].tile_axes

    def check(self, workload: Workload) -> None:
        """Raise InputError unless every part fits the workload and all are tiled alike."""
        for part in self.patterns:
            part.check(workload)
            if part.tile_axes != self.tile_axes:
                raise InputError(
                    f"pattern '{self}' mixes tiles on the grid with runs of tokens: give 'na' an order, e.g. order=row"
                )

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Mean TileWork of a head (or layer): classes of all parts, counts by weight; totals are rounded means."""
        works = [part.tile_work(workload, q_tile, kv_tile, tiling) for part in self.patterns]
        return mean_work(works, self.weights)

    def maskless(self, grid: Grid, q_tile: Grid, kv_tile: Grid) -> bool:
        """Whether NATTEN leaves element masks out in every part."""
        return all(part.maskless(grid, q_tile, kv_tile) for part in self.patterns)


# Heads of Vicuna-7B by beta (thu-nics/MoA examples, moa_alpha_beta.json): 1,024 of them, mean 0.5.
VICUNA_7B = (
    (0.125, 290), (0.25, 122), (0.375, 17), (0.5, 64), (0.625, 183), (0.75, 171), (0.875, 102), (1.0, 75),
)  # fmt: skip


@dataclass(frozen=True)
class MoA(Described):
    """Mixture of Sparse Attention: each head a sink and a causal band of its own length, alpha + beta (N - alpha).

    Bands are whole blocks of 64, rounded up.
    """

    name: ClassVar[str] = "moa"
    group: ClassVar[Group] = "combine"
    about: ClassVar[str] = "MoA: per-head causal bands of alpha + beta (N - alpha) tokens, and a sink"
    source: ClassVar[str] = "MoA, arXiv 2406.14909, thu-nics/MoA examples/*/moa_alpha_beta.json"

    sink: int = parameter("first tokens, always attended", whole(0), 64)
    alpha: int = parameter("constant part of every band, tokens", whole(0), 0)
    betas: tuple[tuple[float, int], ...] = parameter("beta:heads pairs; Vicuna-7B's when left out", betas, VICUNA_7B)

    def parts(self, workload: Workload) -> tuple[tuple[float, Pattern], ...]:
        """Heads and pattern of each band length, for the length at hand."""
        keys = workload.kv_tokens
        out: list[tuple[float, Pattern]] = []
        for beta, heads in self.betas:
            band = self.alpha + beta * (keys - self.alpha)
            out.append((float(heads), StreamingLlm(self.sink, min(keys, max(1, math.ceil(band / 64)) * 64))))
        return tuple(out)

    def check(self, workload: Workload) -> None:
        """Every workload fits."""

    def tile_work(self, workload: Workload, q_tile: Grid, kv_tile: Grid, tiling: KvTiling = "static") -> TileWork:
        """Mean TileWork of a head (see Mixture)."""
        weights, patterns = zip(*self.parts(workload), strict=True)
        return Mixture("heads", weights, patterns).tile_work(workload, q_tile, kv_tile, tiling)
