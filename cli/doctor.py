"""``attncast doctor``: what works on this machine, and what would make the rest work."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import click

from .. import __version__
from . import COMMANDS, libraries, machine
from .completion import install_line, installed, user_shell
from .options import json_option
from .output import print_object


@dataclass(frozen=True)
class Use:
    """A command, or an option of one, and what it needs beyond the core: modules, a compiler, a CUDA GPU."""

    command: str
    modules: tuple[str, ...] = ()
    compiler: bool = False
    gpu: bool = False


#: What needs more than the core. A command that is not named here needs nothing.
USES: Final = (
    Use("tune"),
    Use("tune --effort quick", libraries.COMPILER, compiler=True),
    Use("tune --measure", libraries.KERNELS, compiler=True, gpu=True),
    Use("tune --scheduler", libraries.CLUSTER),
    Use("pattern"),
    Use("pattern show --png", libraries.PLOT),
    Use("cascade"),
    Use("cascade show --png", libraries.GRAPHS),
    Use("check", libraries.COMPILER, compiler=True),
    Use("measure", libraries.KERNELS, compiler=True, gpu=True),
    Use("measure --dry-run", libraries.KERNELS),
    Use("measure --list"),
    Use("calibrate", libraries.FITS),
    Use("validate", libraries.FITS),
    Use("report predict", libraries.PAGE),
    Use("report validation", libraries.PAGE + libraries.FITS),
    Use("report tune", libraries.PAGE),
    Use("report cascades", libraries.PAGE + libraries.GRAPHS),
    Use("sweep", libraries.PAGE),
)
CORE: Final = ("numpy", "click", "rich")
#: Used where they are installed: module, distribution, what for.
OPTIONAL: Final = (("pyarrow", "pyarrow", "sweep.parquet"), ("playwright", "playwright", "tests of pages"))
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Library:
    """A library or program: its version (None: not there), and what it is for."""

    name: str
    version: str | None
    use: str


@dataclass(frozen=True)
class Verdict:
    """Whether a command works here; ``reason`` and ``remedy`` (a line to run, where there is one) when it does not."""

    command: str
    works: bool
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Machine:
    """What was found that commands need."""

    gpus: Sequence[machine.Device]
    asked: str
    assemblers: Sequence[machine.Assembler]
    torch_cuda: str | None


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what is installed, which GPU and compiler are here, and for every command whether it works or what it lacks.

    Status 0 when forecasts work, whatever else is missing.

    \b
    Examples:
      attncast doctor
      attncast doctor --json
    """
    gpus, asked = machine.devices()
    here = Machine(gpus, asked, machine.assemblers(), machine.torch_cuda())
    found, problem = list(_libraries()), core_problem()
    verdicts = [verdict(use, here) for use in uses()]
    if as_json:
        print_object(_described(here, found, verdicts, problem))
    else:
        _print(here, found, verdicts, problem)
    if problem:
        click.get_current_context().exit(1)


def uses() -> Iterator[Use]:
    """Every command in the order of --help, with those of its options that need more."""
    for command in COMMANDS:
        mine = [use for use in USES if use.command.split()[0] == command]
        yield from mine or [Use(command)]


def verdict(use: Use, here: Machine) -> Verdict:
    """Whether a command works on a machine; the first thing it lacks when it does not."""
    absent = libraries.missing(use.modules)
    if absent:
        return Verdict(use.command, False, f"no {' and '.join(absent)}", libraries.install_line(use.modules))
    if use.compiler and not all(tried.works for tried in here.assemblers):
        bad = next(tried for tried in here.assemblers if not tried.works)
        remedy = "pip install --force-reinstall triton"
        return Verdict(use.command, False, f"{bad.name} at {bad.path} does not work: {bad.problem}", remedy)
    if use.gpu:
        reason, remedy = _gpu_problem(here)
        return Verdict(use.command, not reason, reason, remedy)
    return Verdict(use.command, True)


def _gpu_problem(here: Machine) -> tuple[str, str]:
    """Why measuring does not work here, and what would help; empty when it does."""
    if not here.gpus:
        return "no CUDA GPU: run it on a machine with one", ""
    if here.torch_cuda is None:
        return "torch is built without CUDA", "pip install --force-reinstall torch --index-url https://pypi.org/simple"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides the GPU", "unset CUDA_VISIBLE_DEVICES"
    if all(gpu.model is None for gpu in here.gpus):
        return f"no hardware model of {here.gpus[0].name!r}: expected one of attncast gpu list", ""
    return "", ""


