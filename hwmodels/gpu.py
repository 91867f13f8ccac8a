"""A GPU as the simulator sees it: figures in SI units, checked against each other."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from ..errors import InputError, unknown
from .schema import FIGURES

PEAK_TOLERANCE: Final = 0.03  # stated peaks and clocks are rounded: B200 "2250" is 2251 at 1856 MHz
GENERATIONS: Final = ("ampere", "ada", "hopper", "blackwell", "blackwell-consumer")

_FRACTIONS: Final = ("sustained_clock_fraction", "dram_efficiency")
_MAY_BE_ZERO: Final = frozenset(spec.field for spec in FIGURES.values() if spec.may_be_zero)
# (the smaller, the larger, what it would mean otherwise)
_ORDERED: Final = (
    ("smem_bytes_per_cta", "smem_bytes_per_sm", "a CTA cannot have more shared memory than its SM"),
    ("l2_effective_bytes", "l2_bytes", "the effective L2 cannot exceed the L2"),
    ("clock_hz", "clock_max_hz", "the clock of the stated peak cannot exceed the highest boost clock"),
    ("max_threads_per_cta", "max_threads_per_sm", "a CTA cannot have more threads than its SM"),
    ("max_registers_per_thread", "registers_per_sm", "a thread cannot have more registers than its SM"),
    ("l2_bytes", "dram_bytes", "the L2 cannot exceed the DRAM"),
    ("dram_bandwidth_bytes_s", "l2_bandwidth_bytes_s", "the DRAM cannot be faster than the L2"),
    ("l2_latency_s", "dram_latency_s", "the L2 cannot answer later than the DRAM"),
    ("graph_launch_s", "launch_s", "a launch in a graph cannot cost more than one in a stream"),
)


@dataclass(frozen=True)
class Figure:
    """One hardware fact as its file writes it: ``value`` in ``unit``, what kind of fact, and from where."""

    value: float
    unit: str
    kind: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class GPU:
    """One GPU. Units are in the names: hz, bytes, bytes_s (bytes per second), s, w, flops (FLOP per second).

    Building one checks it: InputError names ``path`` and ``key`` when a figure is impossible or
    two contradict.

    Rates per clock hold at any clock; ``peak_flops`` and the bandwidths hold at ``clock_hz``.
    """

    key: str  # the file's name without .toml: "h100"
    name: str  # "NVIDIA H100 SXM5 80 GB"
    arch: str  # what the compiler targets: "sm_90"
    generation: str  # one of GENERATIONS
    sms: int
    clock_hz: float  # the clock at which tensor_peak_flops holds
    clock_max_hz: float  # the highest boost clock
    sustained_clock_fraction: float  # of clock_hz, under dense tensor work at the power limit
    tensor_flops_per_clock_per_sm: Mapping[str, float]  # dense, fp32 accumulate; a dtype it lacks is absent
    tensor_peak_flops: float  # stated: fp16 and bf16, dense, fp32 accumulate
    exp_per_clock_per_sm: float
    fp32_fma_per_clock_per_sm: float
    alu_per_clock_per_sm: float  # compare, min, max (fp32 max included)
    smem_bytes_per_clock_per_sm: float
    smem_bytes_per_sm: int
    smem_bytes_per_cta: int  # what a kernel may ask for
    smem_reserved_bytes_per_cta: int  # what the system adds to each CTA
    registers_per_sm: int  # of 32 bits
    max_registers_per_thread: int
    max_threads_per_sm: int
    max_threads_per_cta: int
    max_ctas_per_sm: int
    tmem_bytes_per_sm: int  # tensor memory; 0 when there is none
    l2_bytes: int
    l2_effective_bytes: int  # working set at which L2 bandwidth starts to drop
    l2_bandwidth_bytes_s: float
    l2_latency_s: float  # of a load that hits it
    dram_bytes: int
    dram_bandwidth_bytes_s: float  # physical peak
    dram_efficiency: float  # achieved / peak, mostly reads
    dram_latency_s: float
    tdp_w: float
    launch_s: float  # one kernel in a stream
    graph_launch_s: float  # one kernel inside a CUDA graph, which loads from the L2 and stores there
    dispatch_ctas_per_clock: float  # CTAs started per clock, whole GPU
    barrier_cycles: float  # a CTA-wide barrier costs barrier_cycles + warps * barrier_cycles_per_warp
    barrier_cycles_per_warp: float
    figures: Mapping[str, Figure] = field(default_factory=dict, repr=False)  # as written, by figure name
    path: str = field(default="", repr=False)  # the file it came from, for messages

    def __hash__(self) -> int:
        # GPUs key lru_caches. Hashing forty fields (two of them dicts, which have no hash) would cost more
        # than what is cached; equal GPUs have equal keys, and a cache compares identity before fields.
        return hash(self.key)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"sm_\d{2,3}", self.arch):
            raise self._error(f"arch is {self.arch!r}, expected a compiler target such as 'sm_90'")
        if self.generation not in GENERATIONS:
            raise self._error(str(unknown("generation", self.generation, GENERATIONS)))
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, int | float):
                self._check_number(item.name, value)
        for dtype, rate in self.tensor_flops_per_clock_per_sm.items():
            self._check_number(f"tensor_flops_per_clock_per_sm[{dtype!r}]", rate)
        for name in _FRACTIONS:
            if getattr(self, name) > 1:
                raise self._error(f"{name} is {getattr(self, name):g}, expected a fraction of at most 1")
        for small, large, meaning in _ORDERED:
            low, high = getattr(self, small), getattr(self, large)
            if low > high:
                raise self._error(f"{small} is {low:g} but {large} is {high:g}: {meaning}")
        for dtype in ("fp16", "bf16"):
            self._check_peak(dtype)

    def peak_flops(self, dtype: str) -> float:
        """Dense tensor throughput in FLOP/s at ``clock_hz``. InputError for a dtype it has no MMA for."""
        rate = self.tensor_flops_per_clock_per_sm.get(dtype)
        if rate is None:
            known = self.tensor_flops_per_clock_per_sm
            raise InputError(f"GPU {self.key!r} runs no MMA on that: {unknown('dtype', dtype, known)}")
        return self.sms * rate * self.clock_hz

    def _error(self, problem: str) -> InputError:
        return InputError(f"{self.path or 'GPU'} ({self.key!r}): {problem}")

    def _check_number(self, name: str, value: float) -> None:
        zero_is_fine = name in _MAY_BE_ZERO and value == 0
        if not (math.isfinite(value) and (value > 0 or zero_is_fine)):
            raise self._error(f"{name} is {value:g}, expected a finite number above 0")

    def _check_peak(self, dtype: str) -> None:
        if dtype not in self.tensor_flops_per_clock_per_sm:
            raise self._error(f"it has no {dtype} tensor rate, which tensor_peak is stated for")
        rate = self.tensor_flops_per_clock_per_sm[dtype]
        product, stated = self.peak_flops(dtype) / 1e12, self.tensor_peak_flops / 1e12
        if abs(product - stated) > PEAK_TOLERANCE * stated:
            raise self._error(
                f"{self.sms} SMs x {rate:g} FLOP/clk/SM ({dtype}) x {self.clock_hz / 1e6:g} MHz make "
                f"{product:.1f} TFLOP/s but tensor_peak states {stated:.1f} TFLOP/s, "
                f"expected them to agree within {PEAK_TOLERANCE:.0%}"
            )
