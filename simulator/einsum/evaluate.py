"""Run a cascade on numpy arrays, in float64: what it computes, to check what it claims to be.

Einsums outside a loop run on whole arrays; an iterative rank whose state feeds itself runs as a Python loop.
Meant for small shapes: a map of several tensors is held over its whole iteration space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ...errors import InputError, unknown
from .graph import is_previous
from .ir import Access, Apply, Cascade, Einsum, Expr, Filter, Index, Name, Number, Scope, accesses
from .lexer import error
from .operators import OPERATORS, REDUCERS
from .sizes import bind

Array = NDArray[np.float64]
_COMPARE = {
    "<=": np.less_equal,
    "<": np.less,
    ">=": np.greater_equal,
    ">": np.greater,
    "==": np.equal,
}


def evaluate(
    cascade: Cascade, inputs: Mapping[str, ArrayLike], sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Evaluate a cascade.

    Args:
        cascade: the cascade.
        inputs: an array per input tensor, its axes in the order the ``input`` line declares.
        sizes: sizes the inputs do not show, such as a chunk's; the rest are read off the inputs.

    Returns:
        Every output tensor, float64, axes in the order of its Einsum's left side.

    Raises:
        InputError: an input missing, unknown or misshapen, sizes that disagree, a chunk that does not divide.
    """
    scope = cascade.scope
    for name in inputs:
        if name not in scope.inputs:
            raise unknown(f"input of cascade '{cascade.name}'", name, scope.inputs)
    known: dict[str, int] = dict(sizes or {})
    seen: dict[str, tuple[str, int]] = {}
    values: dict[str, Array] = {}
    for name, tensor in scope.inputs.items():
        if name not in inputs:
            raise InputError(f"cascade '{cascade.name}' needs input {name!r} [{', '.join(tensor.ranks)}]")
        values[name] = np.asarray(inputs[name], dtype=np.float64)
        if values[name].ndim != len(tensor.ranks):
            raise error(
                cascade.name,
                tensor.at,
                f"{name!r} has ranks [{', '.join(tensor.ranks)}], but its array has {values[name].ndim} axes",
            )
        for rank, size in zip(tensor.ranks, values[name].shape, strict=True):
            other, before = seen.setdefault(scope.same[rank], (name, size))
            if size != before or known.setdefault(rank, size) != size:
                source = f"{before} in {other!r}" if size != before else f"{known[rank]} in the sizes given"
                raise error(
                    cascade.name,
                    tensor.at,
                    f"rank-size conflict: rank {rank!r} is {size} in {name!r} but {source}",
                )
    bound = bind(cascade, known, exact=True)
    for read in (read for n in scope.live for read in scope.reads[n]):
        for index, rank in zip(read.indices, scope.shapes[read.tensor], strict=True):
            if not index.terms and index.last is None and index.offset >= bound[rank]:
                message = f"{read.tensor!r} has no coordinate {index.offset}: rank {rank!r} is {bound[rank]}"
                raise error(cascade.name, index.at, message)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        run = _Run(scope, bound, values)
        for var, members in scope.groups:
            needed = [n for n in members if n in scope.live]
            for step in range(bound[scope.stops[var]] if var and needed else 1):
                for number in needed:
                    run.einsum(number, {var: step} if var else {})
    return {name: run.values[name] for name in scope.outputs}


def random_inputs(cascade: Cascade, sizes: Mapping[str, int], seed: int = 0) -> dict[str, Array]:
    """Standard normal arrays for every input, reproducible from ``seed``."""
    bound = bind(cascade, sizes, exact=True)
    generator = np.random.default_rng(seed)
    return {
        name: generator.standard_normal([bound[rank] for rank in tensor.ranks])
        for name, tensor in cascade.scope.inputs.items()
    }


def difference(cascade: Cascade, reference: Cascade, sizes: Mapping[str, int], seed: int = 0) -> float:
    """The largest absolute difference between two cascades' outputs on the same random inputs.

    Args:
        cascade: the cascade to check; its inputs must be those of ``reference``, by name.
        reference: the cascade it should agree with.
        sizes: the rank sizes; each cascade takes those of its own ranks.
        seed: of the random inputs.

    Raises:
        InputError: if the two do not have the same inputs and the same number of outputs.
    """
    if set(cascade.scope.inputs) != set(reference.scope.inputs):
        raise InputError(
            f"cascade '{cascade.name}' takes {', '.join(sorted(cascade.scope.inputs))}, "
            f"but '{reference.name}' takes {', '.join(sorted(reference.scope.inputs))}"
        )
    mine = {rank: size for rank, size in sizes.items() if rank in cascade.scope.same}
    theirs = {rank: size for rank, size in sizes.items() if rank in reference.scope.same}
    inputs = random_inputs(reference, theirs, seed)
    ours = list(evaluate(cascade, inputs, mine).values())
    expected = list(evaluate(reference, inputs, theirs).values())
    if [a.shape for a in ours] != [b.shape for b in expected]:
        raise InputError(f"cascades '{cascade.name}' and '{reference.name}' have outputs of other shapes")
    return max(float(np.max(np.abs(a - b))) for a, b in zip(ours, expected, strict=True))


@dataclass(frozen=True)
class _Space:
    """An Einsum's variables and their coordinates, each array along its own axis."""

    axes: tuple[str, ...]
    coordinates: Mapping[str, NDArray[np.int64]]


