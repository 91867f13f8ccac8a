"""Text to tokens, and the one way an error names its place."""

from __future__ import annotations

import re
from typing import NamedTuple

from ...errors import InputError
from .ir import At

_TOKEN = re.compile(
    r"(?P<number>\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)|(?P<word>[A-Za-z_]\w*)|(?P<mark><=|>=|==|[-+*/()\[\],=<>])"
    r"|(?P<wrong>[^ \t])"
)


class Token(NamedTuple):
    """A number, word or mark, or the end of the line (kind "end"), and where it starts."""

    kind: str
    text: str
    at: At


def error(source: str, at: At, message: str) -> InputError:
    """An error in ``source`` at (line, column), as one sentence."""
    return InputError(f"{source}, line {at[0]}, column {at[1]}: {message}")


def tokens(source: str, number: int, text: str) -> list[Token]:
    """The tokens of one line whose comment is already gone.

    Raises:
        InputError: at a character that starts no token.
    """
    found = []
    for match in _TOKEN.finditer(text):
        kind, at = match.lastgroup or "", (number, match.start() + 1)
        if kind == "wrong":
            raise error(source, at, f"unexpected character {match.group()!r}")
        found.append(Token(kind, match.group(), at))
    return [*found, Token("end", "end of line", (number, len(text.rstrip()) + 1))]
