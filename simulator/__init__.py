"""What attention costs: patterns, tiles, and the tile, memory and schedule models."""

from .conditions import Conditions
from .estimate import Estimate
from .patterns import parse_pattern
from .predict import predict
from .workload import Workload

__all__ = ["Conditions", "Estimate", "Workload", "parse_pattern", "predict"]
