"""Tunings made by hand, for what is done with tunings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attncast.autotune.result import Candidate, SpaceCounts, Tuning
from attncast.simulator import Workload


def triton_config(block_m: int = 128, block_n: int = 64, warps: int = 8, stages: int = 3) -> dict[str, Any]:
    return {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "num_warps": warps,
        "num_stages": stages,
        "USE_TMA": False,
        "WARP_SPECIALIZE": False,
    }


def flex_config(block_m: int = 128, block_n: int = 64) -> dict[str, Any]:
    return {"BLOCK_M": block_m, "BLOCK_N": block_n, "num_warps": 4, "num_stages": 3}


def candidate(config: Mapping[str, Any], time_s: float = 1e-3, **more: Any) -> Candidate:
    return Candidate(config, time_s, time_s / 1.5, time_s * 1.5, "tensor", **more)


def tuning(
    configs: Sequence[Mapping[str, Any] | Candidate],
    *,
    kernel: str = "triton",
    pattern: str = "causal",
    workload: Workload | None = None,
    gpu: str = "h100",
    ruled_out: Sequence[Candidate] = (),
) -> Tuning:
    """A tuning whose configurations take 1 ms, 1.1 ms, 1.2 ms, ..."""
    ranking = tuple(
        item if isinstance(item, Candidate) else candidate(item, 1e-3 * (1 + 0.1 * place))
        for place, item in enumerate(configs)
    )
    counts = SpaceCounts(len(ranking), len(ranking))
    workload = workload or Workload(4096, 8, 128)
    return Tuning(gpu, kernel, workload, pattern, "instant", ranking, tuple(ruled_out), counts, 0.1, 0.5)
