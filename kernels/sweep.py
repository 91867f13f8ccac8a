"""Compile the whole space of ``attention`` once, for the reports that need all of it; resumable through the
cache.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .check import CheckResult, check_jobs, grid_jobs
from .facts import CompileFacts

#: One GPU for each architecture that matters.
GPUS = ("a100", "h100", "b200", "rtx5090")
HEAD_DIMS = (64, 128)


def sweep(
    gpus: Sequence[str] = GPUS, head_dims: Sequence[int] = HEAD_DIMS, *, workers: int | None = None
) -> list[CheckResult]:
    """Return a result for every configuration of ``space.attention_space`` in bf16; progress goes to
    stderr.
    """
    jobs = [job for dim in head_dims for job in grid_jobs(gpus, head_dim=dim, dtype="bf16", pattern="dense")]
    done = 0

    def count(_: CompileFacts) -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty() or done % 50 == 0:
            print(f"\rcompiled {done} of {len(jobs)}", end="", file=sys.stderr, flush=True)

    results = check_jobs(jobs, workers=workers, on_result=count)
    print(file=sys.stderr)
    return results
