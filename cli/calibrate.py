"""``attncast calibrate``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np

from ..errors import InputError
from ..files import check_output, whole_file
from ..simulator.calibration import BOUNDS, OF_GPU, calibration_text, load_calibration, packaged_calibration
from ..validation.calibrate import Fitted
from ..validation.calibrate import calibrate as fit
from ..validation.measured import load_table
from . import complete
from .libraries import FITS, require
from .options import json_option
from .output import print_json, print_table


@click.command()
@click.option(
    "--rows",
    metavar="FILE",
    shell_complete=complete.rows,
    help="Measured runs: a table of attncast import or measure, or 'curated'.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    shell_complete=complete.files,
    help="Where to write the constants (TOML), for predict --calibration.",
)
@click.option(
    "--show",
    is_flag=False,
    flag_value="packaged",
    metavar="[FILE]",
    shell_complete=complete.of(lambda: ("packaged",), or_file=True),
    help="Instead: list the constants of a file, or those that attncast comes with, with meaning and data.",
)
@json_option
def calibrate(rows: str | None, output: str | None, show: str | None, as_json: bool) -> None:
    """Fit at most six constants for each use of a kernel on a GPU to measured runs.

    A use is a kernel on a GPU as one engine runs it, prefill or decoding, 16-bit or 8-bit. Errors are those of runs whose
    shape was left out of the fit (five folds by shape), beside the errors of the priors.

    \b
    Examples:
      attncast import aiconfigurator context_attention_perf.txt -o rows.csv
      attncast calibrate --rows rows.csv -o mine.toml
      attncast calibrate --show
      attncast predict -g h100 -i 8192 -n 32 -d 128 -p causal --engine vllm --calibration mine.toml
    """
    if (rows is None) == (show is None):
        raise InputError("expected either --rows FILE to fit, or --show FILE to list what was fitted")
    if show is not None:
        _show(show, as_json)
        return
    assert rows is not None
    require("attncast calibrate", *FITS)
    if output is not None:
        check_output(output, rows, "fit")
    command = f"attncast calibrate --rows {shlex.quote(rows)}"
    fits, left_out = fit(load_table(rows), Path(rows).name, command)
    if output is not None:
        with whole_file(output) as file:
            file.write_text(calibration_text({fitted.use: fitted.constants for fitted in fits}), encoding="utf-8")
    if as_json:
        print_json([_described(fitted) for fitted in fits])
        return
    print_table(
        ["use", "rows", "priors", "held out", "median", "p90", "inside 80%"],
        [
            [
                str(fitted.use),
                f"{fitted.held_out.size:,}",
                f"{np.mean(np.abs(fitted.before)):.1%}",
                f"{np.mean(np.abs(fitted.held_out)):.1%}",
                f"{np.median(np.abs(fitted.held_out)):.1%}",
                f"{np.quantile(np.abs(fitted.held_out), 0.9):.1%}",
                f"{fitted.inside:.0%}",
            ]
            for fitted in fits
        ],
        title="mean error of the priors; and mean, median and 90th percentile on shapes that no constant saw",
    )
    for reason, runs in left_out.items():
        click.echo(f"left out: {len(runs):,} ({reason})")


def _described(fitted: Fitted) -> dict[str, object]:
    size = np.abs(fitted.held_out)
    return {
        **vars(fitted.use),
        "rows": int(size.size),
        "priors_mape": float(np.mean(np.abs(fitted.before))),
        "held_out": {
            "mape": float(np.mean(size)),
            "median": float(np.median(size)),
            "p90": float(np.quantile(size, 0.9)),
        },
        "coverage_80": fitted.inside,
        "constants": dict(fitted.constants.values),
        "interval": fitted.constants.interval,
    }


def _show(path: str, as_json: bool) -> None:
    calibration = packaged_calibration() if path == "packaged" else load_calibration(path)
    if as_json:
        print_json(
            [
                {
                    **vars(use),
                    **vars(found),
                    "values": dict(found.values),
                    "portable": dict(found.portable),
                    "seen": None if found.seen is None else vars(found.seen),
                }
                for use, found in calibration.constants.items()
            ]
        )
        return
    for use, found in calibration.constants.items():
        click.echo(
            f"{use}: fitted on {found.rows:,} rows of {found.data}, {found.date} ({found.command}); "
            f"held-out error {found.held_out_mape:.1%}, 80% within a factor of {np.exp(found.interval):.2f}"
        )
        if found.seen is not None:
            click.echo(f"  its runs: {found.seen}")
        for name, value in found.values.items():
            bounds = BOUNDS[name]
            click.echo(f"  {name:16s} {value:>10.4g}  ({bounds.low:g} to {bounds.high:g}) {bounds.meaning}")
        if found.portable:
            carried = ", ".join(f"{name} {value:.4g}" for name, value in found.portable.items() if name not in OF_GPU)
            factor = f"; left out itself, 80% within a factor of {np.exp(found.left_out_interval):.2f}"
            click.echo(f"  other GPUs take over {carried}{factor if found.left_out_interval else ''}")
