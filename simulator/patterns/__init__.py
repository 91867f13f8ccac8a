"""Who attends to whom, and the tiles that makes. A pattern is independent of tiles until it is asked for them."""

from .band import Band
from .base import Pattern
from .neighborhood import Neighborhood
from .parse import parse_pattern

__all__ = ["Band", "Neighborhood", "Pattern", "parse_pattern"]