def core_problem() -> str:
    """What goes wrong in a small forecast; empty when nothing does."""
    try:
        from ..simulator import Workload, predict

        predict(Workload((1024,), heads=1, head_dim=64), "causal", "h100")
    except Exception as problem:  # whatever it is, it is what the user has to know
        return f"{type(problem).__name__}: {problem}"
    return ""


def _libraries() -> Iterator[Library]:
    from ..validation.measure.libraries import LIBRARIES

    for name in CORE:
        yield Library(name, libraries.version(name, name), "core")
    brought: dict[tuple[str, str], list[str]] = {}
    for extra, modules in libraries.EXTRAS.items():
        for item in modules.items():
            brought.setdefault(item, []).append(extra)
    for (module, distribution), extras in brought.items():
        shown = "dask.distributed" if distribution == "distributed" else distribution
        yield Library(shown, libraries.version(module, distribution), f"extra {', '.join(extras)}")
    for module, distribution, use in OPTIONAL:
        yield Library(distribution, libraries.version(module, distribution), use)
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    yield Library("chromium", browser, "tests of pages")
    for name, library in LIBRARIES.items():
        if set(library.modules) - {"triton"}:
            found = libraries.version(library.modules[0], library.packages[0])
            yield Library(name, found, "measured beside our kernels")


def _described(here: Machine, found: Sequence[Library], verdicts: Sequence[Verdict], problem: str) -> dict[str, Any]:
    shell = user_shell()
    return {
        "works": not problem,
        "problem": problem,
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "libraries": [asdict(library) for library in found],
        "torch_cuda": here.torch_cuda,
        "gpus": [
            {**asdict(gpu), "memory_bytes": gpu.memory_bytes if gpu.memory_bytes == gpu.memory_bytes else None}
            for gpu in here.gpus
        ],
        "gpus_from": here.asked,
        "compilers": [asdict(tried) for tried in here.assemblers],
        "caches": [
            {"what": what, "path": str(path), "writable": machine.writable(path)}
            for what, path in machine.cache_folders().items()
        ],
        "completion": {"shell": shell, "installed": bool(shell) and installed(shell)},
        "commands": [asdict(each) for each in verdicts],
    }


def _print(here: Machine, found: Sequence[Library], verdicts: Sequence[Verdict], problem: str) -> None:
    click.echo(f"attncast {__version__}, Python {platform.python_version()} ({sys.executable})")
    width = max(len(library.name) for library in found)
    versions = {library.name: library.version or "-" for library in found}
    if versions["torch"] != "-" and here.torch_cuda is None:
        versions["torch"] += " (no CUDA)"
    inner = max(map(len, versions.values()))
    for library in found:
        click.echo(f"  {library.name:{width}}  {versions[library.name]:{inner}}  {library.use}")
    for gpu in here.gpus:
        known = (
            f"hardware model {gpu.model}" if gpu.model else "no hardware model: forecasts need a TOML file of your own"
        )
        click.echo(f"GPU         {gpu.name}, {gpu.memory_bytes / 1e9:.0f} GB, driver {gpu.driver}: {known}")
    if not here.gpus:
        click.echo(f"GPU         none ({here.asked})")
    for tried in here.assemblers:
        click.echo(f"compiler    {tried.name} {'works' if tried.works else f'fails: {tried.problem}'} ({tried.path})")
    if not here.assemblers:
        click.echo("compiler    none: Triton is not installed")
    for what, path in machine.cache_folders().items():
        click.echo(f"cache       {path} {'can' if machine.writable(path) else 'CANNOT'} be written ({what})")
    click.echo(f"completion  {_completion()}")
    click.echo()
    width = max(len(each.command) for each in verdicts)
    for each in verdicts:
        lacks = ": ".join(filter(None, (each.reason, each.remedy)))
        click.echo(f"{each.command:{width}}  {'works' if each.works else f'NO     {lacks}'}")
    click.echo()
    click.echo(f"The core does NOT work: {problem}" if problem else "The core works.")


def _completion() -> str:
    shell = user_shell()
    if not shell:
        return "no bash, zsh or fish in $SHELL: attncast completion --help"
    return f"{shell}: installed" if installed(shell) else f"{shell}: not installed; {install_line(shell)}"
