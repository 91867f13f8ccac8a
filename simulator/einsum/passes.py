"""How many passes a cascade makes over a rank, and which read forces each, derived from who reads what.

A pass is one traversal of every element of a rank. Each tensor is given the time from which a reader can
have it, counted in half passes: 2l-1 while pass l streams by, 2l once pass l has ended, 0 from the start. An
Einsum that traverses the rank runs in pass t//2 + 1, t the latest of its operands; what it keeps of the rank
streams by in that pass, and what it reduces is whole when the pass has ended. So a completed reduction
forces a pass only on an Einsum that traverses the rank again, however many Einsums without the rank lie
in between; a prefix (an iterative or ``k <= i`` filtered rank) does not.

A rank is traversed by the variables of all its parts together: an Einsum over M1 alone works on a number
per chunk, and does not read M again. Parts are traversed outermost first, so a reduction over M0 ends with
its chunk: it is a barrier on M0, found by asking for the passes over M0. Every bound holds for that order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ...errors import unknown
from .graph import is_previous
from .ir import Access, Cascade, Einsum, Filter, Index, Scope, index_vars


@dataclass(frozen=True)
class Barrier:
    """A read after a complete reduction: why a pass must begin.

    Attributes:
        begins: the pass it begins, from 2.
        reader: the tensor whose Einsum traverses the rank again.
        operand: what that Einsum reads that needs the whole of the pass before.
        reduction: the tensor whose reduction is complete only then (``operand``, or what it is made from).
    """

    begins: int
    reader: str
    operand: str
    reduction: str


@dataclass(frozen=True)
class Passes:
    """The passes over one rank.

    Attributes:
        rank: the rank.
        count: passes; 1 where nothing is re-read.
        runs: for each live Einsum, by position, the pass it runs in, or at whose end.
        traverses: the live Einsums that traverse the rank; the others work on what a pass left.
        streams: for each tensor, the pass in which it is first complete or streams by (0: given).
        barriers: what forces each pass after the first.
    """

    rank: str
    count: int
    runs: Mapping[int, int]
    traverses: frozenset[int]
    streams: Mapping[str, int]
    barriers: tuple[Barrier, ...]

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """For each pass, the Einsums that one loop over the rank may fuse."""
        return tuple(tuple(n for n, p in self.runs.items() if p == k) for k in range(1, self.count + 1))


class _Time(NamedTuple):
    """When a tensor can be had: element by element, or whole; and the Einsum that completes it."""

    stream: int = 0
    whole: int = 0
    source: int | None = None


_GIVEN = _Time()
OUTERMOST = 1  # the bit of a rank's outermost part


def leaves(scope: Scope, rank: str) -> tuple[str, ...]:
    """The unpartitioned parts of a rank, outermost first."""
    return tuple(leaf for part in scope.parts[rank] for leaf in leaves(scope, part)) if rank in scope.parts else (rank,)


def passes(cascade: Cascade, rank: str) -> Passes:
    """Derive the passes over ``rank``, which may be a partitioned rank or a part.

    Raises:
        InputError: if the cascade has no such rank.
    """
    if rank not in cascade.scope.same:
        raise unknown(f"rank of cascade '{cascade.name}'", rank, cascade.scope.ranks)
    memo = cascade.scope.memo
    if ("passes", rank) not in memo:
        memo["passes", rank] = _Analysis(cascade.scope, rank).run()
    found: Passes = memo["passes", rank]
    return found


class _Analysis:
    def __init__(self, scope: Scope, rank: str) -> None:
        self.scope = scope
        self.rank = rank
        self.leaves = leaves(scope, rank)
        self.times: dict[str, _Time] = dict.fromkeys(scope.inputs, _GIVEN)
        self.latest: dict[int, int] = {}
        self.starts: dict[str, _Time] = {}
        # Positions of a tensor that follow this rank, beyond the one each is declared with.
        self.follows: set[tuple[str, int]] = set()
        self.barriers: dict[int, Barrier] = {}
        self.traverses: set[int] = set()
        # The parts of this rank that a traversal of each rank covers, a bit each, the outermost the lowest.
        bits = {leaf: 1 << place for place, leaf in enumerate(self.leaves)}
        self.parts = {name: sum(bits.get(leaf, 0) for leaf in leaves(scope, name)) for name in scope.ranks}
        self.whole = self.parts[rank]
        self.own = [self.covers(roles) for roles in _roles(scope)]
        self.read_as = _read_as(scope)

    def run(self) -> Passes:
        scope = self.scope
        for var, members in scope.groups:
            for number in members:
                self.visit(number, var)
            # In a loop a state is read before its Einsum is met: once more, until nothing moves.
            before = None
            while var and before != (before := [self.time_of(n) for n in members]):
                for number in members:
                    self.visit(number, var)
        live = {n: max(1, (self.latest[n] + 1) // 2) for n in sorted(scope.live)}
        traverses = frozenset(self.traverses & scope.live)
        for n in traverses:
            live[n] = self.latest[n] // 2 + 1
        count = max((live[n] for n in traverses), default=1)
        barriers = tuple(self.barriers[n] for n in sorted(self.barriers) if n in scope.live)
        streams = {tensor: (time.stream + 1) // 2 for tensor, time in self.times.items()}
        return Passes(self.rank, count, live, traverses, streams, tuple(sorted(barriers, key=lambda b: b.begins)))

    def time_of(self, number: int) -> _Time | None:
        return self.times.get(self.scope.einsums[number].target.tensor)

    def covers(self, roles: Iterable[tuple[str, str]]) -> dict[str, int]:
        """The variables among some with ranks that traverse this rank, and the parts each covers."""
        found = dict[str, int]()
        for var, rank in roles:
            if covers := self.parts[rank]:
                found[var] = found.get(var, 0) | covers
        return found

    def acting(self, number: int) -> dict[str, int]:
        """The variables that traverse the rank in this Einsum, and the parts each covers."""
        if self.own[number]:
            return self.own[number]
        # A tensor may be traversed by a variable of another rank of the same size.
        found = dict[str, int]()
        for var, rank, position in self.read_as[number]:
            if covers := self.whole if position in self.follows else self.parts[rank]:
                found[var] = found.get(var, 0) | covers
        return found

    def visit(self, number: int, loop: str | None) -> None:
        einsum = self.scope.einsums[number]
        acting = self.acting(number)
        latest, whole, source, operand = 0, 0, None, ""
        covered = 0
        for read in self.scope.reads[number]:
            time = self.read_time(read, loop)
            carried = _covered(read.vars, acting) if acting else 0
            covered |= carried
            when = time.stream if carried else time.whole
            if when > latest:
                latest, source, operand = when, time.source, read.tensor
            whole = max(whole, time.whole)
        self.latest[number] = latest
        if not acting:  # it works on what a pass left
            self.store(number, _Time(latest, whole, source))
            return
        kept = _covered(einsum.target.vars, acting)
        reduced = _covered(einsum.over, acting) & covered
        if covered == self.whole:
            self.traverses.add(number)
            begins = latest // 2 + 1
            if latest and latest % 2 == 0 and source is not None:
                producer = self.scope.einsums[source].target.tensor
                self.barriers[number] = Barrier(begins, einsum.target.tensor, operand, producer)
            latest = 2 * begins - 1
        if reduced and (not kept & OUTERMOST or reduced & OUTERMOST):
            prefix = self.prefix(einsum, acting)
            ended = latest + latest % 2
            source = number if ended != latest or source is None else source
            result = _Time(latest if prefix else ended, ended, source)
            for place, index in enumerate(einsum.target.indices):
                if prefix & set(index_vars(index)):
                    self.follows.add((einsum.target.tensor, place))
        else:
            result = _Time(latest, max(whole, latest if not covered else 0), source)
            self.follow(einsum, acting)
        self.store(number, result)

    def read_time(self, read: Access, loop: str | None) -> _Time:
        if loop is not None and not self.parts[self.scope.rank(loop)] and is_previous(self.scope, read):
            # The step before ended before this step's traversal began.
            return self.starts.get(read.tensor, _GIVEN)
        return self.times.get(read.tensor, _GIVEN)

    def store(self, number: int, result: _Time) -> None:
        """Record a tensor's time; a state has two Einsums, and is whole after the last step."""
        target = self.scope.einsums[number].target
        place = self.scope.states.get(target.tensor)
        if place is not None:
            if not target.indices[place].terms:
                self.starts[target.tensor] = result
            elif self.parts[self.scope.rank(target.indices[place].terms[0].var)]:
                ended = result.stream + result.stream % 2
                source = number if ended != result.stream else result.source
                result = _Time(result.stream, max(ended, result.whole), source)
            old = self.times.get(target.tensor, _GIVEN)
            result = max(old, result, key=lambda time: (time.whole, time.stream))
        self.times[target.tensor] = result

    def follow(self, einsum: Einsum, acting: Mapping[str, int]) -> None:
        """Remember the positions that carry this rank under another rank's name."""
        for place, index in enumerate(einsum.target.indices):
            if len(index.terms) == 1 and index.terms[0].var in acting:
                self.follows.add((einsum.target.tensor, place))

    def prefix(self, einsum: Einsum, acting: Mapping[str, int]) -> set[str]:
        """The kept variables up to which the reduction runs, if a filter (``k <= i``) makes it a prefix."""
        reduced = {var for var in einsum.over if var in acting}

        def ends(keep: Filter) -> set[str]:
            small, large = (keep.left, keep.right) if keep.op in ("<", "<=") else (keep.right, keep.left)
            if keep.op == "==" or set(index_vars(small)) != reduced or set(index_vars(large)) & reduced:
                return set()
            return set(index_vars(large)) & set(einsum.target.vars)

        return set[str]().union(*(ends(keep) for keep in einsum.where))


