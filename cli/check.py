"""``attncast check``: does a kernel configuration fit a GPU that is not here, and what will it run as."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from ..errors import InputError
from . import complete
from .output import print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..hwmodels import GPU
    from ..kernels.check import CheckResult
    from ..kernels.space import KernelConfig

_SHOWN_PIPES = (
    "tensor", "exp", "fp32", "select", "convert", "integer", "shared", "global", "tmem", "local", "barrier",
)  # fmt: skip


@click.command("check")
@click.option(
    "--kernel",
    default="attention",
    show_default=True,
    shell_complete=complete.compiled_kernel,
    help="Kernel to compile: attention or decode.",
)
@click.option("-d", "--head-dim", type=int, default=128, show_default=True, help="Head dimension.")
@click.option(
    "--dtype",
    default="bf16",
    show_default=True,
    shell_complete=complete.compiled_dtype,
    help="fp16, bf16, fp32 or fp8.",
)
@click.option(
    "-g",
    "--gpu",
    "gpus",
    default="a100,h100,b200,rtx5090",
    show_default=True,
    shell_complete=complete.gpus,
    help="GPUs, separated by commas.",
)
@click.option("--block-m", type=int, default=128, show_default=True, help="Queries in a tile.")
@click.option("--block-n", type=int, default=64, show_default=True, help="Keys in a tile.")
@click.option("--num-warps", type=int, default=8, show_default=True)
@click.option("--num-stages", type=int, default=3, show_default=True, help="Depth of the K and V pipeline.")
@click.option("--tma", is_flag=True, help="Load K and V through tensor descriptors (sm_90 and newer).")
@click.option("--warp-specialize", is_flag=True, help="Split loads, MMA and softmax over warps.")
@click.option(
    "--pattern",
    default="dense",
    show_default=True,
    shell_complete=complete.compiled_pattern,
    help="dense, causal, window, blocks or bits; for decode causal, window or paged: what is compiled in.",
)
@click.option("--grid", is_flag=True, help="Sweep a list of tilings instead of the one given.")
@click.option("--prune", is_flag=True, help="With --grid: leave out what is hopeless by arithmetic.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Compiler processes [default: CPUs, at most 8].")
@click.option("--timeout", type=click.FloatRange(1), default=120.0, show_default=True, help="Seconds for each.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    kernel: str,
    head_dim: int,
    dtype: str,
    gpus: str,
    block_m: int,
    block_n: int,
    num_warps: int,
    num_stages: int,
    tma: bool,
    warp_specialize: bool,
    pattern: str,
    grid: bool,
    prune: bool,
    workers: int | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Compile a kernel for GPUs that need not be here and say whether it fits.

    Per GPU: registers, spills, shared and tensor memory against the limit, CTAs per SM, the MMA
    instruction, and the instructions of the inner loop by pipe, read from the machine code. Answers are
    cached.

    \b
    Examples:
      attncast check -d 128 -g h100,b200 --block-m 128 --block-n 64
      attncast check -d 64 --dtype fp16 -g a100 --pattern causal --num-warps 4 --num-stages 2 --json
      attncast check -g b200 --grid --prune
    """
    # Imported here so that --help does not pay for numpy.
    from ..kernels.check import grid_jobs, to_json
    from ..kernels.space import KernelConfig

    names = [name for name in (part.strip() for part in gpus.split(",")) if name]
    if not names:
        raise InputError(f"--gpu {gpus!r} names no GPU, expected names separated by commas, as a100,h100")
    config = KernelConfig(
        kernel, head_dim, dtype, pattern, block_m, block_n, num_warps, num_stages, tma, warp_specialize
    )
    if grid and kernel != "attention":
        raise InputError(f"--grid with kernel {kernel!r}: expected 'attention', the kernel whose tilings it lists")
    if grid:
        jobs = grid_jobs(names, head_dim=head_dim, dtype=dtype, pattern=pattern, prune=prune)
    else:
        jobs = _one_config(names, config)
    results = _run(jobs, workers, timeout)
    if as_json:
        click.echo(json.dumps(to_json(results), indent=2))
        return
    if grid:
        _print_grid(results)
    else:
        _print_one(results)
    _print_remarks(results, grid)


def _one_config(names: Sequence[str], config: KernelConfig) -> list[tuple[GPU, KernelConfig]]:
    from ..kernels.check import load_gpus

    return [(gpu, config) for gpu in load_gpus(names)]


def _run(jobs: Sequence[tuple[GPU, KernelConfig]], workers: int | None, timeout_s: float) -> list[CheckResult]:
    """Compile with a progress bar on stderr, which a terminal alone shows."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..kernels.check import check_jobs

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        distinct = len({(gpu.arch, config) for gpu, config in jobs})
        bar = progress.add_task("compiling", total=distinct)
        return check_jobs(jobs, workers=workers, timeout_s=timeout_s, on_result=lambda _: progress.advance(bar))


def _print_one(results: Sequence[CheckResult]) -> None:
    """One configuration: a row for each fact, a column for each GPU."""
    rows: list[tuple[str, list[str]]] = [
        ("fits", ["yes" if result.fits else "NO" for result in results]),
        ("registers", [_number(result.facts.registers) for result in results]),
        ("spilled bytes", [_number(result.facts.spill_bytes) for result in results]),
        ("shared bytes", [_number(result.facts.shared_bytes) for result in results]),
        ("  of", [_number(result.gpu.smem_bytes_per_cta) for result in results]),
        ("tmem columns", [_number(result.facts.tmem_columns) for result in results]),
        ("CTAs per SM", [_held(result) for result in results]),
    ]
    instructions = [result.facts.mma.replace(",", "").split() or ["-"] for result in results]
    for line in range(max(map(len, instructions))):
        rows.append(("MMA" if line == 0 else "", [shown[line] if line < len(shown) else "" for shown in instructions]))
    pipes = [pipe for pipe in _SHOWN_PIPES if any(result.loop.get(pipe) for result in results)]
    rows.append(("per KV tile and warp", ["" for _ in results]))
    rows += [(f"  {pipe}", [_number(result.loop.get(pipe)) for result in results]) for pipe in pipes]
    print_table(
        ["", *(f"{result.gpu.key} ({result.facts.arch})" for result in results)],
        [[name, *cells] for name, cells in rows],
        title=f"{results[0].facts.config.kernel} {results[0].facts.config}",
    )


def _print_grid(results: Sequence[CheckResult]) -> None:
    """Many configurations: a row for each."""
    rows = []
    for result in results:
        facts = result.facts
        numbers = (facts.registers, facts.spill_bytes, facts.shared_bytes, facts.tmem_columns)
        rows.append(
            [
                f"{result.gpu.key} {facts.config}",
                "yes" if result.fits else "NO",
                *map(_number, numbers),
                str(result.ctas_per_sm),
                facts.mma or "-",
            ]
        )
    print_table(["configuration", "fits", "regs", "spill", "shared", "tmem", "CTAs", "MMA"], rows)


def _print_remarks(results: Sequence[CheckResult], grid: bool) -> None:
    if grid:
        fitting = sum(result.fits for result in results)
        click.echo(f"{fitting} of {len(results)} fit.")
        return
    for result in results:
        for remark in ([result.reason] if result.reason else []) + list(result.warnings):
            click.echo(f"{result.gpu.key}: {remark}")


def _held(result: CheckResult) -> str:
    if result.occupancy is None or not result.fits:
        return "-"
    return f"{result.ctas_per_sm} ({result.occupancy.limiter})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.6g}"
