"""The file that measured cases go to: JSON lines, appended one whole line at a time, on the disk before the next case.

``kill -9`` at any moment loses the case in progress and nothing else; half a line at the end is dropped on opening.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import InputError
from ..measured import SCHEMA, measured_line
from .case import Case


class Journal:
    """An open file of measured cases.

    Attributes:
        done: ids of cases that have a run. problems: ids of cases that have none, with their reason.

    Raises:
        InputError: it cannot be opened, holds other things, or another process is writing it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.done: set[str] = set()
        self.problems: dict[str, str] = {}
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from None
        try:
            self._lock()
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{str(self.path)!r} is being written by another attncast measure") from None

    def _read(self) -> None:
        with self.path.open("rb") as file:
            whole = 0
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                where = f"{str(self.path)!r} line {number}"
                run = measured_line(line, where)
                if run is not None:
                    self.done.add(run.id)
                else:
                    record = json.loads(line)
                    if not isinstance(record.get("id"), str):
                        raise InputError(f"{where} has a problem but no 'id': expected a line of attncast measure")
                    self.problems[record["id"]] = f"{record['problem']}: {record.get('reason', '')}"
                whole += len(line)
        os.ftruncate(self._file, whole)

    def add_run(self, answer: dict[str, Any]) -> None:
        """Append a measured run."""
        self._append(answer)
        self.done.add(answer["run"]["id"])

    def add_problem(self, key: str, case: Case, kind: str, reason: str) -> None:
        """Append why a case gave no run."""
        self._append({"problem": kind, "reason": reason, "id": key, "case": case.to_dict()})
        self.problems[key] = f"{kind}: {reason}"

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps({"schema": SCHEMA, **record}, allow_nan=False).encode() + b"\n"
        try:
            while line:  # a full disk or a signal may take a part of it
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError as error:
            raise InputError(f"cannot write {str(self.path)!r}: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
