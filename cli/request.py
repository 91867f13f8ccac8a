"""What the options of ``predict`` ask for, read once for every command that takes them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import InputError
from ..hwmodels import GPU, load_gpu, parse_frequency
from ..simulator import Conditions, Estimate, Workload
from ..simulator import predict as forecast
from ..simulator.advice import advice
from ..simulator.calibration import Calibration, load_calibration, packaged_calibration
from ..simulator.conditions import engine_conditions
from ..simulator.patterns import Pattern
from ..simulator.workload import parse_grid
from .options import read_pattern


@dataclass(frozen=True)
class Request:
    """One call to forecast, on each of ``gpus``. ``keywords`` are those of ``simulator.predict``."""

    workload: Workload
    pattern: Pattern
    gpus: tuple[GPU, ...]
    conditions: Conditions
    calibration: Calibration | None
    keywords: dict[str, Any]

    def estimate(self, gpu: GPU, **changes: Any) -> Estimate:
        """The forecast on a GPU, with some keywords changed."""
        return forecast(self.workload, self.pattern, gpu, **{**self.keywords, **changes})

    def advice(self, estimate: Estimate, gpu: GPU) -> str:
        """What would make it faster, in one sentence."""
        return advice(estimate, self.workload, self.pattern, gpu, self.conditions, self.calibration)


def read_workload(grid: str, heads: int, head_dim: int, kv_grid: str | None, **others: Any) -> Workload:
    """The workload that options describe, grids as text; ``others`` as Workload takes them. Raises InputError."""
    keys = parse_grid(kv_grid, "kv grid") if kv_grid else None
    return Workload(parse_grid(grid), heads, head_dim, kv_grid=keys, **others)


def read_request(
    *,
    gpus: str,
    grid: str,
    heads: int,
    head_dim: int,
    batch: int,
    heads_kv: int | None,
    head_dim_v: int | None,
    dtype: str,
    kv_dtype: str | None,
    pattern: str | None,
    mask: str | None,
    kv_grid: str | None,
    cached: int,
    kernel: str,
    cascade: str | None,
    baseline: str | None,
    q_tile: str | None,
    kv_tile: str | None,
    attention_share: float | None,
    sparse_share: float | None,
    calibration: str | None,
    engine: str | None,
    graph: bool,
    cold: bool,
    clock: str | None,
    calls_before: int,
    appends: bool,
    rotates: bool,
) -> Request:
    """The request that the options of ``predict`` make. Raises InputError for what is wrong in them."""
    if sparse_share is not None and attention_share is None:
        raise InputError(
            f"sparse share {sparse_share:g} was given without an attention share: expected both, or neither"
        )
    names = [name.strip() for name in gpus.split(",")]
    if not all(names):
        raise InputError(f"GPU list {gpus!r} has an empty name: expected names joined by commas, e.g. b200,h100")
    workload = read_workload(
        grid, heads, head_dim, kv_grid,
        batch=batch, heads_kv=heads_kv, cached=cached, dtype=dtype, kv_dtype=kv_dtype, head_dim_v=head_dim_v,
    )  # fmt: skip
    clock_hz = None if clock is None else parse_frequency(clock)
    if engine is None:
        conditions = Conditions(
            warm_l2=not cold, graph=graph, appends=appends or rotates, rotates=rotates, clock_hz=clock_hz,
            calls_before=calls_before,
        )  # fmt: skip
    else:
        conditions = replace(engine_conditions(engine, workload, not cold, clock_hz), calls_before=calls_before)
        if rotates and not conditions.rotates:
            raise InputError(
                f"--rope was given with engine {engine!r}, whose call rotates no queries: expected one of them"
            )
    wanted = read_pattern(pattern, mask)
    models = tuple(load_gpu(name) for name in names)
    constants = load_calibration(calibration) if calibration is not None else None
    if constants is None and engine is not None:
        constants = packaged_calibration()
    keywords = {
        "kernel": kernel,
        "cascade": cascade,
        "baseline": baseline,
        "q_tile": q_tile,
        "kv_tile": kv_tile,
        "attention_share": attention_share,
        "sparse_share": 1.0 if sparse_share is None else sparse_share,
        "conditions": conditions,
        "calibration": constants,
    }
    return Request(workload, wanted, models, conditions, constants, keywords)
