"""Stand-ins for b, h, q_idx and kv_idx: calling a mask function with them builds its graph.

They answer Python's operators, numpy's and PyTorch's functions. PyTorch itself is never imported here: it is used only
where the mask's own module has imported it. What the graph cannot express becomes an opaque node, whose dtype is found by
running the operation on one sample pair.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from ...errors import InputError
from . import dense, functions
from .graph import DTYPES, FLOATS, INTEGERS, SYMBOLS, Array, Builder, Graph, promote, promote_scalar

MAX_TABLE: Final = 1 << 27  # entries of a table a mask may index

BRANCH: Final = (
    "the mask turns an index into a Python value ({how}), which FlexAttention cannot do either: expected &, | and ~ "
    "(or torch.where) instead of and, or, not, if, min, max and chained comparisons"
)


class Trace:
    """One call of a mask function."""

    def __init__(self, torch: Any = None) -> None:
        self.builder = Builder()
        self.torch = torch
        self.samples: dict[int, Array] = {}
        self.point = {"b": 0, "h": 0, "q": 3, "kv": 1}

    def arguments(self) -> list[Tracer]:
        """b, h, q_idx, kv_idx."""
        return [Tracer(self, self.builder.node(name, (), "int64")) for name in SYMBOLS]

    def operand(self, value: Any) -> tuple[int, bool] | None:
        """The node of a scalar operand, and whether it is a Python number; None when the graph has no node for it."""
        if isinstance(value, Tracer):
            known = not value.shaped and self.builder.dtype(value.index) in DTYPES
            return (value.index, False) if known else None
        if isinstance(value, (bool, int, float)):
            dtype = "bool" if isinstance(value, bool) else "int64" if isinstance(value, int) else "float64"
            if dtype == "int64" and abs(value) >= 2**62:
                return None
            return self.builder.constant(value, dtype), True
        array = as_array(value)
        if array is None or array.ndim or array.dtype.name not in DTYPES:
            return None
        return self.builder.constant(array.item(), array.dtype.name), False

    def common(self, operands: list[tuple[int, bool]]) -> str:
        """The dtype that an operation on these operands is computed in."""
        dtypes = [self.builder.dtype(index) for index, weak in operands if not weak]
        scalars = [self.builder.graph.nodes[index].data[0] for index, weak in operands if weak]
        if not dtypes:
            result = max((self.builder.dtype(index) for index, _ in operands), key=DTYPES.index)
            return "float32" if result in FLOATS else result
        result = dtypes[0]
        for dtype in dtypes[1:]:
            result = promote(result, dtype)
        for scalar in scalars:
            result = promote_scalar(result, scalar)
        return result

    def sample(self, tracer: Tracer) -> Any:
        """The value at the sample pair: a tensor where PyTorch is in use, else a numpy scalar."""
        value = self.samples.get(tracer.index)
        if value is None:
            graph = Graph(self.builder.graph.nodes, self.builder.graph.tables, tracer.index)
            symbols = {name: np.array(at) for name, at in self.point.items()}
            value = dense.evaluate(graph, symbols, known=self.samples)
            value = np.asarray(value, dtype=self.builder.dtype(tracer.index))
        if self.torch is not None:
            return self.torch.from_numpy(np.array(value))
        return value[()] if isinstance(value, np.ndarray) else value

    def opaque(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run an operation on the sample pair, and return opaque nodes in the shape of what it returns."""
        used: list[int] = []

        def real(value: Any) -> Any:
            if isinstance(value, Tracer):
                used.append(value.index)
                return self.sample(value)
            if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
                return type(value)(real(item) for item in value)
            if isinstance(value, dict):
                return {key: real(item) for key, item in value.items()}
            return value

        return self.wrap(function(*real(args), **real(kwargs)), tuple(sorted(set(used))))

    def wrap(self, result: Any, used: tuple[int, ...]) -> Any:
        """Opaque nodes for an operation's result."""
        if isinstance(result, (list, tuple)):
            return type(result)(self.wrap(item, used) for item in result) if type(result) in (list, tuple) else result
        array = as_array(result)
        if array is None and self.torch is not None and isinstance(result, self.torch.Tensor):
            array = as_array(result.float())  # bfloat16 and the like: of use for nothing but further opaque operations
        if array is None:
            return result
        index = self.builder.opaque(used, array.dtype.name)
        self.samples[index] = array
        return Tracer(self, index, array.ndim > 0)

    def getitem(self, owner: Any, index: Any) -> Any:
        """``owner[index]`` where owner is an array or tensor and index contains stand-ins."""
        indices = index if isinstance(index, tuple) else (index,)
        array = as_array(owner)
        nodes = self._indices(indices)
        if array is None or nodes is None or array.ndim < len(nodes) or array.size > MAX_TABLE:
            return self.opaque(operator.getitem, (owner, index), {})
        if not array.size:
            raise InputError("the mask indexes a table that is empty")
        if array.dtype.name not in DTYPES:
            if array.dtype.kind not in "iu" or int(array.max()) >= 2**62:
                return self.opaque(operator.getitem, (owner, index), {})
            array = array.astype(np.int64)
        return self._gather(self.builder.table(array, owner), nodes)

    def _indices(self, indices: tuple[Any, ...]) -> tuple[int, ...] | None:
        found = [self.operand(index) for index in indices]
        nodes = tuple(item[0] for item in found if item is not None)
        if len(nodes) < len(indices) or any(self.builder.dtype(node) not in INTEGERS for node in nodes):
            return None
        return nodes

    def _gather(self, table: int, nodes: tuple[int, ...]) -> Tracer:
        array = self.builder.graph.tables[table]
        if len(nodes) == array.ndim:
            return Tracer(self, self.builder.node("gather", nodes, array.dtype.name, (table,)))
        row = self.builder.opaque(nodes, array.dtype.name)
        at = tuple(
            int(np.clip(np.asarray(self.sample(Tracer(self, node))), -size, size - 1))
            for node, size in zip(nodes, array.shape, strict=False)
        )
        self.samples[row] = array[at]
        return Tracer(self, row, True, (table, nodes))

    def row_item(self, row: Tracer, index: Any) -> Any:
        """``table[i][j]`` is ``table[i, j]``."""
        nodes = self._indices(index if isinstance(index, tuple) else (index,))
        if row.source is None or nodes is None:
            return self.opaque(operator.getitem, (row, index), {})
        return self._gather(row.source[0], (*row.source[1], *nodes))


