"""Calling a mask function: once with stand-ins, to get its graph, and for real on pairs, to check it or to count.

Tables that the function has captured are found where it has them: PyTorch's by a mode that sees every indexing, numpy's
(whose indexing asks nobody) by putting a subclass in their place in closures, defaults, globals and attributes.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import types
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from ...errors import InputError
from ..tiles import Ints
from . import dense
from .graph import INTEGERS, SYMBOLS, Array, Graph
from .tracer import Trace, Tracer, as_array, find

Function = Callable[..., Any]
POINTS: Final = 1024  # pairs on which graph and function have to agree
CHUNK_PAIRS: Final = 1 << 18
DEPTH: Final = 6  # containers inside containers that are searched for numpy arrays


class TracedArray(np.ndarray[Any, Any]):
    """A numpy array that may be indexed with stand-ins."""

    def __getitem__(self, index: Any) -> Any:
        found = find(index)
        return super().__getitem__(index) if found is None else found.trace.getitem(self, index)


def capture(function: Function, name: str = "mask") -> Graph:
    """The graph of a mask function; one opaque node when its operations cannot be followed.

    Raises:
        InputError: it takes other arguments, raises, returns no boolean, branches on an index, or is random.
    """
    check_signature(function, name)
    wrap_arrays(function)
    try:
        graph = _trace(function, name)
        if not graph.same(_trace(function, name)):
            raise random_error(name)
    except InputError:
        raise
    except Exception as error:
        _call_once(function, name, error)
        return blind()
    return graph if _agrees(graph, function, name) else blind()


def blind() -> Graph:
    """The graph of a function of which nothing is known."""
    trace = Trace()
    indices = tuple(item.index for item in trace.arguments())
    trace.builder.graph.root = trace.builder.opaque(indices, "bool")
    return trace.builder.graph


def random_error(name: str) -> InputError:
    """Two evaluations disagree."""
    return InputError(
        f"mask {name!r} gives different answers for the same indices: expected no randomness and no state"
    )


def check_signature(function: Function, name: str) -> None:
    """Raise InputError unless the function takes (b, h, q_idx, kv_idx)."""
    if not callable(function):
        raise InputError(f"mask {name!r} is a {type(function).__name__}: expected a function (b, h, q_idx, kv_idx)")
    try:
        signature = inspect.signature(function)
        signature.bind(*SYMBOLS)
    except ValueError:
        return  # a builtin
    except TypeError:
        text = ", ".join(signature.parameters)
        hint = (
            "; it may be a factory: give a name that is bound to what it returns"
            if len(signature.parameters) < 4
            else ""
        )
        if "score" in signature.parameters:
            hint = "; a score_mod is no mask_mod"
        raise InputError(f"mask {name!r} takes ({text}): expected (b, h, q_idx, kv_idx){hint}") from None


def loaded_torch() -> Any:
    """PyTorch if somebody has imported it, else None."""
    return sys.modules.get("torch")


def _trace(function: Function, name: str) -> Graph:
    torch = loaded_torch()
    trace = Trace(torch)
    with _mode(torch):
        result = function(*trace.arguments())
    if torch is None and loaded_torch() is not None:
        return _trace(function, name)  # the call itself imported PyTorch
    trace.builder.graph.root = _result(trace, result, name)
    return trace.builder.graph


def _result(trace: Trace, result: Any, name: str) -> int:
    expected = "expected a boolean for each pair, such as q_idx >= kv_idx"
    if isinstance(result, Tracer):
        dtype = trace.builder.dtype(result.index)
        if result.shaped:
            raise InputError(f"mask {name!r} returns an array of shape {trace.samples[result.index].shape}: {expected}")
        if dtype != "bool":
            raise InputError(f"mask {name!r} returns {dtype}, not bool: {expected}")
        return result.index
    array = as_array(result)
    if array is None or array.ndim or array.dtype != np.bool_:
        what = f"{result!r}"[:60] if array is None else f"{array.dtype} of shape {array.shape}"
        raise InputError(f"mask {name!r} returns {what}, the same for every pair: {expected}")
    return trace.builder.constant(bool(array), "bool")


def _mode(torch: Any) -> contextlib.AbstractContextManager[Any]:
    """See ``tensor[stand-in]``, whichever tensor it is; PyTorch asks only modes about the index.

    An index that is a tensor without axes stays a tensor, as create_block_mask has it, so that vmap can follow it. (Its
    own mode for that sits in a module that takes seconds to import.)
    """
    if torch is None:
        return contextlib.nullcontext()
    from torch.overrides import TorchFunctionMode

    class SeeIndexing(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is torch.Tensor.__getitem__:
                found = find(args[1:])
                if found is not None:
                    return found.trace.getitem(args[0], args[1])
                indices = args[1] if isinstance(args[1], tuple) else (args[1],)
                if all(isinstance(item, torch.Tensor) or type(item) is int for item in indices):
                    wrapped = [torch.as_tensor(item, device=args[0].device) for item in indices]
                    return torch.ops.aten.index(args[0], wrapped)
            return function(*args, **(kwargs or {}))

    mode: contextlib.AbstractContextManager[Any] = SeeIndexing()
    return mode


def wrap_arrays(root: Any) -> None:
    """Put ``TracedArray`` in the place of every numpy array that a function can reach, in its own module's reach."""
    seen: set[int] = set()

    def visit(value: Any, depth: int) -> Any:
        if isinstance(value, np.ndarray):
            return value.view(TracedArray) if type(value) is np.ndarray else value
        if id(value) in seen or depth > DEPTH:
            return value
        seen.add(id(value))
        if isinstance(value, types.FunctionType):
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # an empty cell
                    cell.cell_contents = visit(cell.cell_contents, depth + 1)
            if value.__defaults__:
                value.__defaults__ = tuple(visit(item, depth + 1) for item in value.__defaults__)
            for key in [key for key in value.__code__.co_names if key in value.__globals__]:
                value.__globals__[key] = visit(value.__globals__[key], depth + 1)
        elif isinstance(value, types.MethodType):
            visit(value.__self__, depth + 1)
            visit(value.__func__, depth + 1)
        elif type(value) is dict:
            value.update({key: visit(item, depth + 1) for key, item in value.items()})
        elif type(value) is list:
            value[:] = [visit(item, depth + 1) for item in value]
        elif type(value) is tuple:
            return tuple(visit(item, depth + 1) for item in value)
        elif hasattr(value, "func") and type(value).__name__ == "partial":
            visit(value.func, depth + 1)
        elif not isinstance(value, (types.ModuleType, type)) and hasattr(value, "__dict__"):
            if not type(value).__module__.startswith(("torch", "numpy")):
                vars(value).update({key: visit(item, depth + 1) for key, item in vars(value).items()})
            call = vars(type(value)).get("__call__")
            if isinstance(call, types.FunctionType):
                visit(call, depth + 1)
        return value

    visit(root, 0)


