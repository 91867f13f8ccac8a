"""Who depends on whom: evaluation order, loops, dead Einsums, and the filters an Einsum inherits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .ir import Access, Cascade, Einsum, Filter, Index, Scope, Term
from .lexer import error

if TYPE_CHECKING:
    import networkx  # type: ignore[import-untyped]

Groups = tuple[tuple[str | None, tuple[int, ...]], ...]


def dependency_graph(cascade: Cascade) -> networkx.MultiDiGraph:
    """The cascade as a graph: a node per tensor (``kind`` input, state or value; ``live``), an edge per read.

    An edge that carries the previous step of an iterative rank has ``carried=True``; every edge names the
    reading Einsum's position in the text, ``einsum``.
    """
    import networkx

    scope = cascade.scope
    graph = networkx.MultiDiGraph(name=cascade.name)
    for tensor in scope.shapes:
        kind = "input" if tensor in scope.inputs else "state" if tensor in scope.states else "value"
        made = scope.producers.get(tensor, ())
        graph.add_node(tensor, kind=kind, live=not made or any(n in scope.live for n in made))
    for number, einsum in enumerate(scope.einsums):
        for read in scope.reads[number]:
            graph.add_edge(read.tensor, einsum.target.tensor, einsum=number, carried=is_previous(scope, read))
    return graph


def is_previous(scope: Scope, read: Access) -> bool:
    """Whether a read takes an iterative rank's state as the previous step left it: ``RM[m1]``."""
    place = scope.states.get(read.tensor)
    if place is None:
        return False
    index = read.indices[place]
    return index.last is None and bool(index.terms) and index.offset == 0


def arrange(source: str, scope: Scope) -> tuple[Groups, frozenset[int], tuple[tuple[Filter, ...], ...]]:
    """Order the Einsums, find the live ones and hand filters down.

    Raises:
        InputError: at an Einsum whose definition is cyclic, or a filter that cannot be handed down.
    """
    reads = scope.reads
    needs = [[n for read in found for n in scope.producers.get(read.tensor, ())] for found in reads]
    groups = []
    for members in _components(needs):
        looped = len(members) > 1 or members[0] in needs[members[0]]
        groups.append(_loop(source, scope, members, reads) if looped else (None, members))
    live, todo = set[int](), [n for name in scope.outputs for n in scope.producers[name]]
    while todo:
        number = todo.pop()
        if number not in live:
            live.add(number)
            todo += needs[number]
    return tuple(groups), frozenset(live), _filters(source, scope, groups)


def _components(needs: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Strongly connected components, each after those it needs (Tarjan), their members in text order."""
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    found: list[tuple[int, ...]] = []

    def visit(node: int) -> None:
        order[node] = low[node] = len(order)
        stack.append(node)
        for need in needs[node]:
            if need not in order:
                visit(need)
            if need in stack:
                low[node] = min(low[node], low[need])
        if low[node] == order[node]:
            cut = stack.index(node)
            found.append(tuple(sorted(stack[cut:])))
            del stack[cut:]

    for node in range(len(needs)):
        if node not in order:
            visit(node)
    return found


def _loop(
    source: str, scope: Scope, members: tuple[int, ...], reads: Sequence[tuple[Access, ...]]
) -> tuple[str, tuple[int, ...]]:
    """The variable and inner order of Einsums that depend on each other, if they are a loop."""
    targets = {n: scope.einsums[n].target for n in members}
    names = {target.tensor for target in targets.values()}
    loop_vars = {
        target.indices[scope.states[target.tensor]].terms[0].var
        for target in targets.values()
        if target.tensor in scope.states and target.indices[scope.states[target.tensor]].terms
    }
    first = targets[members[0]]
    chain = " -> ".join(dict.fromkeys(t.tensor for t in targets.values()))
    cyclic = f"cyclic definition: {chain} -> {first.tensor}, with no iterative rank in between"
    if len(loop_vars) != 1:
        raise error(source, first.at, cyclic)
    (var,) = loop_vars
    needs: dict[int, set[int]] = {}
    for n in members:
        if var not in targets[n].vars:
            raise error(
                source,
                targets[n].at,
                f"cyclic definition: {targets[n].tensor!r} needs every step of {var!r} and a step needs it",
            )
        inner = [read for read in reads[n] if read.tensor in names]
        for read in inner:
            if var not in read.vars:
                raise error(
                    source,
                    read.at,
                    f"cyclic definition: {read.tensor!r} is read whole inside its own iteration over {var!r}",
                )
        needs[n] = {
            m for read in inner if not is_previous(scope, read) for m in members if targets[m].tensor == read.tensor
        }
    ordered: list[int] = []
    while needs:
        ready = [n for n in needs if not needs[n] - set(ordered)]
        if not ready:
            raise error(source, targets[min(needs)].at, cyclic)
        ordered += ready
        for n in ready:
            del needs[n]
    return var, tuple(ordered)


def _filters(
    source: str, scope: Scope, groups: Iterable[tuple[str | None, tuple[int, ...]]]
) -> tuple[tuple[Filter, ...], ...]:
    """Each Einsum's filters, with those its operands hand down: what is absent in an operand is skipped.

    State is never absent: a skipped step leaves it as it was.
    """
    kept: dict[int, tuple[Filter, ...]] = {}
    for _, members in groups:
        for number in members:
            einsum = scope.einsums[number]
            found = list(einsum.where)
            for read in scope.reads[number]:
                if read.tensor not in scope.inputs and read.tensor not in scope.states:
                    producer = scope.producers[read.tensor][0]
                    found += _handed(source, scope.einsums[producer], kept[producer], read)
            kept[number] = tuple(dict.fromkeys(found))
    return tuple(kept[n] for n in range(len(scope.einsums)))


def _handed(source: str, producer: Einsum, filters: tuple[Filter, ...], read: Access) -> list[Filter]:
    """The producer's filters on what it keeps, in the variables of the reader."""
    left = producer.target.vars
    handed = []
    for keep in filters:
        used = keep.vars
        if not set(used) <= set(left):
            continue  # a reduced variable is filtered: the result itself is whole
        renamed: dict[str, Index] = {}
        for made, taken in zip(producer.target.indices, read.indices, strict=True):
            if len(made.terms) == 1:
                renamed[made.terms[0].var] = taken
            elif taken.terms and len(taken.terms) == len(made.terms):
                renamed |= {a.var: Index((Term(b.var),)) for a, b in zip(made.terms, taken.terms, strict=True)}
        if any(var not in renamed or not renamed[var].terms for var in used):
            raise error(
                source,
                read.at,
                f"{read.tensor!r} is filtered, so its filtered ranks must be read with their variables",
            )
        handed.append(replace(keep, left=_rename(keep.left, renamed), right=_rename(keep.right, renamed), at=read.at))
    return handed


def _rename(index: Index, renamed: Mapping[str, Index]) -> Index:
    terms = []
    for term in index.terms:
        terms += [Term(new.var, (*new.stride, *term.stride)) for new in renamed[term.var].terms]
    return Index(tuple(terms), index.offset)
