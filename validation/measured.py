"""Measured runs: one schema for every table, each row with its source and method."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import InputError
from ..simulator import Conditions, Workload
from ..simulator.workload import parse_grid

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class MeasuredRun:
    """One measured attention call.

    Attributes:
        id: unique in its table. gpu, kernel: keys of a hardware model and a kernel profile. software: what really ran.
        batch, heads, heads_kv, grid, cached, head_dim, dtype: the workload (see Workload).
        pattern: pattern text. q_tile, kv_tile: tile shapes, empty for the kernel's default.
        measures: "kernel" (the attention kernel alone), or "call": what a serving engine's attention call does too:
            "call+append" writes new keys and values to the cache, "call+append+rope" rotates the queries as well.
        time_s: median seconds. method: how it was measured. source: where the figure is from.
        warm, graph: L2 warm; launched in a CUDA graph.
    """

    id: str
    gpu: str
    kernel: str
    software: str
    batch: int
    heads: int
    heads_kv: int
    grid: str
    cached: int
    head_dim: int
    dtype: str
    pattern: str
    q_tile: str
    kv_tile: str
    measures: str
    warm: bool
    graph: bool
    time_s: float
    method: str
    source: str

    @property
    def workload(self) -> Workload:
        """The workload of the run."""
        return Workload(
            parse_grid(self.grid),
            self.heads,
            self.head_dim,
            batch=self.batch,
            heads_kv=self.heads_kv,
            cached=self.cached,
            dtype=self.dtype,
        )

    @property
    def conditions(self) -> Conditions:
        """How the call was run."""
        return Conditions(self.warm, self.graph, "append" in self.measures, "rope" in self.measures)


_MEASURES = ("kernel", "call", "call+append", "call+append+rope")


def load_runs(path: str | Path) -> list[MeasuredRun]:
    """Read a table of measured runs; all of it or nothing.

    Raises:
        InputError: no such file, a missing or unknown column, or a bad value, with its line.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            names = [item.name for item in fields(MeasuredRun)]
            header = reader.fieldnames or []
            for name in names:
                if name not in header:
                    raise InputError(f"{str(path)!r} has no column {name!r}: expected {', '.join(names)}")
            return [_run(row, f"{str(path)!r} line {reader.line_num}") for row in reader]
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is not a CSV table: {error}") from None


def _run(row: dict[str, str], where: str) -> MeasuredRun:
    values: dict[str, object] = {}
    for item in fields(MeasuredRun):
        text = row[item.name]
        if text is None:
            raise InputError(f"{where} is too short: it has no {item.name!r}")
        try:
            values[item.name] = _READ[str(item.type)](text)
        except ValueError:
            raise InputError(f"{where}: {item.name} {text!r} is not {_KIND[str(item.type)]}") from None
    run = MeasuredRun(**values)  # type: ignore[arg-type]
    if not (math.isfinite(run.time_s) and run.time_s > 0):
        raise InputError(f"{where}: time_s {row['time_s']!r} is not a positive time in seconds")
    if run.measures not in _MEASURES:
        raise InputError(f"{where}: measures {run.measures!r} is unknown: expected one of {', '.join(_MEASURES)}")
    return run


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError
    return text == "1"


_READ: dict[str, Callable[[str], object]] = {"str": str, "int": int, "float": float, "bool": _flag}
_KIND = {"int": "a whole number", "float": "a number", "bool": "0 or 1", "str": "text"}
