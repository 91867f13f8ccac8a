"""Refinement with a GPU: measure where most is to be gained, fold what was found into the forecast, stop in time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from .. import jsonl
from ..errors import InputError
from .regression import Belief, Floats, believe, encoded
from .result import Knobs, Tuning

#: Medians of repeated runs on one GPU seldom agree better than this (relative): a smaller gain is not worth a run.
MIN_NOISE: Final = 0.005
_LEAST_RUNS: Final = 3  # before which there is nothing to tell an offset of the forecast from its errors by
_INTERVAL: Final = 1.2816  # standard deviations on either side of an 80% interval
_QUARTILE: Final = 0.6745  # of a standard normal distribution
_DRAWS: Final = 2000
_NEAR: Final = math.log(1.05)


@dataclass(frozen=True)
class Measurement:
    """One configuration on a GPU.

    Attributes:
        time_s: median seconds; None when it did not run. spread_s: half the distance of the quartiles.
        correct: whether its result agreed with the reference, before it was timed.
        problem: why it has no time: it crashed, hung, returned wrong numbers ("" when it has one).
    """

    time_s: float | None
    spread_s: float | None
    correct: bool
    problem: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is a time of a correct configuration."""
        return self.correct and self.time_s is not None and not self.problem


@dataclass(frozen=True)
class Step:
    """Progress: configurations measured so far, the last of them, and what measuring all others is expected to gain."""

    measured: int
    config: Knobs
    result: Measurement
    gain: float


