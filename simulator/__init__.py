"""What attention costs: patterns, tiles, and the tile, memory and schedule models."""

from .estimate import Estimate
from .patterns import parse_pattern
from .predict import Conditions, predict
from .workload import Workload

__all__ = ["Conditions", "Estimate", "Workload", "parse_pattern", "predict"]
