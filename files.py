"""Finding a file that a user names, and writing one whole or not at all.

This module is below every room and imports nothing of the project but the error.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .errors import InputError, suggest

MAX_USER_FILE_BYTES = 1_000_000


def names_file(text: str) -> bool:
    """Whether what stands where a name of ours may stand is a file of the user's: ``.toml``, or a path."""
    return text.lower().endswith(".toml") or "/" in text or "\\" in text


def user_file(text: str, what: str, known: Callable[[], Iterable[str]]) -> tuple[Path, int, int]:
    """The regular file that a user names, with its modification time (ns) and size (bytes), for the keys of caches.

    Args:
        what: what it describes, for the message ("GPU"). known: the names that could stand in its place.

    Raises:
        InputError: there is none, it is a folder, a pipe or too large; the message suggests a near name.
    """
    shown = shortened(text)
    try:
        path = Path(text).expanduser()
        status = path.stat()
    except FileNotFoundError:
        hint = suggest(Path(text).stem, known())  # h200.toml, where no such file is, may mean h200
        raise InputError(f"no {what} file {shown}: expected the path of a .toml file or a {what} name{hint}") from None
    except (OSError, ValueError, RuntimeError) as error:  # unreadable folder, NUL in the name, no such ~user
        raise InputError(f"cannot read {what} file {shown}: {getattr(error, 'strerror', None) or error}") from None
    if not path.is_file():
        kind = "a directory" if path.is_dir() else "not a regular file"
        raise InputError(f"{what} file {shown} is {kind}, expected a .toml file")
    if status.st_size > MAX_USER_FILE_BYTES:
        raise InputError(f"{what} file {shown} has {status.st_size} bytes, expected at most {MAX_USER_FILE_BYTES}")
    return path, status.st_mtime_ns, status.st_size


def shortened(text: str) -> str:
    """A user's words in quotes, cut where they are very long."""
    return repr(text) if len(text) <= 80 else repr(text[:80]) + "..."


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; renamed to ``path`` at the end, removed when anything fails.

    A link is followed: what it points to is replaced, and the link stays.

    Raises:
        InputError: the file cannot be written, or is a folder or a device, quoting ``path``.
    """
    target, temporary = _beside(path)
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


def check_output(path: str, source: str, what: str) -> None:
    """Before long work: raise InputError where ``path`` cannot be written, or is the file ``source`` (to ``what``) itself."""
    if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
        raise InputError(f"output {path!r} is the file to {what}: expected another")
    _, temporary = _beside(path)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as problem:
        raise InputError(f"cannot write {path!r}: {problem.strerror or problem}") from None


def _beside(path: str | Path) -> tuple[Path, Path]:
    """The file that ``path`` names, links followed, and one beside it to write first."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():  # a rename would put a file in the place of /dev/stdout
        raise InputError(f"cannot write {str(path)!r}: it is {'a folder' if target.is_dir() else 'not a regular file'}")
    # Named for process and thread: several may write the same file, and the last one to end stands.
    return target, target.parent / f".{target.name}.{os.getpid()}.{threading.get_ident()}"
