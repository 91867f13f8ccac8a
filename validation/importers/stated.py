"""Runs of files that record times and configurations but no workload: the workload is the user's."""

from __future__ import annotations

from typing import Any, Final

from ...hwmodels import GPU
from ..measured import MeasuredRun
from .base import BadEntry, Given, dtype_name, whole

# Names that Triton kernels give their tile sizes.
_TILES: Final = (("BLOCK_M", "BLOCK_N"), ("BLOCK_Q", "BLOCK_KV"))


def stated_run(given: Given, gpu: GPU, kernel: str, time_s: float, **rest: Any) -> MeasuredRun:
    """A run of the workload that the user stated; ``rest`` fills further fields of MeasuredRun."""
    values: dict[str, Any] = {
        "id": "",
        "gpu": gpu.key,
        "kernel": kernel,
        "software": given.software or "",
        "batch": given.batch,
        "heads": given.heads,
        "heads_kv": given.heads_kv or given.heads,
        "grid": given.grid,
        "cached": given.cached or 0,
        "head_dim": given.head_dim,
        "dtype": dtype_name(given.dtype or "", "--dtype"),
        "pattern": given.pattern,
        "q_tile": given.q_tile or "",
        "kv_tile": given.kv_tile or "",
        "measures": "kernel",
        "graph": False,
        "time_s": time_s,
        "head_dim_v": given.head_dim_v if given.head_dim_v != given.head_dim else None,
        "kv_dtype": dtype_name(given.kv_dtype, "--kv-dtype") if given.kv_dtype else "",
        "kv_grid": given.kv_grid or "",
        "direction": given.direction or "fwd",
    }
    return MeasuredRun(**{**values, **rest})


def tiles_of(config: dict[str, Any], given: Given) -> dict[str, str]:
    """``q_tile`` and ``kv_tile`` of a configuration, where it names them and the call is a forward one on a 1-D grid."""
    if given.direction == "fwd" and "x" not in (given.grid or "").lower() and not (given.q_tile or given.kv_tile):
        for q_name, kv_name in _TILES:
            if q_name in config and kv_name in config:
                return {
                    "q_tile": str(whole(config[q_name], q_name)),
                    "kv_tile": str(whole(config[kv_name], kv_name)),
                }
    return {}


def quartile_spread(times_s: list[float]) -> float:
    """Half the distance of the quartiles of some times."""
    ordered = sorted(times_s)
    if not ordered:
        raise BadEntry("it has no times", "no times")
    return (_quantile(ordered, 0.75) - _quantile(ordered, 0.25)) / 2


def median(times_s: list[float]) -> float:
    """The median of some times."""
    return _quantile(sorted(times_s), 0.5)


def _quantile(ordered: list[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])
