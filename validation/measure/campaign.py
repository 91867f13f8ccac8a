"""A walk through a suite: what is not measured yet, case by case, until it is done or the seconds are over."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from ...errors import InputError
from ...hwmodels import GPU, load_gpu
from .case import Case
from .journal import Journal
from .libraries import LIBRARIES
from .pool import NoAnswer, Worker, Workers, workers_of
from .sizing import case_seconds, part_of
from .suites import Suite, load_suite

WORKER: Final = (sys.executable, "-m", f"{__package__}.worker")
CASE_LIMIT_S: Final = 120.0  # compiling included; what takes longer hangs
GRACE_S: Final = 20.0  # a case that runs when the seconds are over may take that much longer
CHUNK: Final = 64  # cases that are compiled together before they are timed
_SHOWN, _SHOWN_LENGTH = 10, 200
# Interpreted kernels are many small operations: threads of their own only get in each other's way.
_DRY: Final = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


class Progress(Protocol):
    """What a campaign tells whoever watches."""

    def begin(self, title: str, total: int, done: int) -> None:
        """``total`` cases, of which ``done`` need nothing any more."""
        ...

    def step(self, case: Case, answer: dict[str, Any]) -> None:
        """A case has ended with this answer."""
        ...

    def note(self, text: str) -> None:
        """What is being done besides."""
        ...


@dataclass
class Outcome:
    """What a campaign came to.

    Attributes:
        gpu: key of its hardware model; empty for a dry run, where "measured" cases are right and nothing else.
        measured, problems: cases of this run. earlier: cases found in the file.
        left: cases not begun, because the seconds were over. missing: cases of libraries that are not installed.
        reasons: id and reason of each problem of this run.
    """

    gpu: str
    measured: int = 0
    problems: int = 0
    earlier: int = 0
    left: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    reasons: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The outcome for people."""
        if self.gpu:
            lines = [
                f"{self.measured} measured on {self.gpu}, {self.problems} with a problem, {self.earlier} from before"
            ]
        else:
            lines = [f"{self.measured} right, {self.problems} with a problem; nothing was timed"]
        if self.left:
            lines.append(f"{self.left} left: the seconds are over; the same command goes on with them")
        lines += [f"left out: {count} of {name} (not installed)" for name, count in sorted(self.missing.items())]
        lines += [f"{name}: {reason.splitlines()[0][:_SHOWN_LENGTH]}" for name, reason in self.reasons[:_SHOWN]]
        if len(self.reasons) > _SHOWN:
            lines.append(f"and {len(self.reasons) - _SHOWN} more")
        return lines


def measure(
    suite: str,
    output: str | Path,
    progress: Progress,
    *,
    seconds: float | None = None,
    part: tuple[int, int] | None = None,
    retry: bool = False,
    command: Sequence[str] = WORKER,
    preparers: int | None = None,
    case_limit_s: float = CASE_LIMIT_S,
) -> Outcome:
    """Measure a suite on the GPU at hand, appending to ``output`` what it does not hold yet.

    Args:
        seconds: begin no case that would end later than this after the start. part: (k, n), part k of n.
        retry: try again what had a problem before. command: starts a worker.
        preparers: processes that compile ahead; by the machine's cores when None.

    Raises:
        InputError: no GPU, one without a hardware model, an unknown suite, or a file that cannot be written.
    """
    start = time.monotonic()
    chosen = load_suite(suite)
    with contextlib.ExitStack() as stack:
        workers = stack.enter_context(workers_of(command, preparers))
        gpu = known_gpu(workers.timing().device())
        journal = stack.enter_context(Journal(output))  # where nothing can be measured, no file is made
        cases = chosen.cases(gpu)
        if part is not None:
            cases = part_of(cases, part, gpu, chosen)
        outcome = Outcome(gpu.key)
        pending = []
        for case in cases:
            key = _key(gpu, case)
            if key in journal.done or (key in journal.problems and not retry):
                outcome.earlier += 1
            elif not LIBRARIES[case.kernel].installed():
                outcome.missing[case.kernel] += 1
            else:
                pending.append(case)
        progress.begin(f"{suite} on {gpu.key}", outcome.earlier + len(pending), outcome.earlier)
        run = _Run(chosen, gpu, journal, workers, progress, outcome, case_limit_s)
        run.deadline = None if seconds is None else start + seconds
        while pending:
            chunk = run.affordable(pending[:CHUNK])
            if not chunk:
                break
            run.prepare([case for case in chunk if LIBRARIES[case.kernel].compiles])
            begun = run.time(chunk)
            pending = pending[begun:]
            if begun < len(chunk):
                break
        outcome.left = len(pending)
        return outcome


