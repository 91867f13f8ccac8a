"""``attncast predict``."""

from __future__ import annotations

import math
from typing import Any

import click

from ..errors import InputError
from ..simulator import Estimate
from ..simulator.estimate import seconds_text
from ..simulator.workload import grid_text
from . import complete
from .options import call_options, dtype_option, json_option, keys_options, mask_option, pattern_option
from .output import print_json, print_table
from .request import read_request


@click.command()
@call_options
@click.option("--heads-kv", type=int, help="Key/value heads (GQA, MQA); as many as query heads when left out.")
@click.option("--head-dim-v", type=int, help="Head dimension of the values, when it differs.")
@dtype_option
@click.option("--kv-dtype", shell_complete=complete.dtype, help="Dtype of the stored keys and values, when it differs.")
@pattern_option
@mask_option
@keys_options
@click.option(
    "-k",
    "--kernel",
    default="auto",
    show_default=True,
    shell_complete=complete.kernel,
    help="Kernel profile, or a TOML file of your own; auto: what users of the GPU run.",
)
@click.option(
    "--cascade",
    metavar="NAME|FILE",
    shell_complete=complete.cascade,
    help="Another algorithm: a cascade of the library or a file of your own.",
)
@click.option(
    "--baseline",
    metavar="KERNEL",
    shell_complete=complete.kernel,
    help="Dense kernel to compare with; the GPU's best when left out.",
)
@click.option(
    "--q-tile", metavar="TILE", help="Q tile, tokens per axis, e.g. 4x8x8; the kernel's default when left out."
)
@click.option("--kv-tile", metavar="TILE", help="KV tile, tokens per axis.")
@click.option(
    "--attention-share", type=float, help="Share of the whole run that dense attention takes: end-to-end speedup."
)
@click.option("--sparse-share", type=float, help="Share of the run's steps that use the pattern; all when left out.")
@click.option(
    "--calibration",
    metavar="FILE",
    shell_complete=complete.files,
    help="Fitted constants that attncast calibrate wrote, in place of the priors.",
)
@click.option(
    "--engine",
    metavar="NAME",
    shell_complete=complete.engine,
    help="A serving engine's call (vllm, sglang, trtllm): appends to the cache, in a CUDA graph, with fitted constants.",
)
@click.option("--graph", is_flag=True, help="Launched inside a CUDA graph.")
@click.option("--cold", is_flag=True, help="The L2 holds nothing of the call's tensors.")
@click.option("--clock", metavar="FREQUENCY", help="SM clock that the GPU is locked to, e.g. 1410MHz or 1.4GHz.")
@click.option(
    "--calls-before",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Calls like it that run just before it without a rest, as in a loop: the power limit then acts sooner.",
)
@click.option("--append", "appends", is_flag=True, help="The call also writes the new keys and values to the cache.")
@click.option("--rope", "rotates", is_flag=True, help="As --append, and the same pass rotates the queries.")
@click.option(
    "--trace",
    metavar="FILE",
    shell_complete=complete.files,
    help="Also write the schedule over the SMs as a Chrome trace, for ui.perfetto.dev.",
)
@json_option
def predict(trace: str | None, as_json: bool, **options: Any) -> None:
    """Forecast the time of one attention call, its speedup over dense, and what bounds it.

    \b
    Examples:
      attncast predict -g b200,h100 -i 30x48x80 -n 24 -d 128 --dtype fp16 -p "na window=18x24x24 stride=16x8x8"
      attncast predict -g h100 -i 1 --cached 8191 -b 32 -n 32 --heads-kv 8 -d 128 -p causal --engine vllm
      attncast predict -g a100 -i 8192 -n 32 -d 128 -p "window left=1023 right=0" --cascade three_pass --json
      attncast predict -g h100 -i 8192 -n 32 -d 128 -p causal --trace causal.json
    """
    request = read_request(**options)
    estimates = [request.estimate(gpu) for gpu in request.gpus]
    if trace is not None:
        _write_trace(trace, estimates)
    sentences = [request.advice(estimate, gpu) for estimate, gpu in zip(estimates, request.gpus, strict=True)]
    if as_json:
        print_json([{**e.to_dict(), "advice": sentence} for e, sentence in zip(estimates, sentences, strict=True)])
        return
    _print_summary(estimates)
    for estimate, sentence in zip(estimates, sentences, strict=True):
        click.echo()
        _print_detail(estimate, sentence)


def _write_trace(path: str, estimates: list[Estimate]) -> None:
    from ..reports.trace import write_trace  # here, not above: a forecast alone starts without it

    if len(estimates) > 1:
        raise InputError(f"--trace {path!r} was given with {len(estimates)} GPUs: expected one, a trace is of one call")
    click.echo(f"wrote {path}: {write_trace(path, estimates[0])}", err=True)


def _print_summary(estimates: list[Estimate]) -> None:
    header = ["GPU", "kernel", "time", "80% interval", "baseline", "speedup", "bound by"]
    rows = [
        [
            e.gpu,
            e.kernel,
            seconds_text(e.time_s),
            f"{seconds_text(e.time_low_s)} - {seconds_text(e.time_high_s)}",
            f"{e.baseline.kernel} {seconds_text(e.baseline.time_s)}",
            f"{e.speedup:.2f}x",
            e.bound_by,
        ]
        for e in estimates
    ]
    if estimates[0].end_to_end is not None:
        header.append("end to end")
        for row, e in zip(rows, estimates, strict=True):
            assert e.end_to_end is not None
            row.append(f"{e.end_to_end.speedup:.2f}x")
    print_table(header, rows, title=estimates[0].pattern)


def _print_detail(e: Estimate, sentence: str) -> None:
    work = e.work
    click.echo(f"{e.gpu}: {e.title}, tiles {grid_text(e.q_tile)} | {grid_text(e.kv_tile)}")
    click.echo(
        f"  bounds    FLOPs {_times(work.bound_flop)}, tiles mean {_times(work.bound_tiles_mean)}, "
        f"tiles max {_times(work.bound_tiles_max)}"
    )
    if e.end_to_end is not None:
        click.echo(
            f"  whole run {e.end_to_end.speedup:.2f}x (bounds: FLOPs {e.end_to_end.bound_flop:.2f}x, "
            f"tiles max {e.end_to_end.bound_tiles_max:.2f}x)"
        )
    click.echo(
        f"  tiles     {work.visited_total:,} visited of {work.dense_q_tiles * work.dense_kv_tiles:,}, "
        f"{work.full_total:,} full; {work.visited_min:,} to {work.visited_max:,} for each of {work.q_tiles:,} Q tiles"
    )
    parts = [f"{name} {seconds_text(value)} ({value / e.time_s:.0%})" for name, value in e.parts_s.items() if value > 0]
    click.echo(f"  time      {', '.join(parts)}")
    for note in e.notes:
        click.echo(f"  note      {note}")
    click.echo(f"  faster    {sentence}")


def _times(bound: float) -> str:
    return f"{bound:.2f}x" if math.isfinite(bound) else "no pairs"
