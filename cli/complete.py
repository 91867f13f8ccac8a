"""What the shell offers for a half-written word: read from where the commands read it, when it is asked for.

Each is a ``shell_complete`` of click: (context, parameter, word so far) -> what may stand there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

Items = list[CompletionItem]
Completer = Callable[[click.Context, click.Parameter, str], Items]


def files(ctx: click.Context, parameter: click.Parameter, word: str) -> Items:
    """The shell's own completion of files."""
    return [CompletionItem(word, type="file")]


def folders(ctx: click.Context, parameter: click.Parameter, word: str) -> Items:
    """The shell's own completion of folders."""
    return [CompletionItem(word, type="dir")]


def of(known: Callable[[], Iterable[str]], *, several: bool = False, or_file: bool = False) -> Completer:
    """Complete one of the known words, with what a mapping says of each beside it.

    ``several``: words joined by commas, none of them twice. ``or_file``: a file may stand there too.
    """

    def complete(ctx: click.Context, parameter: click.Parameter, word: str) -> Items:
        done, comma, last = word.rpartition(",") if several else ("", "", word)
        names = known()
        about = names if isinstance(names, Mapping) else {}
        taken = done.split(",")
        found = [
            CompletionItem(f"{done}{comma}{name}", help=about.get(name))
            for name in names
            if name.startswith(last.lower()) and name not in taken
        ]
        return found or (files(ctx, parameter, word) if or_file else [])

    return complete


def _gpus() -> list[str]:
    from ..hwmodels import gpu_names

    return gpu_names()


def _kernels() -> list[str]:
    from ..simulator.profile import profile_names

    return ["auto", *profile_names()]


def _cascades() -> Iterable[str]:
    from ..simulator import cascades

    return cascades.names()


def _engines() -> list[str]:
    from ..simulator.conditions import engine_names

    return engine_names()


def _patterns() -> Mapping[str, str]:
    from ..simulator.patterns.library import PATTERNS

    return {name: entry.about for name, entry in PATTERNS.items()}


def _compiled() -> Any:
    from ..kernels import space

    return space


def _tuned_kernels() -> list[str]:
    from ..autotune.space_build import KERNELS

    return ["auto", *KERNELS]


def _efforts() -> Iterable[str]:
    from ..autotune.tune import EFFORTS

    return EFFORTS


gpu = of(_gpus, or_file=True)
gpus = of(_gpus, several=True, or_file=True)
kernel = of(_kernels)
cascade = of(_cascades, or_file=True)
cascades = of(_cascades, several=True, or_file=True)
engine = of(_engines)
pattern = of(_patterns)  # its first word
dtype = of(lambda: ("bf16", "fp16", "fp8"))  # those that kernel profiles take
rows = of(lambda: ("curated",), or_file=True)
tuned_kernel = of(_tuned_kernels)
effort = of(_efforts)
# What ``attncast check`` compiles.
compiled_kernel = of(lambda: _compiled().KERNELS)
compiled_dtype = of(lambda: _compiled().DTYPES)
compiled_pattern = of(lambda: sorted({name for names in _compiled().PATTERNS.values() for name in names}))
