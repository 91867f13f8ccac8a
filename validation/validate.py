"""How far forecasts are from measured runs that nothing was fitted on: by shape, by GPU, for speedups, beside baselines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..simulator.calibration import BOUNDS, Constants
from .calibrate import Fitted, Floats, calibrate
from .measured import MeasuredRun
from .statistics import Summary, line_errors, summarise

# Constants of the kernel and the engine carry over to another GPU; clock and DRAM are that GPU's own.
CARRIED = ("overlap", "round_trips", "call_s", "token_s")
DECODE_QUERIES = 8


@dataclass(frozen=True)
class Validation:
    """Errors on rows that no constant saw; keys are "GPU kernel" unless said otherwise.

    Attributes:
        held_out: shapes left out of the fit. priors: nothing fitted at all.
        left_out_gpu: a GPU left out of every fit, kernel and engine constants from the others'.
        decode: of the held-out rows, those of at most 8 queries. speedup: window over causal on pairs of the same shape.
        speed_of_light, line: the baselines: raw, and k * speed of light + c on the same folds.
        coverage_80: share of held-out rows inside the 80% interval of the other folds.
        left_out: rows not used, by reason.
    """

    held_out: dict[tuple[str, str], Summary]
    priors: dict[tuple[str, str], Summary]
    left_out_gpu: dict[tuple[str, str], Summary]
    decode: dict[tuple[str, str], Summary]
    speedup: dict[tuple[str, str], Summary]
    speed_of_light: dict[tuple[str, str], Summary]
    line: dict[tuple[str, str], Summary]
    coverage_80: float
    left_out: dict[str, int]


def validate(runs: Sequence[MeasuredRun], data: str, at_least_s: float = 0.0) -> Validation:
    """Fit by folds and compare.

    Args:
        at_least_s: errors are reported on runs of at least that long; fits use all.

    Raises:
        InputError: no GPU and kernel has enough runs to fit.
    """
    fits, left_out = calibrate(runs, data, "attncast validate")
    tables: dict[str, dict[tuple[str, str], Summary]] = defaultdict(dict)
    inside: list[float] = []
    for fit in fits:
        key = (fit.gpu, fit.kernel)
        long = fit.problem.measured_s >= at_least_s
        few = np.array([run.workload.tokens <= DECODE_QUERIES for run in fit.runs])
        carried = _carried(fit, fits)
        columns = {
            "held_out": (fit.held_out, long),
            "priors": (fit.before, long),
            "decode": (fit.held_out, long & few),
            "speed_of_light": (fit.problem.speed_of_light_s / fit.problem.measured_s - 1.0, long),
            "line": (line_errors(fit.problem.speed_of_light_s, fit.problem.measured_s, fit.problem.fold), long),
        }
        if carried is not None:
            columns["left_out_gpu"] = (fit.problem.seconds(carried) / fit.problem.measured_s - 1.0, long)
        for name, (errors, wanted) in columns.items():
            if wanted.any():
                tables[name][key] = summarise(errors[wanted])
        pairs = _speedup_errors(fit)
        if pairs.size:
            tables["speedup"][key] = summarise(pairs)
        inside += [fit.inside] * fit.held_out.size
    return Validation(
        held_out=tables["held_out"],
        priors=tables["priors"],
        left_out_gpu=tables["left_out_gpu"],
        decode=tables["decode"],
        speedup=tables["speedup"],
        speed_of_light=tables["speed_of_light"],
        line=tables["line"],
        coverage_80=float(np.mean(inside)),
        left_out=left_out,
    )


def _carried(fit: Fitted, fits: Sequence[Fitted]) -> Constants | None:
    """Constants for a GPU from fits of the same kernel on others, weighted by rows; None when there are none."""
    others = [other for other in fits if other.kernel == fit.kernel and other.gpu != fit.gpu]
    if not others:
        return None
    weights = [other.constants.rows for other in others]
    means = {
        name: float(np.exp(np.average([np.log(getattr(other.constants, name)) for other in others], weights=weights)))
        for name in CARRIED
    }
    own = {
        "clock": fit.problem.gpu.sustained_clock_fraction,
        "dram_efficiency": fit.problem.gpu.dram_efficiency,
    }
    assert set(means) | set(own) == set(BOUNDS)
    return replace(fit.constants, **means, **own)  # type: ignore[arg-type]


def _speedup_errors(fit: Fitted) -> Floats:
    """Relative errors of window over causal time, on pairs that differ in the pattern only; from held-out forecasts."""
    rows: dict[tuple[object, ...], dict[str, int]] = defaultdict(dict)
    for index, run in enumerate(fit.runs):
        shape = (
            run.software,
            run.batch,
            run.heads,
            run.heads_kv,
            run.grid,
            run.cached,
            run.head_dim,
            run.dtype,
            run.kv_dtype,
        )
        rows[shape][run.pattern] = index
    forecasts = (1.0 + fit.held_out) * fit.problem.measured_s
    errors = []
    for patterns in rows.values():
        whole = patterns.get("causal")
        for text, index in patterns.items():
            if whole is not None and text.startswith("window"):
                ratio = forecasts[whole] / forecasts[index]
                errors.append(ratio / (fit.problem.measured_s[whole] / fit.problem.measured_s[index]) - 1.0)
    return np.array(errors)