class Real:
    """A mask function called for real: under torch.vmap as create_block_mask does it, or on numpy arrays."""

    def __init__(self, function: Function, name: str = "mask") -> None:
        self.function, self.name = function, name

    def points(self, indices: dict[str, Ints]) -> Array:
        """The mask at single pairs."""
        arrays = [indices[name] for name in SYMBOLS]
        return self._check(self._evaluate(arrays, [(0, 0, 0, 0)]), arrays[0].shape)

    def count(self, b: Ints, h: Ints, q0: Ints, k0: Ints, rows: int, columns: int) -> Ints:
        """Pairs kept in each of n blocks, in chunks of bounded memory."""
        kept = np.empty(q0.size, dtype=np.int64)
        step = max(1, CHUNK_PAIRS // (rows * columns))
        nested: list[tuple[int | None, ...]] = [(None, None, None, 0), (None, None, 0, None), (0, 0, 0, 0)]
        for begin in range(0, q0.size, step):
            part = slice(begin, begin + step)
            q = q0[part, None] + np.arange(rows)
            kv = k0[part, None] + np.arange(columns)
            mask = self._check(self._evaluate([b[part], h[part], q, kv], nested), (q.shape[0], rows, columns))
            kept[part] = np.count_nonzero(mask.reshape(q.shape[0], -1), axis=1)
        return kept

    def _evaluate(self, arrays: list[Array], nested: list[tuple[int | None, ...]]) -> Any:
        torch = loaded_torch()
        try:
            if torch is None:
                return self._on_arrays(arrays)
            function = self.function
            for axes in nested:
                function = torch.vmap(function, in_dims=axes)
            with _mode(torch), torch.no_grad():
                return as_array(function(*(torch.from_numpy(np.array(array)) for array in arrays)))
        except InputError:
            raise
        except Exception as error:
            if "randomness" in str(error):
                raise random_error(self.name) from None
            if torch is not None:  # somebody has imported it, but the mask may be numpy's
                with contextlib.suppress(Exception):
                    return self._on_arrays(arrays)
            raise raised(self.name, error) from None

    def _on_arrays(self, arrays: list[Array]) -> Any:
        b, h, q, kv = arrays
        if q.ndim == 1:
            return self.function(b, h, q, kv)
        return self.function(b[:, None, None], h[:, None, None], q[:, :, None], kv[:, None, :])

    def _check(self, mask: Any, shape: tuple[int, ...]) -> Array:
        array = as_array(mask) if not isinstance(mask, bool) else np.array(mask)
        if array is None or array.dtype != np.bool_:
            what = type(mask).__name__ if array is None else str(array.dtype)
            raise InputError(f"mask {self.name!r} returns {what}: expected a boolean for each pair")
        try:
            return np.broadcast_to(array, shape)
        except ValueError:
            raise InputError(
                f"mask {self.name!r} returns shape {array.shape}: expected one boolean for each pair"
            ) from None


def raised(name: str, error: BaseException) -> InputError:
    """The mask function raised."""
    text = " ".join(str(error).split())[:200]
    return InputError(f"mask {name!r} raises {type(error).__name__}{': ' if text else ''}{text}: expected a boolean")


def _call_once(function: Function, name: str, error: Exception) -> None:
    """Tracing failed: whose fault is it? Raises the error that the function itself raises on plain indices."""
    try:
        Real(function, name).points({symbol: np.arange(2) * 0 for symbol in SYMBOLS})
    except InputError:
        raise raised(name, error) from None


def _agrees(graph: Graph, function: Function, name: str) -> bool:
    """Whether graph and function agree on random pairs; evaluated twice, so that a random function is told apart."""
    floats = any(graph.nodes[index].dtype not in ("bool", *INTEGERS) for index in graph.reached())
    if graph.opaque or (floats and loaded_torch() is None):
        return True  # numpy's float64 is not what PyTorch computes with
    random = np.random.default_rng(0)
    for length in (4096, 64, 1):
        indices = {symbol: random.integers(0, _limit(graph, symbol, length), POINTS) for symbol in SYMBOLS}
        try:
            expected, again = (Real(function, name).points(indices) for _ in range(2))
            got = np.broadcast_to(dense.evaluate(graph, indices), expected.shape)
        except (InputError, IndexError, RuntimeError) as error:
            if "different answers" in str(error):
                raise
            continue  # past the end of a table
        if not np.array_equal(expected, again):
            raise random_error(name)
        return bool(np.array_equal(expected, got))
    return True


def _limit(graph: Graph, symbol: str, length: int) -> int:
    """Indices of a symbol that every table it indexes has."""
    limit = 4 if symbol in ("b", "h") and length > 4 else length
    for index in graph.reached():
        node = graph.nodes[index]
        if node.op == "gather":
            shape = graph.tables[int(node.data[0])].shape
            sizes = [size for size, arg in zip(shape, node.args, strict=True) if graph.nodes[arg].op == symbol]
            limit = min([limit, *sizes])
    return limit
