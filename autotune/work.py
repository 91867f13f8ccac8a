"""Where parallel work runs: processes of this machine, or a ``dask.distributed`` cluster. Both are Executors.

A task whose worker died runs again, on either; one that kills its worker every time ends with ``LostWithWorker`` (dask:
``KilledWorker``), and the others go on.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

from ..errors import InputError

P = ParamSpec("P")
T = TypeVar("T")

ATTEMPTS: Final = 3  # as dask's allowed-failures
_CONNECT_S: Final = 10.0


class LostWithWorker(RuntimeError):
    """The task's process died each time that it was tried."""


@contextlib.contextmanager
def executor(scheduler: str | None = None, *, workers: int | None = None, gpus: bool = False) -> Iterator[Executor]:
    """An executor, shut down at the end.

    Args:
        scheduler: address of a dask scheduler ("tcp://host:8786"); this machine's processes when None.
        workers: processes on this machine; its CPUs, at most 8, when None.
        gpus: the tasks need a GPU each: on a cluster they go to workers started with ``--resources GPU=1``.

    Raises:
        InputError: the address is none, nothing answers there, or dask.distributed is not installed.
    """
    if scheduler is None:
        with Processes(workers or min(8, os.cpu_count() or 1)) as processes:
            yield processes
        return
    with _client(scheduler) as client:
        resources = {"resources": {"GPU": 1}} if gpus else {}
        # pure=False: two runs of one configuration are two measurements, not one remembered.
        with client.get_executor(pure=False, **resources) as pool:
            yield pool


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    scheme, slashes, place = address.partition("://")
    if not slashes or scheme not in ("tcp", "tls", "ucx") or ":" not in place:
        raise InputError(f"scheduler {address!r}: expected the address of a dask scheduler, e.g. tcp://host:8786")
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"scheduler {address!r} needs dask.distributed, expected it to be installed (pip install 'attncast[cluster]')"
        ) from None
    try:
        client: Any = Client(address, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError) as error:
        raise InputError(
            f"scheduler {address!r} does not answer: expected a running `dask scheduler` ({error})"
        ) from None
    try:
        yield client
    finally:
        client.close()


@dataclass(eq=False)
class _Task:
    """A call that was submitted, and what its caller waits for."""

    call: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    losses: int = 0
    pool: ProcessPoolExecutor | None = None


class Processes(Executor):
    """Processes of this machine that outlive the death of one of them.

    A ProcessPoolExecutor is broken by it, and cannot say which of its tasks was to blame. So only as many tasks as keep the
    processes busy are handed out at a time; when the pool breaks, those are suspects, and each runs again alone. A task that
    is lost ``ATTEMPTS`` times is given up; the others never notice.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._changed = threading.Condition()
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()
        self._running: set[_Task] = set()
        self._open = True
        self._pool: ProcessPoolExecutor | None = None
        # Processes die with the thread that started them (die_with_parent), so one thread starts them all.
        self._thread = threading.Thread(target=self._serve, name="attncast processes", daemon=True)
        self._thread.start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run ``fn`` in one of the processes; everything must be picklable."""
        task = _Task(functools.partial(fn, *args, **kwargs))
        with self._changed:
            if not self._open:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._waiting.append(task)
            self._changed.notify()
        return task.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks; wait for those there are, or cancel those that did not start."""
        with self._changed:
            self._open = False
            if cancel_futures:
                for task in self._waiting:
                    task.future.cancel()
            self._changed.notify()
        if wait:
            self._thread.join()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.shutdown(wait=True, cancel_futures=kind is not None)

    def _serve(self) -> None:
        """Hand tasks out until there are none and there will be none."""
        with self._changed:
            while self._open or self._waiting or self._suspects or self._running:
                task = self._next()
                if task is None:
                    self._changed.wait()
                    continue
                self._running.add(task)
                inner = self._started(task)
                inner.add_done_callback(functools.partial(self._done, task))
        if self._pool is not None:
            self._pool.shutdown()

    def _next(self) -> _Task | None:
        """The task to hand out now, or None. A suspect (a task that was lost) runs when nothing else does."""
        if any(task.losses for task in self._running):
            return None
        if self._suspects:
            return None if self._running else self._suspects.popleft()
        while self._waiting and len(self._running) < 2 * self._workers:
            task = self._waiting.popleft()
            if task.future.set_running_or_notify_cancel():
                return task
        return None

    def _started(self, task: _Task) -> Future[Any]:
        try:
            task.pool = self._pool = self._pool or self._new_pool()
            return self._pool.submit(task.call)
        except BrokenProcessPool:  # a process died and this is the first to hear
            task.pool = self._pool = self._new_pool()
            return self._pool.submit(task.call)

    def _new_pool(self) -> ProcessPoolExecutor:
        from ..kernels.compile_worker import die_with_parent

        # Spawned: they share no threads, locks or interpreter mode with this process, so that they may fork.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=die_with_parent)

    def _done(self, task: _Task, inner: Future[Any]) -> None:
        error = inner.exception()
        lost = isinstance(error, BrokenProcessPool)
        if lost:
            task.losses += 1
            if task.losses >= ATTEMPTS:
                lost, error = False, LostWithWorker(f"its process died {task.losses} times")
        if error is None:
            task.future.set_result(inner.result())
        elif not lost:
            task.future.set_exception(error)
        with self._changed:
            self._running.discard(task)
            if lost:
                self._suspects.append(task)
            if isinstance(inner.exception(), BrokenProcessPool) and self._pool is task.pool:
                self._pool = None
            self._changed.notify()
