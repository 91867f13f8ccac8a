"""Results of long runs as JSON lines: appended whole, and still there after ``kill -9``.

This module is below every room and imports nothing of the project but its error.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import InputError


def append(path: str | Path, record: Mapping[str, Any]) -> None:
    """Add one record as a line, on disk when this returns. Several processes may append to one file.

    Half a line at the end, of a writer that was killed, is dropped first. Raises InputError for a file that cannot be
    written and ValueError for a record that is no JSON.
    """
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    try:
        with open(path, "a+b", buffering=0) as file, _locked(file.fileno()):  # noqa: PTH123  (Path.open takes no raw mode)
            _drop_half_line(file)
            if file.write(line) != len(line):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
    except OSError as problem:
        raise InputError(f"cannot write {str(path)!r}: {problem.strerror or problem}") from None


def read(path: str | Path) -> list[dict[str, Any]]:
    """The records of a file in the order they came; none when there is no file. Half a line at the end is passed over.

    Raises InputError, naming the line, for one that is no JSON object.
    """
    try:
        whole, _, _ = Path(path).read_bytes().rpartition(b"\n")
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise InputError(f"cannot read {str(path)!r}: {problem.strerror or problem}") from None
    records = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise InputError(f"line {number} of {str(path)!r} is {line[:40]!r}: expected a JSON object on each line")
        records.append(record)
    return records


def _drop_half_line(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    if not end:
        return
    at = end
    while at:
        start = max(0, at - 65536)
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            if start + found + 1 < end:
                file.truncate(start + found + 1)
            return
        at = start
    file.truncate(0)


@contextlib.contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Keep other writers out; where the system has no such locks, only appends keep lines apart."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
