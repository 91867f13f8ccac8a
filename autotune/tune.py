"""Tuning: which configuration of a kernel to run for a problem on a GPU that need not be at hand."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..errors import InputError, unknown
from ..hwmodels import GPU, load_gpu
from ..kernels.check import CheckResult, check_jobs
from ..kernels.compile_worker import die_with_parent
from ..kernels.space import KernelConfig
from ..kernels.static_report import HOPELESS_SPILL_BYTES
from ..simulator.conditions import DEFAULT_CONDITIONS, Conditions
from ..simulator.patterns import Pattern, parse_pattern
from ..simulator.predict import bound_by
from ..simulator.workload import Workload
from .rank import Ranked, costs_at, feasible, rank
from .rank_machine import held_by_compiler
from .rank_sure import sure
from .result import Candidate, Resources, SpaceCounts, Tuning
from .space import Space
from .space_build import build, choose_kernel

Effort = Literal["instant", "quick", "full"]
EFFORTS: tuple[Effort, ...] = ("instant", "quick", "full")
QUICK = 16  # configurations that "quick" compiles at most, and again as long as none of them is fit to run
QUICK_S = 12.0  # seconds after which "quick" starts no further compilation; those under way take a few more
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
        executor, workers: run the compilations (see kernels.compile).
        on_compiled: sees each compilation come in.
        refine: measures the best on a GPU and ranks again what the forecast ranked.

    Raises:
        InputError: the problem does not fit the kernel or the GPU, or nothing of the space can run.
    """
    begin = time.perf_counter()
    if effort not in EFFORTS:
        raise unknown("effort", effort, EFFORTS)
    gpu = load_gpu(gpu) if isinstance(gpu, str) else gpu
    pattern = parse_pattern(pattern) if isinstance(pattern, str) else pattern
    pattern.check(workload)
    chosen = choose_kernel(kernel, gpu, pattern, workload)
    # Unpermuted tokens take a second to count: not for an instant answer.
    space = build(chosen, gpu, workload, pattern, row_order=effort != "instant")
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
    compiles = effort != "instant" and space.program in ("attention", "flex")
    results: Sequence[CheckResult] = ()
    if compiles:
        ranked, results, ruled_out, compiled_count = _compiled(
            space, gpu, workload, pattern, conditions, ranked, effort, executor, workers, on_compiled
        )
        wanted = min(QUICK, feasible_count)
        if effort == "quick" and compiled_count < wanted:
            notes.append(
                f"Compiled {compiled_count} of the best {wanted}: all there was time for; again, it goes on from there."
            )
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
        seconds=time.perf_counter() - begin,
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
    executor: Executor | None,
    workers: int | None,
    on_compiled: Callable[[Progress], None] | None,
) -> tuple[Ranked, Sequence[CheckResult], list[Candidate], int]:
    """Compile the best of a ranking, or all of it, and rank again what is fit to run.

    Returns:
        the new ranking, the compiler's word in its order, what was ruled out, and how many were compiled.
    """
    configs = [_kernel_config(space, workload, pattern, int(i)) for i in ranked.index]
    distinct = list(dict.fromkeys(configs))
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
        batch = _variety(distinct[first : first + step])
        total = first + len(batch)
        seconds = QUICK_S if effort == "quick" else math.inf
        known |= _check(gpu, batch, seconds, executor, workers, count)
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
    return again, [by_index[int(i)] for i in again.index], ruled_out, len(known)


def _variety(configs: Sequence[KernelConfig]) -> list[KernelConfig]:
    """The same in an order where those that only differ in pipeline stages from an earlier one come later."""
    seen: Counter[KernelConfig] = Counter()
    turns = []
    for config in configs:
        turns.append(seen[replace(config, num_stages=1)])
        seen[replace(config, num_stages=1)] += 1
    return [configs[place] for place in sorted(range(len(configs)), key=lambda place: turns[place])]


def _check(
    gpu: GPU,
    configs: Sequence[KernelConfig],
    seconds: float,
    executor: Executor | None,
    workers: int | None,
    count: Callable[[object], None],
) -> dict[KernelConfig, CheckResult]:
    """Compile configurations, first things first, and start no more after so many seconds: at least one for each worker.

    An executor of the caller's own is given all of them at once.
    """
    if executor is not None or math.isinf(seconds):
        jobs = [(gpu, config) for config in configs]
        results = check_jobs(jobs, executor=executor, workers=workers, on_result=count)
        return dict(zip(configs, results, strict=True))
    begin = time.perf_counter()
    found: dict[KernelConfig, CheckResult] = {}
    width = workers or min(8, os.cpu_count() or 1)
    # One pool for all, since a worker takes seconds to start; spawned, so that its processes may fork.
    with ProcessPoolExecutor(
        width, mp_context=multiprocessing.get_context("spawn"), initializer=die_with_parent
    ) as pool:
        for first in range(0, len(configs), width):
            chunk = configs[first : first + width]
            found |= zip(chunk, check_jobs([(gpu, c) for c in chunk], executor=pool, on_result=count), strict=True)
            if time.perf_counter() - begin > seconds:
                break
    return found


def problem(result: CheckResult) -> str:
    """Why a compiled configuration is not proposed; "" when it is."""
    facts = result.facts
    if not result.fits:
        return result.reason
    if (facts.spill_bytes or 0) >= HOPELESS_SPILL_BYTES:
        return f"spills {facts.spill_bytes} bytes of registers per thread"
    loop = facts.main_loop
    if loop is None or not loop.mma or any(not part.warps for part in loop.parts):
        return "its inner loop was not found in the machine code"
    if facts.config.warp_specialize and facts.warps == facts.config.num_warps:
        return "Triton left its loop whole: warp specialisation has no effect"
    return ""


def _kernel_config(space: Space, workload: Workload, pattern: Pattern, index: int) -> KernelConfig:
    """What to compile for a configuration: attncast's kernel, FlexAttention's stand-in too."""
    config = space.config(index)
    return KernelConfig(
        head_dim=max(workload.head_dim, workload.dim_v),
        dtype=workload.dtype,
        pattern=compiled_pattern(pattern),
        block_m=int(config["BLOCK_M"]),
        block_n=int(config["BLOCK_N"]),
        num_warps=int(config["num_warps"]),
        num_stages=int(config["num_stages"]),
        use_tma=bool(config.get("USE_TMA", False)),
        warp_specialize=bool(config.get("WARP_SPECIALIZE", False)),
    )


def compiled_pattern(pattern: Pattern) -> str:
    """How the kernel has a pattern compiled in (see kernels.space.PATTERNS)."""
    if pattern.family != "band":
        return "blocks"
    text = str(pattern)
    return text if text in ("dense", "causal") else "window"


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
