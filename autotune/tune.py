"""Tuning: which configuration of a kernel to run for a problem on a GPU that need not be at hand."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import InputError, unknown
from ..hwmodels import GPU, load_gpu
from ..kernels.check import CheckResult, check_jobs
from ..kernels.space import KernelConfig
from ..simulator.conditions import DEFAULT_CONDITIONS, Conditions
from ..simulator.patterns import Pattern, parse_pattern
from ..simulator.predict import bound_by
from ..simulator.workload import Workload
from .compiled import COMPILED_SPREAD, kernel_config, problem, promising
from .rank import Ranked, costs_at, feasible, rank
from .rank_machine import held_by_compiler
from .rank_sure import sure
from .result import Candidate, Resources, SpaceCounts, Tuning
from .space import Space, without
from .space_build import build, choose_kernel

Effort = Literal["instant", "quick", "full"]
EFFORTS: tuple[Effort, ...] = ("instant", "quick", "full")
QUICK = 16  # configurations that "quick" compiles at most, and again as long as none of them is fit to run
QUICK_S = 19.0  # seconds in which "quick" should have compiled them; the answer comes a moment later
KEPT = 64  # configurations of a ranking that are given back


@dataclass(frozen=True)
class Progress:
    """Compilations done, and how many there will be."""

    done: int
    total: int


def tune(
    workload: Workload,
    pattern: Pattern | str = "dense",
    gpu: GPU | str = "h100",
    kernel: str = "auto",
    *,
    effort: str = "instant",
    conditions: Conditions = DEFAULT_CONDITIONS,
    leave_alone: Sequence[str] = (),
    executor: Executor | None = None,
    workers: int | None = None,
    on_compiled: Callable[[Progress], None] | None = None,
    refine: Callable[[Tuning], Tuning] | None = None,
) -> Tuning:
    """Rank the configurations of a kernel.

    Args:
        workload, pattern, gpu: the problem; pattern and GPU by name or as objects.
        kernel: "triton" (attncast's own), "flex" (FlexAttention), "natten"; "auto": what users of the GPU run for the
            pattern where that can be tuned, else "triton".
        effort: "instant" compiles nothing; "quick" compiles the best 16 for the GPU, or as many as QUICK_S allows, and ranks
            them again with the compiler's registers, spills and instructions; "full" does so with every configuration that
            may run. Compilations are kept on disk: a run that was interrupted goes on where it stopped.
        leave_alone: knobs that keep their default ("WARP_SPECIALIZE").
        executor, workers: run the compilations (see kernels.compile).
        on_compiled: sees each compilation come in.
        refine: measures the best on a GPU and ranks again what the forecast ranked.

    Raises:
        InputError: the problem does not fit the kernel or the GPU, or nothing of the space can run.
    """
    begin = time.monotonic()
    until_s = begin + QUICK_S if effort == "quick" else None
    if effort not in EFFORTS:
        raise unknown("effort", effort, EFFORTS)
    gpu = load_gpu(gpu) if isinstance(gpu, str) else gpu
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    pattern.check(workload)
    chosen = choose_kernel(kernel, gpu, pattern, workload)
    # Unpermuted tokens take a second to count: not for an instant answer.
    space = build(chosen, gpu, workload, pattern, row_order=effort != "instant")
    space = without(space, leave_alone) if leave_alone else space
    index, held = feasible(space, gpu, workload)
    if not index.size:
        raise InputError(
            f"no configuration of kernel {chosen!r} for head dim {workload.head_dim} fits {gpu.key} "
            f"({gpu.smem_bytes_per_cta:,} bytes of shared memory for a CTA, {gpu.registers_per_sm:,} registers)"
        )
    everything = ranked = rank(space, gpu, workload, conditions, index, held)
    feasible_count, compiled_count = int(index.size), 0
    ruled_out: list[Candidate] = []
    notes = list(space.notes)
    compiles = effort != "instant" and space.program != "natten"
    results: Sequence[CheckResult] = ()
    if compiles:
        ranked, results, ruled_out, compiled_count, short = _compiled(
            space, gpu, workload, pattern, conditions, ranked, effort, until_s, executor, workers, on_compiled
        )
        notes += short
    elif effort != "instant":
        notes.append(f"Nothing to compile: effort {effort!r} gives what 'instant' does.")
    by_index = dict(zip(ranked.index.tolist(), results, strict=False)) if compiles else {}
    ranking = [
        _candidate(space, ranked, place, by_index.get(int(ranked.index[place])))
        for place in range(min(KEPT, ranked.index.size))
    ]
    tuning = Tuning(
        gpu=gpu.key,
        kernel=chosen,
        workload=workload,
        pattern=str(pattern),
        effort=effort,
        ranking=tuple(ranking),
        ruled_out=tuple(ruled_out),
        space=SpaceCounts(space.total, feasible_count, compiled_count),
        seconds=time.monotonic() - begin,
        sure=_sure(space, ranked, everything, ruled_out),
        notes=tuple(notes),
    )
    return tuning if refine is None else refine(tuning)


def _sure(space: Space, ranked: Ranked, everything: Ranked, ruled_out: Sequence[Candidate]) -> float:
    """Chance that the first of ``ranked`` is near the best of all that may run, compiled or not."""
    out = [dict(candidate.config) for candidate in ruled_out]
    known = set(ranked.index.tolist())
    left = [
        place
        for place, index in enumerate(everything.index[: 2 * KEPT].tolist())
        if index not in known and space.config(index) not in out
    ]
    index = np.concatenate([ranked.index[:KEPT], everything.index[left][:KEPT]])
    times = np.concatenate([ranked.time_s[:KEPT], everything.time_s[left][:KEPT]])
    return sure(times, space.codes(index))


def _compiled(
    space: Space,
    gpu: GPU,
    workload: Workload,
    pattern: Pattern,
    conditions: Conditions,
    ranked: Ranked,
    effort: str,
    until_s: float | None,
    executor: Executor | None,
    workers: int | None,
    on_compiled: Callable[[Progress], None] | None,
) -> tuple[Ranked, Sequence[CheckResult], list[Candidate], int, list[str]]:
    """Compile the best of a ranking, or all of it, and rank again what is fit to run.

    Returns:
        the new ranking, the compiler's word in its order, what was ruled out, how many were compiled, and a note where
        these are fewer than they should be.
    """
    configs = [
        kernel_config(space.program, space.config(i), (int(space.block_m[i]), int(space.block_n[i])), workload, pattern)
        for i in ranked.index.tolist()
    ]
    places: dict[KernelConfig, int] = {}
    for place, config in enumerate(configs):
        places.setdefault(config, place)
    distinct = promising(list(places), ranked.time_s[list(places.values())])
    step = QUICK if effort == "quick" else len(distinct)
    known: dict[KernelConfig, CheckResult] = {}
    fit: list[int] = []
    total = step

    done = 0

    def count(_: object) -> None:
        nonlocal done
        done += 1
        if on_compiled:
            on_compiled(Progress(done, total))

    for first in range(0, len(distinct), step):
        batch = distinct[first : first + step]
        total = first + len(batch)
        known |= _check(gpu, batch, until_s, executor, workers, count)
        fit = [place for place, config in enumerate(configs) if config in known and not problem(known[config])]
        if fit:
            break
    ruled_out = [
        replace(_candidate(space, ranked, place, known[config]), problem=problem(known[config]))
        for place, config in enumerate(configs)
        if config in known and problem(known[config])
    ]
    if not fit:
        raise InputError(
            f"none of the {len(known)} configurations that were compiled for {gpu.key} is fit to run: {ruled_out[0].problem}"
        )
    results = [known[configs[place]] for place in fit]
    again = rank(space, gpu, workload, conditions, ranked.index[fit], held_by_compiler(results), results)
    by_index = {int(ranked.index[place]): known[configs[place]] for place in fit}
    following = next((config for config in distinct if config not in known), None)
    notes = []
    if effort == "quick" and following is not None and len(known) < QUICK:
        slower = ranked.time_s[places[following]] / ranked.time_s[0] - 1
        notes.append(
            f"Compiled {len(known)} of {QUICK} in the time there was (again, it goes on from there): the next one "
            f"was forecast {slower:.0%} slower than the first, and compiling moves a forecast by {COMPILED_SPREAD:.0%}."
        )
    return again, [by_index[int(i)] for i in again.index], ruled_out, len(known), notes


def _check(
    gpu: GPU,
    configs: Sequence[KernelConfig],
    until_s: float | None,
    executor: Executor | None,
    workers: int | None,
    count: Callable[[object], None],
) -> dict[KernelConfig, CheckResult]:
    """Compile configurations, first things first, as many as there is time for (see kernels.compile.compile_many)."""
    jobs = [(gpu, config) for config in configs]
    results = check_jobs(jobs, executor=executor, workers=workers, until_s=until_s, on_result=count)
    found = zip(configs, results, strict=True)
    return {config: result for config, result in found if result.facts.status != "skipped"}


def _candidate(space: Space, ranked: Ranked, place: int, result: CheckResult | None) -> Candidate:
    time_s = float(ranked.time_s[place])
    spread = math.exp(space.profile.interval)
    resources = None
    if result is not None and result.facts.ok:
        facts = result.facts
        resources = Resources(
            facts.registers or 0,
            facts.spill_bytes or 0,
            facts.shared_bytes or 0,
            facts.tmem_columns or 0,
            result.ctas_per_sm,
        )
    return Candidate(
        space.config(int(ranked.index[place])),
        time_s,
        time_s / spread,
        time_s * spread,
        bound_by(costs_at(ranked.costs, [place])),
        resources,
    )
