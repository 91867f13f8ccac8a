"""Measured runs: one schema for every table, each row with its source and method."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property, lru_cache
from pathlib import Path

from ..errors import InputError, suggest, unknown
from ..files import names_file, whole_file
from ..hwmodels import load_gpu
from ..simulator import Conditions, Workload, parse_pattern
from ..simulator.workload import parse_grid

DATA = Path(__file__).parent / "data"
SCHEMA = 1  # of a line of attncast measure
MAX_LINE_BYTES = 1_000_000


@dataclass(frozen=True)
class MeasuredRun:
    """One measured attention call.

    Attributes:
        id: unique in its table. gpu, kernel: keys of a hardware model and a kernel profile. software: what really ran.
            A kernel without a profile has a plain name of its own; those of linear attention begin with ``LINEAR``, and
            their pattern says what an output depends on, not which scores are computed.
        batch, heads, heads_kv, grid, cached, head_dim, dtype: the workload (see Workload).
        pattern: pattern text. q_tile, kv_tile: tile shapes, empty for the kernel's default.
        measures: "kernel" (the attention kernel alone), or "call": what a serving engine's attention call does too:
            "call+append" writes new keys and values to the cache, "+rope" rotates the queries as
            well, "+quantise" converts them to the dtype of the products.
        warm, graph: L2 warm; launched in a CUDA graph.
        time_s: median seconds. method: how it was measured. source: where the figure is from.

    The rest may be left out of a table, or empty in it:
        head_dim_v, kv_dtype, kv_grid: as in Workload, where they differ. direction: "fwd", "bwd" or "fwdbwd".
        config: the kernel's configuration as ``key=value`` words ("BLOCK_M=128 num_warps=8").
        calls_before: calls like it that ran just before without a rest, as far as known.
        rotary_dim: dims of a head that it rotates, where it rotates queries; 0: all.
        clock_hz: SM clock while measuring, or what it was locked to: an upper bound for the forecast.
        spread_s: half the distance of the quartiles. samples: runs behind the median.
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
    head_dim_v: int | None = None
    kv_dtype: str = ""
    kv_grid: str = ""
    direction: str = "fwd"
    config: str = ""
    clock_hz: float | None = None
    spread_s: float | None = None
    samples: int | None = None
    calls_before: int = 0
    rotary_dim: int = 0

    @cached_property
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
            kv_dtype=self.kv_dtype or None,
            kv_grid=parse_grid(self.kv_grid, "kv grid") if self.kv_grid else None,
            head_dim_v=self.head_dim_v,
        )

    @cached_property
    def conditions(self) -> Conditions:
        """How the call was run."""
        what, *done = self.measures.split("+")
        engine = self.software.split()[0].lower() if done and what == "call" else ""
        return Conditions(
            self.warm,
            self.graph,
            "append" in done,
            "rope" in done,
            "quantise" in done,
            engine,
            self.clock_hz,
            self.calls_before,
            self.rotary_dim,
        )


MEASURES = ("kernel", "call", "call+append", "call+append+quantise", "call+append+rope", "call+append+rope+quantise")
DIRECTIONS = ("fwd", "bwd", "fwdbwd")
LINEAR = "linear-"
COLUMNS = tuple(item.name for item in fields(MeasuredRun))
_REQUIRED = tuple(item.name for item in fields(MeasuredRun) if item.default is MISSING)
_CELLS = tuple(
    (item.name, str(item.type).removesuffix(" | None"), item.name in _REQUIRED) for item in fields(MeasuredRun)
)


def load_curated() -> list[MeasuredRun]:
    """The project's own table: rows of published tables, and of NATTEN's logs; ``data/README.md`` tells what they are."""
    return [run for name in ("measured", "neighborhood") for run in load_runs(DATA / f"{name}.csv")]


