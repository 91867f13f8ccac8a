"""Libraries that a command needs beyond the core: asked for before it does any work."""

from __future__ import annotations

import importlib.util

from ..errors import InputError

#: What pages are made with, drawn graphs, and fits; the extra "report" brings them all.
PAGE = ("jinja2", "matplotlib")
GRAPHS = ("networkx",)
FITS = ("scipy",)


def require(what: str, *modules: str) -> None:
    """Raise InputError when a module is not installed, before anything is computed or written."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{what} needs {' and '.join(missing)}, not installed here: expected pip install 'attncast[report]'"
        )
