"""A mask function as data: a graph of operations on b, h, q and kv, built once while the function is called.

Sums are kept as linear forms over the nodes that are not sums, so that ``q - kv >= 0`` and ``kv <= q`` are one node and
terms that cancel do cancel. Comparisons of integers are ``form >= 0`` and ``form == 0``. Equal nodes are made once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Value = int | float | bool

SYMBOLS: Final = ("b", "h", "q", "kv")
INTEGERS: Final = ("uint8", "int8", "int16", "int32", "int64")
FLOATS: Final = ("float32", "float64")
DTYPES: Final = ("bool", *INTEGERS, *FLOATS)
# Operations on floats and on integers that are evaluated as they stand, by the numpy function of that meaning.
FLOAT_OPS: Final = ("add", "sub", "mul", "div", "neg", "abs", "min", "max", "floor", "ceil", "trunc", "sqrt")


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: a symbol ("b", "h", "q", "kv"), "const", "lin", "mul", "floordiv", "mod", "abs", "min", "max", "where",
            "gather", "cast", "ge0", "eq0", "lt", "le", "eq", "and", "or", "xor", "not", one of ``FLOAT_OPS``, or
            "opaque": an operation only the function itself can evaluate.
        args: nodes it reads.
        dtype: of its value, as PyTorch would have it.
        data: "const": the value; "lin": coefficients, then the constant; "gather": the table; "opaque": a number.
    """

    op: str
    args: tuple[int, ...]
    dtype: str
    data: tuple[Value, ...] = ()


@dataclass
class Graph:
    """Nodes in an order in which arguments come first, the tables they index, and the node that is the result."""

    nodes: list[Node] = field(default_factory=list)
    tables: list[Array] = field(default_factory=list)
    root: int = -1

    def reached(self) -> frozenset[int]:
        """Nodes that the result depends on."""
        seen: set[int] = set()
        stack = [self.root]
        while stack:
            index = stack.pop()
            if index not in seen:
                seen.add(index)
                stack.extend(self.nodes[index].args)
        return frozenset(seen)

    def depends(self, symbol: str) -> bool:
        """Whether the result depends on a symbol."""
        return any(self.nodes[index].op == symbol for index in self.reached())

    @property
    def opaque(self) -> bool:
        """Whether the result needs an operation that only the function itself can evaluate."""
        return any(self.nodes[index].op == "opaque" for index in self.reached())

    def same(self, other: Graph) -> bool:
        """Whether two graphs are equal, tables included."""
        return (
            self.root == other.root
            and _comparable(self.nodes) == _comparable(other.nodes)
            and len(self.tables) == len(other.tables)
            and all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(self.tables, other.tables, strict=True))
        )  # fmt: skip

    def header(self) -> list[list[Any]]:
        """The nodes as plain lists, for JSON; the last entry is the root."""
        return [*([n.op, list(n.args), n.dtype, list(n.data)] for n in self.nodes), [self.root]]

    @classmethod
    def from_header(cls, header: list[list[Any]], tables: Iterable[Array]) -> Graph:
        """The inverse of ``header``."""
        nodes = [Node(op, tuple(args), dtype, tuple(data)) for op, args, dtype, data in header[:-1]]
        return cls(nodes, list(tables), header[-1][0])


def _comparable(nodes: list[Node]) -> list[tuple[object, ...]]:
    """Nodes in a form in which NaN equals itself."""
    return [(n.op, n.args, n.dtype, tuple(map(repr, n.data))) for n in nodes]


def promote(left: str, right: str) -> str:
    """The dtype of an operation on two tensors, by PyTorch's rule: the wider one of the higher category."""
    if left == right:
        return left
    a, b = DTYPES.index(left), DTYPES.index(right)
    if {left, right} <= {"uint8", "int8"}:
        return "int16"
    return left if a > b else right


def promote_scalar(dtype: str, scalar: Value) -> str:
    """The dtype of an operation of a tensor and a Python number: the tensor's, unless the number's category is higher."""
    if isinstance(scalar, float):
        return dtype if dtype in FLOATS else "float32"
    if isinstance(scalar, bool) or dtype != "bool":
        return dtype
    return "int64"


