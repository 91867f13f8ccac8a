"""Bounded reading of files that others wrote: no line, file or document is ever larger than the limits below.

Every problem of a file as a whole is an InputError here. Gzip is recognised by its first bytes, not by its name.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from ...errors import InputError, suggest

MAX_LINE_BYTES: Final = 1_000_000
MAX_FILE_BYTES: Final = 2_000_000_000  # of the file, and of what it unpacks to
MAX_DOCUMENT_BYTES: Final = 64_000_000  # JSON and logs are held in memory, at some ten times their size

_NOT_TEXT: Final = {
    b"PAR1": "a Parquet file: expected text, as pandas.read_parquet(...).to_csv(..., index=False) writes it",
    b"PK\x03\x04": "a zip archive: expected one of the files in it",
    b"version https://git-lfs": "a Git LFS pointer, not the table itself: run `git lfs pull` where it is from",
}


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, plain or gzipped, with their ends.

    Raises:
        InputError: no such file, not text, or a line or file above the limits; the message says which line.
    """
    shown = repr(str(path))
    number = total = 0
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is no regular file"
            raise InputError(f"{shown} {what}: expected a file to import")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{shown} has {path.stat().st_size:,} bytes: expected at most {MAX_FILE_BYTES:,}")
        with _opened(path, shown) as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                total += len(line)
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{shown} line {number} is longer than {MAX_LINE_BYTES:,} bytes")
                if total > MAX_FILE_BYTES:
                    raise InputError(f"{shown} unpacks to more than {MAX_FILE_BYTES:,} bytes")
                if b"\0" in line:
                    raise InputError(f"{shown} line {number} is binary: expected UTF-8 text")
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{shown} line {number} is not UTF-8 text") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise InputError(f"{shown} is a broken gzip file: it ends early or is damaged after line {number}") from None
    except OSError as error:
        raise InputError(f"cannot read {shown}: {error.strerror or error}") from None
    except ValueError as error:  # a NUL in the name; InputError is a ValueError too
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {shown}: {error}") from None


def _opened(path: Path, shown: str) -> BinaryIO:
    with path.open("rb") as file:
        head = file.read(32)
    for magic, what in _NOT_TEXT.items():
        if head.startswith(magic):
            raise InputError(f"{shown} is {what}")
    return cast(BinaryIO, gzip.open(path)) if head.startswith(b"\x1f\x8b") else path.open("rb")


def document_text(path: Path) -> str:
    """A whole file of at most ``MAX_DOCUMENT_BYTES``."""
    parts, total = [], 0
    for line in text_lines(path):
        total += len(line)
        if total > MAX_DOCUMENT_BYTES:
            raise InputError(f"{str(path)!r} is larger than {MAX_DOCUMENT_BYTES:,} bytes: too large for this format")
        parts.append(line)
    return "".join(parts)


def json_document(path: Path, text: str | None = None) -> Any:
    """A JSON file, or the ``text`` that was read from one. InputError, with the line, when it is not JSON."""
    text = document_text(path) if text is None else text
    if not text.strip():
        raise InputError(f"{str(path)!r} is empty: expected JSON")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise InputError(f"{str(path)!r} is not JSON, or cut short: {error.msg} at {where}") from None
    except RecursionError:
        raise InputError(f"{str(path)!r} is nested too deeply to be read") from None
    except ValueError:  # a whole number of more digits than Python converts
        raise InputError(f"{str(path)!r} has a number with too many digits") from None


def csv_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of a CSV file; empty lines are passed over, the first row is the header.

    Raises:
        InputError: an empty file, or one that is no CSV.
    """
    reader = csv.reader(text_lines(path), delimiter=delimiter, strict=True)
    empty = True
    try:
        for row in reader:
            if row:
                empty = False
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{str(path)!r} line {reader.line_num} is not CSV, or cut short: {error}") from None
    if empty:
        raise InputError(f"{str(path)!r} is empty: expected a table with a header")


def check_header(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    """Raise InputError when a column is missing, or a name stands twice."""
    for name in required:
        if name not in header:
            raise InputError(
                f"{str(path)!r} has no column {name!r}: expected {', '.join(required)}{suggest(name, header)}"
            )
    for name in header:
        if header.count(name) > 1:
            raise InputError(f"{str(path)!r} has two columns {name!r}")
