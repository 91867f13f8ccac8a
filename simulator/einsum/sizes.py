"""Binding: from the sizes a user gives to the size of every rank."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import numpy as np

from ...errors import InputError, unknown
from .ir import Cascade, Scope
from .poly import Poly

# One size, or an array with a size per binding. Arrays are float64: counts pass 2^63.
Size = Any


def bind(cascade: Cascade, sizes: Mapping[str, Size], *, exact: bool = False) -> dict[str, Size]:
    """The size of every rank, from the given ones, shared sizes, partitions and defaults.

    A partition with one part missing gets it by division, rounded up: a last, ragged chunk is a chunk.

    Args:
        cascade: the cascade.
        sizes: elements per rank; whole numbers, or arrays of them (one per binding) for many at once.
        exact: refuse a partition that does not divide, as evaluation must.

    Raises:
        InputError: a rank the cascade lacks, a size below 1, a size missing, or sizes that disagree.
    """
    scope = cascade.scope
    known: dict[str, Size] = {}
    for rank, size in sizes.items():
        if rank not in scope.same:
            raise unknown(f"rank of cascade '{cascade.name}'", rank, scope.ranks)
        value = np.asarray(size)
        if value.dtype.kind not in "iuf" or np.any(value < 1) or np.any(value != np.floor(value)):
            raise InputError(f"rank {rank!r} has size {size!r}: expected a whole number of at least 1")
        _set(known, scope.same[rank], int(value) if value.ndim == 0 else value.astype(np.float64), rank)
    pending = dict(scope.defaults)
    while True:
        while _partition(scope, known, exact):
            pass
        defaults = [rank for rank in pending if scope.same[rank] not in known]
        if not defaults:
            break
        rank = defaults[0]
        _set(known, scope.same[rank], _default(scope, known, rank, pending.pop(rank)), rank)
    missing = sorted({rank for rank in scope.same.values() if rank not in known})
    if missing:
        raise InputError(f"cascade '{cascade.name}' needs the size of rank {', '.join(missing)}, which is not given")
    return {rank: known[scope.same[rank]] for rank in scope.ranks}


def fold(scope: Scope, poly: Poly) -> Poly:
    """A polynomial in its normal form: shared sizes under one name, a partition's parts as the whole rank."""
    renamed = poly.renamed(scope.same)
    # Parts of parts first: they may complete a product of their own.
    for whole in _inside_out(scope):
        renamed = renamed.folded(scope.same[whole], tuple(scope.same[part] for part in scope.parts[whole]))
    return renamed


def volume(scope: Scope, ranks: Iterable[str]) -> Poly:
    """How many points some ranks span together, in normal form; found once for the same ranks."""
    key = "volume", tuple(sorted(ranks))
    if key not in scope.memo:
        scope.memo[key] = fold(scope, Poly.product(key[1]))
    found: Poly = scope.memo[key]
    return found


def _inside_out(scope: Scope) -> list[str]:
    """Partitioned ranks, each after those among its parts."""
    found: list[str] = []

    def visit(rank: str) -> None:
        if rank in scope.parts and rank not in found:
            for part in scope.parts[rank]:
                visit(scope.same[part])
            found.append(rank)

    for rank in scope.parts:
        visit(rank)
    return found


def _set(known: dict[str, Size], rank: str, size: Size, named: str) -> None:
    if rank in known and np.any(known[rank] != size):
        raise InputError(f"rank-size conflict: {named!r} is {size}, but {rank!r} of the same size is {known[rank]}")
    known[rank] = size


def _default(scope: Scope, known: Mapping[str, Size], rank: str, size: int) -> Size:
    """A part's default, no larger than what it is a part of."""
    wholes = [known[whole] for whole, parts in scope.parts.items() if rank in parts and whole in known]
    if not wholes:
        return size
    return min(size, wholes[0]) if isinstance(wholes[0], int) else np.minimum(size, wholes[0])


def _partition(scope: Scope, known: dict[str, Size], exact: bool) -> bool:
    """Work out one more size from the partitions; whether there was one."""
    for whole, parts in scope.parts.items():
        names = [scope.same[part] for part in parts]
        missing = [name for name in names if name not in known]
        inner = prod(known[name] for name in names if name in known)
        top = scope.same[whole]
        if not missing:
            if top not in known:
                known[top] = inner
                return True
            if exact and np.any(known[top] != inner):
                raise InputError(
                    f"rank-size conflict: {whole} = {'*'.join(parts)} is {known[top]}, but "
                    f"{', '.join(f'{n} = {known[n]}' for n in names)}"
                )
        elif len(missing) == 1 and top in known:
            known[missing[0]] = -(-known[top] // inner)
            return True
    return False