def as_array(value: Any) -> Array | None:
    """The contents of a numpy array or scalar, or of a tensor that numpy has a dtype for."""
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        try:
            return np.asarray(value.detach().cpu().resolve_neg().numpy())
        except (TypeError, RuntimeError):  # bfloat16, sparse, meta
            return None
    return None


class Tracer:
    """A value that depends on b, h, q_idx or kv_idx."""

    __array_priority__ = 1000.0
    __slots__ = ("index", "shaped", "source", "trace")

    def __init__(
        self, trace: Trace, index: int, shaped: bool = False, source: tuple[int, tuple[int, ...]] | None = None
    ) -> None:
        self.trace, self.index, self.shaped, self.source = trace, index, shaped, source

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in ("item", "tolist", "numpy"):
            raise InputError(BRANCH.format(how=f".{name}()"))
        return functions.attribute(self, name)

    def __getitem__(self, index: Any) -> Any:
        return self.trace.row_item(self, index)

    def __bool__(self) -> bool:
        raise InputError(BRANCH.format(how="a truth value"))

    def __int__(self) -> int:
        raise InputError(BRANCH.format(how="int()"))

    def __index__(self) -> int:
        raise InputError(BRANCH.format(how="an index of a list"))

    def __float__(self) -> float:
        raise InputError(BRANCH.format(how="float()"))

    def __iter__(self) -> Iterator[Any]:
        raise InputError(BRANCH.format(how="iteration"))

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        node = self.trace.builder.graph.nodes[self.index]
        return f"<{node.op} {node.dtype} of the mask's indices>"

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = find((args, kwargs))
        assert found is not None
        return functions.call(found.trace, function, args, kwargs or {})

    def __array_ufunc__(self, function: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        return functions.call(self.trace, function, args, kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return functions.call(self.trace, function, args, kwargs)


def find(value: Any) -> Tracer | None:
    """The first stand-in among arguments, looked for inside lists, tuples and dicts."""
    if isinstance(value, Tracer):
        return value
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return next((found for item in items if (found := find(item)) is not None), None)


def _install() -> None:
    """Give Tracer Python's operators."""

    def make(name: str, swap: bool) -> Callable[..., Any]:
        real = getattr(operator, f"{name}_" if name in ("and", "or") else name)

        def method(self: Tracer, *others: Any) -> Any:
            args = (*others, self) if swap else (self, *others)
            return functions.operation(self.trace, name, real, args)

        return method

    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
        setattr(Tracer, f"__{name}__", make(name, False))
        setattr(Tracer, f"__r{name}__", make(name, True))
    for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"):
        setattr(Tracer, f"__{name}__", make(name, False))
    Tracer.__hash__ = object.__hash__  # type: ignore[method-assign, assignment]  # __eq__ took it away


_install()
