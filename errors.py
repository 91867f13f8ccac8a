"""The one error a user's input raises, and the sentence it carries.

This module is below every room and imports nothing of the project.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. Its message is one sentence that quotes the input and says what was expected.

    The command line prints the message and exits with status 2.
    """


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known word nearest to ``word``, or an empty string.

    Case is ignored when comparing.
    """
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def unknown(what: str, word: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not known: it quotes, lists what is known, and suggests."""
    names = sorted(known)
    return InputError(f"unknown {what} {word!r}: expected one of {', '.join(names)}{suggest(word, names)}")
