"""The GPUs attncast knows: one TOML file each, every figure with its unit, source and kind."""

from .gpu import GPU, Figure
from .load import gpu_names, load_gpu
from .units import parse_frequency

__all__ = ["GPU", "Figure", "gpu_names", "load_gpu", "parse_frequency"]
