"""Rows that cannot be true: faster than the hardware, or contradicting their own count of operations or the rows beside them.

Bounds are those of physics, not of a model: fewest operations, fewest bytes, the highest clock. What passes may still
be wrong; what fails is. Beside a row lie those of the same call with a larger batch, or with more tokens, new or cached: a call
of more work may take a little less time, where another program or more parts of the keys come with it, but not a third of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU, load_gpu
from ..simulator import Workload, parse_pattern
from ..simulator.patterns import Band, Pattern
from ..simulator.patterns.band import band_pairs
from ..simulator.workload import DTYPE_BYTES
from .measured import LINEAR, MeasuredRun

SLACK: Final = 1.02  # clocks, bandwidths and printed times are rounded
CLAIM_TOLERANCE: Final = 0.02
OUTLIER: Final = (
    3.0  # times as long as each of the next larger calls: of 77,658 rows of NVIDIA's tables one, as from 2.0 on
)
# What says how large a call is and how it went; all else is the same in calls that are beside each other.
_SIZES: Final = ("batch", "grid", "cached")
_RESULTS: Final = ("id", "time_s", "spread_s", "samples")
# GEMMs of a direction, as multiples of (head_dim, head_dim_v): backward is dQ, dK and the scores again; dV and dP.
GEMMS: Final = {"fwd": (1, 1), "bwd": (3, 2), "fwdbwd": (4, 3)}


@dataclass(frozen=True)
class Claim:
    """Speed as a table states it: ``flops`` (FLOP/s) of ``flop`` operations by the table's own convention.

    ``rounding``: relative error that the printed digits of time and speed allow.
    """

    flops: float
    flop: float
    rounding: float = 0.0


def plausible(
    runs: Sequence[MeasuredRun], claims: Mapping[str, Claim] | None = None
) -> tuple[list[MeasuredRun], list[tuple[MeasuredRun, str]]]:
    """Split runs into those that can be true and those that cannot, each with its reason ("kind: figures").

    Args:
        runs: measured runs of known GPUs.
        claims: speeds that the source states, by run id.

    Raises:
        InputError: a run whose GPU, workload or pattern is not known.
    """
    if not runs:
        return [], []
    time_s = np.array([run.time_s for run in runs])
    flop, rate, dram_bytes, bandwidth, latency_s = _bounds(runs).T
    flops, bytes_s = flop / time_s, dram_bytes / time_s
    too_fast, too_wide, too_short = flops > SLACK * rate, bytes_s > SLACK * bandwidth, time_s < latency_s
    kept, rejected = [], []
    outliers = _outliers(runs)
    for index, run in enumerate(runs):
        reason = _contradiction(run, (claims or {}).get(run.id)) or outliers.get(index, "")
        if too_fast[index]:
            reason = (
                f"above the tensor peak: {flops[index] / 1e12:,.0f} TFLOP/s where {run.gpu} reaches "
                f"{rate[index] / 1e12:,.0f} at its highest clock"
            )
        elif too_wide[index]:
            reason = (
                f"above the DRAM bandwidth: {bytes_s[index] / 1e12:.2f} TB/s of what L2 cannot hold, "
                f"where {run.gpu} reaches {bandwidth[index] / 1e12:.2f}"
            )
        elif too_short[index]:
            reason = (
                f"below one memory access: {run.time_s * 1e9:.3g} ns where that takes {latency_s[index] * 1e9:.3g} ns"
            )
        if reason:
            rejected.append((run, reason))
        else:
            kept.append(run)
    return kept, rejected


def least_flop(run: MeasuredRun) -> float:
    """Fewest operations of the tensor cores that the run can take: unmasked pairs only, 2 per multiply-add."""
    return _least_flop(run, run.workload)


def _least_flop(run: MeasuredRun, workload: Workload) -> float:
    if run.kernel.startswith(LINEAR):
        # The recurrence: each token updates a (head_dim, head_dim_v) state and reads it once; backward does so again.
        passes = {"fwd": 1, "bwd": 1, "fwdbwd": 2}[run.direction]
        state = workload.head_dim * workload.dim_v
        return 4.0 * passes * workload.batch * workload.heads * workload.tokens * state
    on_qk, on_v = GEMMS[run.direction]
    return 2.0 * pair_count(run.pattern, workload) * (on_qk * workload.head_dim + on_v * workload.dim_v)


def pair_count(pattern: str, workload: Workload) -> float:
    """Unmasked query-key pairs of a whole call, all heads and sequences."""
    return float(workload.batch) * workload.heads * _pairs_of_head(pattern, workload.grid, workload.keys)


def _contradiction(run: MeasuredRun, claim: Claim | None) -> str:
    if claim is None:
        return ""
    own = claim.flop / run.time_s
    if abs(claim.flops - own) <= (CLAIM_TOLERANCE + claim.rounding) * own:
        return ""
    return (
        f"contradicts its own operation count: it states {claim.flops / 1e12:,.4g} TFLOP/s, "
        f"but its shape and time make {own / 1e12:,.4g}"
    )


def _outliers(runs: Sequence[MeasuredRun]) -> dict[int, str]:
    """Runs that took ``OUTLIER`` times as long as each next larger call, of at least two: by index, the reason."""
    found = {}
    for index, larger in _next_larger(runs):
        slowest = max(larger, key=lambda other: runs[other].time_s)
        if len(larger) > 1 and runs[index].time_s >= OUTLIER * runs[slowest].time_s:
            found[index] = (
                f"contradicts larger calls: {runs[index].time_s * 1e6:,.4g} us where {len(larger)} of the same kind with more "
                f"sequences or tokens take {runs[slowest].time_s * 1e6:,.4g} us at most (the slower one is {runs[slowest].id})"
            )
    return found


def _next_larger(runs: Sequence[MeasuredRun]) -> Iterator[tuple[int, list[int]]]:
    """Of each run the next one with a larger batch, with more new tokens and with more cached ones, all else equal: those
    that there are."""
    same = [item.name for item in fields(MeasuredRun) if item.name not in (*_SIZES, *_RESULTS)]
    calls: dict[tuple[object, ...], dict[tuple[int, int, int], int]] = defaultdict(dict)
    for index, run in enumerate(runs):
        if "x" not in run.grid:  # tokens in a row
            calls[tuple(getattr(run, name) for name in same)][run.batch, int(run.grid), run.cached] = index
    for of_call in calls.values():
        larger: dict[int, list[int]] = defaultdict(list)
        for axis in range(3):
            lines = defaultdict(list)
            for size in sorted(of_call):
                lines[size[:axis] + size[axis + 1 :]].append(of_call[size])
            for line in lines.values():
                for index, beyond in pairwise(line):
                    larger[index].append(beyond)
        yield from larger.items()


def _bounds(runs: Sequence[MeasuredRun]) -> NDArray[np.float64]:
    """For each run: least FLOP, highest FLOP/s, least DRAM bytes, highest bytes/s, DRAM latency (s); shape (runs, 5)."""
    rows = np.empty((len(runs), 5))
    for index, run in enumerate(runs):
        gpu = load_gpu(run.gpu)
        workload = run.workload
        rows[index] = (
            _least_flop(run, workload),
            tensor_peak(gpu, workload.dtype, str(workload.kv_dtype)),
            _least_dram_bytes(run, workload, gpu),
            gpu.dram_bandwidth_bytes_s,
            gpu.dram_latency_s,
        )
    return rows


@lru_cache(maxsize=256)
def tensor_peak(gpu: GPU, dtype: str, kv_dtype: str) -> float:
    """FLOP/s that no kernel on these dtypes exceeds: the faster of the two (a kernel may quantise), at the highest clock.

    A dtype without MMA instructions (fp8 on Ampere) is converted to 16 bits; fp32 may run as tf32.
    """
    rates = gpu.tensor_flops_per_clock_per_sm
    usable = [rates.get("tf32" if name == "fp32" else name, rates["bf16"]) for name in (dtype, kv_dtype)]
    return gpu.sms * max(usable) * gpu.clock_max_hz


def _least_dram_bytes(run: MeasuredRun, workload: Workload, gpu: GPU) -> float:
    """Fewest bytes from DRAM: each tensor once, less what the L2 may hold from the run before.

    A cold run reads all inputs from DRAM; its outputs may still lie in L2 when the clock stops.
    """
    size, kv_size = DTYPE_BYTES[workload.dtype], DTYPE_BYTES[str(workload.kv_dtype)]
    keys = _touched(run.pattern, workload.grid, workload.keys)
    rows = float(workload.batch) * workload.tokens * workload.heads
    inputs = rows * workload.head_dim * size
    inputs += float(workload.batch) * workload.kv_heads * keys * (workload.head_dim + workload.dim_v) * kv_size
    outputs = rows * workload.dim_v * size
    return max(inputs + outputs - gpu.l2_bytes, 0.0 if run.warm else inputs)


@lru_cache(maxsize=512)
def _pattern(text: str) -> Pattern:
    return parse_pattern(text)


@lru_cache(maxsize=65536)
def _pairs_of_head(text: str, grid: tuple[int, ...], keys: tuple[int, ...]) -> int:
    pattern = _pattern(text)
    workload = Workload(grid, 1, 1, kv_grid=keys)
    if isinstance(pattern, Band):
        return band_pairs(workload.tokens, workload.kv_tokens, pattern.left, pattern.right)
    # Counts do not depend on the tile; whole axes make the fewest of them.
    return pattern.tile_work(workload, grid, keys).pairs


@lru_cache(maxsize=65536)
def _touched(text: str, grid: tuple[int, ...], keys: tuple[int, ...]) -> int:
    """Keys that some query attends."""
    pattern = _pattern(text)
    workload = Workload(grid, 1, 1, kv_grid=keys)
    if not isinstance(pattern, Band):
        return workload.kv_tokens  # every token is in its own neighborhood
    first = max(workload.kv_tokens - workload.tokens - pattern.left, 0)
    last = min(workload.kv_tokens - 1 + pattern.right, workload.kv_tokens - 1)
    return max(last - first + 1, 0)
