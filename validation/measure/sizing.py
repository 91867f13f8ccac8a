"""How long a suite takes on a GPU that need not be there: our own forecasts of its calls, and assumed overheads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from ...errors import InputError
from ...hwmodels import GPU
from ...simulator import Conditions, predict
from .case import Case
from .device import FIRST_CALLS, LEAST_CALL_S, call_counts
from .libraries import LIBRARIES
from .suites import Suite

# Assumed, not measured where it runs: seconds of the host. A case draws its inputs, looks at rows in float64 and reads
# sensors. Ten kernels drawn at random compiled for sm_90 in 3.3 to 6.8 s each, the start of the process included (Triton
# 3.9, a busy two-core machine).
CASE_S: Final = 0.5
COMPILE_S: Final = {"attncast": 4.0, "attncast-decode": 3.0, "flex": 15.0}
START_S: Final = 20.0  # of a process that imports torch and triton, several at once; a fresh one each CASES_PER_WORKER
CASES_PER_WORKER: Final = 200  # memory that leaks, or that a kernel wrote by mistake, goes no further
PREPARERS: Final = 8  # processes that compile at the same time, on a machine with as many cores to spare
_FLUSH_BYTES: Final = 256 << 20


@dataclass(frozen=True)
class Size:
    """Seconds of some cases: ``gpu_s`` forecast, ``host_s`` assumed, ``unknown`` cases that no profile forecasts."""

    cases: int
    gpu_s: float
    host_s: float
    unknown: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.gpu_s + self.host_s


@lru_cache(maxsize=4096)
def forecast_s(case: Case, gpu: GPU) -> float | None:
    """Forecast seconds of one call; None when no kernel profile describes it."""
    conditions = Conditions(warm_l2=case.warm)
    for kernel in (LIBRARIES[case.kernel].profile, "triton"):
        try:
            estimate = predict(case.workload, case.pattern, gpu, kernel, conditions=conditions)
        except InputError:
            continue
        return estimate.kernel_time_s if case.measures == "kernel" else estimate.time_s
    return None


def case_seconds(case: Case, gpu: GPU, sample_seconds: float, preparers: int = PREPARERS) -> tuple[float, float]:
    """(GPU seconds, host seconds) of a case: its calls, the writes between them, and its share of compiling."""
    call_s = forecast_s(case, gpu) or 0.0
    write_s = _FLUSH_BYTES / gpu.dram_bandwidth_bytes_s
    warm_ups, samples = call_counts(max(call_s, LEAST_CALL_S), 0.0 if case.warm else write_s, sample_seconds)
    gpu_s = (FIRST_CALLS + warm_ups + samples) * call_s + samples * write_s
    return gpu_s, CASE_S + COMPILE_S.get(case.kernel, 0.0) / max(preparers, 1)


def size(cases: Sequence[Case], gpu: GPU, sample_seconds: float) -> Size:
    """Size of some cases, run in one campaign."""
    pairs = [case_seconds(case, gpu, sample_seconds) for case in cases]
    unknown = sum(forecast_s(case, gpu) is None for case in cases)
    host_s = START_S * (2 + len(cases) // CASES_PER_WORKER) + sum(host for _, host in pairs)
    return Size(len(cases), sum(seconds for seconds, _ in pairs), host_s, unknown)


def part_of(cases: Sequence[Case], part: tuple[int, int], gpu: GPU, suite: Suite) -> list[Case]:
    """Part ``(k, n)`` of the cases, k from 1: consecutive ones, of about the same seconds in each part."""
    number, parts = part
    seconds = [sum(case_seconds(case, gpu, suite.sample_seconds)) for case in cases]
    total, before, chosen = sum(seconds), 0.0, []
    for case, own in zip(cases, seconds, strict=True):
        # A case belongs to the part that its middle falls into.
        if int((before + own / 2) * parts / total) == number - 1:
            chosen.append(case)
        before += own
    return chosen


def read_part(text: str) -> tuple[int, int]:
    """(2, 5) of "2/5". Raises InputError for anything but k/n with 1 <= k <= n."""
    number, slash, parts = text.partition("/")
    if slash and number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts):
        return int(number), int(parts)
    raise InputError(f"part {text!r} cannot be read: expected k/n with 1 <= k <= n, e.g. 2/5")