class _Here(Executor):
    """Runs a task when it is submitted, in this thread."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def refine(
    tuning: Tuning,
    measure: Callable[[Knobs], Measurement],
    *,
    runs: int | None = None,
    seconds: float | None = None,
    log: str | Path | None = None,
    executor: Executor | None = None,
    width: int = 1,
    on_step: Callable[[Step], None] | None = None,
) -> Tuning:
    """Measure configurations of ``tuning.ranking`` and return the tuning with what was found.

    Next is always the configuration with the greatest expected improvement over the best so far. It ends when measuring all
    that are left is expected to gain less than the noise of a measurement, or with the budget.

    Args:
        tuning: what was ranked; every configuration of its ranking may be measured.
        measure: runs one configuration; checks it before it times it. An exception marks the configuration.
        runs: configurations to measure at most. seconds: start none after so long (wall clock).
        log: a file of JSON lines. What it holds of this problem is taken over and counts against the budgets, so that an
            interrupted run goes on where it stopped.
        executor, width: where ``measure`` runs, and how many at a time; by default here, one after the other.
        on_step: called after each.

    Returns:
        The tuning with the measured configurations first, fastest first; then the others by what is believed of them now,
        their times and intervals renewed. Configurations that crashed, hung or were wrong are among those ruled out.

    Raises:
        InputError: nothing can be measured, no configuration of the ranking ran, or the log cannot be read or written.
    """
    started = time.monotonic()
    study = _Study(tuning)
    spent_s = study.resume(log) if log is not None else 0.0
    pool, why = executor or _Here(), ""
    running: dict[Future[tuple[Measurement, float]], int] = {}
    while True:
        while not why and len(running) < width:
            taken = set(running.values())
            why = study.finished(taken, runs, seconds, spent_s + time.monotonic() - started)
            if not why:
                place = study.next(taken)
                running[pool.submit(_timed, measure, tuning.ranking[place].config)] = place
        if not running:
            break
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            place = running.pop(future)
            try:
                result, took_s = _outcome(future)
            except InputError as error:
                if not study.results:
                    raise
                why = f"then {error}"
                continue
            study.add(place, result)
            if log is not None:
                jsonl.append(log, study.record(place, result, took_s))
            if on_step is not None:
                on_step(Step(len(study.results), tuning.ranking[place].config, result, study.gain()))
    return study.tuning(why, time.monotonic() - started)


def _timed(measure: Callable[[Knobs], Measurement], config: Knobs) -> tuple[Measurement, float]:
    started = time.monotonic()
    return measure(config), time.monotonic() - started


def _outcome(future: Future[tuple[Measurement, float]]) -> tuple[Measurement, float]:
    try:
        return future.result()
    except InputError:
        raise
    except Exception as error:
        return Measurement(None, None, False, f"crashed: {type(error).__name__}: {error}"), 0.0


class _Study:
    """What is known so far of the configurations of one ranking, by their place in it."""

    def __init__(self, tuning: Tuning) -> None:
        self.before = tuning
        ranking = tuning.ranking
        self.points = encoded([candidate.config for candidate in ranking])
        self.predicted: Floats = np.log([candidate.time_s for candidate in ranking])
        widths = [math.log(candidate.high_s / candidate.low_s) for candidate in ranking]
        self.deviation = max(float(np.median(widths)) / (2 * _INTERVAL), 1e-3)
        self.results: dict[int, Measurement] = {}
        of = {"gpu": tuning.gpu, "kernel": tuning.kernel, "pattern": tuning.pattern, **asdict(tuning.workload)}
        self.problem: dict[str, Any] = json.loads(json.dumps(of))  # as it reads in a log: tuples are lists
        self._belief: Belief | None = None
        self._gain: float | None = None

    def resume(self, log: str | Path) -> float:
        """Take over what the log holds of this problem; return the seconds that it took."""
        places = {_key(candidate.config): place for place, candidate in enumerate(self.before.ranking)}
        spent_s = 0.0
        for record in jsonl.read(log):
            if record.get("problem_of") != self.problem:
                continue
            try:
                place = places.get(_key(record["config"]))
                result = Measurement(*(record[name] for name in ("time_s", "spread_s", "correct", "problem")))
                spent_s += record["seconds"]
            except (KeyError, TypeError) as error:
                raise InputError(
                    f"{str(log)!r} is not a log of measurements: expected {error} in its records"
                ) from None
            if place is not None:
                self.add(place, result)
        return spent_s

    def record(self, place: int, result: Measurement, took_s: float) -> dict[str, Any]:
        """The line of a log that ``resume`` reads."""
        config = dict(self.before.ranking[place].config)
        return {"problem_of": self.problem, "config": config, **asdict(result), "seconds": took_s}

    def add(self, place: int, result: Measurement) -> None:
        self.results[place] = result
        self._belief = self._gain = None

    @property
    def times(self) -> dict[int, float]:
        """Log seconds of what ran and was correct."""
        return {i: math.log(r.time_s) for i, r in self.results.items() if r.counts and r.time_s is not None}

    @property
    def noise(self) -> float:
        """Relative standard deviation of a measurement."""
        spreads = [
            r.spread_s / r.time_s / _QUARTILE for r in self.results.values() if r.counts and r.spread_s and r.time_s
        ]
        return max(MIN_NOISE, float(np.median(spreads)) if spreads else 0.0)

    @property
    def belief(self) -> Belief:
        if self._belief is None:
            self._belief = believe(self.points, self.predicted, self.times, self.noise, self.deviation)
        return self._belief

    def left(self, running: Collection[int] = ()) -> list[int]:
        """Configurations that were not measured."""
        return [i for i in range(self.predicted.size) if i not in self.results and i not in running]

    def next(self, running: Collection[int]) -> int:
        """The configuration with the greatest expected improvement; the first of the ranking before there is a time."""
        left = self.left(running)
        times = self.times
        if not times:
            return left[0]
        improvement = self.belief.improvement(min(times.values()))
        return max(left, key=lambda place: improvement[place])

    def fastest_left(self) -> Floats:
        """Draws of the log time of the fastest configuration that was not measured; infinite when all were."""
        left = self.left()
        if not left:
            return np.full(1, np.inf)
        return self.belief.fastest(left, _DRAWS)

    def gain(self) -> float:
        """What measuring all that is left is expected to gain over the best so far (relative); infinite without a time."""
        if not self.times:
            return math.inf
        if self._gain is None:
            self._gain = float(np.maximum(0.0, min(self.times.values()) - self.fastest_left()).mean())
        return self._gain

    def finished(self, running: Collection[int], runs: int | None, seconds: float | None, spent_s: float) -> str:
        """Why to start no more measurements; "" to go on."""
        if not self.left(running):
            return "every configuration was measured"
        if runs is not None and len(self.results) + len(running) >= runs:
            return f"the budget of {runs} runs was used up"
        if seconds is not None and spent_s >= seconds:
            return f"the budget of {seconds:g} s was used up"
        if len(self.times) >= _LEAST_RUNS and (gain := self.gain()) < self.noise:
            return f"measuring more was expected to gain {gain:.1%}, less than the noise of {self.noise:.1%}"
        return ""

    def tuning(self, why: str, took_s: float) -> Tuning:
        """What was found; see ``refine``."""
        before, times = self.before, self.times
        problems = [result.problem or "not correct" for result in self.results.values() if not result.counts]
        if len(problems) == len(before.ranking):
            raise InputError(f"no configuration of {before.kernel} ran on {before.gpu}: the first {problems[0]}")
        measured = [
            replace(before.ranking[i], measured_s=self.results[i].time_s, spread_s=self.results[i].spread_s)
            for i in sorted(times, key=lambda i: times[i])
        ]
        mean, deviation = self.belief.mean, self.belief.deviation
        renewed = []
        for i in sorted(self.left(), key=lambda i: mean[i]):
            middle, half = math.exp(mean[i]), _INTERVAL * deviation[i] if times else self.deviation * _INTERVAL
            low, high = middle * math.exp(-half), middle * math.exp(half)
            renewed.append(replace(before.ranking[i], time_s=middle, low_s=low, high_s=high))
        failed = [
            replace(before.ranking[i], problem=result.problem or "not correct")
            for i, result in self.results.items()
            if not result.counts
        ]
        sure = before.sure
        if times:
            sure = float((self.fastest_left() >= min(times.values()) - _NEAR).mean())
        return replace(
            before,
            ranking=(*measured, *renewed),
            ruled_out=(*before.ruled_out, *failed),
            space=replace(before.space, measured=len(self.results)),
            seconds=before.seconds + took_s,
            sure=sure,
            notes=(*before.notes, f"Measured {len(self.results)} of {len(before.ranking)} configurations: {why}."),
        )


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(dict(config), sort_keys=True)
