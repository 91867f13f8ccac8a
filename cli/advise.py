"""``attncast advise``."""

from __future__ import annotations

import click

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator import Workload
from ..simulator.advise import Advice, Option
from ..simulator.advise import advise as search
from ..simulator.estimate import seconds_text
from ..simulator.workload import grid_text, parse_grid
from . import complete
from .options import call_options, dtype_option, json_option
from .output import print_json, print_table


@click.command()
@call_options
@click.option("--heads-kv", type=int, help="Key/value heads; as many as query heads when left out.")
@dtype_option
@click.option("--coverage", type=float, help="Share of the keys that every query shall keep, e.g. 0.09.")
@click.option("-w", "--window", metavar="GRID", help="Search this window only.")
@click.option(
    "-k", "--kernel", default="auto", show_default=True, shell_complete=complete.kernel, help="Search this kernel only."
)
@json_option
def advise(
    gpus: str,
    grid: str,
    heads: int,
    head_dim: int,
    batch: int,
    heads_kv: int | None,
    dtype: str,
    coverage: float | None,
    window: str | None,
    kernel: str,
    as_json: bool,
) -> None:
    """Search windows, strides, tiles and token orders for the fastest neighborhood pattern that keeps a share of the pairs.

    \b
    Examples:
      attncast advise -i 30x48x80 -n 24 -d 128 -g h100 --coverage 0.09
      attncast advise -i 256x256 -n 24 -d 128 -g b200,h100 -w 80x80
    """
    if (coverage is None) == (window is None):
        raise InputError("a search needs either --coverage (e.g. 0.09) or --window (e.g. 18x24x24): give one of them")
    workload = Workload(parse_grid(grid), heads, head_dim, batch=batch, heads_kv=heads_kv, dtype=dtype)
    share = 1.0 if coverage is None else coverage
    found = [
        (name.strip(), search(workload, load_gpu(name.strip()), share, window=window, kernel=kernel))
        for name in gpus.split(",")
    ]
    if as_json:
        print_json([_described(name, advice) for name, advice in found])
        return
    for index, (name, advice) in enumerate(found):
        if index:
            click.echo()
        _print(name, advice)


def _described(name: str, advice: Advice) -> dict[str, object]:
    return {
        "gpu": name,
        "best": advice.best.to_dict(advice.baseline_s),
        "windows": [option.to_dict(advice.baseline_s) for option in advice.windows],
        "alternatives": [
            {**option.to_dict(advice.baseline_s), "says": sentence} for option, sentence in advice.alternatives
        ],
        "searched": advice.searched,
        "baseline_kernel": advice.baseline_kernel,
        "baseline_time_s": advice.baseline_s,
    }


def _print(name: str, advice: Advice) -> None:
    print_table(
        ["pattern", "kernel", "tiles", "keeps", "busiest", "masks", "time", "speedup"],
        [_row(option, advice.baseline_s) for option in (advice.best, *advice.windows)],
        title=f"{name}: best of {advice.searched:,} options; dense {advice.baseline_kernel} takes "
        f"{seconds_text(advice.baseline_s)}",
    )
    click.echo(f"the same window ({grid_text(advice.best.pattern.window)}) otherwise run:")
    for _, sentence in advice.alternatives:
        click.echo(f"  {sentence}")


def _row(option: Option, baseline_s: float) -> list[str]:
    return [
        str(option.pattern),
        option.kernel,
        f"{grid_text(option.q_tile)} | {grid_text(option.kv_tile)}",
        f"{option.coverage:.2%}",
        str(option.visited),
        "yes" if option.masked else "no",
        seconds_text(option.time_s),
        f"{baseline_s / option.time_s:.2f}x",
    ]
