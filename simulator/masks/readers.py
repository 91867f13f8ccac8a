"""Block maps from files: ``.npz`` of plain arrays, and a ``BlockMask`` that PyTorch saved.

A ``.npz`` holds either ``block_map``, integers of shape ([batches,] [heads,] q_blocks, kv_blocks) with 0 for empty, 1 for
partial and 2 for full; or ``kv_num_blocks`` and ``kv_indices``, with ``full_kv_num_blocks`` and ``full_kv_indices`` if
full blocks are kept apart, as in ``BlockMask``. Optional: ``block_size`` (one or two integers; 128), ``seq_lengths``
(queries and keys; whole blocks), ``pairs`` (kept over all maps; otherwise every pair of a partial block is counted).

A ``.pt`` file is a pickle, and a pickle is code. It is read by an unpickler that knows tensors and nothing else: any
other object, the mask function included, becomes an inert placeholder, and nothing of the file is run.
"""

from __future__ import annotations

import collections
import pickle
import types
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, suggest
from ..workload import MAX_TOKENS
from .blockmap import EMPTY, FULL, PARTIAL, BlockMap, block_area, dense_runs
from .graph import Array
from .load import check_file
from .tracer import as_array

DEFAULT_BLOCK: Final = 128  # FlexAttention's
_TENSORS: Final = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
_KEYS: Final = ("block_map", *_TENSORS, "block_size", "seq_lengths", "pairs")


def read_block_map(path: str) -> BlockMap:
    """The block map in a ``.npz`` or ``.pt`` file.

    Raises:
        InputError: no such file, a truncated one, missing arrays, a wrong shape or dtype, an index out of range.
    """
    check_file(path)
    return read_npz(path) if path.lower().endswith(".npz") else read_pt(path)


