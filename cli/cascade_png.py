"""A cascade's graph as a PNG."""

from __future__ import annotations

from ..files import whole_file
from ..simulator.einsum import Cascade
from ..simulator.einsum.plot import cascade_figure


def draw(cascade: Cascade, target: str) -> None:
    """Write the graph as a PNG, whole or not at all.

    Raises:
        InputError: the libraries are not installed, or the file cannot be written.
    """
    figure = cascade_figure(cascade)
    with whole_file(target) as file:
        figure.savefig(file, format="png", dpi=150)
