"""A kernel profile of the user's own: a TOML file with ``base = "triton"`` and only what differs, checked field by field."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import lru_cache
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

from ..errors import InputError, suggest, unknown
from ..files import user_file
from ..hwmodels import GPU
from ..hwmodels.figures import read_toml
from . import cascades
from .calibration import BOUNDS
from .conditions import engine_names
from .kernel_choice import FAMILIES
from .profile import (
    GROUPS,
    MAX_TILE_TOKENS,
    KernelProfile,
    OlderCalls,
    build_profile,
    fitting_variant,
    layered,
    profile_names,
    shipped_profile,
    with_older,
)
from .profile_groups import Fused
from .tile_table import TileChoice
from .waiting import Compiled
from .workload import DTYPE_BYTES, MAX_AXES, MAX_COUNT, MAX_HEAD_DIM

MAX_HEADS_AT_ONCE = 256
MAX_STALL_CYCLES = 100_000
# Least and most of each number, by its group; a value outside is a slip of the pen, not a kernel.
RANGES: Final[dict[str, tuple[float, float]]] = {
    **{name: (bounds.low, bounds.high) for name, bounds in BOUNDS.items()},
    "overlap": (0.0, BOUNDS["overlap"].high),
    "call_s": (0.0, BOUNDS["call_s"].high),
    "sequence_s": (0.0, BOUNDS["sequence_s"].high),
    "key_s": (0.0, BOUNDS["key_s"].high),
    "interval": (0.01, 3.0),
    "rescaled_tiles": (0.0, 1.0),
    "products.operand_rows": (1, 1024),
    "products.mma_rows": (1, 1024),
    "masking.alu_per_axis": (0.0, 64.0),
    "masking.alu_select": (0.0, 64.0),
    "masking.alu_by_axes": (0.0, 64.0),
    "masking.window_axes": (0.0, 16.0),
    "products.wait_cycles": (0.0, 10_000.0),
    "row_store_bytes": (0.0, 128.0),
    "products.mma_fraction": (0.01, 1.0),
    "emulated_exp": (0.0, 1.0),
    "in_flight": (1, 64),
    "products.row_warps": (0, 32),
    "merging.token_trips": (0.0, 100.0),
    "merging.part_trips": (0.0, 100.0),
    "serving.index_bytes": (0.0, 64.0),
    "merging.head_instructions": (0.0, 10000.0),
    "merging.part_instructions": (0.0, 10000.0),
    "merging.sequences_walked": (0, 65536),
    "splitting.warp_keys": (0, 4096),
    "splitting.unroll": (1, 64),
    "splitting.grid_parts": (0, 128),
    "serving.least_share": (0.0, 64.0),
    "merging.ways": (1, 1024),
    "merging.columns": (0, 1024),
    "packing.least": (1, 1024),
    "packing.most": (1, 1024),
    "packing.gather_cycles": (0.0, 100_000.0),
    "products.serial_fp8_dim": (1, 1024),
    "splitting.captured_tokens": (0, 65536),
    "splitting.captured_parts": (1, 128),
    "splitting.sequences_walked": (0, 1024),
    "head_dims.least": (1, MAX_HEAD_DIM),
    "head_dims.most": (0, MAX_HEAD_DIM),
    "head_dims.fp8_most": (0, MAX_HEAD_DIM),
    "head_dims.row_bytes": (1, 1024),
    "head_dims.step": (1, MAX_HEAD_DIM),
}
# Most of what a compiler says of a CTA.
_COMPILED: Final = {item.name: 1 << 20 for item in fields(Compiled)} | {
    "threads": 1024,
    "registers": 255,
    "waits": 1024,
    "ahead": 16,
}
_ARCH: Final = re.compile(r"sm_[0-9]{2,3}")
_KNOWN_NAMES: Final[dict[str, Callable[[], Iterable[str]]]] = {
    "dtypes": lambda: DTYPE_BYTES,
    "kv_dtypes": lambda: DTYPE_BYTES,
    "patterns": lambda: FAMILIES,
    "engines": engine_names,
}
_TILES: Final = ("tiles", "decode_tiles")
_TILE_KEYS: Final = tuple(item.name for item in fields(TileChoice))


def load_profile_file(text: str, gpu: GPU, engine: str = "", kv_dtype: str = "") -> KernelProfile:
    """The profile that a file describes, on the architecture of ``gpu`` and as an engine calls it.

    Its key is the path as the user wrote it.

    Raises:
        InputError: no such file, no TOML, an unknown, missing or impossible entry, or another architecture than those of its
            variants, or of its base where it has none.
    """
    return _load(text, *user_file(text, "kernel", profile_names), gpu, engine, kv_dtype)


def file_stamp(text: str) -> str:
    """What tells an edited file from what it was before: for the keys of kept results. Raises InputError without one."""
    _, modified_ns, size = user_file(text, "kernel", profile_names)
    return f"{modified_ns} {size}"


@lru_cache(maxsize=64)
def _load(text: str, path: Path, modified_ns: int, size: int, gpu: GPU, engine: str, kv_dtype: str) -> KernelProfile:
    # The two stamps are in the cache's key so that an edited file is read again.
    where = f"kernel file {text!r}"
    document = {"title": path.stem, **read_toml(path)}
    base, variants = document.pop("base", None), _variants(document.pop("variant", []), where)
    for table in (document, *variants):
        check_fields(table, where)
        if base is not None and "older" in table:
            raise InputError(f"{where} has a base and older: expected all variants of a kernel with older in its file")
    if "archs" in document:
        raise InputError(f"{where} has archs outside of a variant: expected them under [[variant]]")
    if "source" not in document:
        raise InputError(f'{where} has no source: expected where its figures are from, e.g. source = "ncu, 2026-03-01"')
    own = layered(document, fitting_variant(variants, gpu.arch, engine, kv_dtype) or {})
    try:
        own = with_older(own, document, variants, engine, kv_dtype)
    except InputError as problem:
        raise InputError(f"{where}: {problem}") from problem
    if "overlap" in own and "overlap_source" not in own:
        raise InputError(f"{where} has overlap = {own['overlap']!r} without overlap_source: expected where it is from")
    if base is None and not variants:
        raise InputError(f'{where} has neither a base nor a [[variant]]: expected e.g. base = "triton"')
    below = _base(base, gpu, engine, kv_dtype, where)
    if "archs" not in own and (variants or below is None):
        runs = ", ".join(sorted({arch for table in variants for arch in table["archs"]})) or f"those of {base!r}"
        raise InputError(f"{where} does not run on {gpu.key} ({gpu.arch}): its architectures are {runs}")
    table = layered(below or {}, own)
    for stated in (table, table["older"]["table"]) if "older" in table else (table,):
        _check_complete(stated, where)
    return build_profile(text, table)


def _check_complete(table: Mapping[str, Any], where: str) -> None:
    """Check that all is stated that has no default. Raises InputError where it is not."""
    for name in _required(KernelProfile):
        stated = table.get(name, {}) if name in GROUPS else {}
        missing = (
            [f"{name}.{field}" for field in _required(GROUPS[name]) if field not in stated] if name in GROUPS else []
        )
        if missing or name not in table:
            raise InputError(f'{where} has no {(missing or [name])[0]!r}: expected it stated, or base = "triton"')


def _required(cls: type) -> list[str]:
    return [item.name for item in fields(cls) if item.name != "key" and item.default is item.default_factory is MISSING]


def _base(name: object, gpu: GPU, engine: str, kv_dtype: str, where: str) -> Mapping[str, Any] | None:
    """The table of the base's variant for this GPU; None without a base, or where it does not run there."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise InputError(f'{where}: base is {name!r}, expected the name of a kernel such as "triton"')
    if name.lower() not in profile_names():
        raise InputError(f"{where}: base: {unknown('kernel', name, profile_names())}")
    return shipped_profile(name.lower(), gpu, engine, kv_dtype)


