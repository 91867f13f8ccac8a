"""Writing a file whole or not at all.

This module is below every room and imports nothing of the project but the error.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from .errors import InputError


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; renamed to ``path`` at the end, removed when anything fails.

    Raises:
        InputError: the file cannot be written, quoting ``path``.
    """
    target = Path(path)
    # Named for process and thread: several may write the same file, and the last one to end stands.
    temporary = target.parent / f".{target.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        yield temporary
        temporary.replace(target)
    except OSError as problem:
        raise InputError(f"cannot write {str(path)!r}: {problem.strerror or problem}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_whole(path: str | Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises InputError when it cannot be written, quoting ``path``."""
    with whole_file(path) as file:
        file.write_bytes(content)
