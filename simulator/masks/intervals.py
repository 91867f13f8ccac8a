"""Interval arithmetic on a mask's graph: what can it be on a rectangle of pairs, for many rectangles at once?

Each node gets the least and the greatest value it can take on each rectangle. Booleans are numbers here: least is 1 when
it holds for every pair, greatest is 0 when it holds for none. A node may be wider than the truth, never narrower:
floating-point operations are evaluated with the dtype and rounding of the mask itself, and rounding is monotone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ...errors import InputError
from ..tiles import Ints
from .graph import FLOATS, INTEGERS, Array, Graph, Node
from .tables import RangeTable

# (least, greatest); None where nothing is known.
Range = tuple[Array, Array]
Ranges = list[Range | None]
SAFE: Final = 2**61  # integers below this are added without a thought for 64 bits


@dataclass(frozen=True)
class Regions:
    """Rectangles of pairs: batch, head, first and last query, first and last key, shape (n,) each."""

    b: Ints
    h: Ints
    q0: Ints
    q1: Ints
    k0: Ints
    k1: Ints

    @property
    def size(self) -> int:
        """How many."""
        return self.q0.size

    def take(self, index: Array) -> Regions:
        """Some of them."""
        return Regions(*(getattr(self, name)[index] for name in ("b", "h", "q0", "q1", "k0", "k1")))


class Intervals:
    """Evaluates the nodes of one graph on rectangles.

    Attributes:
        wraps: some integer may pass the limits of its dtype, so that only the function itself tells what it does.
        narrow: 32 bits hold every integer.
        strides: (stride, offset) of each integer: its values are offset modulo stride wherever it is evaluated.
    """

    def __init__(self, graph: Graph, domain: Regions) -> None:
        self.graph = graph
        self.tables = [RangeTable(table) for table in graph.tables]
        self.reached = sorted(graph.reached())
        self.strides: list[tuple[int, int]] = []
        for node in graph.nodes:
            self.strides.append(_stride_of(node, self.strides))
        self.wraps = False
        self.narrow = all(
            abs(int(item)) < 2**31 for node in graph.nodes if node.dtype in INTEGERS for item in node.data
        )
        # Integers that may leave their dtype somewhere in the domain: nothing is known of them, in any part of it.
        self._unknown: set[int] = set()
        self._check = True
        self.evaluate(domain, range(len(graph.nodes)))
        self._check = False
        if self.wraps:
            self.narrow, self.strides = False, [(1, 0)] * len(graph.nodes)

    def root(self, regions: Regions) -> tuple[Array, Array, Ranges]:
        """Whether every pair of each rectangle is kept, whether any can be, and the ranges of all nodes."""
        ranges = self.evaluate(regions, self.reached)
        result = ranges[self.graph.root]
        shape = regions.q0.shape
        if result is None:
            return np.zeros(shape, bool), np.ones(shape, bool), ranges
        return np.broadcast_to(result[0], shape), np.broadcast_to(result[1], shape), ranges

    def evaluate(self, regions: Regions, order: Any) -> Ranges:
        """Ranges of the nodes in ``order``."""
        ranges: Ranges = [None] * len(self.graph.nodes)
        with np.errstate(all="ignore"):
            for index in order:
                node = self.graph.nodes[index]
                ranges[index] = self._one(index, node, [ranges[arg] for arg in node.args], regions)
        return ranges

    def _one(self, index: int, node: Node, args: list[Range | None], regions: Regions) -> Range | None:
        if node.op in ("b", "h"):
            value = getattr(regions, node.op)
            return value, value
        if node.op in ("q", "kv"):
            return (regions.q0, regions.q1) if node.op == "q" else (regions.k0, regions.k1)
        if node.op == "const":
            value = np.array([node.data[0]], dtype=np.int64 if node.dtype in INTEGERS else node.dtype)
            return (value, value) if node.dtype not in FLOATS or np.isfinite(value[0]) else None
        if node.op == "opaque":
            return (np.zeros(1, bool), np.ones(1, bool)) if node.dtype == "bool" else None
        if node.op == "eq0" and self._never_zero(node.args[0]):
            return np.zeros(1, bool), np.zeros(1, bool)
        if node.op == "gather":
            return self._gather(node, args, regions)
        if node.op == "where" and any(arg is None for arg in args):
            return (np.zeros(1, bool), np.ones(1, bool)) if node.dtype == "bool" else None
        known = [arg for arg in args if arg is not None]
        if len(known) < len(args):
            return (np.zeros(1, bool), np.ones(1, bool)) if node.dtype == "bool" else None
        if index in self._unknown:
            return None
        if self._check and self._overflows(node, known):
            self.wraps = True
            self._unknown.add(index)
            return None
        if node.op == "lin":
            return _linear(node, known)
        low, high = _RULES[node.op](node, *known)
        if node.dtype in FLOATS:
            bad = ~(np.isfinite(low) & np.isfinite(high))
            if bad.any():
                low, high = np.where(bad, -np.inf, low), np.where(bad, np.inf, high)
        return low, high

    def _never_zero(self, index: int) -> bool:
        stride, offset = self.strides[index]
        return offset != 0 if stride == 0 else offset % stride != 0

    def _overflows(self, node: Node, args: list[Range]) -> bool:
        """Whether an integer can leave its dtype; asked once, of the whole domain, in Python's integers."""
        if node.dtype not in INTEGERS or node.op not in ("lin", "mul", "abs", "floordiv", "cast"):
            return False
        ends = [(low.min(), high.max()) for low, high in args]
        if node.op == "cast" and not all(np.isfinite(end) for pair in ends for end in pair):
            return True
        whole = [(math.floor(low), math.ceil(high)) for low, high in ends]
        size = [max(-low, high) for low, high in whole]
        if node.op == "lin":
            low = high = int(node.data[-1])
            bound = abs(low)
            for coefficient, (first, last), most in zip(node.data, whole, size, strict=False):
                pair = sorted((int(coefficient) * first, int(coefficient) * last))
                low, high, bound = low + pair[0], high + pair[1], bound + abs(int(coefficient)) * most
        else:
            bound = size[0] * size[1] if node.op == "mul" else size[0]
            low = high = 0
            if node.op == "mul":
                corners = [x * y for x in whole[0] for y in whole[1]]
                low, high = min(corners), max(corners)
            elif node.op == "cast":
                low, high = whole[0]
        self.narrow &= bound < 2**31
        limits = np.iinfo(node.dtype)
        return bound >= SAFE or low < limits.min or high > limits.max

    def _gather(self, node: Node, args: list[Range | None], regions: Regions) -> Range | None:
        number = int(node.data[0])
        table, lookup = self.graph.tables[number], self.tables[number]
        if lookup.flat.dtype.kind == "f" and not np.isfinite([lookup.low, lookup.high]).all():
            return None
        everything = (np.array([lookup.low]), np.array([lookup.high]))
        if any(arg is None for arg in args):
            return _as_dtype(everything, node.dtype)
        if self._check:
            self._check_indices(node, args, table)
        shape = regions.q0.shape
        first, last = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        exact = np.ones(shape, bool)
        for axis, (length, arg) in enumerate(zip(table.shape, args, strict=True)):
            assert arg is not None
            low, high = arg
            wrapped = low < 0  # negative indices count from the end, as long as all of a rectangle's do
            exact &= (low >= -length) & (high < length) & (~wrapped | (high < 0))
            if axis < table.ndim - 1:  # entries are side by side in memory only along the last axis
                exact &= low == high
            shift = np.where(wrapped, length, 0)
            first, last = first * length + low + shift, last * length + high + shift
        first, last = np.where(exact, first, 0), np.where(exact, last, 0)
        low, high = lookup.range(first, last)
        low, high = np.where(exact, low, lookup.low), np.where(exact, high, lookup.high)
        return _as_dtype((low, high), node.dtype)

    def _check_indices(self, node: Node, args: list[Range | None], table: Array) -> None:
        """An index that is b, h, q or kv itself takes every value of its range: one past the end is an error."""
        for axis, (length, arg, index) in enumerate(zip(table.shape, args, node.args, strict=True)):
            op = self.graph.nodes[index].op
            if arg is not None and op in ("b", "h", "q", "kv") and int(arg[1].max()) >= length:
                name = {"q": "q_idx", "kv": "kv_idx"}.get(op, op)
                raise InputError(
                    f"the mask indexes a table of shape {'x'.join(map(str, table.shape))} with {name}, which goes up to "
                    f"{int(arg[1].max()):,}: expected at least {int(arg[1].max()) + 1:,} entries on axis {axis}"
                )


