"""Small HTML of a result, for notebooks: a title, a table, a sentence. Everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A table that takes the notebook's own colours; the first column is left-aligned, the others are right-aligned."""

    def cells(tag: str, row: Sequence[str]) -> str:
        sides = ["left", *["right"] * (len(row) - 1)]
        inner = "".join(
            f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>' for side, cell in zip(sides, row, strict=True)
        )
        return f"<tr>{inner}</tr>"

    head = cells("th", header)
    body = "".join(cells("td", row) for row in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<div><p><strong>{escape(title)}</strong></p><table><thead>{head}</thead><tbody>{body}</tbody></table>{below}</div>"
