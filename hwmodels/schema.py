"""Which figures a GPU file states: their names, what they measure, and the field of GPU each one fills."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

KINDS: Final = ("datasheet", "measured", "derived")
TENSOR_DTYPES: Final = ("fp16", "bf16", "fp8", "int8", "fp4", "tf32")


@dataclass(frozen=True)
class FigureSpec:
    """One figure: the GPU field it fills (in SI units), its dimension in units.UNITS, and its limits."""

    field: str
    dimension: str
    whole: bool = False
    may_be_zero: bool = False
    required: bool = True
    dtype: str = ""  # set for a tensor rate, which fills one entry of a mapping


FIGURES: Final[dict[str, FigureSpec]] = {
    "sms": FigureSpec("sms", "number", whole=True),
    "clock": FigureSpec("clock_hz", "frequency"),
    "clock_max": FigureSpec("clock_max_hz", "frequency"),
    "sustained_clock_fraction": FigureSpec("sustained_clock_fraction", "number"),
    "tensor_peak": FigureSpec("tensor_peak_flops", "tensor throughput"),
    **{
        f"tensor_rate_{dtype}": FigureSpec(
            "tensor_flops_per_clock_per_sm", "tensor rate", required=dtype in ("fp16", "bf16"), dtype=dtype
        )
        for dtype in TENSOR_DTYPES
    },
    "exp_rate": FigureSpec("exp_per_clock_per_sm", "operation rate"),
    "fp32_fma_rate": FigureSpec("fp32_fma_per_clock_per_sm", "FMA rate"),
    "alu_rate": FigureSpec("alu_per_clock_per_sm", "operation rate"),
    "smem_rate": FigureSpec("smem_bytes_per_clock_per_sm", "bytes per clock"),
    "smem_per_sm": FigureSpec("smem_bytes_per_sm", "bytes", whole=True),
    "smem_per_cta": FigureSpec("smem_bytes_per_cta", "bytes", whole=True),
    "smem_reserved_per_cta": FigureSpec("smem_reserved_bytes_per_cta", "bytes", whole=True, may_be_zero=True),
    "registers_per_sm": FigureSpec("registers_per_sm", "number", whole=True),
    "max_registers_per_thread": FigureSpec("max_registers_per_thread", "number", whole=True),
    "max_threads_per_sm": FigureSpec("max_threads_per_sm", "number", whole=True),
    "max_threads_per_cta": FigureSpec("max_threads_per_cta", "number", whole=True),
    "max_ctas_per_sm": FigureSpec("max_ctas_per_sm", "number", whole=True),
    "tmem_per_sm": FigureSpec("tmem_bytes_per_sm", "bytes", whole=True, may_be_zero=True),
    "l2_size": FigureSpec("l2_bytes", "bytes", whole=True),
    "l2_effective_size": FigureSpec("l2_effective_bytes", "bytes", whole=True),
    "l2_bandwidth": FigureSpec("l2_bandwidth_bytes_s", "bandwidth"),
    "l2_latency": FigureSpec("l2_latency_s", "time"),
    "dram_size": FigureSpec("dram_bytes", "bytes", whole=True),
    "dram_bandwidth": FigureSpec("dram_bandwidth_bytes_s", "bandwidth"),
    "dram_efficiency": FigureSpec("dram_efficiency", "number"),
    "dram_latency": FigureSpec("dram_latency_s", "time"),
    "tdp": FigureSpec("tdp_w", "power"),
    "launch": FigureSpec("launch_s", "time"),
    "graph_launch": FigureSpec("graph_launch_s", "time"),
    "dispatch_rate": FigureSpec("dispatch_ctas_per_clock", "dispatch rate"),
    "barrier": FigureSpec("barrier_cycles", "cycles"),
    "barrier_per_warp": FigureSpec("barrier_cycles_per_warp", "cycles"),
}
