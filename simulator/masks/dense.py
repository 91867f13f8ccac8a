"""A mask's graph evaluated pair by pair on blocks: the answer where intervals cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from ...errors import InputError
from ..tiles import Ints
from .graph import INTEGERS, SYMBOLS, Array, Graph, Node

CHUNK_PAIRS: Final = 1 << 19  # pairs evaluated together: a few megabytes for each operation in flight


def evaluate(
    graph: Graph, symbols: dict[str, Array], integer: Any = np.int64, known: Mapping[int, Array] | None = None
) -> Array:
    """The result for arrays of b, h, q and kv that broadcast against each other.

    ``integer`` is the dtype that integers are computed in; int32 halves the work where it is known to suffice.
    ``known`` holds values of opaque nodes.
    """
    values: list[Array | None] = [None] * len(graph.nodes)
    args = {index: _reads(graph, index) for index in graph.reached()}
    order = sorted(_needed(graph.root, args))
    last = {arg: index for index in order for arg in args[index]}
    with np.errstate(all="ignore"):
        for index in order:
            if known is not None and index in known:
                values[index] = known[index]
                continue
            values[index] = _apply(graph, graph.nodes[index], [values[arg] for arg in args[index]], symbols, integer)
            for arg in args[index]:
                if last[arg] == index:
                    values[arg] = None  # not needed again
    result = values[graph.root]
    assert result is not None
    return result


def _reads(graph: Graph, index: int) -> tuple[int, ...]:
    """Nodes that are read to evaluate one: a comparison of a sum reads the sum's terms."""
    node = graph.nodes[index]
    if node.op in ("ge0", "eq0") and graph.nodes[node.args[0]].op == "lin":
        return graph.nodes[node.args[0]].args
    return node.args


def _needed(root: int, args: Mapping[int, tuple[int, ...]]) -> set[int]:
    seen: set[int] = set()
    stack = [root]
    while stack:
        index = stack.pop()
        if index not in seen:
            seen.add(index)
            stack.extend(args[index])
    return seen


def block_symbols(b: Ints, h: Ints, q0: Ints, k0: Ints, rows: int, columns: int) -> dict[str, Array]:
    """Indices of n blocks, which broadcast to shape (n, rows, columns)."""
    return {
        "b": b[:, None, None],
        "h": h[:, None, None],
        "q": q0[:, None, None] + np.arange(rows)[None, :, None],
        "kv": k0[:, None, None] + np.arange(columns)[None, None, :],
    }


def count(graph: Graph, b: Ints, h: Ints, q0: Ints, k0: Ints, rows: int, columns: int, narrow: bool) -> Ints:
    """Pairs kept in each of n blocks of one shape, in chunks of bounded memory."""
    kept = np.empty(q0.size, dtype=np.int64)
    step = max(1, CHUNK_PAIRS // (rows * columns))
    for begin in range(0, q0.size, step):
        part = slice(begin, begin + step)
        symbols = block_symbols(b[part], h[part], q0[part], k0[part], rows, columns)
        mask = evaluate(graph, symbols, np.int32 if narrow else np.int64)
        whole = np.broadcast_to(mask, (q0[part].size, rows, columns))
        kept[part] = np.count_nonzero(whole.reshape(whole.shape[0], -1), axis=1)
    return kept


def _apply(graph: Graph, node: Node, args: list[Any], symbols: dict[str, Array], integer: Any) -> Array:
    if node.op in SYMBOLS:
        return symbols[node.op].astype(integer)
    dtype = np.dtype(integer if node.dtype in INTEGERS else node.dtype)
    if node.op == "const":
        return np.full((1,) * next(iter(symbols.values())).ndim, node.data[0], dtype=dtype)
    if node.op == "lin":
        return _linear(node, args, dtype)
    if node.op in ("ge0", "eq0") and graph.nodes[node.args[0]].op == "lin":
        return _with_zero(node, graph.nodes[node.args[0]], args, np.dtype(integer))
    if node.op == "gather":
        try:
            return np.asarray(graph.tables[int(node.data[0])][tuple(args)], dtype=dtype)
        except IndexError as error:
            raise InputError(f"the mask indexes a table past its end: {error}") from None
    if node.op in ("floordiv", "mod") and not np.all(args[1]):
        raise InputError("the mask divides by zero for some indices")
    return np.asarray(_FUNCTIONS[node.op](*args)).astype(dtype, copy=False)


def _sides(node: Node, args: list[Array], dtype: np.dtype[Any]) -> list[Array]:
    """A sum in up to three parts, small ones first: what depends on q or b and h, on kv, and on both."""
    parts: dict[tuple[bool, bool], Array] = {}
    for factor, value in zip(node.data, args, strict=False):
        term = value if factor == 1 else value * dtype.type(factor)
        kind = (value.ndim > 1 and value.shape[-1] > 1, value.ndim > 1 and value.shape[-2] > 1)
        kind = kind if kind[0] else (False, True)
        parts[kind] = parts[kind] + term if kind in parts else term
    ordered = [parts[kind] for kind in sorted(parts)]
    return [ordered[0] + dtype.type(node.data[-1]), *ordered[1:]] if node.data[-1] else ordered


def _linear(node: Node, args: list[Array], dtype: np.dtype[Any]) -> Array:
    total, *rest = _sides(node, args, dtype)
    for part in rest:
        total = total + part
    return total


def _with_zero(node: Node, total: Node, args: list[Array], dtype: np.dtype[Any]) -> Array:
    """A sum compared with zero: its small parts with each other, so that only booleans have the size of the block."""
    left, *rest = _sides(total, args, dtype)
    if not rest:
        return np.asarray(left >= 0 if node.op == "ge0" else left == 0)
    right = -rest[0]
    for part in rest[1:]:
        left = left + part
    return np.asarray(left >= right if node.op == "ge0" else left == right)


_FUNCTIONS: Final[dict[str, Any]] = {
    "mul": np.multiply,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
    "where": np.where,
    "cast": lambda x: x,
    "ge0": lambda x: x >= 0,
    "eq0": lambda x: x == 0,
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "not": np.logical_not,
    "add": np.add,
    "sub": np.subtract,
    "div": np.divide,
    "neg": np.negative,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "sqrt": np.sqrt,
}
