"""Triton attention kernels that users can run, their plain PyTorch references, and the compiler's word on
them.

Everything public is imported on first use: ``import attncast.kernels`` loads neither torch nor triton, so
that the forecaster can read a configuration's resources on a machine that has neither.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention_launch import attention
    from .attention_spec import ForwardConfig, forward_spec
    from .backward import attention_backward
    from .blocks import BlockLists
    from .decode import decode, merge_states
    from .layout import TokenLayout
    from .linear import linear_attention
    from .permute import permute_tokens, unpermute_tokens
    from .sparse import sparse_attention

__all__ = [
    "BlockLists",
    "ForwardConfig",
    "TokenLayout",
    "attention",
    "attention_backward",
    "decode",
    "forward_spec",
    "linear_attention",
    "merge_states",
    "permute_tokens",
    "sparse_attention",
    "unpermute_tokens",
]

_HOME = {
    "BlockLists": "blocks",
    "ForwardConfig": "attention_spec",
    "TokenLayout": "layout",
    "attention": "attention_launch",
    "attention_backward": "backward",
    "decode": "decode",
    "forward_spec": "attention_spec",
    "linear_attention": "linear",
    "merge_states": "decode",
    "permute_tokens": "permute",
    "sparse_attention": "sparse",
    "unpermute_tokens": "permute",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Keeps a public name a function where a submodule is called the same (attention.py, decode.py).

    Importing a submodule binds it as an attribute of its package; that binding alone is dropped here. The
    submodule is still there for ``from attncast.kernels.attention import ...``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
