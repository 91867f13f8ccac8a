"""What each operator and each function of numpy and PyTorch means to a mask's graph, by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ...errors import InputError
from .graph import DTYPES, FLOATS, INTEGERS

if TYPE_CHECKING:
    from .tracer import Trace

MAX_MEMBERS: Final = 256  # torch.isin with more elements than that is left to PyTorch

# Names of one meaning, apart from Python's own.
_ALIASES: Final = {
    "subtract": "sub", "multiply": "mul", "div": "truediv", "divide": "truediv", "true_divide": "truediv",
    "floor_divide": "floordiv", "remainder": "mod", "mod": "mod", "minimum": "min", "maximum": "max", "less": "lt",
    "less_equal": "le", "greater": "gt", "greater_equal": "ge", "not_equal": "ne", "negative": "neg", "absolute": "abs",
    "positive": "pos", "logical_and": "logical_and", "logical_or": "logical_or", "logical_xor": "logical_xor",
    "logical_not": "logical_not", "bitwise_and": "and", "bitwise_or": "or", "bitwise_xor": "xor",
    "bitwise_not": "invert", "bitwise_left_shift": "lshift", "bitwise_right_shift": "rshift", "left_shift": "lshift",
    "right_shift": "rshift", "clip": "clamp", "power": "pow",
}  # fmt: skip
_SAME: Final = ("cpu", "cuda", "detach", "contiguous", "clone", "squeeze", "requires_grad_")
_CASTS: Final = {
    "int": "int32", "long": "int64", "short": "int16", "float": "float32", "double": "float64", "bool": "bool",
}  # fmt: skip


class Unsupported(Exception):
    """The graph has no node for this; the operation becomes opaque."""


def call(trace: Trace, function: Any, args: Any, kwargs: Any) -> Any:
    """A function of numpy or PyTorch, at least one argument of which is a stand-in."""
    name = getattr(function, "__name__", "")
    numpy = type(function).__module__ == "numpy" or getattr(function, "__module__", None) == "numpy"
    if name == "__getitem__":
        return trace.getitem(*args)
    if numpy and name == "equal":
        name = "eq"
    bare = name.strip("_")
    bare = _ALIASES.get(bare, bare)
    if bare == "item" or name in ("__bool__", "__int__", "__float__", "__index__"):
        bool(args[0])  # raises
    if bare.startswith("r") and bare[1:] in _OPERATIONS and bare not in _OPERATIONS and len(args) == 2:
        bare, args = bare[1:], args[::-1]  # __rsub__, torch.rsub
    return operation(trace, bare, function, args, kwargs)


def operation(trace: Trace, name: str, function: Callable[..., Any], args: Any, kwargs: Any = None) -> Any:
    """An operation by name, as a node; opaque when the graph cannot express it."""
    kwargs = dict(kwargs or {})
    try:
        if name in _OPERATIONS:
            return _OPERATIONS[name](trace, *args, **kwargs)
    except (Unsupported, TypeError):  # TypeError: arguments the table does not know, such as out=
        pass
    return trace.opaque(function, args, kwargs)


def attribute(tracer: Any, name: str) -> Any:
    """An attribute or method of a stand-in, as of a tensor without axes (or a numpy scalar)."""
    trace = tracer.trace
    bare = _ALIASES.get(name, name)
    real = None if bare in _OPERATIONS else trace.sample(tracer)
    if name in ("shape", "ndim", "dtype", "device", "size", "dim", "numel", "is_cuda", "requires_grad"):
        return getattr(real, name)
    if real is not None and not hasattr(real, name):
        raise AttributeError(f"{type(real).__name__!r} object has no attribute {name!r}")

    def method(*args: Any, **kwargs: Any) -> Any:
        def function(first: Any, *rest: Any, **named: Any) -> Any:
            return getattr(first, name)(*rest, **named)

        return operation(trace, bare, function, (tracer, *args), kwargs)

    return method


def _result(trace: Trace, index: int) -> Any:
    from .tracer import Tracer  # the two modules need each other

    return Tracer(trace, index)


def _operands(trace: Trace, *values: Any) -> tuple[list[int], str]:
    """Nodes of scalar operands in their common dtype, and that dtype."""
    found = [trace.operand(value) for value in values]
    operands = [item for item in found if item is not None]
    if len(operands) < len(found):
        raise Unsupported
    dtype = trace.common(operands)
    return [index for index, _ in operands], dtype


def _sum(sign: int) -> Callable[..., Any]:
    def rule(trace: Trace, x: Any, y: Any, *, alpha: int = 1) -> Any:
        (left, right), dtype = _operands(trace, x, y)
        if alpha != 1 or (dtype == "bool" and sign < 0):
            raise Unsupported
        if dtype == "bool":
            return _result(trace, trace.builder.logic("or", left, right))
        return _result(trace, trace.builder.add(left, right, dtype, sign))

    return rule


def _product(trace: Trace, x: Any, y: Any) -> Any:
    (left, right), dtype = _operands(trace, x, y)
    if dtype == "bool":
        return _result(trace, trace.builder.logic("and", left, right))
    return _result(trace, trace.builder.multiply(left, right, dtype))


def _quotient(trace: Trace, x: Any, y: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return _whole("floordiv")(trace, x, y)
    (left, right), dtype = _operands(trace, x, y)
    if rounding_mode is not None:
        raise Unsupported
    dtype = dtype if dtype in FLOATS else "float32"  # PyTorch's default dtype
    b = trace.builder
    return _result(trace, b.node("div", (b.cast(left, dtype), b.cast(right, dtype)), dtype))


def _whole(op: str) -> Callable[..., Any]:
    def rule(trace: Trace, x: Any, y: Any) -> Any:
        (left, right), dtype = _operands(trace, x, y)
        if dtype not in INTEGERS:
            raise Unsupported
        b = trace.builder
        divisor = b.graph.nodes[right]
        if divisor.op == "const" and divisor.data[0] == 0:
            raise InputError(f"the mask divides by zero ({'//' if op == 'floordiv' else '%'} 0)")
        return _result(trace, b.node(op, (b.cast(left, dtype), b.cast(right, dtype)), dtype))

    return rule


def _least(op: str) -> Callable[..., Any]:
    def rule(trace: Trace, x: Any, y: Any) -> Any:
        (left, right), dtype = _operands(trace, x, y)
        if dtype == "bool":
            return _result(trace, trace.builder.logic("and" if op == "min" else "or", left, right))
        b = trace.builder
        return _result(trace, b.node(op, (b.cast(left, dtype), b.cast(right, dtype)), dtype))

    return rule


def _comparison(op: str) -> Callable[..., Any]:
    def rule(trace: Trace, x: Any, y: Any) -> Any:
        (left, right), dtype = _operands(trace, x, y)
        b = trace.builder
        if dtype in FLOATS:
            left, right = b.cast(left, dtype), b.cast(right, dtype)
        return _result(trace, b.compare(op, left, right))

    return rule


def _logic(op: str, logical: bool) -> Callable[..., Any]:
    def rule(trace: Trace, x: Any, y: Any) -> Any:
        (left, right), dtype = _operands(trace, x, y)
        b = trace.builder
        if logical:
            left, right = b.cast(left, "bool"), b.cast(right, "bool")
        elif dtype != "bool":
            return _bits(trace, op, left, right, dtype)
        return _result(trace, b.logic(op, left, right))

    return rule


def _bits(trace: Trace, op: str, left: int, right: int, dtype: str) -> Any:
    """x & (2**n - 1) is x % 2**n; nothing else is expressed."""
    b = trace.builder
    for mask, other in ((left, right), (right, left)):
        node = b.graph.nodes[mask]
        if op == "and" and node.op == "const" and dtype in INTEGERS:
            value = int(node.data[0]) + 1
            if 0 < value < 2**30 and value & (value - 1) == 0:
                return _result(trace, b.node("mod", (b.cast(other, dtype), b.constant(value, dtype)), dtype))
    raise Unsupported


def _shift(op: str) -> Callable[..., Any]:
    def rule(trace: Trace, x: Any, y: Any) -> Any:
        (_, right), dtype = _operands(trace, x, y)
        node = trace.builder.graph.nodes[right]
        if node.op != "const" or dtype not in INTEGERS or not 0 <= node.data[0] < 30:
            raise Unsupported
        factor = 1 << int(node.data[0])
        return _product(trace, x, factor) if op == "lshift" else _whole("floordiv")(trace, x, factor)

    return rule


def _invert(trace: Trace, x: Any) -> Any:
    (index,), dtype = _operands(trace, x)
    if dtype == "bool":
        return _result(trace, trace.builder.invert(index))
    return _sum(-1)(trace, -1, x)  # two's complement


def _logical_not(trace: Trace, x: Any) -> Any:
    (index,), _ = _operands(trace, x)
    return _result(trace, trace.builder.invert(trace.builder.cast(index, "bool")))


def _negate(trace: Trace, x: Any) -> Any:
    (index,), dtype = _operands(trace, x)
    if dtype in INTEGERS:
        return _product(trace, x, -1)
    if dtype == "bool":
        raise Unsupported
    return _result(trace, trace.builder.node("neg", (index,), dtype))


def _unary(op: str) -> Callable[..., Any]:
    def rule(trace: Trace, x: Any) -> Any:
        (index,), dtype = _operands(trace, x)
        if dtype == "bool":
            raise Unsupported
        if dtype in INTEGERS and op not in ("abs", "sqrt"):
            return _result(trace, index)  # rounding whole numbers
        if dtype in INTEGERS and op == "sqrt":
            index, dtype = trace.builder.cast(index, "float32"), "float32"
        return _result(trace, trace.builder.node(op, (index,), dtype))

    return rule


def _where(trace: Trace, condition: Any, x: Any, y: Any) -> Any:
    (chosen,), kind = _operands(trace, condition)
    (left, right), dtype = _operands(trace, x, y)
    if kind != "bool":
        raise Unsupported
    b = trace.builder
    return _result(trace, b.node("where", (chosen, b.cast(left, dtype), b.cast(right, dtype)), dtype))


def _clamp(trace: Trace, x: Any, min: Any = None, max: Any = None) -> Any:
    if min is not None:
        x = _least("max")(trace, x, min)
    return x if max is None else _least("min")(trace, x, max)


def _power(trace: Trace, x: Any, y: Any) -> Any:
    (_, _), dtype = _operands(trace, x, y)
    if not isinstance(y, int) or y not in (1, 2) or dtype == "bool":
        raise Unsupported
    return x if y == 1 else _product(trace, x, x)


def _isin(trace: Trace, x: Any, members: Any) -> Any:
    from .tracer import as_array

    array = as_array(members)
    if array is None or not 0 < array.size <= MAX_MEMBERS or array.dtype.name not in INTEGERS:
        raise Unsupported
    found = [_comparison("eq")(trace, x, int(member)) for member in array.ravel().tolist()]
    while len(found) > 1:  # as a tree, so that no chain is as long as the list
        found = [_logic("or", True)(trace, *pair) for pair in zip(found[::2], found[1::2], strict=False)] + (
            found[-1:] if len(found) % 2 else []
        )
    return found[0]


def _cast(trace: Trace, x: Any, dtype: Any = None, *rest: Any, **kwargs: Any) -> Any:
    target = kwargs.get("dtype", dtype)
    name = str(target).removeprefix("torch.")
    if target is None or name.partition(":")[0] in ("cpu", "cuda"):
        return x  # to(device)
    name = {"long": "int64", "int": "int32", "float": "float32", "double": "float64"}.get(name, name)
    if isinstance(target, type):  # np.int32, bool
        name = {"bool": "bool", "int": "int64", "float": "float64"}.get(target.__name__, target.__name__)
    (index,), _ = _operands(trace, x)
    if name not in DTYPES:
        raise Unsupported
    return _result(trace, trace.builder.cast(index, name))


def _filled(value: Any) -> Callable[..., Any]:
    """ones_like, new_ones and their kin: a constant, as long as it has no axes."""

    def rule(trace: Trace, x: Any, *args: Any, dtype: Any = None, size: Any = None, **kwargs: Any) -> Any:
        _, kind = _operands(trace, x)
        args = tuple(args) if size is None else (size, *args)
        fill = value
        if value is None:
            fill = kwargs.get("fill_value", args[-1] if args else None)
            args = args[:-1]
        if any(list(item) if isinstance(item, (list, tuple)) else True for item in args) or fill is None:
            raise Unsupported
        name = kind if dtype is None else str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise Unsupported
        return _result(trace, trace.builder.constant(fill, name))

    return rule


_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "add": _sum(1), "sub": _sum(-1), "mul": _product, "truediv": _quotient, "floordiv": _whole("floordiv"),
    "mod": _whole("mod"), "min": _least("min"), "max": _least("max"), "neg": _negate, "abs": _unary("abs"),
    "floor": _unary("floor"), "ceil": _unary("ceil"), "trunc": _unary("trunc"), "sqrt": _unary("sqrt"),
    "square": lambda trace, x: _product(trace, x, x), "pos": lambda trace, x: x,
    "and": _logic("and", False), "or": _logic("or", False), "xor": _logic("xor", False), "invert": _invert,
    "logical_and": _logic("and", True), "logical_or": _logic("or", True), "logical_xor": _logic("xor", True),
    "logical_not": _logical_not, "lshift": _shift("lshift"), "rshift": _shift("rshift"), "where": _where,
    "clamp": _clamp, "pow": _power, "isin": _isin, "to": _cast, "type": _cast, "astype": _cast,
    "clamp_min": lambda trace, x, min: _clamp(trace, x, min), "clamp_max": lambda trace, x, max: _clamp(trace, x, None, max),
    "ones_like": _filled(1), "zeros_like": _filled(0), "full_like": _filled(None), "new_ones": _filled(1),
    "new_zeros": _filled(0), "new_full": _filled(None),
    **{name: _comparison(name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    **{name: (lambda trace, x: x) for name in _SAME},
    **{name: (lambda trace, x, to=dtype: _cast(trace, x, to)) for name, dtype in _CASTS.items()},
}  # fmt: skip
