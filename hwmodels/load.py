"""Find a GPU by name, alias or file, read its TOML and build the GPU."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, suggest, unknown
from ..files import names_file, shortened, user_file
from .figures import in_base, read_figures, read_toml, word
from .gpu import GPU
from .schema import FIGURES

_HERE: Final = Path(__file__).parent
_TOP_LEVEL: Final = ("kind", "name", "arch", "generation", "aliases", "base", "figures")
_KEY: Final = re.compile(r"[a-z0-9][a-z0-9-]*")


def load_gpu(name_or_path: str) -> GPU:
    """The GPU of that name, alias (case, spaces and underscores do not matter) or TOML file; cached.

    What ends in ``.toml`` or contains a path separator is a file. A file may say ``base = "h100"`` and
    state only what differs. Raises InputError, quoting the input, for an unknown GPU or a wrong file.
    """
    text = str(name_or_path).strip()
    if names_file(text):
        return _load_file(*user_file(text, "GPU", gpu_names))
    return _load_shipped(_find(text))


def gpu_names() -> list[str]:
    """The names of the GPUs that come with attncast, sorted."""
    return sorted(key for key, document in _shipped().items() if document.get("kind") == "gpu")


@cache
def _load_shipped(path: Path) -> GPU:
    return _build(path)


@lru_cache(maxsize=64)
def _load_file(path: Path, modified_ns: int, size: int) -> GPU:
    # The two stamps are in the cache's key so that an edited file is read again.
    return _build(path)


@lru_cache(maxsize=256)
def _find(name: str) -> Path:
    """The shipped file for a name or alias. InputError, with what is known and the nearest, for any other."""
    wanted = _plain(name)
    path = _HERE / f"{wanted}.toml"
    # The exact file first: parsing the others for their aliases takes ten times longer.
    if len(wanted) < 100 and _KEY.fullmatch(wanted) and path.is_file():
        return path
    aliases = {_plain(alias): key for key, file in _shipped().items() for alias in file.get("aliases", ())}
    if wanted in aliases:
        return _HERE / f"{aliases[wanted]}.toml"
    names = gpu_names()
    raise InputError(
        f"unknown GPU {shortened(name)}: expected one of {', '.join(names)}, or the path of a .toml file"
        f"{suggest(wanted, [*names, *aliases])}"
    )


def _plain(name: str) -> str:
    """A name as it is compared: lower case, with spaces and underscores as dashes."""
    return re.sub(r"[\s_-]+", "-", name.strip().lower())


@cache
def _shipped() -> dict[str, dict[str, Any]]:
    return {path.stem: read_toml(path) for path in sorted(_HERE.glob("*.toml"))}


def _build(path: Path) -> GPU:
    """The GPU that the file at ``path`` describes, with what it does not state taken from its base."""
    own = read_toml(path)
    base = _base(own, path)
    document = {**base, **own}
    if document.get("kind") != "gpu":
        written = repr(document["kind"]) if "kind" in document else "missing"
        raise InputError(f'{path}: kind is {written}, expected kind = "gpu"')
    for key in own:
        if key not in _TOP_LEVEL:
            raise InputError(f"{path}: {unknown('key', key, _TOP_LEVEL)}")
    figures = {**read_figures(base, FIGURES, path), **read_figures(own, FIGURES, path)}
    missing = [name for name, spec in FIGURES.items() if spec.required and name not in figures]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise InputError(f'{path}: missing figure {missing[0]!r}{more}, expected it stated, or base = "h100"')
    values: dict[str, Any] = {"tensor_flops_per_clock_per_sm": {}}
    for name, figure in figures.items():
        spec = FIGURES[name]
        value = in_base(figure, spec, f"{path}: figure {name!r}")
        if spec.dtype:
            values[spec.field][spec.dtype] = value
        else:
            values[spec.field] = value
    for key in ("name", "arch", "generation"):
        values[key] = word(document, key, path)
    return GPU(key=path.stem.lower(), figures=figures, path=str(path), **values)


def _base(document: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The document of the GPU named by ``base``, or an empty one. A base is a shipped GPU: no cycles."""
    if "base" not in document:
        return {}
    base = document["base"]
    if not isinstance(base, str):
        raise InputError(f'{path}: base is {base!r}, expected the name of a GPU such as "h100"')
    try:
        return read_toml(_find(base))
    except InputError as error:
        raise InputError(f"{path}: base: {error}") from None
