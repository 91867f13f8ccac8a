"""Which undecided blocks look the same? Blocks of equal signature keep the same pairs, so that one is looked at.

The contents of a block are described relative to its corner. An integer is a base, one number for each block, plus a
shape that is fixed by the node's columns: two blocks with equal columns have equal shapes. ``q - kv`` has the base
q0 - k0 and no columns; ``q // 64`` the base q0 // 64 and the column q0 % 64; a comparison with zero has its argument's
columns and base for columns. What intervals have decided on a block leaves no trace of its arguments. Columns are
compared exactly, never hashed to fewer bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tiles import Ints
from .graph import INTEGERS, Array, Graph, Node
from .intervals import Ranges, Regions


@dataclass
class Form:
    """A node on every block: base plus a shape named by columns; floats and booleans have columns only."""

    base: Array | None
    columns: list[Array]

    def all(self) -> list[Array]:
        """Everything that fixes the value."""
        return self.columns if self.base is None else [*self.columns, self.base]


def signature(graph: Graph, order: list[int], regions: Regions, ranges: Ranges) -> list[Array]:
    """Columns of the result: blocks of one shape that agree in all of them keep the same pairs."""
    forms: dict[int, Form] = {}
    for index in order:
        node = graph.nodes[index]
        args = [forms[arg] for arg in node.args]
        form = _form(node, args, [ranges[arg] for arg in node.args], graph, regions)
        forms[index] = _settle(node, form, ranges[index])
    return forms[graph.root].all()


def _form(node: Node, args: list[Form], ranges: Ranges, graph: Graph, regions: Regions) -> Form:
    symbol = {"b": regions.b, "h": regions.h, "q": regions.q0, "kv": regions.k0}.get(node.op)
    if symbol is not None:
        return Form(symbol, [])
    if node.op == "const":
        return Form(np.array([int(node.data[0])]) if node.dtype in INTEGERS else None, [])
    if node.op == "opaque":  # may be anything, anywhere
        return Form(_none(node), [regions.b, regions.h, regions.q0, regions.k0])
    if node.op == "lin":
        total: Array = np.full(1, int(node.data[-1]), dtype=np.int64)
        for coefficient, arg in zip(node.data, args, strict=False):
            assert arg.base is not None
            total = total + int(coefficient) * arg.base
        return Form(total, _union(*(arg.columns for arg in args)))
    if node.op in ("floordiv", "mod") and graph.nodes[node.args[1]].op == "const":
        divisor, base = int(graph.nodes[node.args[1]].data[0]), args[0].base
        assert base is not None
        columns = _union(args[0].columns, [base % divisor])
        return Form(base // divisor if node.op == "floordiv" else np.zeros(1, np.int64), columns)
    if node.op == "where":
        return _select(node, ranges[0], args[1], args[2], args[0].all())
    if node.op in ("min", "max") and ranges[0] is not None and ranges[1] is not None:
        (x0, x1), (y0, y1) = ranges[0], ranges[1]
        left, right = (x1 <= y0, y1 <= x0) if node.op == "min" else (x0 >= y1, y0 >= x1)
        return _select(node, (left, left | ~right), args[0], args[1], [])
    return Form(_none(node), _union(*(arg.all() for arg in args)))


def _none(node: Node) -> Array | None:
    return np.zeros(1, np.int64) if node.dtype in INTEGERS else None


def _select(node: Node, condition: Any, x: Form, y: Form, asked: list[Array]) -> Form:
    """A choice between two nodes: where it is settled for a whole block, the other one leaves no trace."""
    if condition is None:
        return Form(_none(node), _union(asked, x.all(), y.all()))
    always, possible = condition
    which = np.where(always, 1, np.where(possible, 0, 2))
    columns = [which, *(np.where(which == 0, column, 0) for column in asked)]
    columns += [np.where(which != 2, column, 0) for column in x.columns]
    columns += [np.where(which != 1, column, 0) for column in y.columns]
    if x.base is None or y.base is None:
        return Form(None, columns)
    columns += [np.where(which == 0, x.base, 0), np.where(which == 0, y.base, 0)]
    return Form(np.where(which == 1, x.base, np.where(which == 2, y.base, 0)), columns)


def _settle(node: Node, form: Form, known: Any) -> Form:
    """Where the value is one number on a whole block, that number is all there is to say."""
    if known is None or node.dtype not in ("bool", *INTEGERS):
        return form
    low, high = known
    fixed = low == high
    columns = [np.where(fixed, 0, column) for column in form.columns]
    if node.dtype == "bool":
        return Form(None, [*columns, np.where(fixed, low, 2)])
    if not columns:
        return form  # its shape is the same everywhere: the base says it all
    assert form.base is not None
    return Form(np.asarray(np.where(fixed, low, form.base)), [*columns, fixed])


def _union(*lists: list[Array]) -> list[Array]:
    """Columns of several lists, each array once."""
    seen = {id(column): column for columns in lists for column in columns}
    return list(seen.values())


def group(columns: list[Array], size: int) -> tuple[Ints, Ints]:
    """Rows of equal columns: the first row of each group, and the group of each row."""
    code = np.zeros(size, dtype=np.int64)
    span = 1
    for column in columns:
        if column.size == 1:
            continue
        values = _integers(column)
        low, high = int(values.min()), int(values.max())
        if low == high:
            continue
        if high - low >= 2**30:
            values = np.unique(values, return_inverse=True)[1]
            low, high = 0, int(values.max())
        if span * (high - low + 1) >= 2**62:
            code = np.unique(code, return_inverse=True)[1]
            span = int(code.max()) + 1
        code = code * (high - low + 1) + (values - low)
        span *= high - low + 1
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    return first, inverse


def rows(columns: list[Array], index: Ints) -> list[bytes]:
    """The columns of some rows, as keys for a dictionary."""
    picked = [np.broadcast_to(_integers(c), index.shape) if c.size == 1 else _integers(c[index]) for c in columns]
    table = np.stack([*picked, np.zeros(index.shape, np.int64)], axis=1)
    return [row.tobytes() for row in table]


def _integers(column: Array) -> Ints:
    """Whole numbers that are equal where the column's values are."""
    return column.view(np.int64) if column.dtype == np.float64 else column.astype(np.int64)
