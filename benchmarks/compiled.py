"""What compiling does to a tuning, for four GPUs that need not be there: ``python benchmarks/compiled.py [--full GPU]``.

By default each GPU's ``quick`` runs with an empty cache: wall-clock and processor seconds, configurations compiled, which of
the first five that ``instant`` proposes do not compile, do not fit or spill badly, and how much slower the first of
``instant`` is than the first of ``quick`` by the forecast that knows the compiler's word. The exit status is 1 when a
configuration that ``quick`` proposes is not fit to run. ``--full GPU`` compiles the whole space of one problem (it resumes)
and says how far compiling moves forecasts (autotune.compiled.COMPILED_SPREAD) and what ``quick`` and ``instant`` miss.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time

import numpy as np

from attncast import Workload
from attncast.autotune.compiled import COMPILED_SPREAD, kernel_config, problem
from attncast.autotune.rank import feasible, rank
from attncast.autotune.rank_machine import held_by_compiler
from attncast.autotune.result import Knobs, Tuning
from attncast.autotune.space_build import build
from attncast.autotune.tune import tune
from attncast.hwmodels import load_gpu
from attncast.kernels.check import CheckResult, check_jobs
from attncast.simulator import parse_pattern
from attncast.simulator.conditions import DEFAULT_CONDITIONS

GPUS = ("a100", "h100", "b200", "rtx5090")
PROBLEMS = (
    ("causal", Workload((4096,), 32, 128)),
    ("dense", Workload((65_536,), 16, 64)),
    ("na window=18x24x24 stride=16x8x8", Workload((30, 48, 80), 24, 128)),
)
SHOWN = 5  # as many as ``attncast tune`` prints
NEAR = 1.5  # forecasts beyond so many times the best say nothing of what is chosen


def _cpu_s() -> float:
    """Processor seconds of this process and those it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _checked(gpu: str, workload: Workload, pattern: str, configs: list[Knobs]) -> list[CheckResult]:
    parsed = parse_pattern(pattern)
    tiles = [(int(config["BLOCK_M"]), int(config["BLOCK_N"])) for config in configs]
    kernels = [kernel_config("attention", c, tile, workload, parsed) for c, tile in zip(configs, tiles, strict=True)]
    return check_jobs([(load_gpu(gpu), kernel) for kernel in kernels])


def _lost(found: Tuning, config: Knobs) -> str:
    """How much slower a configuration is than the first of a ranking, as text."""
    # The order of tokens is no knob of an instant tuning, which permutes them.
    own = {"order": "tiles", **config}
    times = [c.time_s for c in found.ranking if {"order": "tiles", **c.config} == own]
    return f"{times[0] / found.best.time_s - 1:.1%}" if times else "out"


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python benchmarks/compiled.py", description=__doc__)
    parser.add_argument("--gpu", action="append", choices=GPUS, help="only this one; may be repeated")
    parser.add_argument("--full", metavar="GPU", choices=GPUS, help="compile the whole space of the first problem")
    chosen = parser.parse_args()
    if chosen.full:
        full(chosen.full)
    else:
        sys.exit(quick(chosen.gpu or GPUS))


def quick(gpus: tuple[str, ...]) -> int:
    """Print a row for each problem and GPU; return 1 when something that is proposed is not fit to run."""
    unfit = 0
    print(
        f"{'GPU':<9}{'pattern':<9}{'wall s':>7}{'CPU s':>7}{'compiled':>10}{'ruled out':>11}{'unfit of instant':>18}{'lost':>8}"
    )
    for gpu in gpus:
        for pattern, workload in PROBLEMS:
            with tempfile.TemporaryDirectory() as folder:
                os.environ["ATTNCAST_CACHE_DIR"] = folder
                begin, spent = time.monotonic(), _cpu_s()
                found = tune(workload, pattern, gpu, "triton", effort="quick")
                wall, cpu = time.monotonic() - begin, _cpu_s() - spent
                own = _checked(gpu, workload, pattern, [candidate.config for candidate in found.ranking[:SHOWN]])
                for what in filter(None, map(problem, own)):
                    unfit += 1
                    print(f"proposed by quick and not fit to run: {what}")
                first = tune(workload, pattern, gpu, "triton").ranking[:SHOWN]
                bad = [problem(result) for result in _checked(gpu, workload, pattern, [c.config for c in first])]
            print(
                f"{gpu:<9}{pattern.split()[0]:<9}{wall:>7.1f}{cpu:>7.1f}{found.space.compiled:>10}{len(found.ruled_out):>11}"
                f"{sum(map(bool, bad)):>13} of {len(bad)}{_lost(found, first[0].config):>8}"
            )
    return int(unfit > 0)


def full(name: str) -> None:
    """Compile all that may run of the first problem, and hold the forecasts before against those after."""
    pattern, workload = PROBLEMS[0]
    begin = time.monotonic()
    done = tune(
        workload, pattern, name, "triton", effort="full",
        on_compiled=lambda step: print(f"\r{step.done} of {step.total}", end="", file=sys.stderr, flush=True),
    )  # fmt: skip
    print(file=sys.stderr)
    gpu, parsed = load_gpu(name), parse_pattern(pattern)
    space = build("triton", gpu, workload, parsed, row_order=True)
    index, held = feasible(space, gpu, workload)
    before = rank(space, gpu, workload, DEFAULT_CONDITIONS, index, held)
    near = before.index[before.time_s <= NEAR * before.time_s[0]]
    results = _checked(name, workload, pattern, [space.config(int(i)) for i in near])
    fit = [place for place, result in enumerate(results) if not problem(result)]
    kept = [results[place] for place in fit]
    after = rank(space, gpu, workload, DEFAULT_CONDITIONS, near[fit], held_by_compiler(kept), kept)
    forecast = dict(zip(before.index.tolist(), before.time_s, strict=True))
    moved = np.log([t / forecast[i] for i, t in zip(after.index.tolist(), after.time_s, strict=True)])
    took = time.monotonic() - begin
    print(f"{name}, {pattern}: {done.space.compiled} of {done.space.feasible} compiled in {took:.0f} s")
    print(f"  {len(done.ruled_out)} not fit to run, {len(near) - len(fit)} of them among the {len(near)} nearest")
    spread = f"standard deviation {moved.std():.1%} (used: {COMPILED_SPREAD:.0%})"
    print(f"  compiling moves the nearest {moved.mean():+.1%} on average, {spread}")
    for effort in ("instant", "quick"):
        first = tune(workload, pattern, name, "triton", effort=effort).best.config
        print(f"  first of {effort}: {_lost(done, first)} slower than the first of all: {dict(first)}")
    print(f"  first of all: {dict(done.best.config)}")


if __name__ == "__main__":
    main()
