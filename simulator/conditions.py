"""How a call is run: cache, launch, and what a serving engine does in it besides attention."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown
from ..hwmodels import GPU
from .workload import DTYPE_BYTES, Workload


@dataclass(frozen=True)
class Conditions:
    """How the call is run.

    Attributes:
        warm_l2: the call repeats on the same tensors (a benchmark loop), so that small ones are in the L2 already.
        graph: launched inside a CUDA graph rather than from a stream.
        appends: the call also writes the new tokens' keys and values to the cache, as a serving engine's does.
        rotates: that pass also rotates the queries (RoPE), as TensorRT-LLM's does.
        quantises: the call also converts the queries to the workload's dtype, from 16 bits: in that pass where it rotates
            them, else in a pass of its own.
        engine: the serving engine whose call it is, "" for none: which fitted constants apply.
        clock_hz: the SM clock where it is locked; None for one that boosts as power allows. A lock is an upper bound: the power
            limit may hold the SMs below it.
        calls_before: calls like it that ran just before it without a rest, as a benchmark's warm-up does or a model all day:
            the GPU's power limit may act from the call's beginning on. An engine's calls are in such a loop already.
        rotary_dim: dims of a head that are rotated, where queries are; 0: all of them.
    """

    warm_l2: bool = True
    graph: bool = False
    appends: bool = False
    rotates: bool = False
    quantises: bool = False
    engine: str = ""
    clock_hz: float | None = None
    calls_before: int = 0
    rotary_dim: int = 0

    def __post_init__(self) -> None:
        if self.clock_hz is not None and not (math.isfinite(self.clock_hz) and self.clock_hz > 0):
            raise InputError(f"clock {self.clock_hz:g} Hz is not a clock: expected a finite number above 0")

        if self.calls_before < 0:
            raise InputError(f"{self.calls_before} calls before is not a number of calls: expected 0 or more")
        if self.rotary_dim < 0:
            raise InputError(f"{self.rotary_dim} rotated dims is no number of dims: expected 0 (all of them) or more")

    def check(self, gpu: GPU) -> None:
        """Raise InputError where these conditions cannot be on a GPU."""
        if self.clock_hz is not None and self.clock_hz > gpu.clock_max_hz:
            raise InputError(
                f"clock {self.clock_hz / 1e6:,.0f} MHz is above the boost clock of {gpu.key}: "
                f"expected at most {gpu.clock_max_hz / 1e6:,.0f} MHz"
            )


DEFAULT_CONDITIONS = Conditions()


@lru_cache(maxsize=1)
def _engines() -> Mapping[str, Mapping[str, Any]]:
    return tomllib.loads((Path(__file__).parent / "engines.toml").read_text(encoding="utf-8"))


def engine_names() -> list[str]:
    """Serving engines whose calls are known."""
    return list(_engines())


def append_thread(engine: str, arch: str, cache_bytes: float) -> tuple[float, float]:
    """Registers of a thread of the engine's appending pass on an architecture, and its instructions for each key and value
    (see memory.append_seconds); 0 where untold.

    ``cache_bytes`` are those of an element of the cache: converting to 8 bits takes more of both.
    """
    table, converts = _engines().get(engine, {}), cache_bytes < 2
    registers = table.get("append_registers", {}).get(arch, (0.0, 0.0))[converts]
    return float(registers), float(table.get("append_instructions", (0.0, 0.0))[converts])


def append_by_warps(engine: str) -> bool:
    """Whether each warp of the engine's appending pass copies a token (see memory.store_seconds)."""
    return bool(_engines().get(engine, {}).get("append_warps", False))


def small_kernels(kernel: str, conditions: Conditions, workload: Workload) -> float:
    """Kernels of few bytes in an engine's call of an attention kernel, besides those that append and that quantise queries."""
    table, bits = _engines().get(conditions.engine, {}), DTYPE_BYTES[workload.dtype]
    scaling = table.get("scaling_kernels", {}).get(kernel)
    if conditions.quantises and scaling is not None:
        return float(scaling)
    converts = conditions.quantises or DTYPE_BYTES[workload.kv_dtype or workload.dtype] < bits
    return float(table.get("converting_kernels", 0.0)) if conditions.appends and converts else 0.0


def append_by_ctas(engine: str, family: str, cache_bytes: float) -> bool:
    """Whether CTAs of the engine's appending pass convert a token's keys or values, for kernels of a family (see
    memory.convert_seconds); ``cache_bytes`` as in ``append_thread``.
    """
    return cache_bytes < 2 and _engines().get(engine, {}).get("append_ctas") == family


def apart_s(engine: str) -> float:
    """Seconds more of a call of the engine that appends keys and values of different head dims."""
    return float(_engines().get(engine, {}).get("apart_s", 0.0))


def engine_conditions(
    engine: str, workload: Workload, warm_l2: bool = True, clock_hz: float | None = None
) -> Conditions:
    """How a serving engine calls attention: in a CUDA graph, appending to the cache.

    Raises:
        InputError: no such engine.
    """
    table = _engines().get(engine.lower())
    if table is None:
        raise unknown("engine", engine, engine_names())
    return Conditions(
        warm_l2=warm_l2,
        graph=True,
        appends=table["appends"],
        rotates=table["rotates"],
        quantises=DTYPE_BYTES[workload.dtype] < 2,
        engine=engine.lower(),
        clock_hz=clock_hz,
    )
