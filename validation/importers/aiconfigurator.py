"""NVIDIA aiconfigurator's attention tables: ``context_attention_perf.txt``, ``generation_attention_perf.txt``.

One row is one attention call of a serving engine, replayed in a CUDA graph with a warm L2; mean of 6 to 20 calls.
``isl``: new tokens of each sequence (1 in decode). ``step``: tokens already cached, so keys are isl + step. (Collectors
of vLLM before 0.19 counted the new token in ``step``: one key too many here.) ``latency``: milliseconds of one call.
``window_size``: 0 for none; what W means differs by engine (``frameworks.toml``). Always causal. ``beam_width``: 1.
Source: github.com/ai-dynamo/aiconfigurator, collector/{sglang,vllm,trtllm}/collect_attn.py and helper.log_perf.

A table that was joined from several of them may name the columns ``gpu`` and ``kind`` ("context", "generation") instead
of ``device`` and ``op_name``, and ``latency_ms`` instead of ``latency``. Upstream stores Parquet now: convert it first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ...errors import InputError, suggest
from ...hwmodels import GPU
from ...simulator.schedule import history_parts
from ..measured import MeasuredRun
from .base import BadEntry, Entry, Format, Given, Measurement, Names, NoRun, dtype_name, seconds, whole, window_text
from .names import table
from .reading import check_header, csv_rows

SOURCE: Final = "NVIDIA aiconfigurator attention tables (Apache-2.0)"
_COLUMNS: Final = (
    "framework", "version", "kernel_source", "batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim",
    "attn_dtype", "kv_cache_dtype", "step",
)  # fmt: skip
# Either name will do; the first is upstream's.
_EITHER: Final = (("device", "gpu"), ("op_name", "kind"), ("latency", "latency_ms"))
_PHASES: Final = {
    "context": "prefill",
    "context_attention": "prefill",
    "generation": "decode",
    "generation_attention": "decode",
}


def entries(path: Path, given: Given) -> Iterator[Entry]:
    """The rows, each as a dict with upstream's column names."""
    rows = csv_rows(path)
    _, header = next(rows)
    header = [name.strip() for name in header]
    check_header(path, header, _COLUMNS)
    for names in _EITHER:
        found = [name for name in names if name in header]
        if len(found) != 1:
            problem = "both columns" if found else "neither of the columns"
            raise InputError(f"{str(path)!r} has {problem} {names[0]!r} and {names[1]!r}: expected one of them")
        header[header.index(found[0])] = names[0]
    for line, row in rows:
        yield Entry(f"line {line}", str(line), (header, row))


def read(entry: Entry, given: Given, names: Names) -> list[Measurement]:
    """One row, one run."""
    header, fields = entry.value
    if len(fields) != len(header):
        raise BadEntry(f"it has {len(fields)} fields: expected {len(header)}", "wrong number of fields")
    row: dict[str, str] = dict(zip(header, fields, strict=True))
    engine = _engine(row["framework"])
    if row["op_name"] not in _PHASES:
        raise BadEntry(f"{row['op_name'][:60]!r} is no attention of this table{suggest(row['op_name'], _PHASES)}")
    phase = _PHASES[row["op_name"]]
    new, cached = whole(row["isl"], "isl"), whole(row["step"], "step", minimum=0)
    if phase == "decode" and new != 1:
        raise BadEntry(f"isl is {new} in a generation row: expected 1", "isl is not 1 in a generation row")
    if whole(row.get("beam_width") or "1", "beam_width") != 1:
        raise NoRun("beam search")
    window = whole(row.get("window_size") or "0", "window_size", minimum=0)
    if window and window == engine.get("chunk"):
        cached, window = _in_chunk(window, new, cached, row["kernel_source"] in engine["chunking"]), 0
    gpu = names.gpu(row["device"])
    heads, heads_kv = whole(row["num_heads"], "num_heads"), whole(row["num_key_value_heads"], "num_key_value_heads")
    title = engine.get("backends", {}).get(row["kernel_source"], engine["title"])
    batch = whole(row["batch_size"], "batch_size")
    parts = history_parts(batch, heads_kv, new + cached)
    cache_dtype = engine.get("dtypes", {}).get(row["kv_cache_dtype"]) or dtype_name(
        row["kv_cache_dtype"], "kv_cache_dtype"
    )
    kernel = names.kernel(row["kernel_source"], gpu, phase, heads // heads_kv, cache_dtype, parts)
    dtype, kv_dtype, note = _dtypes(row, engine, phase, gpu, kernel)
    head_dim = whole(row["head_dim"], "head_dim")
    run = MeasuredRun(
        id="",
        gpu=gpu.key,
        kernel=kernel,
        software=given.software or f"{title} {row['version']} {row['kernel_source']}",
        batch=batch,
        heads=heads,
        heads_kv=heads_kv,
        grid=str(new),
        cached=cached,
        head_dim=head_dim,
        dtype=dtype,
        pattern=window_text(window + engine["window_more"] if window else 0),
        q_tile="",
        kv_tile="",
        measures=engine["measures"] + ("+quantise" if note and not _cast_before(row, engine) else ""),
        warm=True,
        graph=True,
        time_s=seconds(row["latency"], "latency"),
        method=f"CUDA graph replay, warm L2, {phase}{note}",
        source=SOURCE,
        kv_dtype="" if kv_dtype == dtype else kv_dtype,
        head_dim_v=engine.get("value_dims", {}).get(str(head_dim)),
        rotary_dim=engine.get("rotary_dim", 0),
    )
    return [Measurement(run)]


def _in_chunk(chunk: int, new: int, cached: int, chunking: bool) -> int:
    """Cached tokens that a causal call attends in place of one whose keys are cut into chunks, where the kernel does that."""
    if not chunking or new + cached <= chunk:
        return cached
    if new > 1:
        raise NoRun("attention over several chunks")
    return cached % chunk


def _engine(framework: str) -> dict[str, Any]:
    engines = table("frameworks")
    engine = engines.get(framework.strip().lower())
    if engine is None:
        titles = [item["title"] for item in engines.values()]
        raise BadEntry(
            f"unknown framework {framework[:60]!r}: expected one of {', '.join(titles)}{suggest(framework, titles)}"
        )
    return dict(engine)


def _dtypes(row: dict[str, str], engine: dict[str, Any], phase: str, gpu: GPU, kernel: str) -> tuple[str, str, str]:
    """Dtype of the products, dtype of the cache, and a note where the table's own label says something else."""
    renamed = engine.get("dtypes", {})
    dtype, kv_dtype = (
        renamed.get(row[name]) or dtype_name(row[name], name) for name in ("attn_dtype", "kv_cache_dtype")
    )
    in_fp8 = engine["fp8_products"].get(row["kernel_source"])
    if isinstance(in_fp8, dict):
        in_fp8 = in_fp8.get(gpu.arch)
    if (
        kernel not in engine.get("mixed_kernels", ())
        and kv_dtype == "fp8"
        and dtype != "fp8"
        and in_fp8 in (phase, "both")
    ):
        return "fp8", "fp8", ", queries in fp8" if _cast_before(row, engine) else f", queries quantised from {dtype}"
    if dtype == "fp8" and row["kernel_source"] in engine.get("casts_queries", ()):
        return dtype, kv_dtype, ", queries quantised from bf16"
    return dtype, kv_dtype, ""


def _cast_before(row: dict[str, str], engine: dict[str, Any]) -> bool:
    return row["kernel_source"] in engine.get("casts_before", ())


FORMAT: Final = Format("NVIDIA aiconfigurator attention tables", SOURCE, entries, read)