def _as_dtype(pair: Range, dtype: str) -> Range:
    kind = np.bool_ if dtype == "bool" else np.dtype(dtype) if dtype in FLOATS else np.int64
    return pair[0].astype(kind), pair[1].astype(kind)


def _linear(node: Node, args: list[Range]) -> Range:
    low = high = np.full(1, int(node.data[-1]), dtype=np.int64)
    for coefficient, (least, most) in zip(node.data, args, strict=False):
        factor = int(coefficient)
        if factor < 0:
            least, most = most, least
        low, high = low + factor * least, high + factor * most
    return low, high


def _corners(operation: Any, x: Range, y: Range) -> Range:
    values = [operation(a, b) for a, b in itertools.product(x, y)]
    low, high = values[0], values[0]
    for value in values[1:]:
        low, high = np.minimum(low, value), np.maximum(high, value)
    return low, high


def _multiply(node: Node, x: Range, y: Range) -> Range:
    if node.args[0] == node.args[1]:
        low, high = np.abs(x[0]), np.abs(x[1])
        spans = (x[0] <= 0) & (x[1] >= 0)
        least = np.where(spans, 0, np.minimum(low, high)).astype(low.dtype)
        return least * least, np.maximum(low, high) ** 2
    return _corners(np.multiply, x, y)


