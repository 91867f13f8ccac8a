"""Worker processes as the campaign sees them: ask one, wait so long, end it when it does not answer."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from ...errors import InputError
from ...kernels.compile_worker import die_with_parent
from .case import Case
from .sizing import CASES_PER_WORKER, PREPARERS

START_LIMIT_S: Final = 180.0  # importing torch and triton from a cold disk
_TAIL: Final = 400
# Workers import what this process imports, and compile in the process that asks: they are many already.
_SAME: Final = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TORCHINDUCTOR_COMPILE_THREADS": "1"}


class NoAnswer(Exception):
    """The worker did not answer. ``kind`` is "crashed" or "no end"; the process is gone."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Worker:
    """One worker process.

    Start it from a thread that outlives it: Linux ends it with the thread, should the campaign be killed.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C is the campaign's to handle, and children of a worker go with it
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
        self._buffer = b""
        self._device: str | None = None

    def device(self) -> str:
        """What it runs on, as torch calls it; waits until it has started.

        Raises:
            InputError: with the worker's own sentence, when it cannot work here at all.
        """
        if self._device is None:
            try:
                hello = self._answer(START_LIMIT_S)
            except NoAnswer as problem:
                raise InputError(f"the measuring process cannot start: {problem}") from None
            if "error" in hello:
                self.close()
                raise InputError(hello["error"])
            self._device = str(hello["device"])
        return self._device

    def ask(self, case: Case, suite: str, sample_seconds: float, limit_s: float, *, prepare: bool) -> dict[str, Any]:
        """Run a case and return the answer. Raises NoAnswer when none came within ``limit_s`` seconds."""
        self.device()
        question = {"case": case.to_dict(), "suite": suite, "sample_seconds": sample_seconds, "prepare": prepare}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: waiting for the answer finds out how
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._answer(limit_s)
        if answer.pop("lost", False):
            self.close()
        return answer

    def _answer(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            ready = select.select([self._process.stdout], [], [], max(left, 0.0))[0]
            if not ready:
                self.close()
                raise NoAnswer("no end", f"no end after {limit_s:.0f} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                status = self._process.wait()
                how = f"signal {-status}" if status < 0 else f"exit status {status}"
                reason = f"the process died with {how}{self._last_words()}"
                self.close()
                raise NoAnswer("crashed", reason)
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def _last_words(self) -> str:
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _TAIL))
        text = self._log.read().decode(errors="replace").strip()
        return f": {text}" if text else ""

    def close(self) -> None:
        """End the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            assert stream is not None
            with contextlib.suppress(OSError, ValueError):
                stream.close()


class Workers:
    """The worker that times, begun anew when it has died or run enough cases, and those that compile ahead."""

    def __init__(self, command: Sequence[str], preparers: int, environment: dict[str, str]) -> None:
        self._command, self._environment = command, environment
        self._timing: Worker | None = None
        self._asked = 0
        self._preparing: list[Worker] = []
        self._preparers = preparers

    def timing(self) -> Worker:
        """The worker that times."""
        if self._timing is None or not self._timing.alive or self._asked >= CASES_PER_WORKER:
            if self._timing is not None:
                self._timing.close()
            self._timing, self._asked = self._start(), 0
        self._asked += 1
        return self._timing

    def preparing(self) -> list[Worker]:
        """Those that compile ahead."""
        self._preparing = [worker for worker in self._preparing if worker.alive]
        while len(self._preparing) < self._preparers:
            self._preparing.append(self._start())
        return self._preparing

    def _start(self) -> Worker:
        return Worker(self._command, {**_SAME, **self._environment})

    def close(self) -> None:
        """End them all."""
        for worker in (self._timing, *self._preparing):
            if worker is not None:
                worker.close()


@contextlib.contextmanager
def workers_of(
    command: Sequence[str], preparers: int | None, environment: dict[str, str] | None = None
) -> Iterator[Workers]:
    """Workers of a campaign, ended with it. ``preparers``: how many compile ahead; by the machine's cores when None."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Below four cores, processes that import torch cost more than they save.
    usual = min(PREPARERS, cores // 2) if cores >= 4 else 0
    workers = Workers(command, usual if preparers is None else preparers, environment or {})
    try:
        yield workers
    finally:
        workers.close()
