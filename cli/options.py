"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ..errors import InputError
from ..simulator import parse_pattern
from ..simulator.patterns import Pattern
from . import complete

F = TypeVar("F", bound=Callable[..., Any])


def grid_option(function: F) -> F:
    """-i: the query token grid."""
    return click.option(
        "-i", "--input-size", "grid", required=True, metavar="GRID", help="Query tokens, e.g. 4096 or 30x48x80."
    )(function)


def call_options(function: F) -> F:
    """-g, -i, -n, -d and -b: the GPUs and the size of the call."""
    for option in (
        click.option("-b", "--batch", type=int, default=1, show_default=True, help="Sequences."),
        click.option("-d", "--head-dim", type=int, required=True, help="Head dimension."),
        click.option("-n", "--heads", type=int, required=True, help="Query heads."),
        grid_option,
        click.option(
            "-g",
            "--gpu",
            "gpus",
            required=True,
            metavar="NAME[,NAME...]",
            shell_complete=complete.gpus,
            help="GPUs, or TOML files of your own.",
        ),
    ):  # the last one applied stands first in the help
        function = option(function)
    return function


def pattern_option(function: F) -> F:
    """-p: the pattern."""
    return click.option(
        "-p",
        "--pattern",
        metavar="TEXT",
        help='dense (the default); causal; "window left=2048 right=0" (keys, both ends inclusive, no limit when left out); '
        '"na window=18x24x24 stride=16x8x8 dilation=1x1x1 causal=0x0x0"; others: attncast pattern list.',
        shell_complete=complete.pattern,
    )(function)


def mask_option(function: F) -> F:
    """--mask: a FlexAttention mask or a block map instead of a pattern."""
    return click.option(
        "--mask",
        metavar="FILE.py:FUNCTION",
        help="Instead of -p: a FlexAttention mask_mod(b, h, q_idx, kv_idx), which is code that will be run, or a block map "
        "(.npz, or a BlockMask saved by PyTorch).",
        shell_complete=complete.files,
    )(function)


def read_pattern(text: str | None, mask: str | None) -> Pattern:
    """The pattern that -p or --mask names; dense when neither is given. Raises InputError for both."""
    if mask is None:
        return parse_pattern("dense" if text is None else text)
    if text is not None:
        raise InputError(f"pattern {text!r} and mask {mask!r} were both given: expected one of them")
    from ..simulator.masks import read_mask  # here, not above: other commands start without it

    return read_mask(mask)


def keys_options(function: F) -> F:
    """--kv and --cached: the key token grid where it is not the query's."""
    function = click.option("--kv", "kv_grid", metavar="GRID", help="Key tokens, when not those of the queries.")(
        function
    )
    return click.option(
        "--cached", type=int, default=0, metavar="N", help="Tokens already in the cache, before the queries."
    )(function)


def dtype_option(function: F) -> F:
    """--dtype: that of Q, K, V and of the products."""
    return click.option(
        "--dtype", default="bf16", show_default=True, shell_complete=complete.dtype, help="bf16, fp16 or fp8."
    )(function)


def json_option(function: F) -> F:
    """--json: output for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def above_option(function: F) -> F:
    """--above: how long the runs are that errors are reported of."""
    return click.option(
        "--above",
        default="0us",
        show_default=True,
        metavar="TIME",
        help="Report runs of at least this long, e.g. 50us.",
    )(function)


def read_seconds(text: str) -> float:
    """``50us``, ``2ms`` or ``1s`` in seconds. InputError quotes what is none of these."""
    for unit, scale in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if text.endswith(unit):
            try:
                value = float(text.removesuffix(unit)) * scale
            except ValueError:
                break
            if 0 <= value < math.inf:
                return value
    raise InputError(f"time {text!r} cannot be read: expected a number and us, ms or s, e.g. 50us")