def _divide(node: Node, x: Range, y: Range) -> Range:
    zero = (y[0] <= 0) & (y[1] >= 0)
    safe = (np.where(zero, 1, y[0]).astype(y[0].dtype), np.where(zero, 1, y[1]).astype(y[1].dtype))
    if node.op == "div":
        low, high = _corners(np.divide, x, safe)
        return np.where(zero, -np.inf, low), np.where(zero, np.inf, high)
    low, high = _corners(np.floor_divide, x, safe)
    most = np.maximum(np.abs(x[0]), np.abs(x[1]))
    return np.where(zero, -most - 1, low), np.where(zero, most, high)


def _modulo(node: Node, x: Range, y: Range) -> Range:
    fixed = (y[0] == y[1]) & (y[0] != 0)
    divisor = np.where(fixed, y[0], 1)
    block = fixed & (x[0] // divisor == x[1] // divisor)  # no multiple of the divisor in between
    low = np.where(block, x[0] % divisor, np.minimum(y[0] + 1, 0))
    high = np.where(block, x[1] % divisor, np.maximum(y[1] - 1, 0))
    return low, high


def _absolute(node: Node, x: Range) -> Range:
    low, high = np.abs(x[0]), np.abs(x[1])
    spans = (x[0] <= 0) & (x[1] >= 0)
    return np.where(spans, 0, np.minimum(low, high)).astype(low.dtype), np.maximum(low, high)


def _where(node: Node, condition: Range, x: Range, y: Range) -> Range:
    low = np.where(condition[0], x[0], np.where(condition[1], np.minimum(x[0], y[0]), y[0]))
    high = np.where(condition[0], x[1], np.where(condition[1], np.maximum(x[1], y[1]), y[1]))
    return low, high


def _cast(node: Node, x: Range) -> Range:
    if node.dtype in FLOATS:
        return x[0].astype(node.dtype), x[1].astype(node.dtype)
    return x[0].astype(np.int64), x[1].astype(np.int64)  # towards zero, as PyTorch does


def _equal(node: Node, x: Range, y: Range) -> Range:
    return (x[0] == x[1]) & (y[0] == y[1]) & (x[0] == y[0]), (x[0] <= y[1]) & (y[0] <= x[1])


def _compare(operation: Any) -> Callable[..., Range]:
    def rule(node: Node, x: Range, y: Range) -> Range:
        unsure = ~(np.isfinite(x[0]) & np.isfinite(x[1]) & np.isfinite(y[0]) & np.isfinite(y[1]))
        return operation(x[1], y[0]) & ~unsure, operation(x[0], y[1]) | unsure

    return rule


def _each(operation: Any) -> Callable[..., Range]:
    """The rule of a function that rises in all its arguments."""
    return lambda node, *args: (operation(*(arg[0] for arg in args)), operation(*(arg[1] for arg in args)))


_RULES: Final[dict[str, Callable[..., Range]]] = {
    "mul": _multiply,
    "floordiv": _divide,
    "div": _divide,
    "mod": _modulo,
    "abs": _absolute,
    "min": _each(np.minimum),
    "max": _each(np.maximum),
    "where": _where,
    "cast": _cast,
    "ge0": lambda node, x: (x[0] >= 0, x[1] >= 0),
    "eq0": lambda node, x: ((x[0] == 0) & (x[1] == 0), (x[0] <= 0) & (x[1] >= 0)),
    "lt": _compare(np.less),
    "le": _compare(np.less_equal),
    "eq": _equal,
    "and": _each(np.logical_and),
    "or": _each(np.logical_or),
    "xor": lambda node, x, y: (
        (x[0] == x[1]) & (y[0] == y[1]) & (x[0] != y[0]),
        ~((x[0] == x[1]) & (y[0] == y[1]) & (x[0] == y[0])),
    ),
    "not": lambda node, x: (~x[1], ~x[0]),
    "add": _each(np.add),
    "sub": lambda node, x, y: (x[0] - y[1], x[1] - y[0]),
    "neg": lambda node, x: (-x[1], -x[0]),
    "floor": _each(np.floor),
    "ceil": _each(np.ceil),
    "trunc": _each(np.trunc),
    "sqrt": _each(np.sqrt),
}


def _stride_of(node: Node, known: list[tuple[int, int]]) -> tuple[int, int]:
    """(stride, offset) of an integer; stride 0 for a constant."""
    if node.dtype not in INTEGERS:
        return 1, 0
    if node.op == "const":
        return 0, int(node.data[0])
    if node.op == "lin":
        stride, offset = 0, int(node.data[-1])
        for coefficient, arg in zip(node.data, node.args, strict=False):
            step, start = known[arg]
            stride, offset = math.gcd(stride, int(coefficient) * step), offset + int(coefficient) * start
        return stride, offset
    if node.op == "mod" and known[node.args[1]][0] == 0:
        step, start = known[node.args[0]]
        return math.gcd(step, known[node.args[1]][1]), start
    return 1, 0
