"""tritonbench's CSV of the ``flash_attention`` operator (``--csv``, ``--output``): fields separated by semicolons.

First column: the shape, ``(4, 48, 1024, 1024, 64)`` under ``(Batch, Heads, SeqLen, SeqLen_KV, Dhead)``; older files have no
SeqLen_KV. Then ``<kernel>-<metric>`` columns: ``latency`` in milliseconds (the median of do_bench, which flushes the L2;
"0.123 (±1.2%)" where variance was asked for), ``tflops`` by 4 * B * H * Lq * Lkv * D, half when causal, 2.5 times that
backward and 3.5 times both. A kernel that failed has its error in the first of its columns. The last row is an average.
Not recorded: GPU, dtype, causal or not (``-p``), direction. Source: github.com/meta-pytorch/tritonbench,
utils/triton_op.py (write_csv_to_file, _table) and operators/flash_attention/operator.py (flops, get_x_val).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ...errors import InputError
from ..measured import MeasuredRun
from ..plausible import Claim
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
)
from .reading import check_header, csv_rows

SOURCE: Final = "tritonbench flash_attention CSV"
_SHAPE: Final = re.compile(r"\(([0-9,\s]+)\)")
_LATENCY: Final = re.compile(r"([^(]+?)\s*(?:\(±\s*([0-9.]+)%\))?")
_FLOP_FACTOR: Final = {"fwd": 1.0, "bwd": 2.5, "fwdbwd": 3.5}


def entries(path: Path, given: Given) -> Iterator[Entry]:
    """One entry for each shape and kernel."""
    if (given.pattern or "").lower() not in ("causal", "dense"):
        raise InputError(f"pattern {given.pattern!r}: tritonbench's operator runs causal or dense")
    rows = csv_rows(path, ";")
    _, header = next(rows)
    check_header(path, header, ())
    columns: dict[str, dict[str, int]] = {}
    for position, name in enumerate(header[1:], 1):
        kernel, dash, metric = name.rpartition("-")
        if dash:
            columns.setdefault(kernel, {})[metric] = position
    kernels = {kernel: places for kernel, places in columns.items() if "latency" in places}
    if not kernels:
        raise InputError(
            f"{str(path)!r} has no column '<kernel>-latency': expected tritonbench's CSV, with ';' between"
        )
    for line, row in rows:
        if row[0] == "average":
            continue
        for kernel, places in kernels.items():
            yield Entry(f"line {line} {kernel}", f"{line}-{kernel}", (kernel, places, len(header), row))


def read(entry: Entry, given: Given, names: Names) -> list[Measurement]:
    """One kernel on one shape, one run."""
    kernel, places, width, row = entry.value
    if len(row) != width:
        raise BadEntry(f"it has {len(row)} fields: expected {width}", "wrong number of fields")
    batch, heads, queries, keys, head_dim = _shape(row[0])
    if queries != keys and str(given.pattern).lower() == "causal":
        raise NoRun("a causal mask on queries and keys of different lengths: the kernels align it differently")
    match = _LATENCY.fullmatch(row[places["latency"]].strip())
    if not any(row[place].strip() for place in places.values()):
        raise NoRun("the kernel was not run")
    first = row[min(places.values())].strip()
    if re.search("[A-Za-z]{4}", first) or (match is None and not row[places["latency"]].strip()):
        raise NoRun("the kernel failed")
    time_text = match[1] if match else row[places["latency"]]
    time_s = seconds(time_text, "latency")
    gpu = names.gpu("")
    # Labels of cuDNN carry its version: cudnn-90100.
    run = MeasuredRun(
        id="",
        gpu=gpu.key,
        kernel=names.kernel("cudnn" if kernel.startswith("cudnn-") else kernel, gpu),
        software=given.software or f"tritonbench {kernel}",
        batch=batch,
        heads=heads,
        heads_kv=heads,
        grid=str(queries),
        cached=0,
        head_dim=head_dim,
        dtype=dtype_name(given.dtype or "", "--dtype"),
        pattern=str(given.pattern).lower(),
        q_tile="",
        kv_tile="",
        measures="call",
        warm=False,
        graph=False,
        time_s=time_s,
        method="triton.testing.do_bench, L2 flushed, median",
        source=SOURCE,
        kv_grid="" if keys == queries else str(keys),
        direction=str(given.direction),
    )
    return [Measurement(run, _claim(run, row, places))]


def _shape(text: str) -> tuple[int, int, int, int, int]:
    match = _SHAPE.fullmatch(text.strip())
    sizes = [whole(item.strip(), "shape") for item in match[1].split(",")] if match else []
    if len(sizes) == 4:
        sizes.insert(3, sizes[2])
    if len(sizes) != 5:
        raise BadEntry(f"its shape {text[:60]!r} is not (Batch, Heads, SeqLen, SeqLen_KV, Dhead)", "no shape")
    batch, heads, queries, keys, head_dim = sizes
    return batch, heads, queries, keys, head_dim


def _claim(run: MeasuredRun, row: list[str], places: dict[str, int]) -> Claim | None:
    text = row[places["tflops"]].strip() if "tflops" in places else ""
    if not text:
        return None
    tflops = number(text, "tflops")
    if tflops <= 0:
        raise BadEntry(f"tflops {text!r} is not a positive speed", "tflops is not positive")
    workload = run.workload
    flop = 4.0 * workload.batch * workload.heads * workload.tokens * workload.kv_tokens * workload.head_dim
    flop *= _FLOP_FACTOR[run.direction] * (0.5 if run.pattern == "causal" else 1.0)
    return Claim(tflops * 1e12, flop)


FORMAT: Final = Format("tritonbench CSV", SOURCE, entries, read, needs=("gpu", "dtype", "pattern", "direction"))
