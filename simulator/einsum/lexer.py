"""Text to tokens, and the one way an error names its place."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ...errors import InputError
from .ir import At

_TOKEN = re.compile(
    r"(?P<space>[ \t]+)|(?P<number>\d+(\.\d+)?([eE][-+]?\d+)?)|(?P<word>[A-Za-z_]\w*)"
    r"|(?P<mark><=|>=|==|[-+*/()\[\],=<>])"
)


@dataclass(frozen=True)
class Token:
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
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise error(source, (number, position + 1), f"unexpected character {text[position]!r}")
        if match.lastgroup != "space" and match.lastgroup is not None:
            found.append(Token(match.lastgroup, match.group(), (number, position + 1)))
        position = match.end()
    return [*found, Token("end", "end of line", (number, len(text.rstrip()) + 1))]
