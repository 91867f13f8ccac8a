"""``attncast report``: pages that people look at."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from ..errors import InputError
from ..simulator.estimate import seconds_text
from . import complete
from .libraries import FITS, GRAPHS, PAGE, require
from .options import (
    above_option,
    dtype_option,
    grid_option,
    keys_options,
    mask_option,
    pattern_option,
    read_pattern,
    read_seconds,
)
from .predict import predict as predict_command
from .request import Request, read_request

OUTPUT_HELP = "Where the page goes, with its PNGs and CSVs; made if missing."
output_option = click.option(
    "-o", "--output", required=True, metavar="FOLDER", shell_complete=complete.folders, help=OUTPUT_HELP
)


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
    require("attncast report predict", *PAGE)
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
            click.Option(
                ["-o", "--output"], required=True, metavar="FOLDER", shell_complete=complete.folders, help=OUTPUT_HELP
            ),
        ],
        help=_predict.__doc__,
    )
)


@report.command()
@click.option(
    "--rows",
    default="curated",
    show_default=True,
    metavar="FILE",
    shell_complete=complete.rows,
    help="Measured runs: a table of attncast import or measure, or curated.",
)
@above_option
@output_option
def validation(rows: str, above: str, output: str) -> None:
    """A page on how far forecasts are from measured runs: scatter, errors by group, the worst rows, baselines.

    \b
    Examples:
      attncast report validation -o out/
      attncast report validation --rows rows.csv --above 50us -o out/
    """
    require("attncast report validation", *PAGE, *FITS)
    from ..reports.validation import validation_page
    from .report_rows import validation_rows

    at_least_s = read_seconds(above)
    source = f"{rows}, {seconds_text(at_least_s)} and more" if at_least_s else rows
    write(validation_page(validation_rows(rows, at_least_s), source, footer()), output)


@report.command()
@click.option(
    "--sizes",
    default="E=128,F=128,M=8192,P=8192,N=8192",
    show_default=True,
    metavar="R=N,...",
    help="Rank sizes for the counts in numbers; M (keys) and P (queries) are needed.",
)
@click.option(
    "--only",
    metavar="NAME[,NAME...]",
    shell_complete=complete.cascades,
    help="These cascades, or files of your own; the library when left out.",
)
@output_option
def cascades(sizes: str, only: str | None, output: str) -> None:
    """A page on the attention algorithms: passes, operation counts, and the graph of each.

    \b
    Examples:
      attncast report cascades -o out/
      attncast report cascades --only naive,fa2,./mine.cascade --sizes E=64,F=64,M=4096,P=4096 -o out/
    """
    require("attncast report cascades", *PAGE, *GRAPHS)
    from ..reports.cascades import cascades_page
    from ..simulator import cascades as library
    from .cascade import parse_sizes

    given = parse_sizes(sizes)
    if given is None or not {"M", "P"} <= set(given):
        raise InputError(f"sizes {sizes!r} do not say how many keys and queries: expected M=N and P=N among them")
    names = library.names() if only is None else [name.strip() for name in only.split(",")]
    found = [_algorithm(library.load(name), given) for name in names]
    write(cascades_page(found, given, footer()), output)


def _algorithm(cascade: Any, sizes: dict[str, int]) -> Any:
    from ..reports.cascades import Algorithm
    from ..simulator.einsum import summary
    from ..simulator.tile_operations import has_scores
    from .cascade import title

    known = {rank: size for rank, size in sizes.items() if rank in cascade.scope.same}
    try:
        counts = summary(cascade, known)["ops"]
    except InputError:  # a rank that the sizes do not give
        counts = None
    return Algorithm(cascade, title(cascade), summary(cascade), counts, has_scores(cascade))


@report.command()
@click.option(
    "-g",
    "--gpu",
    "gpu",
    required=True,
    metavar="NAME",
    shell_complete=complete.gpu,
    help="A GPU, or a TOML file of your own.",
)
@grid_option
@click.option("-n", "--heads", type=int, required=True, help="Query heads.")
@click.option("-d", "--head-dim", type=int, required=True, help="Head dimension.")
@click.option("-b", "--batch", type=int, default=1, show_default=True, help="Sequences.")
@click.option("--heads-kv", type=int, help="Key/value heads (GQA, MQA); as many as query heads when left out.")
@click.option("--head-dim-v", type=int, help="Head dimension of the values, when it differs.")
@dtype_option
@pattern_option
@mask_option
@keys_options
@click.option(
    "-k",
    "--kernel",
    default="auto",
    show_default=True,
    shell_complete=complete.tuned_kernel,
    help="triton, flex or natten.",
)
@click.option(
    "--effort", default="instant", show_default=True, shell_complete=complete.effort, help="instant, quick or full."
)
@output_option
def tune(
    gpu: str,
    grid: str,
    heads: int,
    head_dim: int,
    batch: int,
    heads_kv: int | None,
    head_dim_v: int | None,
    dtype: str,
    pattern: str | None,
    mask: str | None,
    kv_grid: str | None,
    cached: int,
    kernel: str,
    effort: str,
    output: str,
) -> None:
    """A page on the configurations of a kernel: the landscape of the space, the best and their resources.

    \b
    Examples:
      attncast report tune -g b200 -i 8192 -n 32 -d 128 -p causal -o out/
      attncast report tune -g h100 -i 4096 -n 16 -d 64 -k triton --effort quick -o out/
    """
    require("attncast report tune", *PAGE)
    from ..autotune.tune import tune as search
    from ..hwmodels import load_gpu
    from ..reports.tune import tuning_page
    from .request import read_workload

    workload = read_workload(
        grid, heads, head_dim, kv_grid,
        batch=batch, heads_kv=heads_kv, cached=cached, dtype=dtype, head_dim_v=head_dim_v,
    )  # fmt: skip
    tuning = search(workload, read_pattern(pattern, mask), load_gpu(gpu), kernel, effort=effort)
    write(tuning_page(tuning, footer()), output)
