"""``attncast tune``."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError, unknown
from . import complete
from .options import dtype_option, json_option, keys_options, mask_option, pattern_option, read_pattern
from .output import print_object, print_table

if TYPE_CHECKING:
    from ..autotune.refine import Step
    from ..autotune.result import Candidate, Tuning

SHOWN = 5
FORMS = ("triton", "flex", "natten", "serving", "t4", "json")  # those of autotune.writers, which --help does not import
SUFFIX = {"triton": ".py", "flex": ".py", "natten": ".py"}


@click.command()
@click.option("-g", "--gpu", metavar="NAME", shell_complete=complete.gpu, help="GPU, or a TOML file of your own.")
@click.option("-i", "--input-size", "grid", metavar="GRID", help="Query tokens, e.g. 4096 or 30x48x80.")
@click.option("-n", "--heads", type=int, help="Query heads.")
@click.option("-d", "--head-dim", type=int, help="Head dimension.")
@click.option("-b", "--batch", type=int, default=1, show_default=True, help="Sequences.")
@click.option("--heads-kv", type=int, help="Key/value heads; as many as query heads when left out.")
@dtype_option
@pattern_option
@mask_option
@keys_options
@click.option(
    "-k", "--kernel", default="auto", show_default=True, shell_complete=complete.tuned_kernel,
    help="triton (attncast's own), flex or natten; auto: what users of the GPU run for the pattern, else triton.",
)  # fmt: skip
@click.option(
    "--effort", default="instant", show_default=True, shell_complete=complete.effort,
    help="instant: no compilation; quick: compile the best, up to 16; full: compile all that may run (resumes).",
)  # fmt: skip
@click.option(
    "--workers", type=click.IntRange(1), help="Compiler processes; as many as CPUs, at most 8, when left out."
)
@click.option("--measure", is_flag=True, help="Run the best on the GPU of this machine and rank by that.")
@click.option("--budget", metavar="TIME", help="With --measure: how long, e.g. 120s, or how many runs, e.g. 200.")
@click.option(
    "--log", metavar="FILE", shell_complete=complete.files,
    help="With --measure: keep each run there (JSON lines), and go on from it.",
)  # fmt: skip
@click.option(
    "--scheduler", metavar="tcp://HOST:8786",
    help="Compile (and with --measure, measure) on a dask cluster; --workers is then how many measure at once.",
)  # fmt: skip
@click.option(
    "-f", "--format", "form", metavar="FORM", shell_complete=complete.of(lambda: FORMS),
    help=f"Write the result as one of {', '.join(FORMS)}.",
)  # fmt: skip
@click.option(
    "-o", "--output", metavar="FILE", shell_complete=complete.files,
    help="Where to write it; a directory for --sweep.",
)  # fmt: skip
@click.option(
    "--sweep", "sweep_file", metavar="FILE.toml", shell_complete=complete.files,
    help="Instead of one problem: shapes x patterns x GPUs.",
)  # fmt: skip
@json_option
def tune(
    gpu: str | None,
    grid: str | None,
    heads: int | None,
    head_dim: int | None,
    batch: int,
    heads_kv: int | None,
    dtype: str,
    pattern: str | None,
    mask: str | None,
    kv_grid: str | None,
    cached: int,
    kernel: str,
    effort: str,
    workers: int | None,
    measure: bool,
    budget: str | None,
    log: str | None,
    scheduler: str | None,
    form: str | None,
    output: str | None,
    sweep_file: str | None,
    as_json: bool,
) -> None:
    """Rank the configurations of an attention kernel for a GPU that need not be at hand.

    \b
    Examples:
      attncast tune -g b200 -i 30x48x80 -n 24 -d 128 -p "na window=18x24x24 stride=16x8x8"
      attncast tune -g rtx5090 -i 4096 -n 32 -d 128 -p causal -k triton --effort quick
      attncast tune -g h100 -i 8192 -n 32 -d 128 -p causal -k flex -f flex -o options.py
      attncast tune --sweep shapes.toml -o tuned
    """
    if form is not None and form not in FORMS:
        raise unknown("format", form, FORMS)
    if budget is not None and not measure:
        raise InputError(f"budget {budget!r} was given without --measure: expected both, or neither")
    if log is not None and not measure:
        raise InputError(f"log {log!r} was given without --measure: expected both, or neither")
    if sweep_file is not None:
        if measure:
            raise InputError("--sweep and --measure were both given: expected one of them, a sweep forecasts")
        for name, value in (
            ("-g", gpu),
            ("-i", grid),
            ("-n", heads),
            ("-d", head_dim),
            ("-p", pattern),
            ("--mask", mask),
        ):
            if value is not None:
                raise InputError(f"--sweep and {name} {str(value)!r} were both given: the file names the problems")
        _sweep(sweep_file, output, form)
        return
    for name, value in (("-g", gpu), ("-i", grid), ("-n", heads), ("-d", head_dim)):
        if value is None:
            raise InputError(f"{name} is missing: expected a problem (-g, -i, -n and -d), or --sweep FILE.toml")
    assert gpu is not None
    assert grid is not None
    assert heads is not None
    assert head_dim is not None
    # Imported here so that --help is fast.
    from ..autotune.tune import tune as search
    from ..hwmodels import load_gpu
    from .request import read_workload

    workload = read_workload(grid, heads, head_dim, kv_grid, batch=batch, heads_kv=heads_kv, cached=cached, dtype=dtype)
    wanted, model = read_pattern(pattern, mask), load_gpu(gpu)
    refine = _measured(budget, log, scheduler, workers) if measure else None
    with _compilers(scheduler, workers) as pool, _progress("compiling", effort != "instant") as step:
        tuning = search(
            workload, wanted, model, kernel, effort=effort, executor=pool, workers=workers, refine=refine,
            on_compiled=lambda progress: step(progress.done, progress.total),
        )  # fmt: skip
    if form is not None or output is not None:
        from ..autotune.writers import formatted, write

        if output is None:
            click.echo(formatted([tuning], form or "json"), nl=False)
            return
        for file in write([tuning], form or "json", output):
            click.echo(f"written to {file}", err=True)
    if as_json:
        print_object(tuning.to_dict())
        return
    _print(tuning)


def _compilers(scheduler: str | None, workers: int | None) -> AbstractContextManager[Executor | None]:
    """Where configurations are compiled: this machine's processes (None), or a cluster."""
    if scheduler is None:
        return nullcontext()
    from ..autotune.work import executor

    return executor(scheduler, workers=workers)