def read_npz(path: str) -> BlockMap:
    """The block map in a ``.npz`` file (keys: see the module)."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InputError(f"block map {path!r} is a single array: expected a .npz file with block_map or kv_indices")
        with file:
            arrays = {name: file[name] for name in file.files}
    except InputError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"block map {path!r} holds Python objects, which are code: expected integer arrays"
            ) from None
        raise InputError(f"block map {path!r} cannot be read: it is truncated or no .npz file") from None
    except (zipfile.BadZipFile, EOFError, OSError, KeyError):
        raise InputError(f"block map {path!r} cannot be read: it is truncated or no .npz file") from None
    lowered = {"block_size" if name == "BLOCK_SIZE" else name: array for name, array in arrays.items()}
    for name in lowered:
        if name not in _KEYS:
            raise InputError(
                f"block map {path!r} has an unknown array {name!r}: expected {', '.join(_KEYS)}{suggest(name, _KEYS)}"
            )
    return from_arrays(lowered, path)


def from_arrays(arrays: Mapping[str, Any], what: str = "arrays") -> BlockMap:
    """A block map from arrays under the keys of a ``.npz`` file (see the module)."""
    arrays = {name: array for name, array in arrays.items() if array is not None}
    q_block, kv_block = _two(arrays.get("block_size", DEFAULT_BLOCK), "block_size", what)
    if "block_map" in arrays:
        blocks = _integers(arrays["block_map"], "block_map", what)
        if not 2 <= blocks.ndim <= 4 or not blocks.size:
            raise InputError(
                f"block_map of {what!r} has shape {blocks.shape}: expected ([batches,] [heads,] q_blocks, kv_blocks)"
            )
        if blocks.min() < EMPTY or blocks.max() > FULL:
            bad = blocks.min() if blocks.min() < EMPTY else blocks.max()
            raise InputError(f"block_map of {what!r} holds {bad}: expected 0 (empty), 1 (partial) or 2 (full)")
    elif "kv_num_blocks" in arrays and "kv_indices" in arrays:
        columns = None
        if "seq_lengths" in arrays:
            columns = -(-_two(arrays["seq_lengths"], "seq_lengths", what)[1] // kv_block)
        blocks = _spread(arrays, "", PARTIAL, columns, what)
        if ("full_kv_indices" in arrays) != ("full_kv_num_blocks" in arrays):
            raise InputError(f"{what!r} has one of full_kv_num_blocks and full_kv_indices: expected both or neither")
        if "full_kv_indices" in arrays:
            full = _spread(arrays, "full_", FULL, columns, what)
            if full.shape != blocks.shape:
                raise InputError(
                    f"full_kv_indices of {what!r} is for blocks {full.shape}: expected {blocks.shape}, as kv_indices"
                )
            if ((full > 0) & (blocks > 0)).any():
                raise InputError(f"{what!r} names a block as both partial and full: expected one of them")
            blocks = blocks + full
    else:
        raise InputError(f"{what!r} has no block map: expected an array block_map, or kv_num_blocks and kv_indices")
    rows, columns = blocks.shape[-2:]
    lengths = (rows * q_block, columns * kv_block)
    if "seq_lengths" in arrays:
        lengths = _two(arrays["seq_lengths"], "seq_lengths", what)
        needed = -(-lengths[0] // q_block), -(-lengths[1] // kv_block)
        if needed != (rows, columns):
            raise InputError(
                f"{what!r} has {rows} x {columns} blocks but seq_lengths {lengths[0]} x {lengths[1]} "
                f"with blocks of {q_block} x {kv_block} need {needed[0]} x {needed[1]}"
            )
    return _build(
        blocks.reshape((1,) * (4 - blocks.ndim) + blocks.shape).astype(np.int8),
        lengths,
        (q_block, kv_block),
        arrays,
        what,
    )


def _build(
    blocks: NDArray[np.int8], lengths: tuple[int, int], size: tuple[int, int], arrays: Mapping[str, Any], what: str
) -> BlockMap:
    most = block_area(*lengths, *size, blocks)
    least = block_area(*lengths, *size, np.where(blocks == FULL, FULL, EMPTY).astype(np.int8))
    pairs, exact = most, not (blocks == PARTIAL).any()
    if "pairs" in arrays:
        pairs, exact = int(_integers(arrays["pairs"], "pairs", what).reshape(-1)[0]), True
        if not least <= pairs <= most:
            raise InputError(f"pairs of {what!r} is {pairs:,}: expected {least:,} to {most:,}, which its blocks allow")
    for axis, index in ((0, (..., -1, slice(None))), (1, (..., -1))):
        if lengths[axis] % size[axis]:  # a block with padding is never full (see BlockMap)
            blocks[index] = np.minimum(blocks[index], PARTIAL)
    maps = tuple(dense_runs(item) for item in blocks.reshape(-1, *blocks.shape[2:]))
    return BlockMap(*lengths, *size, maps, (blocks.shape[0], blocks.shape[1]), pairs, exact)


def _spread(arrays: Mapping[str, Any], prefix: str, kind: int, columns: int | None, what: str) -> Array:
    """Counts and indices as an array of blocks."""
    count = _integers(arrays[f"{prefix}kv_num_blocks"], f"{prefix}kv_num_blocks", what)
    index = _integers(arrays[f"{prefix}kv_indices"], f"{prefix}kv_indices", what)
    if not 2 <= index.ndim <= 4 or not index.size or index.shape[:-1] != count.shape:
        raise InputError(
            f"{prefix}kv_indices of {what!r} has shape {index.shape} and {prefix}kv_num_blocks {count.shape}: "
            "expected ([batches,] [heads,] q_blocks, kv_blocks) and the same without the last axis"
        )
    columns = index.shape[-1] if columns is None else columns
    if count.min() < 0 or count.max() > index.shape[-1]:
        bad = count.min() if count.min() < 0 else count.max()
        raise InputError(f"{prefix}kv_num_blocks of {what!r} holds {bad}: expected 0 to {index.shape[-1]}")
    used = np.arange(index.shape[-1]) < count[..., None]
    if used.any() and (index[used].min() < 0 or index[used].max() >= columns):
        bad = index[used].min() if index[used].min() < 0 else index[used].max()
        raise InputError(f"{prefix}kv_indices of {what!r} holds block {bad}: expected 0 to {columns - 1}")
    blocks = np.zeros((count.size, columns), dtype=np.int8)
    row = np.repeat(np.arange(count.size), count.ravel())
    np.add.at(blocks, (row, index[used]), 1)
    if blocks.max(initial=0) > 1:
        raise InputError(f"{prefix}kv_indices of {what!r} names a block of a row twice: expected each once")
    return (blocks * kind).reshape(*count.shape, columns)


def _integers(value: Any, name: str, what: str) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        nan = " with NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
        raise InputError(f"{name} of {what!r} is {array.dtype}{nan}: expected integers")
    return array.astype(np.int64)


def _two(value: Any, name: str, what: str) -> tuple[int, int]:
    array = _integers(value, name, what).reshape(-1)
    if array.size not in (1, 2) or array.min() < 1 or array.max() > MAX_TOKENS:
        raise InputError(
            f"{name} of {what!r} is {array.tolist()}: expected one or two positive integers (queries, keys)"
        )
    return int(array[0]), int(array[-1])


class _Inert:
    """What a pickle names and is not a tensor: it takes any state and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass


