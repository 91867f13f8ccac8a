"""Reading a mask function from a user's file, in a process of its own and within a time limit."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, Any, Final

from ...errors import InputError, suggest
from ..tiles import Ints
from .frames import receive, send
from .graph import Array, Graph

TIMEOUT_S: Final = 30.0  # to load a file, PyTorch included, and to call its function a few times
PAIR_S: Final = 2e-7  # added for each pair that only the function itself can evaluate: ten times what it takes

# The worker finds attncast where this process found it.
_START: Final = (
    "import json, sys; path, name, where = sys.argv[1:]; sys.path[:] = json.loads(where); "
    f"from {__package__}.worker import main; main(path, name)"
)


class MaskProcess:
    """A mask function that runs elsewhere.

    Attributes:
        graph: what it computes. printed: what it wrote while it was loaded and called.
    """

    def __init__(self, path: str, name: str, timeout_s: float = TIMEOUT_S) -> None:
        self.path, self.name, self.timeout_s = path, name, timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[Any] = queue.Queue()
        header, tables = self._start()
        self.printed: str = header["printed"]
        self.graph = Graph.from_header(header["graph"], [tables[f"t{i}"] for i in range(len(tables))])
        if not self.graph.opaque:
            self.close()

    def count(self, b: Ints, h: Ints, q0: Ints, k0: Ints, rows: int, columns: int) -> Ints:
        """Pairs that the function keeps in each of n blocks (a ``classify.Counter``)."""
        if self._process is None:
            self._start()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        try:
            send(process.stdin, {"rows": rows, "columns": columns}, {"b": b, "h": h, "q0": q0, "k0": k0})
        except OSError:
            raise self._ended() from None
        _, arrays = self._receive(self.timeout_s + PAIR_S * q0.size * rows * columns)
        return arrays["kept"]

    def close(self) -> None:
        """End the process; a later ``count`` starts another."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def _start(self) -> tuple[dict[str, Any], dict[str, Array]]:
        command = [
            sys.executable,
            "-c",
            _START,
            self.path,
            self.name,
            json.dumps([str(Path(p).resolve()) for p in sys.path]),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        weakref.finalize(self, _end, self._process)
        self._replies = queue.Queue()
        assert self._process.stdout is not None
        # A thread reads, since not every system can wait for a pipe with a time limit.
        threading.Thread(target=_read, args=(self._process.stdout, self._replies), daemon=True).start()
        return self._receive(self.timeout_s)

    def _receive(self, limit_s: float) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            message = self._replies.get(timeout=limit_s)
        except queue.Empty:
            self.close()
            raise InputError(
                f"mask {self.name!r} of {self.path!r} did not finish within {limit_s:g} s: expected a function that returns"
            ) from None
        if message is None:
            raise self._ended()
        header, arrays = message
        if "error" in header:
            self.close()
            raise InputError(header["error"])
        return header, arrays

    def _ended(self) -> InputError:
        self.close()
        return InputError(f"mask file {self.path!r} ended Python while it ran: expected definitions only")


def _read(stream: IO[bytes], replies: queue.Queue[Any]) -> None:
    try:
        while (message := receive(stream)) is not None:
            replies.put(message)
    except (OSError, ValueError):  # closed, or cut off in the middle
        pass
    replies.put(None)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # what was not yet sent has nobody to read it
                stream.close()


def split_text(text: str) -> tuple[str, str]:
    """``"masks.py:causal"`` as path and name; a drive letter is no separator.

    Raises:
        InputError: no name, or no such file (with a suggestion).
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path.lower().endswith(".py") or not name.isidentifier():
        raise InputError(
            f"mask {text!r} cannot be read: expected FILE.py:FUNCTION, e.g. masks.py:causal, or a .npz or .pt file"
        )
    check_file(path)
    return path, name


def check_file(path: str) -> None:
    """Raise InputError unless there is such a file."""
    if Path(path).is_file():
        return
    if Path(path).is_dir():
        raise InputError(f"mask file {path!r} is a directory: expected a file")
    folder = Path(path).parent
    names = [item.name for item in folder.iterdir()] if folder.is_dir() else []
    raise InputError(
        f"mask file {path!r} does not exist{suggest(Path(path).name, names) or ': expected the path of a file'}"
    )