def _variants(tables: object, where: str) -> list[dict[str, Any]]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{where}: variant is {tables!r}, expected tables [[variant]]")
    for number, table in enumerate(tables, 1):
        if "archs" not in table:
            raise InputError(f'{where}: variant {number} has no archs, expected e.g. archs = ["sm_90"]')
    return tables


def check_fields(table: Mapping[str, Any], where: str) -> None:
    """Check the entries of a profile or of one of its variants.

    Raises:
        InputError: an unknown entry, one of another type, or a value out of its range or not among those known.
    """
    _check_table(KernelProfile, table, "", where)


def _check_table(cls: type, table: Mapping[str, Any], group: str, where: str) -> None:
    known = [group + item.name for item in fields(cls) if item.name != "key"]
    kinds = get_type_hints(cls)
    for own_name, value in table.items():
        name = group + own_name
        if name not in known:
            raise InputError(f"{where}: unknown entry {name!r}{suggest(name, _known_entries())}")
        if name in GROUPS:
            if not isinstance(value, dict):
                raise InputError(f"{where}: {name} is {value!r}, expected a table such as [{name}]")
            _check_table(GROUPS[name], value, f"{name}.", where)
        elif name == "decoding":
            if not isinstance(value, dict):
                raise InputError(f"{where}: decoding is {value!r}, expected a table such as [decoding]")
            check_fields(value, f"{where}: decoding")
        elif name == "older":
            _check_older(value, f"{where}: older")
        elif own_name == "fused":
            _check_fused(value, f"{where}: {name}")
        elif name in _TILES:
            _check_tiles(name, value, where)
        elif get_origin(kinds[own_name]) is tuple:
            _check_list(name, value, get_args(kinds[own_name])[0], where)
        else:
            _check_value(name, value, kinds[own_name], where)


