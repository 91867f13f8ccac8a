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
from ..kernels.decode_spec import NUM_STAGES, NUM_WARPS
from ..kernels.space import KernelConfig
from ..kernels.static_report import HOPELESS_SPILL_BYTES
from ..simulator.conditions import DEFAULT_CONDITIONS, Conditions
from ..simulator.patterns import Pattern, parse_pattern
from ..simulator.predict import bound_by
from ..simulator.tiles import Floats
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
QUICK_S = 19.0  # seconds in which "quick" should have compiled them; the answer comes a moment later
#: By how much compiling moves a forecast: standard deviation of the logarithm, over configurations whose forecast is within
#: 1.5 times the best (whole spaces compiled: see benchmarks/tune.py --full).
COMPILED_SPREAD = 0.05
#: Logarithm of how much slower a forecast may be for a configuration to be the best once both are compiled: three standard
#: deviations of the difference.
REACH = 3 * math.sqrt(2) * COMPILED_SPREAD
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
    configs = [_kernel_config(space, workload, pattern, int(i)) for i in ranked.index]
    places: dict[KernelConfig, int] = {}
    for place, config in enumerate(configs):
        places.setdefault(config, place)
    distinct = _promising(list(places), ranked.time_s[list(places.values())])
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
    left = [place for config, place in places.items() if config not in known]
    notes = []
    if effort == "quick" and left and len(known) < QUICK:
        slower = ranked.time_s[left[0]] / ranked.time_s[0] - 1
        notes.append(
            f"Compiled {len(known)} of {QUICK} in the time there was (again, it goes on from there): the nearest of the others "
            f"was forecast {slower:.0%} slower than the first, and compiling moves a forecast by {COMPILED_SPREAD:.0%}."
        )
    return again, [by_index[int(i)] for i in again.index], ruled_out, len(known), notes


def _promising(configs: Sequence[KernelConfig], time_s: Floats) -> list[KernelConfig]:
    """Configurations, fastest forecast first, in the order in which compiling them is most likely to find a faster one.

    Those in reach of the first come before the others. Three or more pipeline stages compile into the same loop (half of
    276 pairs to the same time, see COMPILED_SPREAD): of configurations that differ in nothing else the first speaks for all.
    """
    reach = time_s[0] * math.exp(REACH)
    seen: set[KernelConfig] = set()
    turns = []
    for config, forecast_s in zip(configs, time_s, strict=True):
        loop = replace(config, num_stages=min(3, config.num_stages))
        turns.append((forecast_s > reach, loop in seen))
        seen.add(loop)
    return [configs[place] for place in sorted(range(len(configs)), key=lambda place: turns[place])]


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
    dim = max(workload.head_dim, workload.dim_v)
    compiled_in = compiled_pattern(pattern)
    if space.program == "decode":  # masks its ends whatever the pattern; splits are no part of its code
        limited = "window" if compiled_in == "window" else "causal"
        rows, keys = int(space.block_m[index]), int(space.block_n[index])
        return KernelConfig("decode", dim, workload.dtype, limited, rows, keys, NUM_WARPS, NUM_STAGES)
    return KernelConfig(
        head_dim=dim,
        dtype=workload.dtype,
        pattern=compiled_in,
        block_m=int(config["BLOCK_M"]),
        block_n=int(config["BLOCK_N"]),
        num_warps=int(config["num_warps"]),
        num_stages=int(config["num_stages"]),
        use_tma=bool(config.get("USE_TMA", False)),
        warp_specialize=bool(config.get("WARP_SPECIALIZE", False)),
        maxnreg=int(config.get("maxnreg", 0)),
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
