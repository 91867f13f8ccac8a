"""The compute operators a cascade may use: name, number of operands, and meaning on numpy arrays.

A count is reported per operator under these names, so that hardware can give each its own pipe and cost.
``exp(a - b)``, the sub-then-exp of the FuseMax paper, is a ``sub`` and an ``exp``: two pipes on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Largest finite E4M3 value and the eight magnitudes of E2M1 (OCP microscaling formats 1.0, tables 1 and 4).
_E4M3_MAX = 448.0
_E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


@dataclass(frozen=True)
class Operator:
    """A pointwise operator: how many operands it takes and what it computes."""

    arity: int
    apply: Callable[..., Any]


@dataclass(frozen=True)
class Reducer:
    """A reduce action: the map operator it repeats, its identity, and the numpy reduction."""

    op: str
    identity: float
    apply: Callable[..., Any]


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -np.asarray(x, dtype=np.float64)))


def _e4m3(x: Array) -> Array:
    """Nearest FP8 E4M3 value, ties to even, saturating; subnormals below 2^-6."""
    x = np.asarray(x, dtype=np.float64)
    exponent = np.floor(np.log2(np.maximum(np.abs(x), 2.0**-6)))
    step = 2.0 ** (exponent - 3)
    return np.clip(np.round(x / step) * step, -_E4M3_MAX, _E4M3_MAX)


def _e2m1(x: Array) -> Array:
    """Nearest FP4 E2M1 value, ties to the even mantissa, saturating at 6."""
    x = np.asarray(x, dtype=np.float64)
    size = np.minimum(np.abs(x), 6.0)
    step = np.where(size < 2.0, 0.5, np.where(size < 4.0, 1.0, 2.0))
    return np.sign(x) * np.round(size / step) * step


OPERATORS: dict[str, Operator] = {
    "add": Operator(2, np.add),
    "sub": Operator(2, np.subtract),
    "mul": Operator(2, np.multiply),
    "divide": Operator(2, np.divide),
    "neg": Operator(1, np.negative),
    "max": Operator(2, np.maximum),
    "min": Operator(2, np.minimum),
    "pow": Operator(2, np.power),
    "greater": Operator(2, lambda a, b: np.greater(a, b).astype(np.float64)),
    "select": Operator(3, lambda c, a, b: np.where(np.asarray(c) != 0, a, b)),
    "exp": Operator(1, np.exp),
    "exp2": Operator(1, np.exp2),
    "log": Operator(1, np.log),
    "log2": Operator(1, np.log2),
    "sqrt": Operator(1, np.sqrt),
    "abs": Operator(1, np.abs),
    "sign": Operator(1, np.sign),
    "round": Operator(1, np.round),
    "relu": Operator(1, lambda x: np.maximum(x, 0.0)),
    "sigmoid": Operator(1, _sigmoid),
    "silu": Operator(1, lambda x: x * _sigmoid(x)),
    "softplus": Operator(1, lambda x: np.logaddexp(0.0, x)),
    "tanh": Operator(1, np.tanh),
    "elu": Operator(1, lambda x: np.where(np.asarray(x) > 0, x, np.expm1(np.minimum(x, 0.0)))),
    "sin": Operator(1, np.sin),
    "cos": Operator(1, np.cos),
    "e4m3": Operator(1, _e4m3),
    "e2m1": Operator(1, _e2m1),
}

REDUCERS: dict[str, Reducer] = {
    "sum": Reducer("add", 0.0, np.sum),
    "max": Reducer("max", -np.inf, np.max),
    "min": Reducer("min", np.inf, np.min),
    "prod": Reducer("mul", 1.0, np.prod),
}

# How the notation writes them between their operands, and how tightly they bind.
INFIX: dict[str, tuple[str, int]] = {"+": ("add", 1), "-": ("sub", 1), "*": ("mul", 2), "/": ("divide", 2)}
