"""``attncast measure``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from ..errors import InputError
from ..hwmodels import GPU, load_gpu
from ..simulator.estimate import seconds_text
from ..validation.measure.campaign import Outcome, Progress, dry_run
from ..validation.measure.campaign import measure as run_suite
from ..validation.measure.case import Case
from ..validation.measure.lines import Lines, describe
from ..validation.measure.sizing import PREPARERS, forecast_s, part_of, read_part, size
from ..validation.measure.suites import load_suite, suite_names
from . import complete
from .options import json_option
from .output import print_json, print_table


@click.command()
@click.argument("suite", required=False, shell_complete=complete.of(suite_names))
@click.option(
    "-o",
    "--output",
    default="runs.jsonl",
    show_default=True,
    metavar="FILE",
    shell_complete=complete.files,
    help="File to append runs to.",
)
@click.option("--part", metavar="K/N", help="Part K of N, of about the same length each.")
@click.option(
    "--seconds", type=click.FloatRange(min=0), metavar="S", help="Begin no case that would end later than this."
)
@click.option("--retry", is_flag=True, help="Try again what had a problem before.")
@click.option("--dry-run", "dry", is_flag=True, help="Try every case, tiny, on the CPU; nothing is timed or written.")
@click.option("--list", "listed", is_flag=True, help="Show the suites, or the cases of one, with their forecast time.")
@click.option(
    "-g",
    "--gpu",
    default="h100",
    show_default=True,
    shell_complete=complete.gpu,
    help="With --list and --dry-run: cases for this GPU.",
)
@json_option
def measure(
    suite: str | None,
    output: str,
    part: str | None,
    seconds: float | None,
    retry: bool,
    dry: bool,
    listed: bool,
    gpu: str,
    as_json: bool,
) -> None:
    """Measure a suite on the GPU at hand: our kernels, PyTorch's, and the libraries that are installed.

    Every result is checked against float64 before it is timed. Runs are appended to FILE as they are measured; the same
    command goes on where it was interrupted. attncast validate and calibrate read FILE with --rows.

    \b
    Examples:
      attncast measure --list
      attncast measure smoke -o runs.jsonl
      attncast measure configs --part 2/5 --seconds 450
      attncast measure sparse --dry-run
    """
    chosen_part = read_part(part) if part else None
    if listed:
        _list(suite, load_gpu(gpu), chosen_part, as_json)
        return
    if suite is None:
        raise InputError(f"no suite was named: expected one of {', '.join(suite_names())}")
    if dry:
        source = click.get_current_context().get_parameter_source("output")
        if source is click.core.ParameterSource.COMMANDLINE:
            raise InputError(f"output {output!r} with --dry-run: a dry run measures nothing and writes no file")
        with _progress() as progress:
            outcome = dry_run(suite, load_gpu(gpu), progress)
    else:
        with _progress() as progress:
            outcome = run_suite(suite, output, progress, seconds=seconds, part=chosen_part, retry=retry)
    _report(outcome, as_json, dry)
    if dry and outcome.problems:
        click.get_current_context().exit(1)


def _report(outcome: Outcome, as_json: bool, dry: bool) -> None:
    if as_json:
        print_json([{"dry_run": dry, **asdict(outcome)}])
    else:
        click.echo("\n".join(outcome.lines()))


def _list(suite: str | None, gpu: GPU, part: tuple[int, int] | None, as_json: bool) -> None:
    """Suites, or the cases of one, with what they take by our own forecasts."""
    rows = []
    for name in [suite] if suite else suite_names():
        found = load_suite(name)
        cases = found.cases(gpu)
        if part is not None:
            cases = part_of(cases, part, gpu, found)
        if suite:
            _list_cases(cases, gpu, as_json)
            return
        own = size(cases, gpu, found.sample_seconds)
        rows.append(
            {"suite": name, "title": found.title, "sized_s": found.seconds, **asdict(own), "sum_s": own.seconds}
        )
    if as_json:
        print_json(rows)
        return
    print_table(
        ["suite", "cases", "GPU", "host", "together", "sized for", "what"],
        [
            [
                str(row["suite"]),
                str(row["cases"]),
                *(f"{row[name]:.0f} s" for name in ("gpu_s", "host_s", "sum_s", "sized_s")),
                str(row["title"]),
            ]
            for row in rows
        ],
        title=f"on {gpu.key}; GPU: forecast, host: assumed (kernels compiled by {PREPARERS} processes), all libraries there",
    )


def _list_cases(cases: list[Case], gpu: GPU, as_json: bool) -> None:
    found = [(case, forecast_s(case, gpu)) for case in cases]
    if as_json:
        print_json([{**case.to_dict(), "id": case.id, "forecast_s": seconds} for case, seconds in found])
        return
    print_table(
        ["case", "forecast"], [[case.id, "-" if seconds is None else seconds_text(seconds)] for case, seconds in found]
    )


def _progress() -> _Bar | _Plain:
    """A bar on a terminal, plain lines elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    return _Bar(console) if console.is_terminal else _Plain()


class _Plain(Lines):
    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to tidy."""


class _Bar:
    """A bar below the lines of the cases."""

    def __init__(self, console: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: Any = None

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, title: str, total: int, done: int) -> None:
        self._task = self._bar.add_task(title, total=total, completed=done)

    def step(self, case: Case, answer: dict[str, Any]) -> None:
        self._bar.advance(self._task)
        self.note(describe(case, answer))

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)
