"""What the compiler said, kept on disk: one JSON file for each kernel source, configuration, architecture
and compiler.

Writers may race: each writes a file of its own and renames it into place, so a reader sees a whole record
or none. A record that cannot be read is treated as absent and written again.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import hashlib
import json
import os
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import whole_file
from .space import KERNELS

_HERE = Path(__file__).parent
#: Settings of Triton that change the code it emits.
_ENVIRONMENT = (
    "TRITON_DEFAULT_FP_FUSION",
    "TRITON_PTXAS_PATH",
    "TRITON_PTXAS_BLACKWELL_PATH",
    "PTXAS_OPTIONS",
    "DISABLE_PTXAS_OPT",
    "DISABLE_LLVM_OPT",
    "TRITON_DISABLE_LINE_INFO",
    "USE_IR_LOC",
)


def cache_dir() -> Path:
    """Return where records live: $ATTNCAST_CACHE_DIR, else $XDG_CACHE_HOME/attncast, else
    ~/.cache/attncast.
    """
    if own := os.environ.get("ATTNCAST_CACHE_DIR"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification has relative paths ignored.
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache"
    return root / "attncast"


def triton_version() -> str:
    """Return the installed Triton's version without importing it; "none" when it is not installed."""
    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return "none"


def record_key(source: str, config: Mapping[str, Any], arch: str) -> str:
    """Return the hexadecimal key of a record: hash of source, configuration, architecture and compiler."""
    parts = {
        "source": source,
        "config": dict(config),
        "arch": arch,
        "triton": triton_version(),
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load(key: str) -> dict[str, Any] | None:
    """Return the record under ``key``, or None when there is none or it cannot be read."""
    try:
        record = json.loads(_path(key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("key") == key else None


def store(key: str, record: Mapping[str, Any]) -> None:
    """Write ``record`` under ``key``. A cache that cannot be written costs time, not the result: no error."""
    path = _path(key)
    with contextlib.suppress(OSError, InputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write_text(json.dumps({**record, "key": key}), encoding="utf-8")


def _path(key: str) -> Path:
    return cache_dir() / "compile" / key[:2] / f"{key}.json"


def kernel_hash(kernel: str) -> str:
    """Return the hash of a kernel of ``space.KERNELS`` and of what turns a configuration into its
    signature.
    """
    return "".join(source_hash(*place) for place in KERNELS[kernel])


@lru_cache(maxsize=64)
def source_hash(module: str, function: str) -> str:
    """Return the hash of ``function`` in kernels/``module``.py and of all it reaches inside this package.

    Followed are names of the same file and names imported from files beside it: helper functions, constants,
    decorators. Comments, docstrings and unrelated functions do not count. Raises OSError when there is
    no such file and ValueError when it has no such function.
    """
    found: dict[tuple[str, str], str] = {}
    todo = [(module, function)]
    while todo:
        place = todo.pop()
        if place in found:
            continue
        names = _definitions(place[0])
        node = names.get(place[1])
        if node is None:
            if place == (module, function):
                raise ValueError(f"kernels/{module}.py defines no {function!r}")
            continue
        if isinstance(node, tuple):
            todo.append(node)
            continue
        found[place] = ast.dump(_without_docstring(node))
        mentioned = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        todo.extend((place[0], name) for name in mentioned if name in names)
    # The file a function stands in does not matter: one that only moves keeps its records.
    text = json.dumps(sorted((name, dump) for (_, name), dump in found.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _without_docstring(node: ast.stmt) -> ast.stmt:
    """Return a function or class less its docstring; other statements as they are."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node, clean=False) is not None:
        bare = copy.copy(node)
        bare.body = node.body[1:]
        return bare
    return node


@lru_cache(maxsize=64)
def _definitions(module: str) -> dict[str, ast.stmt | tuple[str, str]]:
    """Top-level names of a file beside this one: their statement, or (file, name) for one imported from
    beside it.
    """
    path = _HERE / f"{module}.py"
    names: dict[str, ast.stmt | tuple[str, str]] = {}
    if not path.is_file():
        return names
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            names |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return names
