"""Run something in a process of its own, again and again, whatever it does to that process.

A kernel can crash its process, hang, or leave the GPU's context unusable. ``Isolated`` keeps one worker process, hands it
one argument at a time, and starts another when that one died, hung or failed: only the argument it had is lost.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

START_S: Final = 120.0  # for an interpreter to start, import torch and draw the tensors, on a busy machine
_MESSAGE_LENGTH: Final = 400


class Failed(Exception):
    """The call came to nothing; the message says how: "crashed: ...", "no end after ..." or the error that it raised."""


class Unprepared(Failed):
    """No worker could be made ready: what the calls need is not there."""


class Isolated(Generic[T]):
    """Calls of a function that ``prepare`` makes, in a worker process. Use it with ``with``, or call ``close``.

    Args:
        prepare: called once in each worker process; returns the function. Picklable, as are arguments and results.
        timeout_s: seconds for one call. start_s: for the worker to be ready for the first.
        environment: variables set for the worker, None to unset one.
    """

    def __init__(
        self,
        prepare: Callable[[], Callable[[Any], T]],
        *,
        timeout_s: float,
        start_s: float = START_S,
        environment: dict[str, str | None] | None = None,
    ) -> None:
        self._prepare = pickle.dumps(prepare)
        self._timeout_s, self._start_s = timeout_s, start_s
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any] | None = None

    def __call__(self, argument: Any) -> T:
        """The function's result.

        Raises Failed when the worker crashed, hung, or the function raised; Unprepared when there is no worker to call.
        """
        pipe = self._ready()
        pipe.send(argument)
        return self._answer(pipe, self._timeout_s)  # type: ignore[no-any-return]

    def __enter__(self) -> Isolated[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker, and all that it started."""
        process, pipe, self._process, self._pipe = self._process, self._pipe, None, None
        if pipe is not None:
            pipe.close()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it leads a group of its own
            process.wait()

    def _ready(self) -> Connection[Any, Any]:
        """A worker that waits for an argument: the last one, or a new one where that has ended meanwhile."""
        if self._process is not None and self._process.poll() is None and self._pipe is not None:
            return self._pipe
        self.close()
        ours, theirs = Pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for name, value in self._environment.items():
            environment.pop(name, None)
            if value is not None:
                environment[name] = value
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,
        )
        self._pipe = ours
        theirs.close()
        ours.send_bytes(self._prepare)
        try:
            self._answer(ours, self._start_s)
        except Failed as failed:
            raise Unprepared(str(failed)) from None
        return ours

    def _answer(self, pipe: Connection[Any, Any], timeout_s: float) -> Any:
        try:
            if not pipe.poll(timeout_s):
                raise Failed(f"no end after {timeout_s:g} s")
            ok, value = pipe.recv()
        except (EOFError, OSError):
            raise Failed(f"crashed: the process ended with {self._end()}") from None
        except BaseException:
            self.close()
            raise
        if not ok:
            self.close()  # an error may have poisoned the process (a CUDA error stays): the next call gets a new one
            raise Failed(value)
        return value

    def _end(self) -> str:
        """How the worker ended, whose pipe is closed."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        status = self._process.poll()
        self.close()
        return f"signal {-status}" if status is not None and status < 0 else f"exit status {status}"


def serve(descriptor: int) -> None:
    """The worker's side: answer on the pipe until it is closed. What is printed goes to standard error."""
    from ..kernels.compile_worker import die_with_parent

    die_with_parent()
    os.dup2(2, 1)
    pipe: Connection[Any, Any] = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError):
        function = _attempt(pipe, lambda: pickle.loads(pipe.recv_bytes())(), silent=True)
        while function is not None:
            _attempt(pipe, functools.partial(function, pipe.recv()))


def _attempt(pipe: Connection[Any, Any], work: Callable[[], Any], silent: bool = False) -> Any:
    """Send what ``work`` returns (nothing when ``silent``) or how it failed; return it."""
    try:
        value = work()
    except Exception as error:
        lines = str(error).strip().splitlines()
        pipe.send((False, f"{type(error).__name__}: {lines[0] if lines else ''}"[:_MESSAGE_LENGTH]))
        return None
    pipe.send((True, None if silent else value))
    return value
