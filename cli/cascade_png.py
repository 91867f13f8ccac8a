"""A cascade's graph as a PNG."""

from __future__ import annotations

import io
from pathlib import Path

from ..errors import InputError
from ..reports.page import replace_file
from ..simulator.einsum import Cascade
from ..simulator.einsum.plot import cascade_figure


def draw(cascade: Cascade, target: str) -> None:
    """Write the graph as a PNG, whole or not at all.

    Raises:
        InputError: the libraries are not installed, or the file cannot be written.
    """
    out = io.BytesIO()
    cascade_figure(cascade).savefig(out, format="png", dpi=150)
    try:
        replace_file(Path(target), out.getvalue())
    except OSError as problem:
        raise InputError(f"cannot write {target!r}: {problem.strerror or problem}") from None
