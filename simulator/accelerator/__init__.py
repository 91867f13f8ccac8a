"""Attention on spatial accelerators: a cascade of Einsums, bound to arrays of processing elements.

``attention("binding", "bert", 65536)`` forecasts FuseMax; a binding is a file in ``bindings/``, or the user's own.
"""

from .binding import Binding, Stage, binding_names, load_binding
from .forecast import (
    AcceleratorForecast,
    Transformer,
    attention,
    forecast,
    linear_layers,
    load_transformer,
    transformer_names,
)

__all__ = [
    "AcceleratorForecast",
    "Binding",
    "Stage",
    "Transformer",
    "attention",
    "binding_names",
    "forecast",
    "linear_layers",
    "load_binding",
    "load_transformer",
    "transformer_names",
]