def _print(tuning: Tuning) -> None:
    from ..simulator.estimate import seconds_text

    shown = tuning.ranking[:SHOWN]
    space = tuning.space
    counts = f"{space.total:,} configurations, {space.feasible:,} that may run"
    counts += f", {space.compiled:,} compiled" if space.compiled else ""
    counts += f", {space.measured:,} measured" if space.measured else ""
    print_table(
        ["configuration", "time", "80% interval", "bound by", "resources", *(["measured"] if space.measured else [])],
        [
            [
                " ".join(f"{name}={_plain(value)}" for name, value in candidate.config.items()),
                seconds_text(candidate.time_s),
                f"{seconds_text(candidate.low_s)} - {seconds_text(candidate.high_s)}",
                candidate.bound_by,
                _resources(candidate),
                *([seconds_text(candidate.measured_s) if candidate.measured_s else "-"] if space.measured else []),
            ]
            for candidate in shown
        ],
        title=f"{tuning.gpu}, kernel {tuning.kernel}, {tuning.pattern}: best of {counts}, {tuning.effort}, "
        f"{seconds_text(tuning.seconds)}",
    )
    click.echo(f"sure      {tuning.sure:.0%} that the first is within 5% of the best")
    for note in tuning.notes:
        click.echo(f"note      {note}")
    for candidate in tuning.ruled_out[:SHOWN]:
        words = " ".join(f"{name}={_plain(value)}" for name, value in candidate.config.items())
        click.echo(f"ruled out {words}: {candidate.problem}")
    if len(tuning.ruled_out) > SHOWN:
        click.echo(f"ruled out {len(tuning.ruled_out) - SHOWN} more")


