"""Tables and JSON: rich on a terminal, plain aligned text when piped."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click


def print_json(results: list[dict[str, Any]]) -> None:
    """Print results in the versioned JSON form that programs read."""
    click.echo(json.dumps({"schema": 1, "results": results}, indent=2, allow_nan=False))


def print_object(result: dict[str, Any]) -> None:
    """Print one result, versioned as ``print_json`` prints several."""
    click.echo(json.dumps({"schema": 1, **result}, indent=2, allow_nan=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table; columns after the first are right-aligned."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", header_style="bold")
        for index, name in enumerate(header):
            table.add_column(name, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # Text: a user's brackets are not markup
        Console().print(table)
        return
    if title:
        click.echo(title)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
