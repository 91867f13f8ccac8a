"""How fast the forecaster is: medians over repeated runs, and peak memory. ``python benchmarks/speed.py``.

Caches are emptied or sidestepped (each run has a shape of its own), so that the figures are those of a first call.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable

import numpy as np

from attncast import Workload, parse_pattern, predict
from attncast.hwmodels import load_gpu
from attncast.simulator import cascades
from attncast.simulator.batch import band_classes
from attncast.simulator.calls import Calls
from attncast.simulator.einsum import bind, op_counts, parse, summary
from attncast.simulator.forecast import forecast
from attncast.simulator.patterns.band import UNLIMITED
from attncast.simulator.patterns.neighborhood import axis_work
from attncast.simulator.pipes import COMPILED
from attncast.simulator.profile import load_profile

GNA = "na window=18x24x24 stride=16x8x8"


def median_ms(run: Callable[[int], object], times: int) -> float:
    """Median milliseconds of ``run(i)`` for i = 0, 1, ..."""
    taken = []
    for i in range(times):
        start = time.perf_counter()
        run(i)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e3


def count_tiles(_: int) -> None:
    """Exact tiles of 115,200 tokens in 3-D."""
    axis_work.cache_clear()
    parse_pattern("na window=18x24x24").tile_work(Workload("30x48x80", 24, 128), (4, 8, 8), (2, 8, 8))


def predict_once(i: int) -> None:
    """A prediction, baseline included, of a grid of which no axis was seen before."""
    predict(Workload((30 + i % 19, 48 + i % 23, 80 + i % 29), 24, 128, dtype="fp16"), GNA, "h100")


def sweep(calls: int = 100_000) -> None:
    """Causal attention: every combination drawn of length, batch, heads and tile shape, in one vectorised call."""
    rng = np.random.default_rng(0)
    gpu = load_gpu("h100")
    profile = load_profile("triton", gpu)
    pick = lambda values: rng.choice(values, calls)  # noqa: E731
    queries, tile_q, tile_kv = pick([1024, 2048, 4096, 8192, 16384]), pick([64, 128, 256]), pick([32, 64, 128])
    visited, full, count, row = band_classes(queries, queries, np.int64(UNLIMITED), np.int64(0), tile_q, tile_kv)
    full_like = lambda value: np.full(calls, float(value))  # noqa: E731
    costs = forecast(
        gpu,
        profile,
        Calls(
            batch=pick([1.0, 2.0, 4.0, 8.0]),
            heads=full_like(32),
            kv_heads=pick([4.0, 8.0, 32.0]),
            queries=queries.astype(float),
            keys=queries.astype(float),
            dim=pick([64.0, 128.0]),
            dim_v=full_like(128),
            query_bytes=full_like(2),
            kv_bytes=full_like(2),
            tensor_rate=full_like(gpu.tensor_flops_per_clock_per_sm["bf16"]),
            tile_q=tile_q.astype(float),
            tile_kv=tile_kv.astype(float),
            packed=full_like(1),
            in_flight=full_like(0),
            rotate_bytes=full_like(0),
            rotate_traffic_bytes=full_like(0),
            fused=full_like(0),
            quantise_bytes=full_like(0),
            span=full_like(np.inf),
            axes=full_like(1),
            mask_all=full_like(0),
            permute_axes=full_like(0),
            spill_bytes=full_like(0),
            passes=full_like(1),
            append_bytes=full_like(0),
            append_registers=full_like(0),
            append_warps=full_like(0),
            append_ctas=full_like(0),
            append_instructions=full_like(0),
            small_kernels=full_like(0),
            apart_s=full_like(0),
            select_s=full_like(0),
            warm=full_like(1),
            graph=full_like(0),
            locked_hz=full_like(np.inf),
            free_s=full_like(np.inf),
            calls_before=full_like(0),
            end_cycles=full_like(0),
            end_work_cycles=full_like(0),
            frame_bytes=full_like(0),
            stored_bytes=full_like(0),
            end_stored_bytes=full_like(0),
            single=full_like(0),
            mask_stall=full_like(0),
            tile_stall=full_like(0),
            tests=full_like(0),
            streams_queries=full_like(0),
            value_parts=full_like(1),
            shared_bytes=full_like(0),
            **{name: full_like(0) for name in COMPILED},
            run_dim=full_like(128),
            run_dim_v=full_like(128),
            starts=full_like(1),
            visited=visited,
            full=full,
            tested=np.zeros_like(full),
            count=count,
            row=row,
        ),
    )
    assert costs.time_s.shape == (calls,)


def analyse(name: str) -> None:
    """Every analysis of one cascade, its text parsed anew."""
    text = (cascades.folder() / f"{name}.cascade").read_text(encoding="utf-8")
    summary(parse(text, name))


def slowest_cascade() -> tuple[str, float]:
    """The cascade of the library that takes longest to parse and analyse, and its median milliseconds."""
    names = sorted(file.stem for file in cascades.folder().glob("*.cascade"))
    taken = {name: median_ms(lambda _, name=name: analyse(name), 15) for name in names}
    return max(taken.items(), key=lambda item: item[1])


def bind_many(_: int) -> None:
    """Operation counts of FlashAttention-2 on 10,000 size bindings."""
    rng = np.random.default_rng(0)
    cascade = cascades.load("flash_attention_2")
    sizes = {rank: rng.integers(1, 4096, 10_000) for rank in ("E", "F", "M", "P")} | {"M0": np.full(10_000, 64)}
    bound = bind(cascade, sizes)
    for count in op_counts(cascade).values():
        count.at(bound)


def process(_: int) -> None:
    """``attncast predict`` as a user runs it."""
    command = [sys.executable, "-m", "attncast", "predict", "-g", "b200,h100", "-i", "30x48x80", "-n", "24", "-d", "128",
               "--dtype", "fp16", "-p", GNA]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def peak_mb(tokens: int, pattern: str) -> float:
    """Peak memory of one prediction, in MB, as Python's allocator sees it (numpy included)."""
    tracemalloc.start()
    predict(Workload(tokens, 1, 128), pattern, "h100", "triton")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def main() -> None:
    """Print the table."""
    predict_once(0)  # the first call reads the TOML files
    slowest, slowest_ms = slowest_cascade()
    rows = [
        ("tile counts, 30x48x80 in 3-D", median_ms(count_tiles, 200), "ms", "5"),
        ("predict(), baseline included, new shape", median_ms(predict_once, 300), "ms", "1"),
        ("100,000 configurations in one call", median_ms(lambda _: sweep(), 5), "ms", "1000"),
        (
            "parse and analyse a cascade (FlashAttention-2)",
            median_ms(lambda _: analyse("flash_attention_2"), 50),
            "ms",
            "10",
        ),
        (f"parse and analyse the slowest cascade of the library ({slowest})", slowest_ms, "ms", "10"),
        ("operation counts on 10,000 size bindings", median_ms(bind_many, 20), "ms", "100"),
        ("attncast predict, whole process", median_ms(process, 9), "ms", "500"),
        ("peak memory, causal, 2^31 - 1 tokens", peak_mb(2**31 - 1, "causal"), "MB", "200"),
        ("peak memory, na window=4097, 2^31 - 1 tokens", peak_mb(2**31 - 1, "na window=4097"), "MB", "200"),
    ]
    print("| what | median | target |\n|---|---:|---:|")
    for name, value, unit, target in rows:
        print(f"| {name} | {value:,.2f} {unit} | under {target} {unit} |")


if __name__ == "__main__":
    main()
