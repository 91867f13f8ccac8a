"""``attncast validate``."""

from __future__ import annotations

from pathlib import Path

import click

from ..validation.compare import partner_speedups
from ..validation.measured import load_table
from ..validation.ranking import rankings
from ..validation.statistics import Summary, summarise
from ..validation.validate import GROUPS, Table, Validation, errors_by, left_out_means
from ..validation.validate import validate as compare
from . import complete
from .libraries import FITS, require
from .options import above_option, read_seconds
from .output import print_table

COLUMNS = (
    ("held out", "held_out"),
    ("median", "held_out"),
    ("p90", "held_out"),
    ("priors", "priors"),
    ("GPU left out", "left_out_gpu"),
    ("decode", "decode"),
    ("speedup", "speedup"),
    ("noise", "noise"),
    ("k SOL + c", "line"),
    ("SOL", "speed_of_light"),
)


@click.command()
@click.option(
    "--rows",
    default="curated",
    show_default=True,
    metavar="FILE",
    shell_complete=complete.rows,
    help="Measured runs: a table of attncast import or measure, or curated, the table that comes with attncast.",
)
@above_option
@click.option(
    "--leave-out-gpu", metavar="GPU", shell_complete=complete.gpu, help="Report this GPU alone; fits use all."
)
@click.option(
    "--by",
    type=click.Choice(list(GROUPS)),
    default="kernel",
    show_default=True,
    help="Rows of the table: kernels, pattern families, size classes, uses of a kernel, head dims, query heads on a KV head.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def validate(rows: str, above: str, leave_out_gpu: str | None, by: str, as_json: bool) -> None:
    """Errors on runs that nothing was fitted on: shapes left out, GPUs left out, decode, window speedups, baselines.

    \b
    Examples:
      attncast validate
      attncast validate --rows rows.csv --above 50us --json
    """
    require("attncast validate", *FITS)
    runs = load_table(rows)
    gpu = None if leave_out_gpu is None else leave_out_gpu.lower()
    found = compare(runs, Path(rows).name, read_seconds(above), gpu)
    speedups = partner_speedups([run for run in runs if gpu in (None, run.gpu)])
    if as_json:
        click.echo(_json(found, speedups))
        return
    if by != "kernel":
        _print_errors(errors_by(found.rows, by), by, "errors on shapes that no constant saw")
        return
    print_table(
        ["GPU and kernel", "rows", *(title for title, _ in COLUMNS)],
        [[" ".join(key), f"{errors.n:,}", *_cells(found, key)] for key, errors in found.held_out.items()],
        title="mean error (MAPE) unless the column says otherwise; - where there is nothing to compare",
    )
    for name, (rows_of_gpu, mean) in left_out_means(found.left_out_gpu).items():
        click.echo(f"{name} left out of every fit: {rows_of_gpu:,} rows, mean {mean:.1%}")
    for (name, kernel), errors in speedups.items():
        click.echo(
            f"neighborhood speedups of {kernel} on {name} (priors): {errors.n}, "
            f"off by {errors.mape:.1%}, worst {errors.worst:.1%}"
        )
    line = rankings(found.rows, found.rows.line_s)
    for name, ranking in rankings(found.rows, found.rows.forecast_s).items():
        click.echo(
            f"{name} kernels and engines on one shape: {ranking.shapes:,} shapes, {ranking.ordered:.0%} of pairs in order "
            f"(k SOL + c {line[name].ordered:.0%}), the first one forecast {ranking.regret:.1%} slower than the fastest "
            f"(k SOL + c {line[name].regret:.1%})"
        )
    every = summarise(found.rows.errors)
    click.echo(f"all {every.n:,} rows: mean {every.mape:.1%}, median {every.median:.1%}, p90 {every.p90:.1%}")
    click.echo(f"inside the 80% interval: {found.coverage_80:.0%} of held-out rows")
    if found.unfitted:
        _print_errors(
            found.unfitted,
            "kernel",
            "errors on runs of too few of their kind to be fitted, as attncast predict forecasts them",
        )
    for reason, count in found.left_out.items():
        click.echo(f"left out: {count:,} ({reason})")


def _print_errors(errors: Table, by: str, title: str) -> None:
    print_table(
        ["GPU", by, "rows", "mean", "median", "p90", "worst", "bias"],
        [
            [gpu, name, f"{e.n:,}", *(f"{value:.1%}" for value in (e.mape, e.median, e.p90, e.worst)), f"{e.bias:+.1%}"]
            for (gpu, name), e in errors.items()
        ],
        title=title,
    )


def _cells(found: Validation, key: tuple[str, str]) -> list[str]:
    cells = []
    for title, name in COLUMNS:
        summary: Summary | None = getattr(found, name).get(key)
        value = None if summary is None else {"median": summary.median, "p90": summary.p90}.get(title, summary.mape)
        cells.append("-" if value is None else f"{value:.1%}")
    return cells


def _json(found: Validation, speedups: Table) -> str:
    import json

    def nested(table: Table) -> dict[str, dict[str, dict[str, float]]]:
        out: dict[str, dict[str, dict[str, float]]] = {}
        for (gpu, name), summary in table.items():
            out.setdefault(gpu, {})[name] = summary.to_dict()
        return out

    return json.dumps(
        {
            "schema": 1,
            "held_out": nested(found.held_out),
            "priors": nested(found.priors),
            "left_out_gpu": nested(found.left_out_gpu),
            "speedup": nested(found.speedup),
            "decode": nested(found.decode),
            "baselines": {"speed_of_light": nested(found.speed_of_light), "line": nested(found.line)},
            "neighborhood_speedup": nested(speedups),
            "noise": nested(found.noise),
            "rank": {
                name: {gpu: of.to_dict() for gpu, of in rankings(found.rows, time_s).items()}
                for name, time_s in (("held_out", found.rows.forecast_s), ("line", found.rows.line_s))
            },
            "by_family": nested(errors_by(found.rows, "family")),
            "by_size": nested(errors_by(found.rows, "size")),
            "unfitted": nested(found.unfitted),
            "all": summarise(found.rows.errors).to_dict(),
            "coverage_80": found.coverage_80,
            "left_out": found.left_out,
        },
        indent=2,
        allow_nan=False,
    )
