"""Windows as other libraries state them, read into patterns. Each adapter names its convention: how many keys a window
of W means. Every function raises InputError, quoting the argument, for a value that the library does not take.

| library | argument | keys of an inner query |
|---|---|---|
| NATTEN | ``kernel_size=W`` | W, shifted inwards at the edges (causal axes: at most W) |
| flash-attn | ``window_size=(l, r)`` | l + r + 1; -1 is no limit; bottom right |
| Hugging Face | ``sliding_window=W`` | W, the query included, causal |
| xformers | ``LocalAttentionFromBottomRightMask(l, r)`` | l + r + 1; bottom right |
| xformers | ``LowerTriangular...LocalAttentionMask(W)`` | W, the query included, causal |
| attention-gym | ``generate_sliding_window(W)`` | W + 1, causal |
| attention-gym | ``generate_natten(..., K, K)`` | 2 floor(K / 2) + 1 per axis: K + 1 for an even K |
| attention-gym | ``generate_dilated_sliding_window(W, d)`` | 2 floor(W / d) + 1 |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import InputError, unknown
from ..workload import Grid, Workload
from .band import UNLIMITED, Band
from .base import Pattern
from .neighborhood import Neighborhood
from .sequence import Dilated, Documents, PrefixLm

PerAxis = int | Sequence[int]


def natten(
    kernel_size: PerAxis, stride: PerAxis = 1, dilation: PerAxis = 1, is_causal: bool | Sequence[bool] = False,
    *, axes: int | None = None,
) -> Neighborhood:  # fmt: skip
    """NATTEN's ``na1d/na2d/na3d`` arguments: a window of W is W keys per axis.

    Args:
        axes: 1 for na1d, 2, 3; the length of ``kernel_size`` when None.
    """
    if axes is None:
        axes = 1 if isinstance(kernel_size, int) else len(kernel_size)
    window, steps, groups = (
        _per_axis(name, value, axes)
        for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation))
    )
    flags = (is_causal,) * axes if isinstance(is_causal, bool) else tuple(is_causal)
    if len(flags) != axes or not all(isinstance(item, bool) for item in flags):
        raise InputError(f"is_causal {is_causal!r} cannot be read: expected a flag for each of {axes} axes")
    return Neighborhood(window, steps, groups, flags)


def _per_axis(name: str, value: PerAxis, axes: int) -> Grid:
    entries = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(entries) != axes or not all(_is_int(item) and item >= 1 for item in entries):
        raise InputError(f"{name} {value!r} cannot be read: expected {axes} whole numbers of at least 1")
    return entries


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def flash_attn(window_size: tuple[int, int] = (-1, -1), causal: bool = False) -> Band:
    """flash-attn's ``window_size=(left, right)`` and ``causal``: both sides inclusive, so (W, 0) is W + 1 keys."""
    if len(window_size) != 2 or not all(_is_int(side) and side >= -1 for side in window_size):
        raise InputError(f"window_size {window_size!r} cannot be read: expected (left, right), -1 for no limit")
    left, right = (UNLIMITED if side < 0 else side for side in window_size)
    return Band(left, 0 if causal else right)


def xformers(mask: str, **arguments: int) -> Band:
    """xformers' local masks by class name, with the arguments of their constructors.

    ``LocalAttentionFromBottomRightMask(window_left, window_right)``: left + right + 1 keys.
    ``LowerTriangularFromBottomRightLocalAttentionMask(_window_size)``: W keys, the query included.
    ``LowerTriangularFromBottomRightMask()``, and ``LowerTriangularMask()`` for as many queries as keys: causal.
    """
    takes: dict[str, tuple[str, ...]] = {
        "LocalAttentionFromBottomRightMask": ("window_left", "window_right"),
        "LowerTriangularFromBottomRightLocalAttentionMask": ("_window_size",),
        "LowerTriangularFromBottomRightMask": (),
        "LowerTriangularMask": (),
    }
    if mask not in takes:
        raise unknown("xformers mask", mask, takes)
    if set(arguments) != set(takes[mask]):
        expected = ", ".join(takes[mask]) or "no arguments"
        raise InputError(f"{mask} got {', '.join(arguments) or 'no arguments'}: expected {expected}")
    least = 1 if mask.startswith("LowerTriangular") else 0
    for name, value in arguments.items():
        if not _is_int(value) or value < least:
            raise InputError(f"{name} {value!r} cannot be read: expected a whole number of at least {least}")
    if mask == "LocalAttentionFromBottomRightMask":
        return Band(arguments["window_left"], arguments["window_right"])
    return Band(arguments["_window_size"] - 1 if arguments else UNLIMITED, 0)


