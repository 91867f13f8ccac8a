"""Tune a matrix of shapes, patterns and GPUs; what is done is kept line by line, so that a run can be interrupted."""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import jsonl
from ..errors import InputError, suggest, unknown
from ..hwmodels import GPU, load_gpu
from ..simulator import parse_pattern
from ..simulator.patterns import Pattern
from ..simulator.workload import Workload, parse_grid
from .result import Candidate, Resources, SpaceCounts, Tuning
from .tune import EFFORTS, tune

_TOP = ("gpus", "patterns", "kernel", "effort", "dtype", "shape")
_SHAPE = ("grid", "heads", "head_dim", "batch", "heads_kv", "cached", "dtype")


@dataclass(frozen=True)
class Case:
    """One tuning of a sweep."""

    gpu: GPU
    workload: Workload
    pattern: Pattern
    kernel: str
    effort: str

    @property
    def key(self) -> str:
        """What tells it from other cases, in a log of finished ones."""
        return json.dumps([self.gpu.key, asdict(self.workload), str(self.pattern), self.kernel, self.effort])


def read_sweep(path: str) -> list[Case]:
    """Read a sweep.

    The file names ``gpus``, ``patterns`` and, in tables ``[[shape]]``, shapes (``grid``, ``heads``, ``head_dim``; if need be
    ``batch``, ``heads_kv``, ``cached``, ``dtype``); ``kernel``, ``effort`` and ``dtype`` hold for all. Every combination is
    a case, GPU by GPU.

    Raises:
        InputError: no such file, no TOML, a missing, unknown or impossible entry.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read sweep {path!r}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"sweep {path!r} is not TOML: {error}") from None
    _known(document, _TOP, f"sweep {path!r}")
    gpus = [load_gpu(name) for name in _texts(document, "gpus", path)]
    patterns = [parse_pattern(text) for text in _texts(document, "patterns", path)]
    shapes = document.get("shape")
    if not isinstance(shapes, list) or not shapes or not all(isinstance(shape, dict) for shape in shapes):
        raise InputError(f"sweep {path!r} has no shapes: expected tables [[shape]] with grid, heads and head_dim")
    dtype = document.get("dtype", "bf16")
    workloads = [_workload(shape, dtype, f"sweep {path!r} shape {number}") for number, shape in enumerate(shapes, 1)]
    kernel, effort = document.get("kernel", "auto"), document.get("effort", "instant")
    if effort not in EFFORTS:
        raise unknown("effort", str(effort), EFFORTS)
    return [
        Case(gpu, workload, pattern, str(kernel), effort)
        for gpu, workload, pattern in itertools.product(gpus, workloads, patterns)
    ]


def run_sweep(cases: list[Case], log: Path) -> Iterator[tuple[Case, Tuning | InputError]]:
    """Tune each case and append it to ``log`` (JSON lines); cases that the log has are read from it.

    Yields each case with its tuning, or with the error that says why it cannot be tuned; errors are not kept.
    """
    done = finished(log)
    for case in cases:
        found = done.get(case.key)
        if found is None:
            try:
                found = tune(case.workload, case.pattern, case.gpu, case.kernel, effort=case.effort)
            except InputError as error:
                yield case, error
                continue
            jsonl.append(log, {"key": case.key, "workload": asdict(case.workload), "tuning": found.to_dict()})
        yield case, found


def finished(log: Path) -> dict[str, Tuning]:
    """Tunings of a log by key; a last line that was cut off does not count.

    Raises:
        InputError: the log cannot be read.
    """
    found = {}
    for record in jsonl.read(log):
        try:
            found[record["key"]] = restored(record["workload"], record["tuning"])
        except (KeyError, TypeError):
            continue
    return found


def restored(workload: Mapping[str, Any], document: Mapping[str, Any]) -> Tuning:
    """A tuning from its JSON form and its workload. Raises KeyError or TypeError when it is not one."""
    grids = {name: tuple(workload[name]) if workload[name] else None for name in ("grid", "kv_grid")}
    if workload["cached"]:
        grids["kv_grid"] = None  # follows from the cached tokens
    return Tuning(
        gpu=document["gpu"],
        kernel=document["kernel"],
        workload=Workload(**{**workload, **grids}),
        pattern=document["pattern"],
        effort=document["effort"],
        ranking=tuple(_candidate(item) for item in document["ranking"]),
        ruled_out=tuple(_candidate(item) for item in document["ruled_out"]),
        space=SpaceCounts(**document["space"]),
        seconds=document["seconds"],
        sure=document["sure"],
        notes=tuple(document["notes"]),
    )


def _candidate(item: Mapping[str, Any]) -> Candidate:
    resources = item["resources"]
    return Candidate(**{**item, "resources": None if resources is None else Resources(**resources)})


def _texts(document: Mapping[str, Any], name: str, path: str) -> list[str]:
    found = document.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise InputError(f"sweep {path!r}: {name} is {found!r}, expected a list of texts")
    return found


def _known(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in table:
        if name not in known:
            raise InputError(
                f"{where} has an unknown entry {name!r}: expected one of {', '.join(known)}{suggest(name, known)}"
            )


def _workload(shape: Mapping[str, Any], dtype: str, where: str) -> Workload:
    _known(shape, _SHAPE, where)
    for name in ("grid", "heads", "head_dim"):
        if name not in shape:
            raise InputError(f"{where} has no {name!r}")
    return Workload(**{"dtype": dtype, **shape, "grid": parse_grid(str(shape["grid"]))})
