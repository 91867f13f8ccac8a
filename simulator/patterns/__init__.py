"""Who attends to whom, and the tiles that makes. A pattern is independent of tiles until it is asked for them."""

from .band import Band
from .base import Pattern
from .neighborhood import KvTiling, Neighborhood
from .parse import parse_pattern

__all__ = ["Band", "KvTiling", "Neighborhood", "Pattern", "parse_pattern"]