def load_runs(path: str | Path) -> list[MeasuredRun]:
    """Read a table of measured runs, CSV or (``.jsonl``) the lines of ``attncast measure``; all of it or nothing.

    Raises:
        InputError: no such file, a missing or unknown column, or a bad value, with its line.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        return _load_lines(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets begin a file with a byte order mark
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            if not header:
                raise InputError(f"{str(path)!r} is empty: expected a table of attncast import or measure")
            for name in _REQUIRED:
                if name not in header:
                    raise InputError(f"{str(path)!r} has no column {name!r}: expected {', '.join(_REQUIRED)}")
            for name in header:
                if name not in COLUMNS:
                    raise InputError(f"{str(path)!r} has an unknown column {name!r}{suggest(name, COLUMNS)}")
                if header.count(name) > 1:
                    raise InputError(f"{str(path)!r} has column {name!r} {header.count(name)} times: expected it once")
            return [_run(row, f"{str(path)!r} line {reader.line_num}") for row in reader]
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{str(path)!r} is not a CSV table: {error}") from None


def load_table(name: str) -> list[MeasuredRun]:
    """A table that comes with attncast ("curated", or the name of a file of ``data/``), or a file.

    Raises:
        InputError: see ``load_runs``.
    """
    if name == "curated":
        return load_curated()
    packaged = DATA / f"{name}.csv"
    return load_runs(packaged if name == packaged.stem and packaged.is_file() else name)


def _load_lines(path: Path) -> list[MeasuredRun]:
    """Runs of a JSON lines file; lines that say why a case gave none are passed over."""
    runs = []
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{str(path)!r} line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise InputError(f"{where} is longer than {MAX_LINE_BYTES:,} bytes")
                found = measured_line(line, where)
                if found is not None:
                    runs.append(found)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None
    return runs


def measured_line(line: bytes, where: str) -> MeasuredRun | None:
    """The run of one line of ``attncast measure``; None for the line of a case that gave none.

    Raises:
        InputError: the line is cut short or holds neither; ``where`` names it.
    """
    try:
        record = json.loads(line)
    except ValueError:  # not JSON, or not UTF-8
        raise InputError(f"{where} is no whole line of JSON: expected a line of attncast measure") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not {"run", "problem"} & set(record):
        raise InputError(
            f"{where} is no line of attncast measure: expected 'schema': {SCHEMA} and a 'run' or 'problem'"
        )
    if "problem" in record:
        return None
    values = record["run"]
    if not isinstance(values, dict):
        raise InputError(f"{where}: 'run' is {str(values)[:60]!r}, expected an object")
    for name in values:
        if name not in COLUMNS:
            raise InputError(f"{where} has an unknown field {name!r}{suggest(name, COLUMNS)}")
    for name in _REQUIRED:
        if values.get(name) is None:
            raise InputError(f"{where} has no {name!r}")
    return _run({name: _write(value) for name, value in values.items()}, where)


def _run(row: dict[str, str], where: str) -> MeasuredRun:
    if (more := row.get(None)) is not None:  # type: ignore[call-overload]  # where csv puts cells beyond the header
        raise InputError(f"{where} has more cells than there are columns, from {more[0]!r} on")
    values: dict[str, object] = {}
    for name, kind, required in _CELLS:
        text = row.get(name, "")
        if text is None:
            raise InputError(f"{where} is too short: it has no {name!r}")
        if text == "" and not required:
            continue
        try:
            values[name] = _READ[kind](text)
        except ValueError:
            raise InputError(f"{where}: {name} {text!r} is not {_KIND[kind]}") from None
    run = MeasuredRun(**values)  # type: ignore[arg-type]
    if not (math.isfinite(run.time_s) and run.time_s > 0):
        raise InputError(f"{where}: time_s {row['time_s']!r} is not a positive time in seconds")
    for name in ("calls_before", "rotary_dim"):
        if getattr(run, name) < 0:
            raise InputError(f"{where}: {name} {getattr(run, name)} is below 0: expected 0 or more")
    for name, known in (("measures", MEASURES), ("direction", DIRECTIONS)):
        if getattr(run, name) not in known:
            raise unknown(f"{name} in {where}", getattr(run, name), known)
    if not run.software.strip():
        raise InputError(f"{where} has no 'software': expected what ran, e.g. 'VLLM 0.24.0'")
    try:
        _pattern(run.pattern).check(run.workload)
        gpu = load_gpu(run.gpu)
        _ = run.conditions  # which checks them
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    # "H100" and "h100" are one group; a file of the user's own keeps its path, by which it is found again.
    return run if names_file(run.gpu) or run.gpu == gpu.key else replace(run, gpu=gpu.key)


_pattern = lru_cache(maxsize=4096)(parse_pattern)


def save_runs(path: str | Path, runs: Sequence[MeasuredRun]) -> None:
    """Write a table of measured runs, whole or not at all."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in runs:
            writer.writerow([_write(getattr(run, name)) for name in COLUMNS])


def _write(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError
    return text == "1"


_READ: dict[str, Callable[[str], object]] = {"str": str, "int": int, "float": float, "bool": _flag}
_KIND = {"int": "a whole number", "float": "a number", "bool": "0 or 1", "str": "text"}
