"""Operations of one KV tile, by pipe, read off a cascade: the simulator's only source of operation counts.

A cascade's counts are polynomials in rank sizes (``einsum.einsum_costs``). The terms that grow with the keys (rank M, or
its outer part M1) are work of a KV tile; the others are done once for a Q tile. Kernels run three things in a way that the
cascade leaves open, and the same three rules hold for every cascade:

* a matrix product runs on the tensor cores, and so does the addition of its result to a running sum (the accumulator);
* a result that becomes an operand of a matrix product is converted to 16 bits first;
* rescaling a running result of more than one row (RNV * PRM) is kept apart, since kernels may skip it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from ..errors import InputError
from .cascades import load
from .einsum import Cascade, EinsumCost, Poly, einsum_costs
from .einsum.ir import Access, Apply, Einsum, accesses, index_vars
from .instructions import CONVERT_ALU, PIPE_INSTRUCTIONS
from .tiles import Floats

# Ranks that a kernel's tile binds: head dims, keys and queries, and the names their partitions go by.
TILE_RANKS = ("E", "F", "M", "M0", "M1", "P", "P0", "P1")
KEY_RANKS = frozenset({"M", "M0", "M1"})
QUERY_RANKS = frozenset({"P", "P0", "P1"})

# coefficient and exponents of (rows, keys, dim, dim_v)
Term = tuple[float, tuple[int, int, int, int]]


@dataclass(frozen=True)
class TileCount:
    """A polynomial in the rows and keys of a tile and the head dims."""

    terms: tuple[Term, ...] = ()

    def at(self, rows: Floats, keys: Floats, dim: Floats, dim_v: Floats) -> Floats:
        """Its value; arguments broadcast."""
        total: Floats = np.zeros_like(rows)
        for coefficient, exponents in self.terms:
            value: Floats | float = coefficient
            for size, exponent in zip((rows, keys, dim, dim_v), exponents, strict=True):
                for _ in range(exponent):
                    value = value * size
            total = total + value
        return total


@dataclass(frozen=True)
class TileOperations:
    """Operations of one KV tile of a Q tile.

    Attributes:
        tensor_flops: FLOPs of the matrix products.
        exp, fp32, alu: instructions by pipe (see ``instructions``).
        rescale_fp32: fp32 instructions that rescale the accumulator, not in ``fp32``.
    """

    tensor_flops: TileCount
    exp: TileCount
    fp32: TileCount
    alu: TileCount
    rescale_fp32: TileCount


@lru_cache(maxsize=256)
def library_operations(name: str) -> TileOperations:
    """Operations of a cascade of the library."""
    return tile_operations(load(name))


def tile_operations(cascade: Cascade) -> TileOperations:
    """Operations of one KV tile, by pipe.

    Raises:
        InputError: the cascade has no scores (no count grows with both queries and keys), or a rank that a tile does not
            bind.
    """
    totals: dict[str, Poly] = defaultdict(Poly)
    for pipe, count in by_pipe(cascade):
        totals[pipe] = totals[pipe] + count
    return TileOperations(*(_tile_count(cascade, totals[pipe]) for pipe in ("tensor", "exp", "fp32", "alu", "rescale")))


def has_scores(cascade: Cascade) -> bool:
    """Whether some count grows with both the queries and the keys: whether there is a score matrix to tile."""
    return any(
        any(rank in KEY_RANKS for rank, _ in monomial) and any(rank in QUERY_RANKS for rank, _ in monomial)
        for _, count in by_pipe(cascade)
        for monomial, _ in count.terms
    )


def by_pipe(cascade: Cascade) -> Iterator[tuple[str, Poly]]:
    """(pipe, instructions) of every live Einsum: "tensor" (FLOPs), "exp", "fp32", "alu", "rescale" (fp32)."""
    costs = einsum_costs(cascade)
    products = {cost.tensor for cost in costs if cost.matmul}
    for cost in costs:
        einsum = cascade.scope.einsums[cost.number]
        for op, count in cost.ops.items():
            if op == "mul_add" and cost.matmul:
                yield "tensor", _scaled(count, 2)
                continue
            if op == "add" and _accumulates(einsum, products):
                continue
            pipe_of = PIPE_INSTRUCTIONS[op]
            for pipe, instructions in pipe_of.items():
                rescales = op == "mul" and _rescales(cascade, einsum)
                yield ("rescale" if rescales else pipe), _scaled(count, instructions)
        if cost.matmul:
            yield from _conversions(cascade, einsum, costs)


def _accumulates(einsum: Einsum, products: set[str]) -> bool:
    """Whether an Einsum adds the result of a matrix product to something: an accumulator starts from that."""
    return (
        isinstance(einsum.expr, Apply)
        and einsum.expr.op == "add"
        and any(isinstance(arg, Access) and arg.tensor in products for arg in einsum.expr.args)
    )


def _rescales(cascade: Cascade, einsum: Einsum) -> bool:
    """Whether an Einsum updates a state that has a rank besides the queries: an accumulator, not a row statistic."""
    if einsum.target.tensor not in cascade.scope.states:
        return False
    own = set(index_vars(*einsum.target.indices)) - set(cascade.scope.stops)
    return any(cascade.scope.same[cascade.scope.rank(var)] not in QUERY_RANKS for var in own)


def _conversions(cascade: Cascade, einsum: Einsum, costs: tuple[EinsumCost, ...]) -> Iterator[tuple[str, Poly]]:
    made_here = {cost.tensor for cost in costs}
    for access in accesses(einsum.expr):
        if access.tensor in made_here:
            size = Poly.number(1)
            for var in index_vars(*access.indices):
                size = size * Poly.rank(cascade.scope.same[cascade.scope.rank(var)])
            yield "alu", _scaled(size, CONVERT_ALU)


def _scaled(poly: Poly, factor: float) -> Poly:
    return poly * Poly.number(Fraction(factor).limit_denominator(1000))


def _tile_count(cascade: Cascade, poly: Poly) -> TileCount:
    """The terms that grow with the keys, with one KV tile for all of them: M and M0 are its keys, M1 is 1."""
    axis: Mapping[str, int | None] = {"P": 0, "P0": 0, "P1": None, "M": 1, "M0": 1, "M1": None, "E": 2, "F": 3}
    terms: dict[tuple[int, int, int, int], float] = defaultdict(float)
    for monomial, coefficient in poly.terms:
        ranks = [rank for rank, _ in monomial]
        if not any(rank in KEY_RANKS for rank in ranks):
            continue
        exponents = [0, 0, 0, 0]
        for rank, exponent in monomial:
            if rank not in axis:
                raise InputError(
                    f"cascade {cascade.name!r} counts work over rank {rank!r}: a GPU tile binds {', '.join(TILE_RANKS)}"
                )
            if (position := axis[rank]) is not None:
                exponents[position] += exponent
        terms[tuple(exponents)] += float(coefficient)  # type: ignore[index]
    return TileCount(tuple((coefficient, exponents) for exponents, coefficient in terms.items()))
