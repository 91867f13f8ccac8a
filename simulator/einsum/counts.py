"""Operation counts of a cascade, per operator, as polynomials in rank sizes.

An operator runs once for each distinct point of the variables below it: in ``Q[e, p] * scale * K[e, m]`` the
scaling runs E*P times. A reduction runs once per point it reads, as it starts from its identity. A product
summed in the same Einsum is ``mul_add``. What depends on constants and rank variables alone is a table
known beforehand and costs nothing; nor do dead Einsums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import product
from operator import eq, ge, gt, le, lt

from .ir import Access, Apply, Cascade, Einsum, Expr, Filter, Name, Number, Scope
from .lexer import error
from .operators import OPERATORS, REDUCERS
from .poly import Monomial, Poly
from .sizes import fold, volume

_COMPARE = {"<=": le, "<": lt, ">=": ge, ">": gt, "==": eq}


@dataclass(frozen=True)
class EinsumCost:
    """What one Einsum costs.

    Attributes:
        number: its position among the cascade's Einsums.
        tensor: what it defines.
        ops: executions per operator name.
        matmul: whether it is a matrix product, two operands that share the reduced ranks and each have a
            rank of their own: work a tensor core can take.
    """

    number: int
    tensor: str
    ops: Mapping[str, Poly]
    matmul: bool


@dataclass(frozen=True)
class _Part:
    """What an expression depends on: its rank variables, and whether on data at all."""

    vars: frozenset[str]
    data: bool


def einsum_costs(cascade: Cascade) -> tuple[EinsumCost, ...]:
    """The cost of each live Einsum, in the order of the text.

    Raises:
        InputError: a filter whose points have no polynomial count.
    """
    return tuple(_cost(cascade, number) for number in sorted(cascade.scope.live))


def op_counts(cascade: Cascade) -> dict[str, Poly]:
    """Executions per operator name over all live Einsums.

    Raises:
        InputError: a filter whose points have no polynomial count.
    """
    terms: dict[str, list[tuple[Monomial, Fraction]]] = {}
    for cost in einsum_costs(cascade):
        for op, count in cost.ops.items():
            terms.setdefault(op, []).extend(count.terms)
    return {op: Poly.of(found) for op, found in terms.items()}


def _cost(cascade: Cascade, number: int) -> EinsumCost:
    scope, einsum = cascade.scope, cascade.scope.einsums[number]
    ops: dict[str, Poly] = {}

    def run(op: str, over: frozenset[str]) -> None:
        more = points(cascade.name, scope, over, scope.filters[number])
        ops[op] = ops[op] + more if op in ops else more

    def walk(expr: Expr, params: Mapping[str, _Part], top: bool = False) -> _Part:
        if isinstance(expr, Access):
            return _Part(frozenset(expr.vars), True)
        if isinstance(expr, Number):
            return _Part(frozenset(), False)
        if isinstance(expr, Name):
            if expr.name in params:
                return params[expr.name]
            fixed = expr.name in scope.consts or expr.name in scope.same
            return _Part(frozenset([] if fixed else [expr.name]), False)
        args = [walk(arg, params) for arg in expr.args]
        if expr.op not in OPERATORS:
            function = scope.functions[expr.op]
            return walk(function.body, dict(zip(function.params, args, strict=True)))
        part = _Part(frozenset[str]().union(*(a.vars for a in args)), any(a.data for a in args))
        if part.data and not (top and expr.op == "mul"):
            run(expr.op, part.vars)
        return part

    summed = einsum.reduce == "sum" and isinstance(einsum.expr, Apply) and einsum.expr.op == "mul"
    body = walk(einsum.expr, {}, top=summed)
    if einsum.reduce is not None:
        everything = frozenset((*einsum.target.vars, *einsum.over))
        run("mul_add" if summed and body.data else REDUCERS[einsum.reduce].op, everything)
    return EinsumCost(number, einsum.target.tensor, ops, summed and _is_matmul(einsum))


def _is_matmul(einsum: Einsum) -> bool:
    assert isinstance(einsum.expr, Apply)
    left, right = (_read_vars(arg) for arg in einsum.expr.args)
    kept = set(einsum.target.vars)
    return set(einsum.over) <= left & right and bool((left - right) & kept) and bool((right - left) & kept)


def _read_vars(expr: Expr) -> set[str]:
    if isinstance(expr, Access):
        return set(expr.vars)
    return set[str]().union(*(_read_vars(arg) for arg in expr.args)) if isinstance(expr, Apply) else set()


def points(source: str, scope: Scope, over: frozenset[str], filters: tuple[Filter, ...]) -> Poly:
    """How many points the variables take, filtered.

    Ranks joined by filters have one size N, so their points number a polynomial in N (an order polynomial),
    found from its values at N = 0, 1, ....

    Raises:
        InputError: filters that use a variable both alone and in a partition.
    """
    used = [f for f in filters if set(f.vars) <= over]
    if not used:
        return _box(scope, over)
    sides = list(dict.fromkeys(side.terms for f in used for side in (f.left, f.right)))
    owners = [term.var for side in sides for term in side]
    if len(owners) != len(set(owners)):
        raise error(source, used[0].at, "the filters use a variable in two ways, so their points cannot be counted")
    total = _box(scope, over - set(owners))
    left = set(range(len(sides)))
    while left:
        group = {min(left)}
        links = [(sides.index(f.left.terms), f.op, sides.index(f.right.terms)) for f in used]
        while grown := {n for a, _, b in links for n in (a, b) if {a, b} & group} - group:
            group |= grown
        left -= group
        place = {n: k for k, n in enumerate(sorted(group))}
        inside = tuple((place[a], op, place[b]) for a, op, b in links if a in group)
        size = Poly.product(scope.rank(term.var) for term in sides[min(group)])
        result = Poly()
        for coefficient in reversed(_order_polynomial(len(group), inside)):
            result = result * size + Poly.number(coefficient)
        total = total * result
    return fold(scope, total)


def _box(scope: Scope, over: frozenset[str]) -> Poly:
    """The points of unfiltered variables."""
    return volume(scope, (scope.rank(var) for var in over))


@lru_cache(maxsize=256)
def _order_polynomial(n: int, links: tuple[tuple[int, str, int], ...]) -> tuple[Fraction, ...]:
    """Coefficients, lowest first, of the number of points of [0, N)^n that satisfy every comparison."""
    values = []
    for size in range(n + 1):
        grid = product(range(size), repeat=n)
        values.append(sum(all(_COMPARE[op](x[a], x[b]) for a, op, b in links) for x in grid))
    coefficients = [Fraction(0)] * (n + 1)
    for k, value in enumerate(values):
        basis, scale = [Fraction(1)], Fraction(1)
        for other in range(n + 1):
            if other != k:
                basis = [
                    (basis[d - 1] if d else Fraction(0)) - other * (basis[d] if d < len(basis) else Fraction(0))
                    for d in range(len(basis) + 1)
                ]
                scale *= k - other
        for d, b in enumerate(basis):
            coefficients[d] += value * b / scale
    return tuple(coefficients)
