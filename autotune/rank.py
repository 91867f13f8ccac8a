"""Ranking without a GPU: the forecast over a whole space in one call, before and after compiling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

import numpy as np

from ..hwmodels import GPU
from ..kernels.attention_spec import padded
from ..kernels.check import CheckResult
from ..simulator import clock, memory, pipes
from ..simulator.batch import stack
from ..simulator.call import single_call, tensor_rate
from ..simulator.calls import PER_CALL, PER_CLASS, Calls, Costs
from ..simulator.conditions import Conditions
from ..simulator.forecast import forecast
from ..simulator.pipes import TileCycles
from ..simulator.profile import KernelProfile
from ..simulator.tile_shape import TileShape
from ..simulator.tiles import Floats, Ints, TileWork, binned
from ..simulator.workload import DTYPE_BYTES, Workload
from . import rank_machine as machine
from .rank_machine import Held, Knobs
from .space import Space

MOST_CLASSES = 32  # of Q tiles, for each configuration: a schedule needs no finer distribution


@dataclass(frozen=True)
class Ranked:
    """Configurations of a space with their forecasts.

    Attributes:
        index: of each in the space, fastest first. costs: of each, in that order. held: what an SM holds of each;
            None where the kernel's own profile says (NATTEN).
    """

    index: Ints
    costs: Costs
    held: Held | None

    @property
    def time_s(self) -> Floats:
        """Seconds of each, rising: the kernel and the passes around it."""
        return self.costs.time_s


def feasible(space: Space, gpu: GPU, workload: Workload) -> tuple[Ints, Held | None]:
    """Configurations that may run and do not spill badly by the static estimate, and what an SM holds of them."""
    everything = np.arange(space.size)
    if space.program == "natten":
        return everything, None
    held = machine.held_by_estimate(gpu, knobs_of(space, workload, everything))
    found = np.flatnonzero(np.broadcast_to(held.fits, everything.shape))
    return found, take(held, found, space.size)


def rank(
    space: Space,
    gpu: GPU,
    workload: Workload,
    conditions: Conditions,
    index: Ints,
    held: Held | None,
    compiled: Sequence[CheckResult] | None = None,
) -> Ranked:
    """Forecast configurations of a space and sort them; one vectorised call.

    Args:
        index: the configurations. held: what an SM holds of each, None for a kernel that its profile describes.
        compiled: the compiler's word on each; its instruction counts then replace the model's.
    """
    calls = _calls(space, gpu, workload, conditions, index)
    if held is None:
        costs = forecast(gpu, space.profile, calls)
    else:
        costs = _forecast(space, gpu, workload, calls, index, held, compiled)
    # Of equally fast ones the first of the space: the smaller.
    order = np.argsort(np.round(costs.time_s, 12), kind="stable")
    return Ranked(index[order], costs_at(costs, order), None if held is None else take(held, order, index.size))


def knobs_of(space: Space, workload: Workload, index: Ints) -> Knobs:
    """The knobs of configurations as the machine model takes them."""
    columns = space.columns
    shape = index.shape

    def column(name: str, otherwise: int | bool) -> Any:
        return columns[name][index] if name in columns else np.full(shape, otherwise)

    return Knobs(
        rows=space.block_m[index],
        keys=space.block_n[index],
        warps=column("num_warps", 4),
        stages=column("num_stages", 2),
        tma=column("USE_TMA", False),
        specialised=column("WARP_SPECIALIZE", False),
        dim=padded(workload.head_dim),
        dim_v=padded(workload.dim_v),
        dtype_bytes=int(DTYPE_BYTES[workload.dtype]),
        cap=column("maxnreg", 0),
    )


def _calls(space: Space, gpu: GPU, workload: Workload, conditions: Conditions, index: Ints) -> Calls:
    tiling = space.tiling[index]
    used, where = np.unique(tiling, return_inverse=True)
    each = []
    for number in used:
        t = space.tilings[number]
        tiles = ((t.size[0],), (t.size[1],)) if t.rows else (t.q, t.kv)
        call = single_call(gpu, space.profile, workload, t.pattern, tiles, few_classes(t.work), conditions)
        if t.rows and len(t.q) > 1 and space.profile.permute:  # blocks on a grid, run in smaller tiles
            call = replace(call, permute_axes=np.array([float(len(t.q))]))
        if t.order == "row":
            call = replace(call, permute_axes=np.zeros(1))
        each.append(call)
    distinct = stack(each)
    # Repeat the call of each tiling for the configurations that share it.
    per_call = {name: getattr(distinct, name)[where] for name in PER_CALL}
    sizes = np.array([call.visited.size for call in each])[where]
    row = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    at = np.repeat(distinct.row[where] - row, sizes) + np.arange(int(sizes.sum()))
    return Calls(**per_call, **{name: getattr(distinct, name)[at] for name in PER_CLASS}, row=row)


def few_classes(work: TileWork) -> TileWork:
    """The work with neighbouring classes merged; sums and the longest Q tile are kept."""
    if work.visited.size <= MOST_CLASSES:
        return work
    visited, full, count = binned(work.visited, work.full, work.count, MOST_CLASSES)
    return replace(work, visited=visited[::-1], full=full[::-1], count=count[::-1])


def _forecast(
    space: Space,
    gpu: GPU,
    workload: Workload,
    calls: Calls,
    index: Ints,
    held: Held,
    compiled: Sequence[CheckResult] | None,
) -> Costs:
    knobs = knobs_of(space, workload, index)
    path = machine.paths(gpu, knobs)
    splits = space.columns["splits"][index].astype(float) if "splits" in space.columns else None
    # CTAs that an SM really gets to hold: a small call does not fill it.
    groups = calls.batch * calls.kv_heads * np.ceil(calls.heads / calls.kv_heads / calls.packed)
    ctas = np.add.reduceat(calls.count, calls.row) * groups * (1.0 if splits is None else splits)
    in_flight = np.clip(ctas / gpu.sms, 1.0, held.ctas)
    profile = machine.profile_of(gpu, space.profile, knobs, path, in_flight)
    one = np.ones(index.size)
    shape = TileShape(
        calls.tile_q,
        calls.tile_q,
        calls.tile_kv,
        knobs.dim * one,
        knobs.dim_v * one,
        calls.query_bytes,
        calls.kv_bytes,
        calls.axes,
        moved_dim=calls.dim,
        moved_dim_v=calls.dim_v,
    )
    rate = tensor_rate(gpu, workload.dtype) * one
    units = machine.modelled_pipes(gpu, profile, knobs, path, held, shape, rate)
    mask = pipes.mask_alu_cycles(gpu, profile, shape)
    partial = {**units, "alu": units["alu"] + mask}
    if compiled is not None:
        model = units
        units = machine.compiled_pipes(gpu, compiled, 0, model)
        if compiled[0].facts.config.pattern == "blocks":  # compiled without the mask's function
            partial = {**units, "alu": units["alu"] + mask}
        else:
            partial = machine.compiled_pipes(gpu, compiled, 1, model)
            mask = np.maximum(0.0, partial["alu"] - units["alu"])
    idle = np.maximum(1.0, 1.0 / machine.streams(knobs, path, in_flight))  # fewer warps than schedulers
    moved = pipes.l2_bytes_per_tile(profile, shape)
    l2 = memory.l2_cycles(gpu, moved)
    full, masked = (_combined(profile, found) * idle for found in (units, partial))
    # What a CTA waits at a tile is a share of it that other CTAs use, as the pipes it leaves idle are.
    wait = machine.tile_wait_cycles(gpu, knobs, path, full, l2, in_flight) / in_flight
    tile = TileCycles(
        full=np.maximum(full + wait, l2),
        partial=np.maximum(masked + wait, l2),
        pipes={name: units[name] * idle for name in pipes.PIPES},
        mask=mask * idle,
        l2=l2,
        l2_bytes=moved,
    )
    visited, unmasked = (np.add.reduceat(work * calls.count, calls.row) for work in (calls.visited, calls.full))
    both = (unmasked > 0) & (unmasked < visited) & (calls.mask_all == 0)
    loads = machine.load_wait_cycles(gpu, knobs, path, full, l2, in_flight)
    fill = machine.fill_cycles(gpu, knobs, l2, both, loads, ctas)
    trips: Any = profile.round_trips + fill / (gpu.dram_latency_s * clock.highest_hz(gpu, calls.locked_hz))
    profile = replace(profile, round_trips=trips)
    return forecast(gpu, profile, calls, tile=tile, splits=splits)


def _combined(profile: KernelProfile, units: dict[str, Floats]) -> Floats:
    """Cycles of a tile; never fewer than its instructions take to issue, where they were counted."""
    cycles = pipes.combine(profile, units)
    return np.maximum(cycles, units["issue"]) if "issue" in units else cycles


def take(held: Held, index: Ints, size: int) -> Held:
    """Some configurations of ``size``."""
    return Held(*(np.broadcast_to(getattr(held, item.name), (size,))[index] for item in fields(Held)))


def costs_at(costs: Costs, index: Any) -> Costs:
    """The costs of some calls, in that order."""

    def picked(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: picked(part) for name, part in value.items()}
        if isinstance(value, np.ndarray):
            shape = costs.time_s.shape
            return (value if value.shape == shape else np.broadcast_to(value, shape))[index]
        return type(value)(*(picked(getattr(value, item.name)) for item in fields(value)))

    # The classes of CTAs are flat arrays of all calls: a ranking has no use for them.
    per_call = [item.name for item in fields(Costs) if item.default is MISSING]
    return Costs(**{name: picked(getattr(costs, name)) for name in per_call})
