"""Messages between a mask's process and ours: a JSON header and arrays in one npz. No pickles, so no code, in either."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import IO, Any, Final

import numpy as np

from .graph import Array

_LENGTH: Final = struct.Struct("<Q")


def send(stream: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write one message."""
    text = np.frombuffer(json.dumps(header).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=text, **{f"a_{name}": array for name, array in arrays.items()})
    stream.write(_LENGTH.pack(buffer.tell()))
    stream.write(buffer.getvalue())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Array]] | None:
    """Read one message; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    body = stream.read(_LENGTH.unpack(head)[0])
    with np.load(io.BytesIO(body), allow_pickle=False) as file:
        arrays = {name.removeprefix("a_"): file[name] for name in file.files if name != "header"}
        return json.loads(file["header"].tobytes()), arrays
