"""Compile kernels for GPUs that are not there, many at a time, remembering every answer.

``compile_one`` and ``compile_many`` look in the disk cache first; what is missing goes to a pool of
processes (or to any ``concurrent.futures.Executor``, such as a
``dask.distributed`` client's). A configuration that does not compile is a result with its reason, not an
exception.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from typing import Any

from ..errors import InputError
from . import cache
from .compile_worker import compile_job, die_with_parent
from .facts import CompileFacts, facts_from_record
from .space import KernelConfig, architecture_number

__all__ = ["TIMEOUT_S", "CompileFacts", "Job", "compile_many", "compile_one"]

Job = tuple[KernelConfig, str]
#: A configuration compiles in 1 to 10 s; one that needs two minutes is not worth waiting for.
TIMEOUT_S = 120.0


def compile_one(
    config: KernelConfig, arch: str, *, timeout_s: float = TIMEOUT_S, use_cache: bool = True
) -> CompileFacts:
    """Return the facts of one configuration on one architecture, as "sm_90"; see ``compile_many``."""
    return compile_many([(config, arch)], timeout_s=timeout_s, use_cache=use_cache)[0]


def compile_many(
    jobs: Sequence[Job],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
    until_s: float | None = None,
    use_cache: bool = True,
    on_result: Callable[[CompileFacts], None] | None = None,
) -> list[CompileFacts]:
    """Return the facts of each (configuration, architecture), in the order given.

    ``executor`` runs the jobs that are not cached: any will do, processes of one thread each are fastest.
    Without one, ``workers`` processes (default: the CPUs, at most 8) are started. ``timeout_s`` bounds each
    job in seconds. ``on_result`` is called in this process as each comes in. Raises InputError for an
    architecture that is not known, and when Triton is needed but not installed.

    ``until_s`` (of ``time.monotonic``) is when processes started here should be done: jobs are begun in the order given,
    one for each process in any case, and none that would not be ready by then if it took as long as the longest before it.
    What is not begun has the status "skipped".
    """
    for arch in {arch for _, arch in jobs}:
        architecture_number(arch)
    keys = {job: _key(job) for job in dict.fromkeys(jobs)}
    done: dict[Job, CompileFacts] = {}
    for job, key in keys.items():
        facts = _remembered(job, key) if use_cache else None
        if facts is not None:
            done[job] = facts
            if on_result:
                on_result(facts)
    missing = [job for job in keys if job not in done]
    if missing and cache.triton_version() == "none":
        raise InputError("compiling a kernel needs Triton, expected it to be installed (pip install triton)")
    for job, record in _run(missing, executor, workers, timeout_s, until_s):
        facts = facts_from_record(*job, record)
        # A crash or a time-out may be this machine's fault: asking again is cheap next to a wrong answer
        # kept.
        if use_cache and record["status"] in ("ok", "failed"):
            cache.store(keys[job], record)
        done[job] = facts
        if on_result:
            on_result(facts)
    skipped = {
        job: CompileFacts(*job, "skipped", "there was no time left to compile it") for job in keys if job not in done
    }
    return [done.get(job) or skipped[job] for job in jobs]


def _key(job: Job) -> str:
    config, arch = job
    return cache.record_key(cache.kernel_hash(config.kernel), config.to_json(), arch)


def _remembered(job: Job, key: str) -> CompileFacts | None:
    record = cache.load(key)
    if record is None:
        return None
    try:
        return facts_from_record(*job, record)
    except (LookupError, TypeError, ValueError):
        return None  # an entry of another version, or a damaged one: compile again


def _run(
    jobs: Sequence[Job], executor: Executor | None, workers: int | None, timeout_s: float, until_s: float | None
) -> Iterable[tuple[Job, dict[str, Any]]]:
    """Yield each job with its record, as they finish."""
    if not jobs:
        return
    count = min(len(jobs), workers or min(8, os.cpu_count() or 1))
    pool = nullcontext(executor) if executor is not None else _pool(count)
    at_once = count if until_s is not None and executor is None else len(jobs)
    with pool as chosen:
        waiting = deque(jobs)
        running: dict[Future[dict[str, Any]], Job] = {}
        longest_s = 0.0

        def begin() -> None:
            if until_s is not None and longest_s and time.monotonic() + longest_s > until_s:
                waiting.clear()
            while waiting and len(running) < at_once:
                config, arch = job = waiting.popleft()
                running[_submitted(chosen, config.to_json(), arch, cache.kernel_hash(config.kernel), timeout_s)] = job

        try:
            begin()
            while running:
                ready, _ = wait(running, return_when=FIRST_COMPLETED)
                records = [(running.pop(future), _record(future)) for future in ready]
                longest_s = max(longest_s, *(float(record.get("seconds", 0.0)) for _, record in records))
                begin()  # first, so that no process waits for what is done with the records
                yield from records
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _submitted(pool: Executor, *arguments: Any) -> Future[dict[str, Any]]:
    """A job under way; where the pool's processes died it has failed already."""
    try:
        return pool.submit(compile_job, *arguments)
    except BrokenExecutor as error:
        failed: Future[dict[str, Any]] = Future()
        failed.set_exception(error)
        return failed


def _record(future: Future[dict[str, Any]]) -> dict[str, Any]:
    try:
        return future.result()
    except Exception as error:  # the worker itself died: the executor is broken, the other jobs say the same
        return {"status": "crashed", "reason": f"the worker process failed: {type(error).__name__}: {error}"}


def _pool(count: int) -> ProcessPoolExecutor:
    # Spawned workers share no threads, locks or interpreter mode with this process, so that they may fork.
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=die_with_parent)
