"""What must stay on chip when a cascade is fused at its pass bound, and the least traffic a buffer allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from .ir import Cascade, Scope
from .passes import Passes, leaves, passes
from .poly import Poly
from .sizes import bind, volume


def reduced_ranks(cascade: Cascade) -> tuple[str, ...]:
    """The whole ranks some live Einsum reduces or iterates, in the order they are declared."""
    scope = cascade.scope
    inside = {scope.same[part] for parts in scope.parts.values() for part in parts}
    used = {v for n in scope.live for v in scope.einsums[n].over}
    used |= {v for v, members in scope.groups if v and scope.live & set(members)}
    over = {leaf for v in used for leaf in leaves(scope, scope.rank(v))}
    return tuple(
        rank
        for rank in scope.ranks
        if rank not in inside and scope.same[rank] not in inside and over & set(leaves(scope, rank))
    )


def live_footprint(cascade: Cascade, rank: str) -> dict[str, Poly]:
    """Elements of each tensor's fiber of ``rank`` that are live at once, when fused at the pass bound.

    1 where an element is used as it is made; a chunk, such as M0, where a reduction over the chunk comes in
    between; the whole fiber where a later pass reads it again (or it is made or loaded again). Inputs are
    loaded again for each pass, so they count 1. Tensors of dead Einsums are left out.
    """
    scope = cascade.scope
    names = {scope.einsums[n].target.tensor for n in scope.live}
    parts = leaves(scope, rank)
    whole = _crossers(scope, passes(cascade, rank))
    finer = {part: _crossers(scope, passes(cascade, part)) for part in parts} if len(parts) > 1 else {}
    found = {}
    for tensor in scope.producers:
        if tensor not in names:
            continue
        shape = scope.shapes[tensor]
        carried = [part for part in parts if part in shape or rank in shape]
        live = carried if tensor in whole else [part for part in carried if tensor in finer.get(part, ())]
        found[tensor] = volume(scope, live)
    return found


def _crossers(scope: Scope, result: Passes) -> set[str]:
    """The tensors of which a later pass reads elements that an earlier pass made."""
    mine = set(leaves(scope, result.rank))
    names = {name for name in scope.ranks if mine.intersection(leaves(scope, name))}
    return {
        read.tensor
        for n, when in result.runs.items()
        for read in scope.reads[n]
        if when > max(1, result.streams.get(read.tensor, 0)) and any(scope.rank(var) in names for var in read.vars)
    }


@dataclass(frozen=True)
class Traffic:
    """Elements that must cross between a buffer and memory, at least.

    Attributes:
        inputs: elements of the inputs that are used, each read once.
        outputs: elements of the outputs, each written once.
        extra: elements moved again because a pass boundary does not fit the buffer.
        reasons: one sentence per boundary that does not fit.
    """

    inputs: int
    outputs: int
    extra: int
    reasons: tuple[str, ...]

    @property
    def total(self) -> int:
        """All of it, in elements."""
        return self.inputs + self.outputs + self.extra


def traffic_bound(cascade: Cascade, sizes: Mapping[str, int], buffer: int) -> Traffic:
    """The least traffic of the whole cascade for a buffer, whatever the mapping.

    At each pass boundary a fiber must stay in the buffer, or go out and come back, or be made again from
    inputs read again; the part that exceeds the buffer pays the cheapest of the last two. Not counted:
    re-reads of inputs that tiling the other ranks costs, which belong to the mapping. Where several ranks
    have boundaries, one reload may serve for all, so the dearest rank alone counts.

    Args:
        cascade: the cascade.
        sizes: elements per rank.
        buffer: elements the buffer holds.

    Raises:
        InputError: sizes missing or in conflict.
    """
    scope, bound = cascade.scope, bind(cascade, sizes)

    def elements(tensor: str) -> int:
        return prod(bound[rank] for rank in scope.shapes[tensor])

    def again(tensor: str, rank: str) -> int:
        """The least traffic to have ``tensor`` again: from memory, or made from what it is made of."""
        fiber = bound[rank]
        sources = [name for name in _sources(cascade, tensor) if _carries(cascade, name, rank)]
        # What is made goes out and comes back in; an input only comes in.
        moves = [(1 if name in scope.inputs else 2) * (elements(name) // fiber) for name in sources]
        return min(moves, default=0) * int(fiber - buffer)

    used = {read.tensor for n in scope.live for read in scope.reads[n]}
    extra, reasons = 0, []
    for rank in reduced_ranks(cascade):
        result, mine = passes(cascade, rank), 0
        for boundary in range(2, result.count + 1):
            if bound[rank] <= buffer:
                continue
            # One tensor may serve for the others, so only the dearest is sure to be paid for.
            mine += max((again(t, rank) for t in _crossing(cascade, result, boundary)), default=0)
            cause = next(b for b in result.barriers if b.begins == boundary)
            reasons.append(
                f"{cause.reader} reads {rank} again after {cause.reduction} is complete, and a fiber of "
                f"{bound[rank]} elements exceeds the buffer of {buffer}"
            )
        extra = max(extra, mine)
    return Traffic(
        sum(elements(t) for t in scope.inputs if t in used),
        sum(elements(t) for t in scope.outputs),
        extra,
        tuple(reasons),
    )


def _carries(cascade: Cascade, tensor: str, rank: str) -> bool:
    scope = cascade.scope
    return set(leaves(scope, rank)) <= {leaf for r in scope.shapes[tensor] for leaf in leaves(scope, r)}


def _sources(cascade: Cascade, tensor: str) -> set[str]:
    """A tensor and everything it is made from."""
    found, todo = set[str](), [tensor]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            for number in cascade.scope.producers.get(name, ()):
                todo += [read.tensor for read in cascade.scope.reads[number]]
    return found


def _crossing(cascade: Cascade, result: Passes, boundary: int) -> list[str]:
    """Tensors with the rank that are made, or first read, before the boundary and read after it."""
    scope, reads = cascade.scope, dict[str, list[int]]()
    for number, when in result.runs.items():
        for read in scope.reads[number]:
            reads.setdefault(read.tensor, []).append(when)
    return [
        tensor
        for tensor, when in reads.items()
        if _carries(cascade, tensor, result.rank)
        and max(when) >= boundary
        and (min(when) if tensor in scope.inputs else max(1, result.streams[tensor])) < boundary
    ]