class Builder:
    """Makes nodes, each once."""

    def __init__(self) -> None:
        self.graph = Graph()
        self._index: dict[object, int] = {}
        self._tables: dict[int, tuple[int, object]] = {}

    def node(self, op: str, args: tuple[int, ...], dtype: str, data: tuple[Value, ...] = ()) -> int:
        """The node of this operation."""
        key = (op, args, dtype, tuple((type(item), repr(item)) for item in data))
        if key not in self._index:
            self._index[key] = len(self.graph.nodes)
            self.graph.nodes.append(Node(op, args, dtype, data))
        return self._index[key]

    def dtype(self, index: int) -> str:
        """The dtype of a node."""
        return self.graph.nodes[index].dtype

    def constant(self, value: Value, dtype: str) -> int:
        """A constant."""
        if dtype == "bool":
            return self.node("const", (), dtype, (bool(value),))
        return self.node("const", (), dtype, (int(value) if dtype in INTEGERS else float(np.dtype(dtype).type(value)),))

    def opaque(self, args: tuple[int, ...], dtype: str) -> int:
        """An operation that the graph cannot express; no two are the same."""
        return self.node("opaque", args, dtype, (len(self.graph.nodes),))

    def table(self, array: Array, owner: object) -> int:
        """The number of a table; ``owner`` is what the function captured, so that it is copied once."""
        if id(owner) not in self._tables:
            self._tables[id(owner)] = (len(self.graph.tables), owner)
            self.graph.tables.append(np.array(array, order="C", subok=False))
        return self._tables[id(owner)][0]

    def cast(self, index: int, dtype: str) -> int:
        """The same value in another dtype."""
        node = self.graph.nodes[index]
        if node.dtype == dtype:
            return index
        if node.op == "const" and np.isfinite(node.data[0]):
            return self.constant(node.data[0], dtype)
        if dtype == "bool":
            return self.invert(self.compare("eq", index, self.constant(0, node.dtype)))
        if node.dtype in INTEGERS and dtype in INTEGERS:
            return self._linear({index: 1}, 0, dtype)
        return self.node("cast", (index,), dtype)

    def add(self, left: int, right: int, dtype: str, sign: int = 1) -> int:
        """left + sign * right."""
        if dtype not in INTEGERS:
            return self.node("add" if sign > 0 else "sub", (self.cast(left, dtype), self.cast(right, dtype)), dtype)
        terms, constant = self._terms(self.cast(left, dtype))
        others, other = self._terms(self.cast(right, dtype))
        for atom, coefficient in others.items():
            terms[atom] = terms.get(atom, 0) + sign * coefficient
        return self._linear(terms, constant + sign * other, dtype)

    def multiply(self, left: int, right: int, dtype: str) -> int:
        """left * right; a linear form when one is constant."""
        left, right = self.cast(left, dtype), self.cast(right, dtype)
        if dtype in INTEGERS:
            for factor, other in ((left, right), (right, left)):
                node = self.graph.nodes[factor]
                if node.op == "const":
                    scale = int(node.data[0])
                    terms, constant = self._terms(other)
                    return self._linear({a: c * scale for a, c in terms.items()}, constant * scale, dtype)
        return self.node("mul", (min(left, right), max(left, right)), dtype)

    def compare(self, op: str, left: int, right: int) -> int:
        """One of eq, ne, lt, le, gt, ge."""
        if op in ("gt", "ge"):
            return self.compare("lt" if op == "gt" else "le", right, left)
        if op == "ne":
            return self.invert(self.compare("eq", left, right))
        dtype = promote(self.dtype(left), self.dtype(right))
        if dtype in FLOATS:
            return self.node(op, (self.cast(left, dtype), self.cast(right, dtype)), "bool")
        if dtype == "bool":
            if op == "eq":
                return self.invert(self.logic("xor", left, right))
            if op == "lt":
                return self.logic("and", self.invert(left), right)
            return self.logic("or", self.invert(left), right)
        # Differences of indices do not overflow 64 bits; what could is found before anything is counted.
        if op == "eq":
            difference = self.add(left, right, "int64", -1)
            node = self.graph.nodes[difference]
            if node.op == "lin" and next(iter(node.data)) < 0:  # x == y and y == x are one node
                difference = self.add(right, left, "int64", -1)
            return self.node("eq0", (difference,), "bool")
        difference = self.add(right, left, "int64", -1)
        if op == "lt":
            difference = self.add(difference, self.constant(1, "int64"), "int64", -1)
        return self.node("ge0", (difference,), "bool")

    def logic(self, op: str, left: int, right: int) -> int:
        """and, or, xor of booleans."""
        return self.node(op, (min(left, right), max(left, right)), "bool")

    def invert(self, index: int) -> int:
        """Not."""
        node = self.graph.nodes[index]
        return node.args[0] if node.op == "not" else self.node("not", (index,), "bool")

    def _terms(self, index: int) -> tuple[dict[int, int], int]:
        node = self.graph.nodes[index]
        if node.op == "const":
            return {}, int(node.data[0])
        if node.op == "lin":
            coefficients = [int(item) for item in node.data]
            return dict(zip(node.args, coefficients, strict=False)), coefficients[-1]
        return {index: 1}, 0

    def _linear(self, terms: dict[int, int], constant: int, dtype: str) -> int:
        atoms = tuple(sorted(atom for atom, coefficient in terms.items() if coefficient))
        if not atoms:
            return self.constant(constant, dtype)
        if len(atoms) == 1 and terms[atoms[0]] == 1 and constant == 0 and self.dtype(atoms[0]) == dtype:
            return atoms[0]
        return self.node("lin", atoms, dtype, (*(terms[atom] for atom in atoms), constant))
