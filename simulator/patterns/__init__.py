"""Who attends to whom, and the tiles that makes. A pattern is independent of tiles until it is asked for them."""

from .band import Band
from .base import Pattern
from .combine import Combination, Mixture, MoA, own_grid
from .dynamic import Dynamic, SelectionCost
from .neighborhood import KvTiling, Neighborhood
from .parse import PATTERNS, Entry, parse_pattern
from .picture import Picture, picture

__all__ = [
    "PATTERNS",
    "Band",
    "Combination",
    "Dynamic",
    "Entry",
    "KvTiling",
    "Mixture",
    "MoA",
    "Neighborhood",
    "Pattern",
    "Picture",
    "SelectionCost",
    "own_grid",
    "parse_pattern",
    "picture",
]