def _check_older(table: object, what: str) -> None:
    if not isinstance(table, dict) or not isinstance(table.get("calls"), list) or "arch" not in table:
        raise InputError(f'{what} is {table!r}, expected e.g. {{ arch = "sm_80", calls = [{{ most_tokens = 64 }}] }}')
    _check_names("archs", [table["arch"]], what)
    bounds = [item.name for item in fields(OlderCalls)]
    for calls in table["calls"]:
        for key, value in calls.items():
            if key not in bounds:
                raise unknown(f"entry of calls in {what}", key, bounds)
            if not _is_whole(value, MAX_COUNT):
                raise InputError(f"{what}: {key} is {value!r}, expected a whole number from 1 on")
    check_fields({name: value for name, value in table.items() if name not in ("arch", "calls")}, what)


def _known_entries() -> list[str]:
    """Every entry of a profile, with its group before it, and the groups."""
    inside = [f"{name}.{item.name}" for name, cls in GROUPS.items() for item in fields(cls)]
    return [*(item.name for item in fields(KernelProfile) if item.name != "key"), *inside]


def _check_value(name: str, value: object, kind: Any, where: str) -> None:
    if get_origin(kind) is UnionType:  # float | None: what a file states is the float
        kind = get_args(kind)[0]
    if kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{where}: {name} is {value!r}, expected true or false")
    elif kind in (int, float):
        low, high = RANGES[name]
        whole = kind is int
        right = isinstance(value, int) or (isinstance(value, float) and not whole and math.isfinite(value))
        if not right or isinstance(value, bool) or not low <= value <= high:  # type: ignore[operator]
            wanted = "a whole number" if whole else "a number"
            raise InputError(f"{where}: {name} is {value!r}, expected {wanted} from {low:g} to {high:g}")
    elif not isinstance(value, str):
        raise InputError(f"{where}: {name} is {value!r}, expected text in quotes")
    elif (choices := _choices(name, kind)) is not None and value not in choices:
        raise unknown(f"{name} in {where}", value, choices)


