"""Sweeps: every workload of a file with every pattern, kernel and GPU of it, one vectorised forecast for each group."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import string
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError, unknown
from ..files import names_file
from ..hwmodels import GPU, load_gpu
from .batch import stack
from .call import kernel_work, resolve_tiles, single_call
from .calls import Calls, Costs
from .conditions import DEFAULT_CONDITIONS, Conditions
from .estimate import Baseline
from .forecast import forecast
from .kernel_choice import baseline_profile, choose_profile
from .patterns import Pattern, parse_pattern
from .patterns.band import Band
from .predict import bound_by
from .profile import KernelProfile
from .schedule import history_parts
from .tiles import TileWork
from .workload import Grid, Workload, grid_text, parse_grid

MAX_CALLS = 1_000_000
TOP = ("gpus", "patterns", "kernels", "workload", "values", "conditions")
WORKLOAD = ("grid", "heads", "head_dim", "batch", "heads_kv", "head_dim_v", "kv_grid", "cached", "dtype", "kv_dtype")
CONDITIONS = ("cold", "graph")


@dataclass(frozen=True)
class Row:
    """One forecast of a sweep; times are NaN and ``problem`` says why where the call cannot be run.

    Attributes:
        values: what was put into the pattern's braces, as ``window=512`` words.
        tokens: queries of one sequence. density: share of the query-key pairs that are kept. bound_by: what decides.
        low_s, high_s: 80% interval of time_s. The rest as in Workload and Estimate.
    """

    gpu: str
    kernel: str
    pattern: str
    values: str
    grid: str
    tokens: int
    cached: int
    batch: int
    heads: int
    heads_kv: int
    head_dim: int
    head_dim_v: int
    dtype: str
    kv_dtype: str
    q_tile: str = ""
    kv_tile: str = ""
    density: float = math.nan
    time_s: float = math.nan
    low_s: float = math.nan
    high_s: float = math.nan
    kernel_time_s: float = math.nan
    baseline: str = ""
    baseline_s: float = math.nan
    speedup: float = math.nan
    bound_by: str = ""
    problem: str = ""


COLUMNS = tuple(item.name for item in fields(Row))


@dataclass(frozen=True)
class Group:
    """What is forecast together: one GPU, kernel and pattern, with every workload."""

    gpu: GPU
    kernel: str
    pattern: str
    values: Mapping[str, int | float | str]
    workloads: tuple[Workload, ...]
    conditions: Conditions

    @property
    def key(self) -> str:
        """Distinct for what makes a difference to its rows: the figures of the GPU too, since its file may be edited.

        Raises InputError where the kernel is a file that is not there.
        """
        from .. import __version__
        from .profile_file import file_stamp

        gpu = {name: value for name, value in vars(self.gpu).items() if name not in ("figures", "path")}
        told = [
            __version__, gpu, self.kernel, self.pattern, dict(self.values), asdict(self.conditions),
            [asdict(workload) for workload in self.workloads],
        ]  # fmt: skip
        if names_file(self.kernel):
            told.append(file_stamp(self.kernel))
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=repr).encode()).hexdigest()[:24]


def load_sweep(path: str | Path) -> list[Group]:
    """Read a sweep: ``gpus``, ``patterns``, ``kernels`` (lists), ``[workload]`` and ``[values]`` (values or lists of them).

    Every combination of the workload's entries is a workload. A pattern may hold names in braces, ``"window left={w}
    right=0"``: each is one of ``[values]``, and every combination of theirs is a pattern.

    Raises:
        InputError: no such file, an unknown or missing entry, or a wrong value; GPUs, patterns and workloads are read now.
    """
    name = str(path)
    document = _document(Path(path))
    for key in document:
        if key not in TOP:
            raise unknown(f"entry in {name!r}", key, TOP)
    gpus = [load_gpu(str(gpu)) for gpu in _several(document, "gpus", name)]
    kernels = [str(kernel) for kernel in _several(document, "kernels", name, ["auto"])]
    templates = [str(text) for text in _several(document, "patterns", name, ["dense"])]
    workloads = tuple(_workloads(_table(document, "workload", name), name))
    values = _table(document, "values", name)
    conditions = _conditions(_table(document, "conditions", name), name)
    patterns = [found for template in templates for found in _filled(template, values, name)]
    used = {part for template in templates for part in _names(template, name)}
    for key in values:
        if key not in used:
            raise InputError(f"values {key!r} in {name!r} are in no pattern: expected {{{key}}} in one of them")
    for text, _ in patterns:
        parse_pattern(text)
    calls = len(gpus) * len(kernels) * len(patterns) * len(workloads)
    if calls > MAX_CALLS:
        raise InputError(f"{name!r} asks for {calls:,} forecasts: expected at most {MAX_CALLS:,}")
    return [
        Group(gpu, kernel, text, filled, workloads, conditions)
        for gpu, kernel, (text, filled) in itertools.product(gpus, kernels, patterns)
    ]


def run_group(group: Group) -> list[Row]:
    """Forecast a group, in the order of its workloads."""
    rows: list[Row] = [_row(group, workload) for workload in group.workloads]
    pattern = parse_pattern(group.pattern)
    baselines = _baselines(group.gpu, group.workloads, group.conditions)
    parts: dict[KernelProfile, list[tuple[int, Baseline, Calls, TileWork, tuple[Grid, Grid]]]] = {}
    for index, workload in enumerate(group.workloads):
        try:
            profile, call, work, tiles = _call(group, pattern, workload)
            baseline = baselines[index]
            if isinstance(baseline, InputError):
                raise baseline
        except InputError as problem:
            rows[index] = replace(rows[index], problem=str(problem))
            continue
        parts.setdefault(profile, []).append((index, baseline, call, work, tiles))
    for profile, calls in parts.items():
        costs = forecast(group.gpu, profile, stack([call for _, _, call, _, _ in calls]))
        for place, (index, baseline, _, work, tiles) in enumerate(calls):
            rows[index] = _forecast_row(rows[index], baseline, profile, costs, place, work, tiles)
    return rows


def _call(
    group: Group, pattern: Pattern, workload: Workload
) -> tuple[KernelProfile, Calls, TileWork, tuple[Grid, Grid]]:
    pattern.check(workload)
    if len(pattern.layers()) > 1:
        raise InputError(f"pattern '{pattern}' differs by layer: expected one pattern for each forecast of a sweep")
    profile = choose_profile(
        group.kernel, group.gpu, pattern.family, workload.dtype, workload.head_dim, workload.tokens, workload.gqa_ratio,
        group.conditions.engine, workload.kv_dtype or workload.dtype,
        history_parts(workload.batch, workload.kv_heads, workload.kv_tokens), pattern.tile_axes, workload.dim_v,
    )  # fmt: skip
    profile = profile.program_of(workload)
    tiles = resolve_tiles(profile, pattern, workload, None, None)
    work = kernel_work(profile, pattern, workload, tiles)
    return profile, single_call(group.gpu, profile, workload, pattern, tiles, work, group.conditions), work, tiles


@lru_cache(maxsize=8)
def _baselines(gpu: GPU, workloads: tuple[Workload, ...], conditions: Conditions) -> tuple[Baseline | InputError, ...]:
    """The dense baseline of each workload, as ``dense_baseline`` gives it, in a forecast for each kernel."""
    found: list[Baseline | InputError] = []
    calls: dict[KernelProfile, list[tuple[int, Calls]]] = {}
    pattern = Band()
    for index, w in enumerate(workloads):
        found.append(InputError())
        try:
            best = baseline_profile(gpu, w.dtype, w.head_dim, conditions.engine, w.dim_v)
            profile = best.program_of(w)
            tiles = resolve_tiles(profile, pattern, w, None, None)
        except InputError as problem:
            found[-1] = problem
            continue
        work = kernel_work(profile, pattern, w, tiles)
        calls.setdefault(profile, []).append((index, single_call(gpu, profile, w, pattern, tiles, work, conditions)))
    for profile, some in calls.items():
        times_s = forecast(gpu, profile, stack([call for _, call in some])).time_s
        for (index, _), time_s in zip(some, times_s, strict=True):
            found[index] = Baseline(profile.key, float(time_s))
    return tuple(found)


def _forecast_row(
    row: Row,
    baseline: Baseline,
    profile: KernelProfile,
    costs: Costs,
    place: int,
    work: TileWork,
    tiles: tuple[Grid, Grid],
) -> Row:
    time_s = float(costs.time_s[place])
    return replace(
        row,
        kernel=profile.key,
        q_tile=grid_text(tiles[0]),
        kv_tile=grid_text(tiles[1]),
        density=work.pairs / work.dense_pairs,
        time_s=time_s,
        low_s=time_s * math.exp(-profile.interval),
        high_s=time_s * math.exp(profile.interval),
        kernel_time_s=float(costs.kernel_s[place]),
        baseline=baseline.kernel,
        baseline_s=baseline.time_s,
        speedup=baseline.time_s / time_s,
        bound_by=bound_by(costs, place),
    )


def _row(group: Group, w: Workload) -> Row:
    return Row(
        group.gpu.key,
        group.kernel,
        group.pattern,
        " ".join(f"{name}={value}" for name, value in group.values.items()),
        grid_text(w.grid),
        w.tokens,
        w.cached,
        w.batch,
        w.heads,
        w.kv_heads,
        w.head_dim,
        w.dim_v,
        w.dtype,
        str(w.kv_dtype),
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"cannot read {str(path)!r}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"{str(path)!r} is not TOML: {problem}") from None


def _several(document: Mapping[str, Any], key: str, name: str, default: list[Any] | None = None) -> list[Any]:
    found = document.get(key, default)
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
        raise InputError(f"{name!r} has {key} = {found!r}: expected a list of names, e.g. {key} = {_EXAMPLES[key]}")
    return found


_EXAMPLES = {"gpus": '["h100", "b200"]', "kernels": '["auto"]', "patterns": '["causal"]'}


def _table(document: Mapping[str, Any], key: str, name: str) -> dict[str, list[Any]]:
    """A table whose entries are values or lists of them, as lists."""
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise InputError(f"{name!r} has {key} = {found!r}: expected a table, [{key}]")
    lists = {entry: value if isinstance(value, list) else [value] for entry, value in found.items()}
    for entry, value in lists.items():
        if not value or any(isinstance(item, (list, dict)) for item in value):
            raise InputError(f"{key} {entry!r} in {name!r} is {found[entry]!r}: expected a value or a list of values")
    return lists


def _workloads(table: Mapping[str, list[Any]], name: str) -> Iterator[Workload]:
    for entry in table:
        if entry not in WORKLOAD:
            raise unknown(f"workload entry in {name!r}", entry, WORKLOAD)
    for entry in ("grid", "heads", "head_dim"):
        if entry not in table:
            raise InputError(f"{name!r} has no workload {entry!r}: expected grid, heads and head_dim in [workload]")
    for values in itertools.product(*table.values()):
        given = dict(zip(table, values, strict=True))
        for entry in ("grid", "kv_grid"):
            if entry in given:
                given[entry] = parse_grid(str(given[entry]), entry.replace("_", " "))
        for entry in ("dtype", "kv_dtype"):
            if entry in given:
                given[entry] = str(given[entry])
        yield Workload(**given)


def _conditions(table: Mapping[str, list[Any]], name: str) -> Conditions:
    for entry, value in table.items():
        if entry not in CONDITIONS:
            raise unknown(f"condition in {name!r}", entry, CONDITIONS)
        if len(value) != 1 or not isinstance(value[0], bool):
            raise InputError(f"condition {entry!r} in {name!r} is {value!r}: expected true or false")
    cold, graph = (table.get(entry, [False])[0] for entry in CONDITIONS)
    return replace(DEFAULT_CONDITIONS, warm_l2=not cold, graph=graph)


def _names(template: str, name: str) -> list[str]:
    try:
        return list(dict.fromkeys(part for _, part, _, _ in string.Formatter().parse(template) if part is not None))
    except ValueError as problem:
        raise InputError(f"pattern {template!r} in {name!r} cannot be read: {problem}") from None


def _filled(template: str, values: Mapping[str, Sequence[Any]], name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pattern with every combination of the values that it names."""
    names = _names(template, name)
    for part in names:
        if part not in values:
            raise unknown(f"value in pattern {template!r} of {name!r}", part, values or ["[values]"])
    for chosen in itertools.product(*(values[part] for part in names)):
        filled = dict(zip(names, chosen, strict=True))
        text = template
        for part, value in filled.items():
            text = text.replace(f"{{{part}}}", str(value))
        yield text, filled
