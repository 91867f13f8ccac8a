"""attncast forecasts how fast an attention algorithm runs on a GPU that need not be at hand."""

from .errors import InputError
from .simulator import Conditions, Estimate, Workload, parse_pattern, predict

__version__ = "0.1.0"

__all__ = ["Conditions", "Estimate", "InputError", "Workload", "parse_pattern", "predict"]