def attention_gym(factory: str, *arguments: Any) -> Pattern:
    """attention-gym's mask factories by name, with their positional arguments.

    ``generate_sliding_window(W)``: W + 1 keys. ``generate_natten(canvas_w, canvas_h, kernel_w, kernel_h)``: row-major,
    2 floor(K/2) + 1 keys per axis; the code splits tokens by canvas_w but names rows x, so only square canvases and
    kernels are what they say, and only those are taken. ``generate_prefix_lm_mask(prefix)``.
    ``generate_dilated_sliding_window(W, d)``: both sides. ``generate_doc_mask_mod(lengths, inner)``: documents by their
    lengths, the inner pattern "causal" or "dense". ``causal_mask()``.
    """
    makers: dict[str, tuple[int, Callable[..., Pattern]]] = {
        "causal_mask": (0, lambda: Band(right=0)),
        "generate_sliding_window": (1, lambda w: Band(w, 0)),
        "generate_natten": (4, _gym_natten),
        "generate_prefix_lm_mask": (1, PrefixLm),
        "generate_dilated_sliding_window": (2, Dilated),
        "generate_doc_mask_mod": (2, _gym_documents),
    }
    if factory not in makers:
        raise unknown("attention-gym factory", factory, makers)
    takes, make = makers[factory]
    if len(arguments) != takes:
        raise InputError(f"{factory} got {len(arguments)} arguments {arguments!r}: expected {takes}")
    if factory != "generate_doc_mask_mod" and not all(_is_int(value) and value >= 0 for value in arguments):
        raise InputError(f"{factory}{arguments!r} cannot be read: expected whole numbers of at least 0")
    return make(*arguments)


def _gym_natten(canvas_w: int, canvas_h: int, kernel_w: int, kernel_h: int) -> Pattern:
    if canvas_w != canvas_h or kernel_w != kernel_h:
        raise InputError(
            f"generate_natten({canvas_w}, {canvas_h}, {kernel_w}, {kernel_h}): expected a square canvas and kernel; "
            "attention-gym clamps rows by the width, so other ones are not neighborhoods"
        )
    window = 2 * (kernel_w // 2) + 1
    if window > canvas_w:
        raise InputError(f"kernel {kernel_w} spans {window} keys: expected at most the canvas, {canvas_w}")
    return Neighborhood((window,) * 2, (1, 1), (1, 1), (False, False), order="row")


def _gym_documents(sizes: Sequence[int], inner: str) -> Pattern:
    if inner not in ("causal", "dense"):
        raise unknown("inner mask", inner, ("causal", "dense"))
    if not sizes or not all(_is_int(size) and size >= 1 for size in sizes):
        raise InputError(f"document lengths {sizes!r} cannot be read: expected whole numbers of at least 1")
    return Documents(tuple(sizes), inner == "causal")


@dataclass(frozen=True)
class ModelConfig:
    """Attention of a Hugging Face ``config.json``.

    Attributes: heads, heads_kv, head_dim: as in Workload. patterns: one per layer.
    """

    heads: int
    heads_kv: int
    head_dim: int
    patterns: tuple[Pattern, ...]

    def workload(self, tokens: int, batch: int = 1, cached: int = 0, dtype: str = "bf16") -> Workload:
        """A call of one layer on so many new tokens."""
        return Workload((tokens,), self.heads, self.head_dim, batch, self.heads_kv, cached=cached, dtype=dtype)


def hugging_face(config: Mapping[str, Any]) -> ModelConfig:
    """A loaded ``config.json``: ``sliding_window=W`` is W keys, the query included.

    ``layer_types`` says which layers slide; without it all do when ``sliding_window`` is set and
    ``use_sliding_window`` is not false (then layers below ``max_window_layers`` are full, as in Qwen2).
    Fields may lie under ``text_config``.
    """
    inner = config.get("text_config")
    fields: Mapping[str, Any] = {**config, **inner} if isinstance(inner, Mapping) else config
    heads, layers = _positive(fields, "num_attention_heads"), _positive(fields, "num_hidden_layers")
    heads_kv = heads if fields.get("num_key_value_heads") is None else _positive(fields, "num_key_value_heads")
    if fields.get("head_dim") is not None:
        head_dim = _positive(fields, "head_dim")
    else:
        head_dim = _positive(fields, "hidden_size") // heads
    window = None if fields.get("sliding_window") is None else _positive(fields, "sliding_window")
    kinds = fields.get("layer_types")
    if kinds is None:
        slides = window is not None and fields.get("use_sliding_window", True)
        full = fields.get("max_window_layers", 0) if "use_sliding_window" in fields else 0
        kinds = ["sliding_attention" if slides and layer >= full else "full_attention" for layer in range(layers)]
    if len(kinds) != layers:
        raise InputError(f"layer_types has {len(kinds)} entries: expected num_hidden_layers = {layers}")
    return ModelConfig(heads, heads_kv, head_dim, tuple(_layer(kind, window) for kind in kinds))


def _layer(kind: str, window: int | None) -> Pattern:
    if kind == "full_attention":
        return Band(right=0)
    if kind != "sliding_attention":
        raise unknown("layer type", kind, ("full_attention", "sliding_attention"))
    if window is None:
        raise InputError("layer_types names 'sliding_attention' but sliding_window is not set: expected a whole number")
    return Band(window - 1, 0)


def _positive(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key)
    if not _is_int(value) or value is None or value < 1:
        raise InputError(f"{key} {value!r} in the configuration: expected a whole number of at least 1")
    return int(value)