def _choices(name: str, kind: Any) -> Iterable[str] | None:
    """The words that an entry may be; None for free text."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if name == "cascade":
        return cascades.names()
    return profile_names() if name in ("serving.decode_kernel", "serving.other_heads") else None


def _check_list(name: str, value: object, kind: type, where: str) -> None:
    if kind is str:
        _check_names(name, value, where)
    elif get_origin(kind) is tuple:
        pairs = value if isinstance(value, list) else [None]
        if not all(isinstance(p, list) and len(p) == 2 and all(_is_whole(n, MAX_COUNT) for n in p) for p in pairs):
            raise InputError(f"{where}: {name} is {value!r}, expected a list of pairs such as [[192, 128]]")
    elif kind is float and isinstance(value, list):
        for item in value:
            _check_value(name, item, kind, where)
    elif not isinstance(value, list) or not all(_is_whole(item, MAX_COUNT) for item in value):
        wanted = "numbers" if kind is float else "whole numbers from 1 on"
        raise InputError(f"{where}: {name} is {value!r}, expected a list of {wanted}")


def _check_names(name: str, value: object, where: str) -> None:
    """A list of dtypes, pattern families, serving engines or architectures."""
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {name} is {value!r}, expected a list of names in quotes")
    for item in value:
        if name == "archs":
            if not _ARCH.fullmatch(item):
                raise InputError(f'{where}: {item!r} in archs is no architecture, expected e.g. "sm_90"')
        elif item not in (known := _KNOWN_NAMES[name]()):
            raise unknown(f"entry of {name} in {where}", item, known)


_TILE_LIMITS: Final = {
    "max_head_dim": MAX_HEAD_DIM,
    "max_value_dim": MAX_HEAD_DIM,
    "value_columns": MAX_HEAD_DIM,
    "min_keys": MAX_COUNT,
    "max_key_heads": MAX_COUNT,
    "max_rows": MAX_TILE_TOKENS,
    "in_flight": 64,
}  # whole numbers from 1 on


def _check_tiles(name: str, value: object, where: str) -> None:
    form = "{ max_head_dim = 128, q = [128], kv = [64] }"
    if not isinstance(value, list) or not all(isinstance(choice, dict) for choice in value):
        raise InputError(f"{where}: {name} is {value!r}, expected a list of tables such as {form}")
    for choice in value:
        for key in choice:
            if key not in _TILE_KEYS:
                raise unknown(f"entry of {name} in {where}", key, _TILE_KEYS)
        for key in ("max_head_dim", "q", "kv"):
            if key not in choice:
                raise InputError(f"{where}: an entry of {name} has no {key}, expected e.g. {form}")
        for key, most in _TILE_LIMITS.items():
            if not _is_whole(choice.get(key, 1), most):
                raise InputError(f"{where}: {key} in {name} is {choice[key]!r}, expected 1 to {most}")
        for key in ("q", "kv"):
            _check_shape(choice[key], f"{where}: {key} in {name}")
        if len(choice["q"]) != len(choice["kv"]):
            raise InputError(f"{where}: q {choice['q']} and kv {choice['kv']} in {name} have different numbers of axes")
        for key in ("dtypes", "kv_dtypes"):
            if key in choice:
                _check_names(key, choice[key], where)
        if "compiled" in choice:
            _check_compiled(choice["compiled"], f"{where}: compiled in {name}")
        for key in ("mask_stall", "tile_stall"):
            if not _is_between(choice.get(key, 0.0), 0.0, MAX_STALL_CYCLES):
                raise InputError(f"{where}: {key} in {name} is {choice[key]!r}, expected 0 to {MAX_STALL_CYCLES:,}")
        for key in ("windowed", "cuda_cores", "single", "streams_queries", "quantised_only"):
            if not isinstance(choice.get(key, True), bool):
                raise InputError(f"{where}: {key} in {name} is {choice[key]!r}, expected true or false")


def _check_fused(table: object, what: str) -> None:
    entries = tuple(item.name for item in fields(Fused))
    if not isinstance(table, dict) or "heads_at_once" not in table:
        raise InputError(f"{what} is {table!r}, expected e.g. {{ heads_at_once = 2, within_heads = true }}")
    for key in table:
        if key not in entries:
            raise unknown(f"entry of {what}", key, entries)
    if not _is_whole(table["heads_at_once"], MAX_HEADS_AT_ONCE):
        raise InputError(f"{what}: heads_at_once is {table['heads_at_once']!r}, expected 1 to {MAX_HEADS_AT_ONCE}")
    if not isinstance(table.get("within_heads", True), bool):
        raise InputError(f"{what}: within_heads is {table['within_heads']!r}, expected true or false")


def _check_compiled(table: object, what: str) -> None:
    if not isinstance(table, dict) or "threads" not in table:
        raise InputError(
            f"{what} is {table!r}, expected e.g. {{ threads = 256, registers = 128, shared_bytes = 65536 }}"
        )
    for key, value in table.items():
        if key not in _COMPILED:
            raise unknown(f"entry of {what}", key, _COMPILED)
        least, most = 1 if key == "threads" else 0, _COMPILED[key]
        kinds = (int, float) if key == "waits" else int
        if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
            raise InputError(f"{what}: {key} is {value!r}, expected a number from {least} to {most:,}")


def _check_shape(shape: object, what: str) -> None:
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= MAX_AXES
        or not all(_is_whole(n, MAX_TILE_TOKENS) for n in shape)
    ):
        raise InputError(
            f"{what} is {shape!r}, expected tokens for each of 1 to {MAX_AXES} axes, e.g. [128] or [2, 8, 8]"
        )
    if math.prod(shape) > MAX_TILE_TOKENS:
        raise InputError(
            f"{what} is {shape!r}, which is {math.prod(shape):,} tokens: expected at most {MAX_TILE_TOKENS:,}"
        )


def _is_whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_between(value: object, low: float, high: float) -> bool:
    """Whether it is a number (true and false are none) from ``low`` to ``high``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
