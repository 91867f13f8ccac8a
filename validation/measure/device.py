"""What times a call: a CUDA GPU, or the CPU that only tries it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...errors import InputError
from .sensors import Reading, Sensor, find_sensor

WARM_UP_S = 0.05  # of calls before any is timed: clocks rise from idle within milliseconds
LEAST_SAMPLES, MOST_SAMPLES = 5, 60
LEAST_WARM_UP, MOST_WARM_UP = 3, 500
FIRST_CALLS = 8  # to check the result, and to find out how long a call takes
LEAST_CALL_S = 1e-6  # events resolve no less
_MOST_LEAD = 200  # writes of the flush buffer ahead of the timed calls


@dataclass(frozen=True)
class Timing:
    """Seconds of single calls, how they were timed, what the sensor said before, during and after, and how many calls ran
    before the middle one without a rest."""

    samples_s: tuple[float, ...]
    method: str
    readings: dict[str, Reading] = field(default_factory=dict)
    calls_before: int = 0

    @property
    def median_s(self) -> float:
        """Median."""
        return statistics.median(self.samples_s)

    @property
    def spread_s(self) -> float:
        """Half the distance of the quartiles."""
        low, _, high = statistics.quantiles(self.samples_s, n=4, method="inclusive")
        return (high - low) / 2.0


def call_counts(call_s: float, write_s: float, budget_s: float) -> tuple[int, int]:
    """Warm-up calls and timed calls for calls of ``call_s`` seconds, each after a write of the L2 of ``write_s``."""
    warm_ups = max(LEAST_WARM_UP, min(MOST_WARM_UP, int(WARM_UP_S / call_s)))
    return warm_ups, max(LEAST_SAMPLES, min(MOST_SAMPLES, int(budget_s / (call_s + write_s))))


class Device(Protocol):
    """Where cases run."""

    name: str  # as torch calls it
    torch_device: str

    def time(self, call: Callable[[], Any], *, warm: bool, budget_s: float) -> Timing | None:
        """Time a call, with about ``budget_s`` seconds of timed calls; None when it only tries them."""
        ...

    def synchronize(self) -> None:
        """Wait for all that was launched; raises what went wrong there."""
        ...

    def free(self) -> None:
        """Give back memory that nothing uses any more."""
        ...


class CudaDevice:
    """The first CUDA GPU that torch sees. Raises InputError when it sees none."""

    torch_device = "cuda"

    def __init__(self) -> None:
        try:
            import torch
        except ImportError:
            raise InputError(
                "measuring needs torch, which is not installed: pip install 'attncast[kernels]' on the machine with the GPU"
            ) from None
        if not torch.cuda.is_available():
            raise InputError(
                "measuring needs a CUDA GPU and torch sees none here: run it on a machine with one, or try it with --dry-run"
            )
        from ...kernels.timing import flush_buffer

        self._torch = torch
        properties = torch.cuda.get_device_properties(0)
        self.name = str(properties.name)
        self._flush = flush_buffer(self.torch_device)
        self._sensor: Sensor = find_sensor(f"GPU-{properties.uuid}")

    def time(self, call: Callable[[], Any], *, warm: bool, budget_s: float) -> Timing:
        """Warm up, then time single calls by CUDA events."""
        from ...kernels.timing import time_calls

        call()
        first_s, write_s = (
            max(statistics.median(time_calls(one, 3, self._flush)), LEAST_CALL_S) for one in (call, self._flush.zero_)
        )
        each_s = first_s + (0.0 if warm else write_s)
        warm_ups, samples = call_counts(first_s, each_s - first_s, budget_s)
        host_s = self._host_s(call, warm_ups)
        # The GPU must not run out of work while the host queues: what it would lack is put in front.
        lead = min(_MOST_LEAD, 1 + int(samples * max(0.0, 1.5 * host_s - each_s) / write_s))
        readings = {"before": self._sensor.read()}

        def during() -> None:
            readings["during"] = self._sensor.read()

        seconds = time_calls(call, samples, self._flush, warm=warm, lead=lead, while_running=during)
        readings["after"] = self._sensor.read()
        cache = "L2 warm from the call before" if warm else "L2 overwritten before each"
        method = f"CUDA events, median of {samples} single calls queued ahead, {cache}, {warm_ups} warm-up calls"
        method = f"{method}; {_shown(readings, self._sensor.source)}"
        return Timing(tuple(seconds), method, readings, warm_ups + samples // 2)

    def _host_s(self, call: Callable[[], Any], calls: int) -> float:
        """Run the warm-up; seconds that the host takes to launch one call."""
        self.synchronize()
        few = min(calls, 10)
        start = time.perf_counter()
        for _ in range(few):
            call()
        host_s = (time.perf_counter() - start) / few
        for _ in range(calls - few):
            call()
        self.synchronize()
        return host_s

    def synchronize(self) -> None:
        """Wait for all that was launched."""
        self._torch.cuda.synchronize()

    def free(self) -> None:
        """Give cached blocks back."""
        self._torch.cuda.empty_cache()


class TryingDevice:
    """The CPU: calls run once and are never timed."""

    name = "CPU"
    torch_device = "cpu"

    def time(self, call: Callable[[], Any], *, warm: bool, budget_s: float) -> None:
        """Nothing is timed."""

    def synchronize(self) -> None:
        """Calls on the CPU have ended when they return."""

    def free(self) -> None:
        """Nothing is kept."""


def _shown(readings: dict[str, Reading], source: str) -> str:
    """Readings in a few words: "SM 1980/1755/1770 MHz, 41/45/44 C, 120/640/600 W before/during/after (nvml)"."""
    columns = (("SM", "clock_hz", 1e-6, "MHz"), ("", "temperature_c", 1.0, "C"), ("", "power_w", 1.0, "W"))
    parts = []
    for title, name, scale, unit in columns:
        values = [getattr(reading, name) for reading in readings.values()]
        if any(value is not None for value in values):
            texts = "/".join("?" if value is None else f"{value * scale:.0f}" for value in values)
            parts.append(f"{title} {texts} {unit}".strip())
    return f"{', '.join(parts)} {'/'.join(readings)} ({source})" if parts else "no clock, temperature or power read"