def _covered(names: Iterable[str], acting: Mapping[str, int]) -> int:
    """The parts of the rank that some variables run over together."""
    found = 0
    for name in names:
        found |= acting.get(name, 0)
    return found


def _roles(scope: Scope) -> list[set[tuple[str, str]]]:
    """The ranks each variable of each Einsum stands for: its own, and in ``c*J+j`` the part it takes."""
    if "roles" not in scope.memo:
        scope.memo["roles"] = [
            {role for access in (*reads, einsum.target) for index in access.indices for role in _stands(scope, index)}
            for einsum, reads in zip(scope.einsums, scope.reads, strict=True)
        ]
    found: list[set[tuple[str, str]]] = scope.memo["roles"]
    return found


def _read_as(scope: Scope) -> list[list[tuple[str, str, tuple[str, int]]]]:
    """For each Einsum, the variables that read a position of a tensor alone: the rank declared there, and the position."""
    if "read_as" not in scope.memo:
        scope.memo["read_as"] = [
            [
                (index.terms[0].var, rank, (read.tensor, place))
                for read in reads
                for place, (index, rank) in enumerate(zip(read.indices, scope.shapes[read.tensor], strict=True))
                if len(index.terms) == 1
            ]
            for reads in scope.reads
        ]
    found: list[list[tuple[str, str, tuple[str, int]]]] = scope.memo["read_as"]
    return found


def _stands(scope: Scope, index: Index) -> list[tuple[str, str]]:
    found = [(term.var, scope.rank(term.var)) for term in index.terms]
    if len(index.terms) > 1:
        found += [(term.var, part) for term, part in zip(index.terms, _partition(scope, index), strict=True)]
    return found


def _partition(scope: Scope, index: Index) -> tuple[str, ...]:
    """The parts the terms of ``c*J+j`` take, in the partition it follows (the checks found there is one)."""
    sizes = [scope.same[scope.rank(term.var)] for term in index.terms]
    return next(parts for parts in scope.parts.values() if [scope.same[part] for part in parts] == sizes)