class _Run:
    """The values so far."""

    def __init__(self, scope: Scope, sizes: Mapping[str, int], values: dict[str, Array]) -> None:
        self.scope = scope
        self.sizes = sizes
        self.values = values
        self.consts: dict[str, Any] = {}
        nowhere = _Space((), {})
        for name, expr in scope.consts.items():
            self.consts[name] = self.expr(expr, nowhere, {})

    def einsum(self, number: int, fixed: Mapping[str, int]) -> None:
        """Evaluate one Einsum, with a loop's variable fixed to its step."""
        einsum = self.scope.einsums[number]
        kept = einsum.target.vars
        space = self.space((*kept, *einsum.over), fixed)
        filters = self.scope.filters[number]
        mask = None
        for keep in filters:
            sides = (self.coordinate(side, space) for side in (keep.left, keep.right))
            now = _COMPARE[keep.op](*sides)
            mask = now if mask is None else mask & now
        if einsum.reduce == "sum" and mask is None:
            value = self.contract(einsum, space)
        else:
            value = self.mapped(einsum, space, mask, filters)
        self.write(einsum.target, space, value)

    def space(self, axes: tuple[str, ...], fixed: Mapping[str, int]) -> _Space:
        coordinates = {}
        for place, var in enumerate(axes):
            line = np.array([fixed[var]]) if var in fixed else np.arange(self.sizes[self.scope.rank(var)])
            coordinates[var] = line.reshape([-1 if k == place else 1 for k in range(len(axes))])
        return _Space(axes, coordinates)

    def mapped(self, einsum: Einsum, space: _Space, mask: Any, filters: tuple[Filter, ...]) -> Array:
        """Map over the whole space, then reduce; absent points are the identity, or nothing changed."""
        shape = [space.coordinates[var].size for var in space.axes]
        value = np.broadcast_to(self.expr(einsum.expr, space, {}), shape)
        if einsum.reduce is None:
            if mask is None:
                return value
            before = self.before(einsum, space)
            return np.where(mask, value, before)
        reducer = REDUCERS[einsum.reduce]
        if mask is not None:
            value = np.where(mask, value, reducer.identity)
        reduced = tuple(range(len(space.axes) - len(einsum.over), len(space.axes)))
        result: Array = reducer.apply(value, axis=reduced)
        return result

    def before(self, einsum: Einsum, space: _Space) -> Any:
        """What a skipped point holds: the state as it was, else 0 (never read: readers skip it too)."""
        for read in accesses(einsum.expr):
            if read.tensor == einsum.target.tensor and is_previous(self.scope, read):
                return self.expr(read, space, {})
        return 0.0

    def contract(self, einsum: Einsum, space: _Space) -> Array:
        """A sum of products, without the whole space in memory."""
        factors: list[Expr] = [einsum.expr]
        while any(isinstance(f, Apply) and f.op == "mul" for f in factors):
            factors = [g for f in factors for g in (f.args if isinstance(f, Apply) and f.op == "mul" else (f,))]
        operands: list[Any] = []
        axes = range(len(space.axes))
        for factor in factors:
            value = np.asarray(self.expr(factor, space, {}))
            value = value.reshape((1,) * (len(space.axes) - value.ndim) + value.shape)
            wide = [k for k in axes if value.shape[k] > 1]
            operands += [value.reshape([value.shape[k] for k in wide]), wide]
        # A factor of ones makes every axis appear, so that a variable no operand has is still summed.
        for k, var in enumerate(space.axes):
            operands += [np.ones(space.coordinates[var].size), [k]]
        kept = list(axes)[: len(space.axes) - len(einsum.over)]
        result: Array = np.einsum(*operands, kept, optimize=len(operands) > 6)
        return result

    def write(self, target: Access, space: _Space, value: Any) -> None:
        kept = target.vars
        shape = [
            self.sizes[rank] + (place == self.scope.states.get(target.tensor))
            for place, rank in enumerate(self.scope.shapes[target.tensor])
        ]
        if target.tensor not in self.values:
            self.values[target.tensor] = np.zeros(shape)
        lines = {var: space.coordinates[var].reshape(-1) for var in kept}
        own = _Space(
            kept,
            {v: lines[v].reshape([-1 if k == p else 1 for k in range(len(kept))]) for p, v in enumerate(kept)},
        )
        where = tuple(self.coordinate(index, own) for index in target.indices)
        self.values[target.tensor][where] = np.asarray(value).reshape([lines[var].size for var in kept])

    def coordinate(self, index: Index, space: _Space) -> Any:
        if index.last is not None:
            return self.sizes[index.last]
        total: Any = index.offset
        for term in index.terms:
            stride = 1
            for rank in term.stride:
                stride *= self.sizes[rank]
            total = total + space.coordinates[term.var] * stride
        return total

    def expr(self, expr: Expr, space: _Space, params: Mapping[str, Any]) -> Any:
        """The value of an expression, its axes those of ``space`` (of length 1 where it does not vary)."""
        if isinstance(expr, Number):
            return expr.value
        if isinstance(expr, Name):
            for table in (params, self.consts, self.sizes, space.coordinates):
                if expr.name in table:
                    value = table[expr.name]
                    return np.asarray(value, dtype=np.float64)
            raise AssertionError(f"{expr.name} passed the checks but has no value")
        if isinstance(expr, Access):
            where = tuple(self.coordinate(index, space) for index in expr.indices)
            return self.values[expr.tensor][where]
        args = [self.expr(arg, space, params) for arg in expr.args]
        if expr.op in OPERATORS:
            return OPERATORS[expr.op].apply(*args)
        function = self.scope.functions[expr.op]
        return self.expr(function.body, space, dict(zip(function.params, args, strict=True)))
