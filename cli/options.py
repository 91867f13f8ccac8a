"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def grid_option(function: F) -> F:
    """-i: the query token grid."""
    return click.option(
        "-i", "--input-size", "grid", required=True, metavar="GRID", help="Query tokens, e.g. 4096 or 30x48x80."
    )(function)


def pattern_option(function: F) -> F:
    """-p: the pattern."""
    return click.option(
        "-p",
        "--pattern",
        default="dense",
        show_default=True,
        metavar="TEXT",
        help='dense; causal; "window left=2048 right=0" (keys, both ends inclusive, no limit when left out); '
        '"na window=18x24x24 stride=16x8x8 dilation=1x1x1 causal=0x0x0".',
    )(function)


def keys_options(function: F) -> F:
    """--kv and --cached: the key token grid where it is not the query's."""
    function = click.option("--kv", "kv_grid", metavar="GRID", help="Key tokens, when not those of the queries.")(
        function
    )
    return click.option(
        "--cached", type=int, default=0, metavar="N", help="Tokens already in the cache, before the queries."
    )(function)


def json_option(function: F) -> F:
    """--json: output for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)
