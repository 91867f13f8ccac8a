"""Libraries beyond the core: which extra brings them, and asking for them before a command does any work."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

from ..errors import InputError

#: What each extra of the package brings, as pyproject.toml has it: module -> distribution.
EXTRAS: Final[Mapping[str, Mapping[str, str]]] = {
    "kernels": {"torch": "torch", "triton": "triton"},
    "plot": {"matplotlib": "matplotlib", "networkx": "networkx"},
    "fit": {"scipy": "scipy"},
    "report": {"jinja2": "jinja2", "matplotlib": "matplotlib", "networkx": "networkx", "scipy": "scipy"},
    "cluster": {"distributed": "distributed"},
    "measure": {"pynvml": "nvidia-ml-py"},
}

#: What kernels, pages, drawn graphs and fits are made with.
COMPILER = ("triton",)
KERNELS = ("torch", "triton")
PAGE = ("jinja2", "matplotlib")
PLOT = ("matplotlib",)
GRAPHS = ("matplotlib", "networkx")
FITS = ("scipy",)
CLUSTER = ("distributed",)


def missing(modules: Sequence[str]) -> list[str]:
    """Those modules that are not installed."""
    return [name for name in dict.fromkeys(modules) if importlib.util.find_spec(name) is None]


def install_line(modules: Sequence[str]) -> str:
    """The line that installs them: by the smallest extra that brings all, else by several."""
    brings_all = [extra for extra, brought in EXTRAS.items() if set(modules) <= set(brought)]
    if brings_all:
        chosen = [min(brings_all, key=lambda extra: len(EXTRAS[extra]))]
    else:
        chosen = list(dict.fromkeys(next(e for e, brought in EXTRAS.items() if name in brought) for name in modules))
    return f"pip install 'attncast[{','.join(chosen)}]'"


def require(what: str, *modules: str) -> None:
    """Raise InputError when a module is not installed, before anything is computed or written."""
    absent = missing(modules)
    if absent:
        raise InputError(f"{what} needs {' and '.join(absent)}, not installed here: expected {install_line(modules)}")


def version(module: str, distribution: str) -> str | None:
    """The version of an installed module, which is not imported; "?" where its distribution says none, None where it is not."""
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "?"