class _TensorsOnly(pickle.Unpickler):
    """Knows how tensors are rebuilt; everything else is inert."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that rebuild tensors, by name."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return super().find_class(module, name)
        return _Inert


def read_pt(path: str) -> BlockMap:
    """A ``BlockMask`` saved by ``torch.save``: the object, its ``as_tuple()``, or a dict of its tensors."""
    try:
        import torch  # only for such a file
    except ImportError:
        raise InputError(f"block mask {path!r} needs PyTorch to be read: pip install torch, or save a .npz") from None
    reader = types.SimpleNamespace(Unpickler=_TensorsOnly, load=pickle.load, __name__="pickle")
    try:
        saved = torch.load(Path(path), map_location="cpu", pickle_module=reader, weights_only=False)
    except Exception as error:  # a file can be broken in as many ways as it has bytes
        text = " ".join(str(error).split())[:120]
        raise InputError(
            f"block mask {path!r} cannot be read: it is truncated or was not written by torch.save ({text})"
        ) from None
    return from_arrays(_fields(saved, path), path)


def _fields(saved: Any, path: str) -> dict[str, Any]:
    if isinstance(saved, tuple):
        found = _tuple_fields(saved)
    else:
        found = dict(saved) if isinstance(saved, dict) else dict(vars(saved)) if hasattr(saved, "__dict__") else {}
    size = found.get("BLOCK_SIZE", found.get("block_size"))
    values = {
        **{name: found.get(name) for name in _TENSORS},
        "seq_lengths": found.get("seq_lengths"),
        "block_size": size,
    }
    if values["kv_indices"] is None:
        raise InputError(
            f"block mask {path!r} holds no BlockMask: expected the object, its as_tuple() or a dict of its tensors"
        )
    arrays = {name: _plain(value) for name, value in values.items()}
    return {name: value for name, value in arrays.items() if value is not None}


def _tuple_fields(saved: tuple[Any, ...]) -> dict[str, Any]:
    """``as_tuple()``: lengths (newer versions), the tensors, ..., the block size, and the function."""
    arrays = [i for i, item in enumerate(saved) if as_array(item) is not None]
    if not arrays:
        return {}
    begin = arrays[0]
    found = dict(zip(_TENSORS, saved[begin : begin + 4], strict=False))
    front = saved[0] if begin == 1 and isinstance(saved[0], tuple) else saved[:begin]
    numbers = [item for item in saved[begin:] if type(item) is int or (isinstance(item, tuple) and len(item) == 2)]
    size = numbers[-1] if numbers and isinstance(numbers[-1], tuple) else tuple(numbers[-2:])
    return {**found, "seq_lengths": front or None, "BLOCK_SIZE": size or None}


def _plain(value: Any) -> Any:
    array = as_array(value)
    return array if array is not None else value if isinstance(value, (tuple, list, int)) else None
