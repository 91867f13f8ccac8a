"""Measured runs of one GPU and kernel as arrays, ready to be forecast again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..hwmodels import GPU, load_gpu
from ..simulator import parse_pattern
from ..simulator.batch import some, stack
from ..simulator.calibration import with_constants
from ..simulator.call import kernel_work, resolve_tiles, single_call
from ..simulator.calls import Calls, Costs
from ..simulator.forecast import forecast
from ..simulator.kernel_choice import choose_profile
from ..simulator.profile import KernelProfile
from .measured import MeasuredRun

Floats = NDArray[np.float64]
FOLDS = 5
# Replays of a graph, one after the other, begin at ticks of a timer on Blackwell. No vendor says so: the times of NVIDIA
# aiconfigurator's tables are multiples of it. Of all periods from 0.9 to 5.2 us, those of 5 to 60 us of each engine on B200 and
# RTX PRO 6000 keep most to one of 2.046 to 2.050 us (mean resultant length of their phases 0.67 to 0.85; 0.02 to 0.10 on A100
# and H100). A model's kernels, inside one graph, do not wait so.
REPLAY_TICK_S = {"blackwell": 2.048e-6, "blackwell-consumer": 2.048e-6}


@dataclass(frozen=True)
class Problem:
    """Runs of one GPU and kernel.

    Attributes:
        runs: shape (rows,), like every array here. alone: rows that measure the kernel alone. measured_s: their times.
        fold: of each row's shape, 0 to ``FOLDS`` - 1.
        idle_s: what a replay of a graph waits for, on average, before the next one begins.
        speed_of_light_s: the longer of the kept pairs' FLOPs at the tensor peak and each tensor's bytes, once, at the DRAM
            peak.
    """

    runs: tuple[MeasuredRun, ...]
    gpu: GPU
    profile: KernelProfile
    calls: Calls
    alone: NDArray[np.bool_]
    measured_s: Floats
    idle_s: Floats
    fold: NDArray[np.int64]
    speed_of_light_s: Floats

    def repeated(self, times: int) -> Problem:
        """All rows so many times over, to be forecast with different constants at once."""
        return replace(
            self,
            runs=self.runs * times,
            calls=stack([self.calls] * times),
            alone=np.tile(self.alone, times),
            measured_s=np.tile(self.measured_s, times),
            idle_s=np.tile(self.idle_s, times),
            fold=np.tile(self.fold, times),
            speed_of_light_s=np.tile(self.speed_of_light_s, times),
        )

    def where(self, wanted: NDArray[np.bool_]) -> Problem:
        """Some of the rows."""
        return replace(
            self,
            runs=tuple(run for run, kept in zip(self.runs, wanted, strict=True) if kept),
            calls=some(self.calls, wanted),
            alone=self.alone[wanted],
            measured_s=self.measured_s[wanted],
            idle_s=self.idle_s[wanted],
            fold=self.fold[wanted],
            speed_of_light_s=self.speed_of_light_s[wanted],
        )

    def costs(self, values: Mapping[str, float | Floats] | None = None) -> Costs:
        """Forecasts, with some constants (see calibration.BOUNDS) in place of priors: one of each, or one for each row."""
        profile, gpu = with_constants(self.profile, self.gpu, values or {})
        return forecast(gpu, profile, self.calls)

    def seconds(self, values: Mapping[str, float | Floats] | None = None) -> Floats:
        """Forecast times: of the kernel where that was measured, else of the call."""
        costs = self.costs(values)
        return np.where(self.alone, costs.kernel_s, costs.time_s) + self.idle_s


def describable(run: MeasuredRun) -> bool:
    """Whether a kernel profile can forecast a run: a forward one, of a kernel, dtype and pattern that it has."""
    if run.direction != "fwd":
        return False
    try:
        _call(run)
    except InputError:
        return False
    return True


def problem_of(runs: Sequence[MeasuredRun]) -> Problem:
    """Forward runs of one GPU and kernel.

    Raises:
        InputError: a run that the kernel's profile cannot describe.
    """
    return _problem(runs, [_call(run) for run in runs])


def described(runs: Sequence[MeasuredRun]) -> tuple[Problem | None, list[MeasuredRun]]:
    """Those of forward runs of one GPU and kernel that its profile can describe, if any, and the others."""
    known, calls, others = [], [], []
    for run in runs:
        try:
            calls.append(_call(run))
            known.append(run)
        except InputError:
            others.append(run)
    return _problem(known, calls) if known else None, others


def _problem(runs: Sequence[MeasuredRun], described: Sequence[tuple[GPU, KernelProfile, Calls, int]]) -> Problem:
    light_s = []
    for run, (gpu, _, _, pairs) in zip(runs, described, strict=True):
        workload = run.workload
        flop = 2.0 * pairs * workload.batch * workload.heads * (workload.head_dim + workload.dim_v)
        light_s.append(flop / gpu.peak_flops(workload.dtype))
    gpu, profile, *_ = described[-1]
    stacked = stack([call for _, _, call, _ in described])
    moving_s = forecast(gpu, profile, stacked).traffic.unique_bytes / gpu.dram_bandwidth_bytes_s
    return Problem(
        tuple(runs),
        gpu,
        profile,
        stacked,
        np.array([run.measures == "kernel" for run in runs]),
        np.array([run.time_s for run in runs]),
        np.array([_idle_s(gpu, run) for run in runs]),
        np.array([_fold(run) for run in runs]),
        np.maximum(np.array(light_s), moving_s),
    )


def _call(run: MeasuredRun) -> tuple[GPU, KernelProfile, Calls, int]:
    """A run's GPU, profile, arrays of length one, and kept pairs of a head."""
    gpu, workload, pattern = load_gpu(run.gpu), run.workload, parse_pattern(run.pattern)
    engine, kv_dtype = run.conditions.engine, workload.kv_dtype or workload.dtype
    profile = choose_profile(
        run.kernel, gpu, pattern.family, workload.dtype, workload.head_dim, engine=engine, kv_dtype=kv_dtype,
        value_dim=workload.dim_v,
    )  # fmt: skip
    profile = profile.program_of(workload)
    pattern.check(workload)
    tiles = resolve_tiles(profile, pattern, workload, run.q_tile or None, run.kv_tile or None)
    work = kernel_work(profile, pattern, workload, tiles)
    return gpu, profile, single_call(gpu, profile, workload, pattern, tiles, work, run.conditions), work.pairs


def _idle_s(gpu: GPU, run: MeasuredRun) -> float:
    """Half a tick that a replay waits for the next one, on average, where replays are what was timed."""
    return 0.5 * REPLAY_TICK_S.get(gpu.generation, 0.0) if run.graph and run.measures != "kernel" else 0.0


def _fold(run: MeasuredRun) -> int:
    """Fold of a run: the same for every run of its shape, whatever the GPU, software or window."""
    shape = (run.batch, run.heads, run.heads_kv, run.grid, run.cached, run.head_dim)
    return int.from_bytes(hashlib.sha256(repr(shape).encode()).digest()[:4], "big") % FOLDS
