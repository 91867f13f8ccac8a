"""``attncast report``: pages that people look at."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from ..errors import InputError
from .predict import predict as predict_command
from .request import Request, read_request

OUTPUT_HELP = "Where the page goes, with its PNGs and CSVs; made if missing."
output_option = click.option("-o", "--output", required=True, metavar="FOLDER", help=OUTPUT_HELP)


@click.group()
def report() -> None:
    """Self-contained pages: HTML that needs no network, every figure as PNG and every table as CSV beside it.

    \b
    Examples:
      attncast report predict -g b200,h100 -i 30x48x80 -n 24 -d 128 -p "na window=18x24x24 stride=16x8x8" -o out/
      attncast report validation -o out/
      attncast report cascades -o out/
    """


def footer() -> str:
    """What made the page: the version and the command."""
    from .. import __version__

    words = shlex.join(["attncast", *sys.argv[1:]])
    return f"Made by attncast {__version__}: {words}"


def write(page: Any, folder: str) -> None:
    """Write a page and say where it is."""
    from ..reports.page import write_page

    written = write_page(page, folder)
    click.echo(f"wrote {written[0]}, with {len(written) - 1} figures and tables beside it")


def _predict(output: str, **options: Any) -> None:
    """A page on one attention call: pattern, roofline, time, schedule, sensitivity, other GPUs.

    It takes the options of attncast predict.

    \b
    Examples:
      attncast report predict -g h100 -i 8192 -n 32 -d 128 -p causal -o out/
      attncast report predict -g b200 -i 30x48x80 -n 24 -d 128 -p "na window=18x24x24 stride=16x8x8" -o out/
    """
    from ..reports.predict import prediction_page

    request = read_request(**options)
    everywhere, refused = _everywhere(request)
    forecasts = [_forecast(request, gpu) for gpu in request.gpus]
    write(prediction_page(request.workload, forecasts, everywhere, refused, footer()), output)


def _forecast(request: Request, gpu: Any) -> Any:
    from ..reports.predict import Forecast
    from ..simulator.explain import explain

    estimate = request.estimate(gpu)
    args = (estimate, request.workload, request.pattern, gpu, request.conditions, request.calibration)
    return Forecast(
        estimate, request.advice(estimate, gpu), explain(request.estimate, *args), _cells(request, estimate)
    )


def _cells(request: Request, estimate: Any) -> Any:
    """The pattern's picture on the tiles of a forecast; None for one that is known by its statistics, or is several."""
    from ..simulator.patterns.combine import Ruled
    from ..simulator.patterns.picture import tile_picture

    where = (request.workload, estimate.q_tile, estimate.kv_tile)
    if isinstance(request.pattern, Ruled):
        return tile_picture(request.pattern, *where)
    if "mask" in type(request.pattern).__name__.lower():
        from ..simulator.masks.pattern import Mask, StoredMask
        from ..simulator.masks.picture import mask_picture

        if isinstance(request.pattern, Mask | StoredMask):
            return mask_picture(request.pattern, *where)
    return None


def _everywhere(request: Request) -> tuple[list[Any], list[tuple[str, str]]]:
    """Forecasts on the GPUs asked for and on every other that comes with attncast, and why the rest refuse."""
    from ..hwmodels import gpu_names, load_gpu

    asked = {gpu.key for gpu in request.gpus}
    found, refused = [], []
    for gpu in [*request.gpus, *(load_gpu(name) for name in gpu_names() if name not in asked)]:
        try:
            try:
                found.append(request.estimate(gpu))
            except InputError:
                if gpu.key in asked:
                    raise
                # A kernel of another architecture: what users of this GPU run instead.
                found.append(request.estimate(gpu, kernel="auto", baseline=None, q_tile=None, kv_tile=None))
        except InputError as problem:
            if gpu.key in asked:
                raise
            refused.append((gpu.key, str(problem)))
    return found, refused


# The options are those of predict, whatever they come to be; what only prints is left out.
report.add_command(
    click.Command(
        "predict",
        callback=_predict,
        params=[
            *(option for option in predict_command.params if option.name not in ("as_json", "trace")),
            click.Option(["-o", "--output"], required=True, metavar="FOLDER", help=OUTPUT_HELP),
        ],
        help=_predict.__doc__,
    )
)


@report.command()
@click.option(
    "--rows",
    default="serving",
    show_default=True,
    metavar="FILE",
    help="Measured runs: a table of attncast import, or serving.",
)
@output_option
def validation(rows: str, output: str) -> None:
    """A page on how far forecasts are from measured runs: scatter, errors by group, the worst rows, baselines.

    \b
    Examples:
      attncast report validation -o out/
      attncast report validation --rows rows.csv -o out/
    """
    from ..reports.validation import validation_page
    from .report_rows import validation_rows

    write(validation_page(validation_rows(rows), rows, footer()), output)
