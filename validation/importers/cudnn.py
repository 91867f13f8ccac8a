"""cudnn-frontend's benchmark CSV files, in the four layouts it has had.

* training: one pass a row (``profile_pass``, ``time_ms``, ``tflops``); before, both passes in a row (``fwd_time_ms``...).
* artifact: older still; GPU and dtype only in the file's name, causal as a flag, CUDA events around the call.
* inference: ``phase`` "context" or "generation", ``q_tokens`` new tokens at the end of ``kv_len`` keys.

Times are milliseconds: medians of the profiler's kernel times, L2 flushed before each (artifact: events, L2 warm).
``attn_mask``: no_mask; top_left and bottom_right are causal masks so aligned. ``sliding_window_size`` W: W keys, the
query's own among them (flops.py counts from q - W + 1). ``tflops``: training counts unmasked pairs, forward
2 * pairs * (d_qk + d_vo), backward 2 * pairs * (3 d_qk + 2 d_vo), for each query head; inference counts all pairs of the
rectangle, half of them when it is square and causal, and leaves windows out; artifact 4 * pairs * d, half when causal,
backward 2.5 times that. Inference rows do not say whether a context call is causal: the count of a square one does; a
chunk (q_tokens < kv_len) needs ``-p``. Source: github.com/NVIDIA/cudnn-frontend, benchmark/attention_training
(flops.py, benchmark_single_sdpa.py, runner.py), benchmark/attention_inference, benchmark/sdpa_benchmark_training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...errors import InputError
from ..measured import MeasuredRun
from ..plausible import GEMMS, Claim, pair_count
from .base import (
    BadEntry,
    Entry,
    Format,
    Given,
    Measurement,
    Names,
    NoRun,
    dtype_name,
    number,
    seconds,
    whole,
    window_text,
)  # fmt: skip
from .reading import check_header, csv_rows

SOURCE: Final = "cudnn-frontend benchmark results (github.com/NVIDIA/cudnn-frontend)"
_SHAPE: Final = ("backend", "batch_size", "num_q_heads", "num_kv_heads")
_BOTH: Final = ("fwd", "bwd")


@dataclass(frozen=True)
class Layout:
    """Columns of one layout; ``passes`` maps a direction to its columns of time and TFLOP/s.

    ``decimals``: those that times and TFLOP/s are rounded to.
    """

    needs: tuple[str, ...]
    lengths: tuple[str, str]
    dims: tuple[str, str]
    passes: dict[str, tuple[str, str]]
    decimals: tuple[int, int]
    records_gpu: bool = True


_TRAINING = (*_SHAPE, "data_type", "attn_mask", "q_seqlen", "kv_seqlen", "head_dim_qk", "head_dim_vo", "profile_pass")
_LENGTHS, _DIMS = ("q_seqlen", "kv_seqlen"), ("head_dim_qk", "head_dim_vo")
# The first layout whose columns are all there is the file's.
LAYOUTS: Final = {
    "inference": Layout(
        (*_SHAPE, "phase", "data_type", "kv_cache_dtype", "q_tokens", "kv_len", "head_dim_qk", "head_dim_vo", "kind",
         "sliding_window_size", "time_ms", "tflops", "gpu_name"),
        ("q_tokens", "kv_len"), _DIMS, {"fwd": ("time_ms", "tflops")}, (6, 3),
    ),
    "training": Layout(
        (*_TRAINING, "time_ms", "tflops", "gpu_name"), _LENGTHS, _DIMS,
        dict.fromkeys(_BOTH, ("time_ms", "tflops")), (3, 0),
    ),
    "training, both passes": Layout(
        (*_TRAINING, "fwd_time_ms", "bwd_time_ms", "fwd_tflops", "bwd_tflops", "gpu_name"),
        _LENGTHS, _DIMS, {d: (f"{d}_time_ms", f"{d}_tflops") for d in _BOTH}, (3, 0),
    ),
    "artifact": Layout(
        (*_SHAPE, "q_seqlen", "kv_seqlen", "head_dim", "is_causal", "forward_time", "backward_time",
         "fwd_tflops_per_sec", "bwd_tflops_per_sec"),
        _LENGTHS, ("head_dim", "head_dim"),
        {"fwd": ("forward_time", "fwd_tflops_per_sec"), "bwd": ("backward_time", "bwd_tflops_per_sec")}, (3, 3),
        records_gpu=False,
    ),
}  # fmt: skip


def entries(path: Path, given: Given) -> Iterator[Entry]:
    """The rows with their layout. InputError when no layout fits, or options are missing for one that needs them."""
    rows = csv_rows(path)
    _, header = next(rows)
    key = next((key for key, layout in LAYOUTS.items() if set(layout.needs) <= set(header)), None)
    if key is None:
        nearest = max(LAYOUTS.values(), key=lambda layout: len(set(layout.needs) & set(header)))
        missing = [name for name in nearest.needs if name not in header]
        raise InputError(f"{str(path)!r} has no column {missing[0]!r}: expected {', '.join(nearest.needs)}")
    check_header(path, header, LAYOUTS[key].needs)
    if not LAYOUTS[key].records_gpu and (given.gpu is None or given.dtype is None):
        raise InputError(f"{str(path)!r} records no GPU and no dtype: expected the options --gpu and --dtype")
    if LAYOUTS[key].records_gpu and given.dtype is not None:
        raise InputError(f"--dtype was given, but {str(path)!r} records it itself")
    if key != "inference" and given.pattern is not None:
        raise InputError(f"-p was given, but {str(path)!r} records the mask itself")
    for line, row in rows:
        yield Entry(f"line {line}", str(line), (key, header, row))


def read(entry: Entry, given: Given, names: Names) -> list[Measurement]:
    """One row: a run for each direction it holds a time of."""
    key, header, fields = entry.value
    layout = LAYOUTS[key]
    if len(fields) != len(header):
        raise BadEntry(f"it has {len(fields)} fields: expected {len(header)}", "wrong number of fields")
    row: dict[str, str] = dict(zip(header, fields, strict=True))
    if row.get("success", "True") != "True":
        raise NoRun("the benchmark failed or was not supported")
    queries, keys = (whole(row[name], name) for name in layout.lengths)
    head_dim, head_dim_v = (whole(row[name], name) for name in layout.dims)
    pattern = _PATTERNS[key](row, queries, keys, given)
    gpu = names.gpu(row.get("gpu_name", ""))
    wanted = row.get("profile_pass", "both" if key == "artifact" else "fwd")
    if wanted not in (*_BOTH, "both"):
        raise BadEntry(f"profile_pass {wanted[:60]!r} is unknown: expected fwd, bwd or both", "profile_pass is unknown")
    in_cache = key == "inference" and pattern != "dense" and keys >= queries
    found = []
    for direction in [item for item in layout.passes if wanted in (item, "both")]:
        time_column, speed_column = layout.passes[direction]
        if key == "artifact" and row[time_column] == "inf":
            continue  # this layout writes inf for what failed
        time_s = seconds(row[time_column], time_column)
        run = MeasuredRun(
            id="",
            gpu=gpu.key,
            kernel=names.kernel(row["backend"], gpu),
            software=given.software or _software(row),
            batch=whole(row["batch_size"], "batch_size"),
            heads=whole(row["num_q_heads"], "num_q_heads"),
            heads_kv=whole(row["num_kv_heads"], "num_kv_heads"),
            grid=str(queries),
            cached=keys - queries if in_cache else 0,
            head_dim=head_dim,
            dtype=_dtype(row, given),
            pattern=pattern,
            q_tile="",
            kv_tile="",
            measures="call" if key == "artifact" else "kernel",
            warm=key == "artifact",
            graph=False,
            time_s=time_s,
            method="CUDA events, L2 as the call before left it"
            if key == "artifact"
            else "profiler, L2 flushed, median",
            source=SOURCE,
            head_dim_v=None if head_dim_v == head_dim else head_dim_v,
            kv_grid="" if in_cache or keys == queries else str(keys),
            direction=direction,
            config="deterministic=1" if direction == "bwd" and row.get("deterministic_bwd") == "True" else "",
            samples=whole(row["num_iterations"], "num_iterations") if row.get("num_iterations") else None,
        )
        found.append(Measurement(run, _claim(key, run, row, time_column, speed_column), direction))
    if not found:
        raise NoRun("the benchmark failed or was not supported")
    return found if len(found) > 1 else [found[0]._replace(suffix="")]


def _dtype(row: dict[str, str], given: Given) -> str:
    text = given.dtype or row["data_type"]
    if text == "mxfp8":
        raise NoRun("block-scaled mxfp8")
    # An fp8 cache stands for the whole graph in fp8: queries, keys, values and output (README of the inference suite).
    kv_text = row.get("kv_cache_dtype") or ""
    return "fp8" if kv_text.startswith("fp8") else dtype_name(text, "data_type")


def _software(row: dict[str, str]) -> str:
    detail = row.get("backend_detail") or ""
    if not detail and row.get("cudnn_version") and row["backend"].startswith("cudnn"):
        backend_version = (row.get("cudnn_backend_version") or "").partition(".")[0]  # pandas writes 91901 as 91901.000
        detail = f"frontend {row['cudnn_version']} cuDNN {backend_version}".strip()
    return detail if detail.startswith(row["backend"]) else f"{row['backend']} {detail}".strip()


def _training_pattern(row: dict[str, str], queries: int, keys: int, given: Given) -> str:
    mask = row["attn_mask"]
    window = whole(row.get("sliding_window_size") or "0", "sliding_window_size", minimum=0)
    if mask not in ("no_mask", "top_left", "bottom_right"):
        raise BadEntry(f"attn_mask {mask[:60]!r} is unknown", "attn_mask is unknown")
    if mask == "no_mask":
        if window:
            raise NoRun("a window without a causal mask")
        return "dense"
    if mask == "top_left" and queries != keys:
        raise NoRun("a causal mask aligned at the start of a longer key sequence")
    return window_text(window)


def _artifact_pattern(row: dict[str, str], queries: int, keys: int, given: Given) -> str:
    if row["is_causal"] not in ("True", "False"):
        raise BadEntry(f"is_causal {row['is_causal'][:60]!r} is neither True nor False", "is_causal is no flag")
    if row["is_causal"] == "True" and queries != keys:
        raise NoRun("a causal mask aligned at the start of a longer key sequence")
    return "causal" if row["is_causal"] == "True" else "dense"


def _inference_pattern(row: dict[str, str], queries: int, keys: int, given: Given) -> str:
    if "mla_absorbed" in row["kind"]:
        raise NoRun("keys and values share their storage (absorbed MLA)")
    window = whole(row["sliding_window_size"] or "0", "sliding_window_size", minimum=0)
    if row["phase"] not in ("context", "generation"):
        raise BadEntry(f"phase {row['phase'][:60]!r} is unknown: expected context or generation", "phase is unknown")
    if window or row["phase"] == "generation":
        return window_text(window)
    if given.pattern is not None:
        if given.pattern.lower() not in ("causal", "dense"):
            raise InputError(f"pattern {given.pattern!r}: a context call of this benchmark is causal or dense")
        return given.pattern.lower()
    if queries != keys:
        raise BadEntry(
            "it does not say whether this chunk is causal: -p causal or -p dense states it", "no mask stated"
        )
    # The rectangle's count is halved for a causal call: which of the two is the row's own?
    flop = whole(row["batch_size"], "batch_size") * whole(row["num_q_heads"], "num_q_heads") * 2.0 * queries * keys
    flop *= whole(row["head_dim_qk"], "head_dim_qk") + whole(row["head_dim_vo"], "head_dim_vo")
    full = flop / seconds(row["time_ms"], "time_ms") / 1e12
    return "causal" if number(row["tflops"], "tflops") < 0.7 * full else "dense"


_PATTERNS: Final[dict[str, Callable[[dict[str, str], int, int, Given], str]]] = {
    "inference": _inference_pattern,
    "training": _training_pattern,
    "training, both passes": _training_pattern,
    "artifact": _artifact_pattern,
}


def _claim(key: str, run: MeasuredRun, row: dict[str, str], time_column: str, speed_column: str) -> Claim | None:
    text = row[speed_column]
    tflops = number(text, speed_column)
    if tflops <= 0:
        raise BadEntry(f"{speed_column} {text!r} is not a positive speed", f"{speed_column} is not positive")
    workload = run.workload
    if key.startswith("training"):
        on_qk, on_v = GEMMS[run.direction]
        flop = 2.0 * pair_count(run.pattern, workload) * (on_qk * workload.head_dim + on_v * workload.dim_v)
    else:
        flop = 2.0 * workload.batch * workload.heads * workload.tokens * workload.kv_tokens
        flop *= (workload.head_dim + workload.dim_v) * (2.5 if run.direction == "bwd" else 1.0)
        if run.pattern == "causal" and workload.tokens == workload.kv_tokens:
            flop *= 0.5
        if key == "inference" and run.pattern.startswith("window") and workload.tokens == workload.kv_tokens:
            flop *= 0.5  # causal, and its window left out of the count
    time_decimals, speed_decimals = LAYOUTS[key].decimals
    rounding = 0.5 * (10.0**-time_decimals / number(row[time_column], time_column) + 10.0**-speed_decimals / tflops)
    return Claim(tflops * 1e12, flop, rounding)


FORMAT: Final = Format("cudnn-frontend benchmark CSV", SOURCE, entries, read, takes=("dtype", "pattern"))
