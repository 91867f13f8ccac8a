"""Exact polynomials in rank sizes: what an operation count is before sizes are bound."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

# A product of ranks: (rank, exponent) pairs sorted by rank.
Monomial = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Poly:
    """A polynomial with rational coefficients; terms are sorted and never zero, so equality is identity."""

    terms: tuple[tuple[Monomial, Fraction], ...] = ()

    @staticmethod
    def of(terms: Iterable[tuple[Monomial, Fraction]]) -> Poly:
        """Collect like terms."""
        total: dict[Monomial, Fraction] = {}
        for monomial, coefficient in terms:
            total[monomial] = total[monomial] + coefficient if monomial in total else coefficient
        kept = [(m, c) for m, c in total.items() if c]
        # Highest degree first, then by name: the order people write them in.
        return Poly(tuple(sorted(kept, key=lambda t: (-sum(e for _, e in t[0]), t[0]))))

    @staticmethod
    def number(value: int | Fraction) -> Poly:
        """A constant."""
        return Poly.of([((), Fraction(value))])

    @staticmethod
    def rank(name: str) -> Poly:
        """The size of one rank."""
        return Poly.product([name])

    @staticmethod
    def product(ranks: Iterable[str]) -> Poly:
        """The sizes of some ranks, multiplied; 1 if there are none."""
        return Poly(((_times((), tuple((rank, 1) for rank in ranks)), Fraction(1)),))

    def __add__(self, other: Poly) -> Poly:
        return Poly.of((*self.terms, *other.terms))

    def __mul__(self, other: Poly) -> Poly:
        return Poly.of((_times(m, n), a * b) for m, a in self.terms for n, b in other.terms)

    def __bool__(self) -> bool:
        return bool(self.terms)

    def renamed(self, names: Mapping[str, str]) -> Poly:
        """Every rank under the name ``names`` gives it; two may become one."""
        return Poly.of((_times((), tuple((names.get(rank, rank), e) for rank, e in m)), c) for m, c in self.terms)

    def folded(self, whole: str, parts: tuple[str, ...]) -> Poly:
        """Write each product of all ``parts`` as the rank ``whole`` they partition: M1*M0*P becomes M*P."""
        return Poly.of((_fold(m, whole, parts), c) for m, c in self.terms)

    def at(self, sizes: Mapping[str, Any]) -> Any:
        """The value at one binding (an exact int) or at arrays of bindings (float64), as ``sizes`` holds.

        Counts are whole numbers, so the rational coefficients always cancel.
        """
        if all(isinstance(size, int) for size in sizes.values()):
            return int(sum((c * _product(m, sizes) for m, c in self.terms), Fraction(0)))
        return np.asarray(sum((float(c) * _product(m, sizes) for m, c in self.terms), 0.0))

    def __str__(self) -> str:
        return " + ".join(_term(m, c) for m, c in self.terms).replace("+ -", "- ") or "0"


def _times(a: Monomial, b: Monomial) -> Monomial:
    powers = dict(a)
    for rank, exponent in b:
        powers[rank] = powers.get(rank, 0) + exponent
    return tuple(sorted((rank, e) for rank, e in powers.items() if e))


def _fold(monomial: Monomial, whole: str, parts: tuple[str, ...]) -> Monomial:
    powers = dict(monomial)
    shared = min(powers.get(part, 0) for part in parts)
    if not shared:
        return monomial
    return _times(monomial, ((whole, shared), *((part, -shared) for part in parts)))


def _product(monomial: Monomial, sizes: Mapping[str, Any]) -> Any:
    value: Any = 1
    for rank, exponent in monomial:
        value = value * sizes[rank] ** exponent
    return value


def _term(monomial: Monomial, coefficient: Fraction) -> str:
    factors = [rank if e == 1 else f"{rank}^{e}" for rank, e in monomial]
    top, bottom = coefficient.numerator, coefficient.denominator
    if top == -1 and factors:
        factors[0] = "-" + factors[0]
    elif top != 1 or not factors:
        factors.insert(0, str(top))
    return "*".join(factors) + (f"/{bottom}" if bottom != 1 else "")
