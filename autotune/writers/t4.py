"""Kernel Tuner's T4 results, schema 1.0.0: every configuration, those that were ruled out included.

Times are milliseconds, as Kernel Tuner's are. A measured configuration has the objective ``time``; one that was only
forecast has ``predicted_time``, no runtimes, and a correctness of 0, for nobody checked it. Source:
github.com/KernelTuner/kernel_tuner, schema/T4/1.0.0/results-schema.json.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from ..result import Candidate, Tuning

# Words of a problem -> T4's kind of invalidity; the first that occurs counts.
_KINDS: Final = {
    "wrong": "correctness",
    "correct": "correctness",
    "no end": "timeout",
    "took longer": "timeout",
    "timeout": "timeout",
    "compil": "compile",
    "crash": "runtime",
    "died": "runtime",
    "fail": "runtime",
}


def text(tunings: Sequence[Tuning]) -> str:
    """The JSON text."""
    results = [_result(candidate) for tuning in tunings for candidate in (*tuning.ranking, *tuning.ruled_out)]
    return json.dumps({"schema_version": "1.0.0", "results": results}, indent=2, allow_nan=False) + "\n"


def _result(candidate: Candidate) -> dict[str, Any]:
    measured = candidate.measured_s is not None and not candidate.problem
    objective = "time" if measured else "predicted_time"
    value_ms = 1e3 * (candidate.measured_s if measured and candidate.measured_s is not None else candidate.time_s)
    return {
        "configuration": dict(candidate.config),
        "objectives": [objective],
        "times": {"runtimes": [value_ms] if measured else []},
        "invalidity": _invalidity(candidate.problem),
        "correctness": int(measured),
        "measurements": [{"name": objective, "value": value_ms, "unit": "ms"}],
    }


def _invalidity(problem: str) -> str:
    if not problem:
        return "correct"
    return next((kind for words, kind in _KINDS.items() if words in problem.lower()), "constraints")