def _plain(value: int | bool | str) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def _resources(candidate: Candidate) -> str:
    found = candidate.resources
    if found is None:
        return "not compiled"
    tmem = f", {found.tmem_columns} tmem" if found.tmem_columns else ""
    spills = f" ({found.spill_bytes} B spilled)" if found.spill_bytes else ""
    return f"{found.registers} regs{spills}, {found.shared_bytes / 1024:.0f} KiB{tmem}, {found.ctas_per_sm} CTA/SM"


def _measured(
    budget: str | None, log: str | None, scheduler: str | None, workers: int | None
) -> Callable[[Tuning], Tuning]:
    """What measures a ranking: the GPU of this machine, or those of a cluster's workers.

    Raises InputError for a budget that cannot be read, and where there is no GPU.
    """
    runs, seconds = _budget(budget)
    from ..autotune import on_gpu, work
    from ..autotune.refine import refine

    if scheduler is None:
        on_gpu.require_gpu()
        return lambda tuning: on_gpu.refine_here(tuning, runs=runs, seconds=seconds, log=log, on_step=_say)

    def far(tuning: Tuning) -> Tuning:
        measure = functools.partial(on_gpu.measure_far, on_gpu.call_of(tuning))
        with work.executor(scheduler, gpus=True) as pool:
            return refine(
                tuning, measure, runs=runs, seconds=seconds, log=log, on_step=_say, executor=pool, width=workers or 1
            )

    return far


def _budget(text: str | None) -> tuple[int | None, float | None]:
    """Runs and seconds of a budget: "200" or "120s"; none of both without one."""
    if text is None:
        return None, None
    if not re.fullmatch(r"[1-9]\d*(\.\d+)?s|[1-9]\d*", text):
        raise InputError(f"budget {text!r} cannot be read: expected seconds, e.g. 120s, or runs, e.g. 200")
    return (None, float(text[:-1])) if text.endswith("s") else (int(text), None)


def _say(step: Step) -> None:
    from ..simulator.estimate import seconds_text

    result = step.result
    found = seconds_text(result.time_s) if result.time_s is not None else result.problem
    words = " ".join(f"{name}={_plain(value)}" for name, value in step.config.items())
    click.echo(f"measured  {step.measured}: {words}: {found}", err=True)


def _sweep(path: str, output: str | None, form: str | None) -> None:
    from ..autotune.sweep import read_sweep, run_sweep
    from ..autotune.writers import write

    if output is None:
        raise InputError(f"sweep {path!r} needs -o DIRECTORY for its tuned files and its log")
    cases = read_sweep(path)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise InputError(f"cannot write to {output!r}: {problem.strerror}") from None
    tunings: dict[str, list[Tuning]] = {}
    with _progress("tuning", True) as step:
        for done, (case, found) in enumerate(run_sweep(cases, folder / "sweep.jsonl"), 1):
            step(done, len(cases))
            if isinstance(found, InputError):
                click.echo(f"left out  {case.gpu.key}, {case.pattern}: {found}", err=True)
            else:
                tunings.setdefault(found.gpu, []).append(found)
    if not tunings:
        raise InputError(f"sweep {path!r} has no case that can be tuned")
    form = form or "serving"
    for name, group in tunings.items():
        # Tuned files have the names they are looked up by; others that of their GPU.
        for file in write(group, form, folder if form == "serving" else folder / f"{name}{SUFFIX.get(form, '.json')}"):
            click.echo(f"{file}  {len(group)} tunings")


class _progress:
    """A progress bar on stderr, which a terminal alone shows: a context that gives ``step(done, total)``."""

    def __init__(self, what: str, shown: bool) -> None:
        self.what, self.shown = what, shown

    def __enter__(self) -> Any:
        if not self.shown:
            return lambda done, total: None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.bar.__enter__()
        task = self.bar.add_task(self.what, total=None)
        return lambda done, total: self.bar.update(task, completed=done, total=total)

    def __exit__(self, *error: Any) -> None:
        if self.shown:
            self.bar.__exit__(*error)
