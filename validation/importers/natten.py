"""NATTEN's profiler (``python -m natten.profiler``): the text it prints, one profile a file.

A table "Profiler results" with the columns Framework, Kernel category, Arch, Operation, # calls, Runtime; one row for each
kernel, then their total. Runtime is the sum over its calls, with its unit (us, ms, s). Attention rows give runs, forward
and backward apart: the kernel alone. Token permutation (elementwise rows) and the reduction of the backward pass are left
out, as ``measures`` "kernel" says. A table "Best configuration" before it gives the tiles. Everything else of the profile
was on its command line and is the user's: the same option names here. ``kernel_size`` W on an axis: W keys, shifted at the
edges: pattern ``na window=W``. Source: github.com/SHI-Labs/NATTEN, docs/sample-outputs (0.21).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ...errors import InputError
from ...hwmodels import GPU
from ...simulator.workload import DTYPE_BYTES
from ..measured import MeasuredRun
from .base import (
    WORKLOAD,
    WORKLOAD_MORE,
    BadEntry,
    Entry,
    Format,
    Given,
    Measurement,
    Names,
    half_unit,
    number,
    seconds,
)  # fmt: skip
from .reading import document_text
from .stated import stated_run

SOURCE: Final = "NATTEN profiler"
# Calls just before the profiled one: the default of --warmup-steps (natten/profiler.py, 0.21). Dense attention of torch queues
# them without waiting. NATTEN's own are waited for one by one, and the profiler starts after the last of them, on an idle GPU:
# a rest (natten/profiling_utils/profiling.py, the calls of torch.cuda.synchronize).
QUEUED: Final = {"cudnn": 10}
# Tensors of the output's size that go through the L2 just before every call, the profiled one too: queries, keys, values and
# the output's gradient, and a clone of each (the same file, _profile_na_with_torch and _profile_fmha_with_torch).
CLONED: Final = 8
_HEADER: Final = ("Framework", "Kernel category", "Arch", "Operation", "# calls", "Runtime")
_BORDERS: Final = re.compile("[│┃|]")
_RUNTIME: Final = re.compile(r"([0-9.]+)\s*(ns|us|µs|μs|ms|s)")
_UNIT_S: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0}
_TILE: Final = re.compile(r"\(\s*[0-9]+(?:\s*,\s*[0-9]+)*\s*,?\s*\)")
# The user's command line states one direction or both in one profile; a row's operation says which it is.
_NEEDS: Final = tuple(name for name in WORKLOAD if name != "direction")


def entries(path: Path, given: Given) -> Iterator[Entry]:
    """One entry: the whole profile."""
    rows: list[tuple[int, list[str]]] = []
    best: dict[str, str] = {}
    tables = 0
    for line, text in enumerate(document_text(path).splitlines(), 1):
        cells = [cell.strip() for cell in _BORDERS.split(text)[1:-1]]
        if tuple(cells) == _HEADER:
            tables += 1
        elif len(cells) == len(_HEADER) and tables:
            rows.append((line, cells))
        elif len(cells) == 2 and not tables:
            best[cells[0]] = cells[1]
    if tables != 1:
        raise InputError(
            f"{str(path)!r} has {tables or 'no'} tables of NATTEN's profiler: expected one, with {', '.join(_HEADER)}"
        )
    yield Entry("its table", "1", (rows, best))


def read(entry: Entry, given: Given, names: Names) -> list[Measurement]:
    """A profile: the forward run, the backward run, or both."""
    rows, best = entry.value
    gpu = names.gpu("")
    times: dict[str, float] = defaultdict(float)
    used: dict[str, str] = {}
    summed = allowed = 0.0
    total: float | None = None
    for line, (framework, category, arch, operation, calls, runtime) in rows:
        match = _RUNTIME.fullmatch(runtime)
        if match is None:
            raise BadEntry(f"line {line}: Runtime {runtime[:40]!r} is not a time such as 1.234ms", "no runtime")
        time_s = seconds(match[1], f"line {line}: Runtime", _UNIT_S[match[2]])
        if operation == "Total":
            total = time_s
            continue
        if not calls.isdigit() or int(calls) < 1:
            raise BadEntry(f"line {line}: # calls {calls[:40]!r} is not a number of calls", "no number of calls")
        summed += time_s
        allowed += half_unit(match[1]) * _UNIT_S[match[2]]
        if category == "attention":
            _check_arch(arch, gpu, line)
            direction = "bwd" if re.search("backward|bprop", operation, re.IGNORECASE) else "fwd"
            times[direction] += time_s
            used[direction] = names.kernel(framework if framework == "cuDNN" else operation, gpu)
    if total is None:
        raise BadEntry("the table has no row 'Total': it is cut short", "no total")
    if abs(summed - total) > allowed + 0.001 * total:
        raise BadEntry(f"its rows sum to {summed:.6g} s but its total is {total:.6g} s", "rows contradict the total")
    if not times:
        raise BadEntry("the table has no attention kernel", "no attention kernel")
    found = []
    for direction, time_s in times.items():
        run = stated_run(
            given,
            gpu,
            used[direction],
            time_s,
            **{"software": given.software or f"NATTEN profiler, {used[direction]}", **_tiles(best, given, direction)},
            direction=direction,
            warm=False,
            method="NATTEN profiler (torch profiler, device time)",
            source=SOURCE,
            calls_before=QUEUED.get(used[direction], 0),
        )
        found.append(Measurement(replace(run, warm=_in_l2(run, gpu)), None, direction))
    return found


def _in_l2(run: MeasuredRun, gpu: GPU) -> bool:
    """Whether the L2 holds all that is cloned before a call."""
    w = run.workload
    return CLONED * w.batch * w.tokens * w.heads * w.head_dim * DTYPE_BYTES[w.dtype] <= gpu.l2_bytes


def _check_arch(arch: str, gpu: GPU, line: int) -> None:
    """A kernel may be built for an older GPU than it ran on, never for a newer one."""
    if match := re.fullmatch(r"Sm([0-9]+)", arch):
        built = int(number(match[1], "Arch"))
        if built > int(gpu.arch.removeprefix("sm_")):
            raise BadEntry(
                f"line {line}: a kernel for {arch} does not run on {gpu.key} ({gpu.arch})", "Arch contradicts"
            )


def _tiles(best: dict[str, str], given: Given, direction: str) -> dict[str, str]:
    if given.q_tile or given.kv_tile:
        return {}
    prefix = "backward_" if direction == "bwd" else ""
    pair = [best.get(f"{prefix}{name}_tile_shape", "") for name in ("q", "kv")]
    if not all(_TILE.fullmatch(text) for text in pair):
        return {}
    q_tile, kv_tile = ("x".join(re.findall("[0-9]+", text)) for text in pair)
    return {"q_tile": q_tile, "kv_tile": kv_tile}


FORMAT: Final = Format(
    "NATTEN profiler output",
    SOURCE,
    entries,
    read,
    needs=("gpu", *_NEEDS),
    takes=WORKLOAD_MORE,
)
