"""Imports a file: reads its entries, checks every run, and says what was left out and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from ...errors import InputError, unknown
from ...hwmodels import load_gpu
from ...simulator import Workload, parse_pattern
from ...simulator.kernel_choice import choose_profile
from ...simulator.patterns import Pattern
from ...simulator.workload import parse_dtype, parse_grid
from ..measured import MeasuredRun
from ..plausible import Claim, plausible
from . import aiconfigurator, cudnn, flex, kernel_tuner, natten, triton_cache, tritonbench
from .base import BadEntry, Format, Given, Measurement, NoRun
from .names import FileNames

# The one place where a new format is added.
FORMATS: Final[dict[str, Format]] = {
    "aiconfigurator": aiconfigurator.FORMAT,
    "cudnn": cudnn.FORMAT,
    "flex": flex.FORMAT,
    "kernel-tuner": kernel_tuner.FORMAT,
    "natten": natten.FORMAT,
    "triton-cache": triton_cache.FORMAT,
    "tritonbench": tritonbench.FORMAT,
}
MAX_RUNS: Final = 1_000_000
_MAX_REASONS: Final = 1000  # a hostile file may give each row a reason of its own


@dataclass
class Imported:
    """What a file gave.

    Attributes:
        runs: plausible ones (all of them with ``keep_implausible``). implausible: the others, with their reasons.
        no_run: entries that hold no run, by reason. bad: entries left out by ``skip_bad``, by reason.
        undescribed: why the kernel profile of a run does not describe it, so that it has no forecast; among ``runs``.
    """

    runs: list[MeasuredRun] = field(default_factory=list)
    implausible: list[tuple[MeasuredRun, str]] = field(default_factory=list)
    no_run: Counter[str] = field(default_factory=Counter)
    bad: Counter[str] = field(default_factory=Counter)
    undescribed: Counter[str] = field(default_factory=Counter)


def import_runs(
    format_key: str,
    path: str | Path,
    given: Given | None = None,
    *,
    skip_bad: bool = False,
    keep_implausible: bool = False,
) -> Imported:
    """Read the runs of a file.

    Args:
        format_key: a key of FORMATS. given: what the user states.
        skip_bad: leave bad entries out and count them, instead of refusing the file.
        keep_implausible: keep runs that cannot be true among ``runs``; they are reported either way.

    Raises:
        InputError: unknown format, missing or needless options, a file that is not of the format, a bad entry (the
            message names the file and the place), or no run that can be true.
    """
    path, given = Path(path), given or Given()
    if format_key not in FORMATS:
        raise unknown("format", format_key, FORMATS)
    form = FORMATS[format_key]
    form.check(format_key, given)
    _check_given(given)
    names = FileNames(format_key, given.gpu, given.kernel)
    result = Imported()
    runs: list[MeasuredRun] = []
    claims: dict[str, Claim] = {}
    stem = path.name.removesuffix(".gz").partition(".")[0] or "run"
    for entry in form.entries(path, given):
        try:
            for measured in form.read(entry, given, names):
                run = _checked(measured, f"{stem}-{entry.name}")
                runs.append(run)
                if measured.claim is not None:
                    claims[run.id] = measured.claim
        except NoRun as left_out:
            _count(result.no_run, str(left_out))
        except BadEntry as problem:
            if not skip_bad:
                raise InputError(f"{str(path)!r} {entry.where}: {problem}") from None
            _count(result.bad, problem.reason)
        if len(runs) > MAX_RUNS:
            raise InputError(f"{str(path)!r} has more than {MAX_RUNS:,} runs: split it")
    if not runs:
        raise InputError(f"{str(path)!r} holds no run{_why(result)}")
    kept, result.implausible = plausible(runs, claims)
    result.runs = runs if keep_implausible else kept
    if not result.runs:
        run, reason = result.implausible[0]
        raise InputError(f"{str(path)!r}: none of its {len(runs):,} runs can be true: {run.id} {reason}")
    for run in result.runs:
        if why := _undescribed(run.kernel, run.gpu, run.pattern, run.dtype, run.head_dim, run.workload.dim_v):
            _count(result.undescribed, why)
    return result


def _check_given(given: Given) -> None:
    """Raise InputError, naming the user's own words, for a stated workload that cannot be."""
    if given.pattern is not None:
        parse_pattern(given.pattern)
    for text in (given.dtype, given.kv_dtype):
        if text is not None:
            parse_dtype(text)
    for text, what in ((given.q_tile, "q tile"), (given.kv_tile, "kv tile")):
        if text is not None:
            parse_grid(text, what)
    if given.grid is not None and given.heads is not None and given.head_dim is not None:
        workload = Workload(
            parse_grid(given.grid),
            given.heads,
            given.head_dim,
            batch=1 if given.batch is None else given.batch,
            heads_kv=given.heads_kv,
            kv_grid=parse_grid(given.kv_grid, "kv grid") if given.kv_grid else None,
            cached=given.cached or 0,
            head_dim_v=given.head_dim_v,
        )
        parse_pattern(given.pattern or "dense").check(workload)


_pattern = lru_cache(maxsize=4096)(parse_pattern)


@lru_cache(maxsize=65536)
def _undescribed(kernel: str, gpu_name: str, text: str, dtype: str, head_dim: int, dim_v: int) -> str:
    """Why the profile does not describe such a run; empty when it does."""
    pattern: Pattern = _pattern(text)
    try:
        profile = choose_profile(kernel, load_gpu(gpu_name), pattern.family, dtype, head_dim, value_dim=dim_v)
        profile.tile_for(pattern.tile_axes, max(head_dim, dim_v))
    except InputError as error:
        return str(error)
    return ""


def _checked(measured: Measurement, name: str) -> MeasuredRun:
    run = replace(measured.run, id=f"{name}-{measured.suffix}" if measured.suffix else name)
    try:
        _pattern(run.pattern).check(run.workload)
    except InputError as error:
        raise BadEntry(str(error), "its workload cannot be") from None
    return run


def _count(counts: Counter[str], reason: str) -> None:
    counts[reason if reason in counts or len(counts) < _MAX_REASONS else "other reasons"] += 1


def _why(result: Imported) -> str:
    reasons = (result.no_run + result.bad).most_common(3)
    return ": " + "; ".join(f"{reason} ({count:,})" for reason, count in reasons) if reasons else ""
