"""FlexAttention's tuning log: the JSON file of ``TORCHINDUCTOR_FLEX_ATTENTION_LOGGING_FILE``.

A list of problems, each with every configuration that Inductor timed. Two layouts:

* new: ``{"query_shape", "key_shape", "value_shape", "kernel_type", "choices": [{"type", "time", options, shapes}]}``;
* old: ``{"('forward', B, Hq, Hkv, Lq, Lkv, Dqk, Dv)": [{"type", "time", options}]}``.

``time``: milliseconds, L2 flushed (Inductor's benchmarker: its minimum or median, by version); ``inf`` where the
configuration failed. ``kernel_type``: forward, backward, decode. A decode problem's query is 5-D,
[B, Hkv, queries per key head, Lq, D]; the ``Hq`` and ``seq_len_q`` beside it are read off the wrong axes, so shapes are
taken from ``query_shape``. Not recorded: the GPU, the dtype, and the mask.

The mask matters less than it seems: Inductor times with made-up block lists that name every block
(``create_num_blocks_fake_generator``), once as partial and once as full when there is a block mask. Such times are of
no pattern at all; only without a block mask are they those of the call, so ``-p dense`` is the one pattern taken.
Source: PyTorch 2.13, torch/_inductor/select_algorithm.py and kernel/flex/{common,flex_decoding}.py; the old layout as
attention-gym's examples/flex_autotune_replay.py reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ...errors import InputError
from ..measured import MeasuredRun
from .base import BadEntry, Entry, Format, Given, Measurement, Names, NoRun, config_text, dtype_name, seconds, whole
from .reading import json_document

SOURCE: Final = "FlexAttention tuning log (TORCHINDUCTOR_FLEX_ATTENTION_LOGGING_FILE)"
_SHAPE_KEYS: Final = ("B", "Hq", "Hkv", "seq_len_q", "seq_len_kv", "qk_head_dim", "v_head_dim")
_NOT_OPTIONS: Final = frozenset((*_SHAPE_KEYS, "type", "time", "kernel_type"))
_DIRECTIONS: Final = {"forward": "fwd", "decode": "fwd", "backward": "bwd"}
_OLD_KEY: Final = re.compile(r"""\(\s*['"](\w+)['"]\s*,([^()]*)\)""")


def entries(path: Path, given: Given) -> Iterator[Entry]:
    """One entry for each problem and configuration."""
    if (given.pattern or "").strip().lower() != "dense":
        raise InputError(
            f"pattern {given.pattern!r}: expected -p dense, for a call without a block mask; with one, Inductor times "
            "made-up lists of all blocks and not the mask"
        )
    document = json_document(path)
    if not isinstance(document, list):
        raise InputError(f"{str(path)!r} is not a FlexAttention log: expected a list of problems")
    for index, problem in enumerate(document):
        where = f"problem {index + 1}"
        kernel_type, shape, choices = _problem(problem, f"{str(path)!r} {where}")
        for position, choice in enumerate(choices):
            yield Entry(f"{where} choice {position + 1}", f"{index + 1}.{position + 1}", (kernel_type, shape, choice))


def _problem(problem: Any, where: str) -> tuple[Any, list[Any], list[Any]]:
    """Kernel type, [B, Hq, Hkv, Lq, Lkv, Dqk, Dv] and the choices of a problem in either layout."""
    if not isinstance(problem, dict):
        raise InputError(f"{where} is not an object")
    if "choices" in problem:
        shape: list[Any] = [_dims(problem, name, where) for name in ("query_shape", "key_shape", "value_shape")]
        kernel_type, choices = problem.get("kernel_type"), problem["choices"]
        query, key, value = shape
        if len(query) == 5:  # [B, Hkv, queries per key head, Lq, D]
            query = [query[0], f"{query[1]}*{query[2]}", query[3], query[4]]
        if len(query) != 4 or len(key) != 4 or len(value) != 4:
            raise InputError(f"{where}: its shapes have {len(query)}, {len(key)} and {len(value)} axes: expected 4")
        shape = [query[0], query[1], key[1], query[2], key[2], query[3], value[3]]
    else:
        if len(problem) != 1:
            raise InputError(f"{where} has no 'choices', and is no problem of the old layout")
        ((name, choices),) = problem.items()
        match = _OLD_KEY.fullmatch(name.strip())
        shape = [item.strip() for item in match[2].split(",")] if match else []
        if match is None or len(shape) != len(_SHAPE_KEYS):
            raise InputError(
                f"{where}: {name[:80]!r} is not a problem such as ('forward', 1, 8, 8, 1024, 1024, 64, 64)"
            )
        kernel_type = match[1]
    if not isinstance(choices, list):
        raise InputError(f"{where}: its choices are not a list")
    return kernel_type, shape, choices


def _dims(problem: dict[str, Any], name: str, where: str) -> list[str]:
    text = problem.get(name)
    if not isinstance(text, str) or not (text.startswith("[") and text.endswith("]")):
        raise InputError(f'{where}: {name} is not a list such as "[1, 8, 1024, 64]"')
    return [item.strip() for item in text[1:-1].split(",")]


def _size(text: str, what: str) -> int:
    if "*" in text:
        left, _, right = text.partition("*")
        return _size(left, what) * _size(right, what)
    if text and not text.lstrip("-").isdigit():
        raise BadEntry(f"{what} {text[:40]!r} is a symbolic size: log again with static shapes", "symbolic size")
    return whole(text, what)


def read(entry: Entry, given: Given, names: Names) -> list[Measurement]:
    """One configuration of one problem, one run."""
    kernel_type, shape, choice = entry.value
    if not isinstance(choice, dict) or "time" not in choice:
        raise BadEntry("it is not an object with a time", "no time")
    if not isinstance(kernel_type, str) or kernel_type not in _DIRECTIONS:
        raise BadEntry(
            f"kernel_type {kernel_type!r} is unknown: expected one of {', '.join(_DIRECTIONS)}", "kernel_type"
        )
    if choice["time"] == float("inf"):
        raise NoRun("the configuration failed")
    sizes = [_size(str(value), what) for value, what in zip(shape, _SHAPE_KEYS, strict=True)]
    if kernel_type != "decode":  # see the module: a decode problem's own sizes are off
        for what, size in zip(_SHAPE_KEYS, sizes, strict=True):
            if what in choice and choice[what] != size:
                raise BadEntry(
                    f"{what} is {choice[what]!r} but the shapes say {size}", f"{what} contradicts the shapes"
                )
    batch, heads, heads_kv, queries, keys, head_dim, head_dim_v = sizes
    gpu = names.gpu("")
    tiled = kernel_type == "forward" and "BLOCK_M" in choice and "BLOCK_N" in choice
    run = MeasuredRun(
        id="",
        gpu=gpu.key,
        kernel=names.kernel(f"flex_{kernel_type}", gpu),
        software=given.software or "PyTorch FlexAttention",
        batch=batch,
        heads=heads,
        heads_kv=heads_kv,
        grid=str(queries),
        cached=0,
        head_dim=head_dim,
        dtype=dtype_name(given.dtype or "", "dtype"),
        pattern="dense",
        q_tile=str(whole(choice["BLOCK_M"], "BLOCK_M")) if tiled else "",
        kv_tile=str(whole(choice["BLOCK_N"], "BLOCK_N")) if tiled else "",
        measures="kernel",
        warm=False,
        graph=False,
        time_s=seconds(choice["time"], "time"),
        method="Inductor autotuner, L2 flushed, no block mask",
        source=SOURCE,
        head_dim_v=None if head_dim_v == head_dim else head_dim_v,
        kv_grid="" if keys == queries else str(keys),
        direction=_DIRECTIONS[kernel_type],
        config=config_text({key: value for key, value in choice.items() if key not in _NOT_OPTIONS}),
    )
    return [Measurement(run)]


FORMAT: Final = Format("FlexAttention tuning log", SOURCE, entries, read, needs=("gpu", "dtype", "pattern"))
