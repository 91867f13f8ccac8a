"""``attncast sweep``."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path

import click

from ..errors import InputError
from ..files import write_whole
from ..simulator.sweep import COLUMNS, Group, Row, load_sweep, run_group
from . import complete
from .libraries import PAGE, require

_KINDS = {name: {"int": int, "float": float}.get(str(kind), str) for name, kind in Row.__annotations__.items()}


@click.command()
@click.argument("file", metavar="FILE.toml", shell_complete=complete.files)
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FOLDER",
    shell_complete=complete.folders,
    help="Where tables and the page go; a sweep found there goes on.",
)
def sweep(file: str, output: str) -> None:
    """Forecast every combination of workloads, patterns, kernels and GPUs, and plot the speedups.

    Writes sweep.csv, sweep.parquet where pyarrow is installed, and the page sweep.html. Finished groups (a GPU, kernel and
    pattern) are kept in FOLDER/groups: a sweep that was interrupted goes on, and one that grew runs only what is new.

    \b
    A file:
      gpus = ["h100", "b200"]
      patterns = ["causal", "window left={window} right=0"]
      [workload]
      grid = [4096, 16384, 65536]
      heads = 32
      head_dim = 128
      [values]
      window = [512, 2048]

    \b
    Examples:
      attncast sweep windows.toml -o out/
      attncast sweep kernels.toml -o out/kernels
    """
    require("attncast sweep", *PAGE)
    from ..reports.sweep import sweep_page
    from .report import footer, write

    groups = load_sweep(file)
    folder = Path(output)
    rows = _run(groups, folder / "groups")
    write_whole(folder / "sweep.csv", _text(rows).encode())
    parquet = _write_parquet(rows, folder / "sweep.parquet")
    failed = sum(bool(row.problem) for row in rows)
    click.echo(f"{len(rows):,} forecasts{f', {failed:,} of calls that cannot be run' if failed else ''}")
    click.echo(f"wrote {folder / 'sweep.csv'}{' and sweep.parquet' if parquet else ''}")
    if failed == len(rows):
        raise InputError(f"no call of {file!r} can be run: {rows[0].problem}")
    write(sweep_page(rows, Path(file).name, footer()), output)


def _run(groups: Sequence[Group], kept: Path) -> list[Row]:
    """Rows of every group, those found in ``kept`` read and the others forecast and kept there."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    rows: list[Row] = []
    found = 0
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("forecasting groups", total=len(groups))
            for group in groups:
                path = kept / f"{group.key}.csv"
                old = _read(path, len(group.workloads))
                found += old is not None
                new = run_group(group) if old is None else old
                if old is None:
                    write_whole(path, _text(new).encode())
                rows += new
                progress.advance(bar)
    except OSError as problem:
        raise InputError(f"cannot write to {str(kept)!r}: {problem.strerror or problem}") from None
    if found:
        click.echo(f"{found:,} of {len(groups):,} groups were there already", err=True)
    return rows


def _text(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        values = [getattr(row, name) for name in COLUMNS]
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in values])
    return out.getvalue()


def _read(path: Path, expected: int) -> list[Row] | None:
    """The rows of a finished group; None where there are none, or not all."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = [
                Row(
                    **{
                        name: _KINDS[name](text or "nan") if _KINDS[name] is float else _KINDS[name](text)
                        for name, text in row.items()
                    }
                )
                for row in csv.DictReader(file)
            ]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None
    return found if len(found) == expected else None


def _write_parquet(rows: Sequence[Row], path: Path) -> bool:
    """Write the rows as Parquet; False where pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    table = pyarrow.table({name: [getattr(row, name) for row in rows] for name in COLUMNS})
    out = io.BytesIO()
    parquet.write_table(table, out)
    write_whole(path, out.getvalue())
    return True
