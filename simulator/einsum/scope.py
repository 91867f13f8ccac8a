"""The checker: from the lines of a cascade to its ``Scope``, or one error with its line and column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...errors import suggest
from .graph import arrange
from .ir import (
    Access,
    At,
    Const,
    Define,
    Einsum,
    Expr,
    Filter,
    Index,
    Input,
    Iterate,
    Line,
    Name,
    Number,
    Output,
    Rank,
    Scope,
    Tensor,
    accesses,
)
from .lexer import error
from .operators import OPERATORS


def resolve(source: str, lines: Sequence[Line]) -> Scope:
    """Check a cascade and work out its ``Scope``.

    Raises:
        InputError: unknown names and operators, rank-size conflicts, undefined tensors, reads before
            initialisation, cyclic definitions: one sentence, with line and column.
    """
    return _Resolver(source, lines).scope()


class _Resolver:
    def __init__(self, source: str, lines: Sequence[Line]) -> None:
        self.source = source
        self.statements = [line.statement for line in lines if line.statement is not None]
        self.einsums = tuple(s for s in self.statements if isinstance(s, Einsum))
        self.same: dict[str, str] = {}
        self.parts: dict[str, tuple[str, ...]] = {}
        self.defaults: dict[str, int] = {}
        self.consts: dict[str, Expr] = {}
        self.functions: dict[str, Define] = {}
        self.stops: dict[str, str] = {}
        self.inputs: dict[str, Tensor] = {}
        self.producers: dict[str, tuple[int, ...]] = {}
        self.shapes: dict[str, tuple[str, ...]] = {}
        self.states: dict[str, int] = {}

    def fail(self, at: At, message: str) -> Exception:
        return error(self.source, at, message)

    def unknown(self, what: str, word: str, at: At, known: Iterable[str]) -> Exception:
        names = sorted(known)
        return self.fail(at, f"unknown {what} {word!r}: expected one of {', '.join(names)}{suggest(word, names)}")

    def scope(self) -> Scope:
        self.declare_ranks()
        self.declare_scalars()
        self.declare_targets()
        for einsum in self.einsums:
            self.check_einsum(einsum)
        outputs = [n for s in self.statements if isinstance(s, Output) for n in s.names]
        if not outputs:
            raise self.fail((1, 1), "the cascade has no line 'output TENSOR'")
        for name in outputs:
            if name.name not in self.producers:
                raise self.unknown("output tensor", name.name, name.at, self.producers)
        scope = Scope(
            tuple(self.same),
            self.same,
            self.parts,
            self.defaults,
            self.consts,
            self.functions,
            self.stops,
            self.inputs,
            tuple(n.name for n in outputs),
            self.einsums,
            self.producers,
            self.shapes,
            self.states,
            tuple(accesses(einsum.expr) for einsum in self.einsums),
        )
        groups, live, filters = arrange(self.source, scope)
        return replace(scope, groups=groups, live=live, filters=filters)

    # Declarations.

    def declare_ranks(self) -> None:
        declared = [s for s in self.statements if isinstance(s, Rank)]
        for tensor in (t for s in self.statements if isinstance(s, Input) for t in s.tensors):
            if tensor.name in self.inputs:
                raise self.fail(tensor.at, f"tensor {tensor.name!r} is declared twice")
            self.inputs[tensor.name] = tensor
            self.shapes[tensor.name] = tensor.ranks
            self.same.update({rank: rank for rank in tensor.ranks})
        for rank in declared:
            self.same.update({name: name for name in (rank.name, *rank.parts)})
        made: set[str] = set()
        for rank in declared:
            made_by = f"{rank.name} {'equals' if len(rank.parts) == 1 else 'parts'}"
            if rank.parts and (made_by in made or rank.name in rank.parts):
                raise self.fail(rank.at, f"the size of rank {rank.name!r} is given twice or by itself")
            made.update([made_by] if rank.parts else [])
            if rank.default is not None:
                self.defaults[rank.name] = rank.default
            if len(rank.parts) == 1:
                self.same[rank.name] = rank.parts[0]
            elif rank.parts:
                self.parts[rank.name] = rank.parts
        for rank in declared:
            seen = [rank.name]
            while (target := self.same[seen[-1]]) != seen[-1]:
                if target in seen:
                    raise self.fail(rank.at, f"cyclic definition of the size of rank {rank.name!r}")
                seen.append(target)
            self.same[rank.name] = seen[-1]
        # Sizes multiply down a partition, so a rank may not contain itself.
        for rank in declared:
            inside, todo = set[str](), list(rank.parts)
            while todo:
                name = self.same[todo.pop()]
                inside.add(name)
                todo += [part for part in self.parts.get(name, ()) if part not in inside]
            if rank.name in inside and len(rank.parts) > 1:
                raise self.fail(rank.at, f"cyclic definition of the size of rank {rank.name!r}")

    def declare_scalars(self) -> None:
        for s in self.statements:
            if isinstance(s, Const):
                if s.name.upper() in self.same or s.name in self.consts:
                    raise self.fail(s.at, f"constant {s.name!r} has the name of a rank or another constant")
                self.check_expr(s.value, s.at, {*self.same, *self.consts}, tensors=False)
                self.consts[s.name] = s.value
            elif isinstance(s, Define):
                if s.name in OPERATORS or s.name in self.functions:
                    raise self.fail(s.at, f"operator {s.name!r} exists already")
                self.check_expr(s.body, s.at, {*self.same, *self.consts, *s.params}, tensors=False)
                self.functions[s.name] = s
            elif isinstance(s, Iterate):
                self.known_rank(s.stop, s.at)
                if self.same.get(s.var.upper()) != self.same[s.stop]:
                    raise self.fail(
                        s.at,
                        f"{s.var!r} counts over rank {s.var.upper()!r}, so it stops at {s.var.upper()!r}",
                    )
                self.stops[s.var] = s.stop

    def declare_targets(self) -> None:
        for number, einsum in enumerate(self.einsums):
            name, at = einsum.target.tensor, einsum.target.at
            if name in self.inputs:
                raise self.fail(at, f"tensor {name!r} is an input, so no Einsum may define it")
            self.producers[name] = (*self.producers.get(name, ()), number)
        for name, numbers in self.producers.items():
            targets = [self.einsums[n].target for n in numbers]
            starts = [t for t in targets if any(_is_start(i) for i in t.indices)]
            steps = [t for t in targets if any(_is_step(i) for i in t.indices)]
            if len(starts) > 1 or len(steps) > 1 or len(targets) != max(1, len(starts) + len(steps)):
                raise self.fail(targets[-1].at, f"tensor {name!r} is defined twice")
            if steps and not starts:
                raise self.fail(
                    steps[0].at,
                    f"tensor {name!r} is read before its initialisation: add a line '{name}[0, ...] = ...'",
                )
            if starts and not steps:
                raise self.fail(
                    starts[0].at,
                    f"tensor {name!r} is initialised but no line '{name}[i+1, ...] = ...' iterates it",
                )
            if steps:
                self.declare_state(name, starts[0], steps[0])
            target = (steps or targets)[0]
            if len(target.vars) != sum(len(i.terms) for i in target.indices):
                raise self.fail(target.at, f"a variable occurs twice on the left of {name!r}")
            self.shapes[name] = tuple(self.index_rank(i) for i in target.indices)

    def declare_state(self, name: str, start: Access, step: Access) -> None:
        places = [k for k, index in enumerate(step.indices) if _is_step(index)]
        zeros = [k for k, index in enumerate(start.indices) if _is_start(index)]
        if len(places) != 1 or zeros != places or len(start.indices) != len(step.indices):
            raise self.fail(
                start.at,
                f"the initialisation of {name!r} must have 0 in one place, where its iteration has '+1'",
            )
        var = step.indices[places[0]].terms[0].var
        if var not in self.stops:
            raise self.fail(
                step.at,
                f"{name!r} iterates {var!r} with no stop condition: "
                f"add a line 'iterate {var} until {var} == {var.upper()}'",
            )
        self.states[name] = places[0]

    # Einsums.

    def check_einsum(self, einsum: Einsum) -> None:
        target = einsum.target
        if len(self.shapes[target.tensor]) != len(target.indices):
            raise self.fail(
                target.at,
                f"{target.tensor!r} has {len(self.shapes[target.tensor])} ranks, here {len(target.indices)}",
            )
        for place, index in enumerate(target.indices):
            if place != self.states.get(target.tensor):
                self.check_rank(target, place, self.index_rank(index))
        left = set(target.vars)
        right = self.check_expr(einsum.expr, target.at, {*self.same, *self.consts}, tensors=True)
        for keep in einsum.where:
            right |= self.check_filter(keep)
        for var in einsum.over:
            self.known_rank(var.upper(), target.at)
            if var in left:
                raise self.fail(target.at, f"{var!r} is reduced but stands on the left of {target.tensor!r}")
            if var not in right:
                raise self.fail(target.at, f"{var!r} is reduced but nothing on the right of {target.tensor!r} has it")
        free = sorted(right - left - set(einsum.over))
        if free:
            raise self.fail(
                target.at,
                f"variable {free[0]!r} is on the right of {target.tensor!r}, but neither on its left "
                f"nor reduced: add it to the left, or reduce it as in 'sum({free[0]}) ...'",
            )

    def check_expr(self, expr: Expr, at: At, names: set[str], tensors: bool) -> set[str]:
        """Check an expression and return its rank variables."""
        if isinstance(expr, Number):
            return set()
        if isinstance(expr, Name):
            if expr.name in names:
                return set()
            if tensors and expr.name.upper() in self.same and expr.name == expr.name.lower():
                return {expr.name}
            raise self.unknown("constant, rank or variable", expr.name, expr.at, names)
        if isinstance(expr, Access):
            if not tensors:
                raise self.fail(
                    expr.at, f"tensor {expr.tensor!r} cannot be read here: only numbers, ranks and constants"
                )
            return self.check_read(expr)
        if expr.op not in OPERATORS and expr.op not in self.functions:
            raise self.unknown("operator", expr.op, expr.at, {*OPERATORS, *self.functions})
        wanted = OPERATORS[expr.op].arity if expr.op in OPERATORS else len(self.functions[expr.op].params)
        if len(expr.args) != wanted:
            raise self.fail(expr.at, f"operator {expr.op!r} takes {wanted} operands, here {len(expr.args)}")
        return set[str]().union(*(self.check_expr(arg, at, names, tensors) for arg in expr.args))

    def check_read(self, read: Access) -> set[str]:
        if read.tensor not in self.shapes:
            raise self.unknown("tensor", read.tensor, read.at, self.shapes)
        shape, state = self.shapes[read.tensor], self.states.get(read.tensor)
        if len(shape) != len(read.indices):
            raise self.fail(
                read.at,
                f"{read.tensor!r} has {len(shape)} ranks ({', '.join(shape)}), here {len(read.indices)}",
            )
        for place, index in enumerate(read.indices):
            if index.last is not None:
                if place != state or self.same.get(index.last) != self.same[shape[place]]:
                    raise self.fail(
                        index.at,
                        f"{index.last!r} is past the end of {read.tensor!r}: only an iterative rank has it",
                    )
            elif index.terms:
                if index.offset and not (place == state and _is_step(index)):
                    raise self.fail(
                        index.at, f"an offset of +{index.offset} is only for the iterative rank of a tensor"
                    )
                self.check_rank(read, place, self.index_rank(index))
        return set(read.vars)

    def check_rank(self, access: Access, place: int, found: str) -> None:
        wanted = self.shapes[access.tensor][place]
        if self.same[found] != self.same[wanted]:
            at = access.indices[place].at
            raise self.fail(
                at,
                f"rank-size conflict: {access.tensor!r} has rank {wanted!r} here, not {found!r}; "
                f"if their sizes are equal, add a line 'rank {found} = {wanted}'",
            )

    def check_filter(self, keep: Filter) -> set[str]:
        for side in (keep.left, keep.right):
            if not side.terms or side.offset:
                raise self.fail(side.at, "a filter compares rank variables, such as 'm <= p'")
        left, right = self.index_rank(keep.left), self.index_rank(keep.right)
        if self.same[left] != self.same[right]:
            raise self.fail(
                keep.at,
                f"rank-size conflict: the filter compares {left!r} with {right!r}; "
                f"if their sizes are equal, add a line 'rank {right} = {left}'",
            )
        return set(keep.vars)

    def index_rank(self, index: Index) -> str:
        """The rank whose coordinates an index gives: a variable's own, or the one its terms partition."""
        for term in index.terms:
            self.known_rank(term.var.upper(), index.at)
            for rank in term.stride:
                self.known_rank(rank, index.at)
        if len(index.terms) == 1 and not index.terms[0].stride:
            return index.terms[0].var.upper()
        for whole, parts in self.parts.items():
            if self.is_partition(index, parts):
                return whole
        raise self.fail(index.at, "expected a variable or a whole partition such as 'm1*M0+m0', with 'rank M = M1*M0'")

    def is_partition(self, index: Index, parts: tuple[str, ...]) -> bool:
        def sizes(ranks: Iterable[str]) -> list[str]:
            return [self.same[rank] for rank in ranks]

        return len(index.terms) == len(parts) and all(
            self.same[term.var.upper()] == self.same[part] and sizes(term.stride) == sizes(parts[k + 1 :])
            for k, (term, part) in enumerate(zip(index.terms, parts, strict=True))
        )

    def known_rank(self, rank: str, at: At) -> None:
        if rank not in self.same:
            raise self.unknown("rank", rank, at, self.same)


def _is_start(index: Index) -> bool:
    return not index.terms and index.last is None and index.offset == 0


def _is_step(index: Index) -> bool:
    return len(index.terms) == 1 and index.offset == 1