def dry_run(suite: str, gpu: GPU, progress: Progress, command: Sequence[str] = WORKER) -> Outcome:
    """Try every case of a suite as it would be on ``gpu``, at a tiny size on the CPU. Nothing is timed or written.

    Kernels of ours run in Triton's interpreter, libraries as their torch references.
    """
    chosen = load_suite(suite)
    outcome = Outcome("")
    cases = []
    for case in chosen.cases(gpu, small=True):
        if LIBRARIES[case.kernel].installed() and not _needs_gpu(case):
            cases.append(case)
        else:
            outcome.missing[case.kernel] += 1
    progress.begin(f"dry run of {suite}, nothing is timed", len(cases), 0)
    with workers_of((*command, "--dry-run"), 0, _DRY) as workers:
        for case in cases:
            try:
                answer = workers.timing().ask(case, suite, 0.0, CASE_LIMIT_S, prepare=False)
            except NoAnswer as problem:
                answer = {"problem": problem.kind, "reason": str(problem)}
            if "problem" in answer:
                outcome.problems += 1
                outcome.reasons.append((case.id, f"{answer['problem']}: {answer['reason']}"))
            else:
                outcome.measured += 1
            progress.step(case, answer)
    return outcome


def known_gpu(name: str) -> GPU:
    """The hardware model of a GPU by the name that torch gives it. Raises InputError when there is none."""
    try:
        return load_gpu(name)
    except InputError as problem:
        raise InputError(f"this GPU has no hardware model, and rows without one are of no use: {problem}") from None


def _needs_gpu(case: Case) -> bool:
    """Libraries that are compiled for GPUs only."""
    return case.kernel in ("flash-attn", "flash-attn-3", "natten", "flashinfer")


def _key(gpu: GPU, case: Case) -> str:
    return f"{gpu.key}/{case.id}"


@dataclass
class _Run:
    """One campaign under way."""

    suite: Suite
    gpu: GPU
    journal: Journal
    workers: Workers
    progress: Progress
    outcome: Outcome
    case_limit_s: float
    deadline: float | None = None

    def _left_s(self) -> float:
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def _expected_s(self, case: Case) -> float:
        return sum(case_seconds(case, self.gpu, self.suite.sample_seconds))

    def affordable(self, cases: Sequence[Case]) -> list[Case]:
        """As many of the cases, from the first, as are expected to end in time."""
        left = self._left_s()
        chosen = []
        for case in cases:
            left -= self._expected_s(case)
            if left < 0:
                break
            chosen.append(case)
        return chosen

    def prepare(self, cases: Sequence[Case]) -> None:
        """Compile cases in several processes; the GPU times nothing meanwhile. What fails here shows when it is timed."""
        waiting = deque(cases)
        workers = self.workers.preparing() if len(cases) > 1 else []
        if not workers:
            return
        self.progress.note(f"compiling {len(cases)} kernels in {len(workers)} processes")

        def drain(worker: Worker) -> None:
            while waiting and worker.alive and self._left_s() > 0:
                try:
                    case = waiting.popleft()
                except IndexError:
                    return
                limit_s = min(self.case_limit_s, max(self._left_s(), 0.0))
                try:
                    worker.ask(case, self.suite.name, self.suite.sample_seconds, limit_s, prepare=True)
                except (NoAnswer, OSError, ValueError):  # the last two when an interruption closes it meanwhile
                    return

        threads = [threading.Thread(target=drain, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def time(self, cases: Sequence[Case]) -> int:
        """Time cases one by one; returns how many have ended, fewer than all when the seconds are over."""
        for number, case in enumerate(cases):
            if self._expected_s(case) > self._left_s():
                return number
            worker = self.workers.timing()
            limit_s = min(self.case_limit_s, self._left_s() + GRACE_S)
            try:
                answer = worker.ask(case, self.suite.name, self.suite.sample_seconds, limit_s, prepare=False)
            except NoAnswer as problem:
                if problem.kind == "no end" and limit_s < self.case_limit_s:
                    return number  # the campaign's time is over, not the case's: it is neither measured nor a problem
                answer = {"problem": problem.kind, "reason": str(problem)}
            key = _key(self.gpu, case)
            if "problem" in answer:
                self.journal.add_problem(key, case, answer["problem"], answer["reason"])
                self.outcome.problems += 1
                self.outcome.reasons.append((key, self.journal.problems[key]))
            else:
                if answer["run"]["id"] != key:
                    raise InputError(f"the measuring process answered {answer['run']['id']!r}, expected {key!r}")
                self.journal.add_run(answer)
                self.outcome.measured += 1
            self.progress.step(case, answer)
        return len(cases)
