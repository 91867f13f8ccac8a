"""Progress of a campaign as plain lines."""

from __future__ import annotations

import sys
from typing import Any

from ...simulator.estimate import seconds_text
from .case import Case


def describe(case: Case, answer: dict[str, Any]) -> str:
    """One line for people on how a case ended."""
    if "problem" in answer:
        return f"{case.id}  {answer['problem']}: {answer['reason']}"
    if "run" not in answer:
        return f"{case.id}  right, not timed"
    run = answer["run"]
    clock = f", {run['clock_hz'] / 1e6:.0f} MHz" if run["clock_hz"] else ""
    spread = f"+- {seconds_text(run['spread_s'])} of {run['samples']}"
    return f"{case.id}  {seconds_text(run['time_s'])} {spread}{clock}"


class Lines:
    """Progress as plain lines on standard error."""

    def begin(self, title: str, total: int, done: int) -> None:
        """How much there is to do."""
        self._total, self._number = total, done
        self.note(f"{title}: {total} cases, {done} of them done before")

    def step(self, case: Case, answer: dict[str, Any]) -> None:
        """One line for each case."""
        self._number += 1
        self.note(f"[{self._number}/{self._total}] {describe(case, answer)}")

    def note(self, text: str) -> None:
        """One line."""
        print(text, file=sys.stderr, flush=True)
