"""Constants for a GPU without measured rows, from fits on other GPUs.

What is the GPU's own stays its own: the share of DRAM's peak comes from its hardware model. What a program costs carries as a
ratio to its prior, which knows the architecture's build of it; what an engine's call costs beside attention carries as it is,
in seconds, bytes per clock of an SM, and shares of bandwidth. The nearest relatives count most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from ..errors import InputError
from ..hwmodels import load_gpu
from .calibration import BOUNDS, OF_GPU, Constants, Use
from .profile import KernelProfile, load_profile

OF_PROGRAM: Final = ("overlap", "round_trips", "tile_round_trips")
OF_ENGINES_PASS: Final = ("query_rate", "rotation_efficiency")  # each engine goes over queries by kernels of its own
SUMS: Final = ("call_s",)  # of a few microseconds or none, so that its mean is arithmetic; the others' geometric
# How much less a relative counts that differs in its dtype; its program, kernel or phase; its engine; and how much a program's
# prior counts beside a fit of the same program. Round numbers, judged by what GPUs left out are off by: with 0.1 or 1 in place
# of 0.3, or 1 in place of PRIOR's 0.1, B200 is off by 11 to 12% on the curated rows of 50 us and more instead of 9.8%, other
# GPUs by a point more or less; the rest moves none by half a point. They multiply: another kernel of a family is another
# program as well.
OTHER_DTYPE: Final = 0.5
OTHER_BUILD: Final = 0.3
OTHER_ENGINE: Final = 0.03
PRIOR: Final = 0.1
ON_BOUND: Final = 1.05  # a fit stops so near a bound that it would have gone on


def carried_constants(
    use: Use, profile: KernelProfile, names: Iterable[str], fits: Mapping[Use, Mapping[str, float]]
) -> dict[str, float] | None:
    """Constants of a use from portable constants of others.

    Args:
        profile: of the use. names: the constants that its calls need.
        fits: portable constants by use (see Constants). Those of the use's own GPU are not looked at.

    Returns:
        values by name, those of the GPU excepted; None where no other GPU has the kernel or the engine in this phase.
    """
    others = {other: values for other, values in fits.items() if values and other.gpu != use.gpu}
    if not any(_akin(use, other) for other in others):
        return None
    carried = {}
    for name in names:
        if name not in OF_GPU:
            found = _of_program(use, profile, name, others) if name in OF_PROGRAM else _of_engine(use, name, others)
            if found is not None:
                carried[name] = min(max(found, BOUNDS[name].low), BOUNDS[name].high)
    return carried


def carried_interval(use: Use, fits: Mapping[Use, Constants]) -> float | None:
    """Half width of log(time) that held 80% of GPUs' rows when they were left out: of the same kernel if there were any."""
    known = {other: found.left_out_interval for other, found in fits.items() if found.left_out_interval > 0}
    widths = [width for other, width in known.items() if other.kernel == use.kernel] or list(known.values())
    return sum(widths) / len(widths) if widths else None


def _akin(use: Use, other: Use) -> bool:
    same = use.kernel == other.kernel or (use.engine == other.engine and use.engine != "")
    return same and use.phase == other.phase


def _of_program(use: Use, profile: KernelProfile, name: str, others: Mapping[Use, Mapping[str, float]]) -> float | None:
    """The prior times the weighted mean of the relatives' ratios to theirs, whichever engine calls them.

    Cycles are linear in each of these constants, so that it is their arithmetic mean that gives the mean of the cycles.
    """
    total = ratios = PRIOR
    for other, values in others.items():
        relative = _profile(other)
        if name not in values or relative is None:
            continue
        weight = _program_weight(name, use, other, profile, relative)
        total += weight
        ratios += weight * values[name] / max(getattr(relative, name), BOUNDS[name].low)
    return float(getattr(profile, name)) * ratios / total


def _program_weight(name: str, use: Use, other: Use, profile: KernelProfile, relative: KernelProfile) -> float:
    weight = 1.0 if use.dtype == other.dtype else OTHER_DTYPE
    weight *= 1.0 if use.phase == other.phase else OTHER_BUILD
    if use.kernel != other.kernel:
        # Kernels built alike wait for memory alike; how well their pipes overlap is each one's own.
        alike = profile.family and profile.family == relative.family and name == "round_trips"
        return weight * OTHER_BUILD**2 if alike else 0.0
    if _program(profile) == _program(relative):
        return weight
    if name == "round_trips":
        return weight * OTHER_BUILD
    # What a CTA waits for with each load and how its pipes overlap stand in for each other: both carry, whatever the tiles.
    return weight if profile.chain == relative.chain == "loads" else 0.0


def _program(profile: KernelProfile) -> tuple[object, ...]:
    """What two architectures share that run one program: how operands are read, and which tiles there are."""
    return profile.products.operands, profile.products.operand_rows, profile.tiles, profile.decode_tiles


def _of_engine(use: Use, name: str, others: Mapping[Use, Mapping[str, float]]) -> float | None:
    own_pass = name in OF_ENGINES_PASS
    known = {other: values for other, values in others.items() if name in values}
    if own_pass:
        known = {other: values for other, values in known.items() if other.engine == use.engine}
    fitting = {other: values for other, values in known.items() if other.phase == use.phase}
    if own_pass and not fitting:
        fitting = known  # the same kernel in both phases
    if name not in SUMS:  # where a bound was put says nothing of what lies beyond it, and would decide a geometric mean
        fitting = {other: values for other, values in fitting.items() if _inside(name, values[name])} or fitting
    total = mean = 0.0
    for other, values in fitting.items():
        weight = 1.0 if use.dtype == other.dtype else OTHER_DTYPE
        weight *= 1.0 if use.kernel == other.kernel else OTHER_BUILD
        weight *= 1.0 if use.engine == other.engine else OTHER_ENGINE
        total += weight
        mean += weight * (values[name] if name in SUMS else math.log(values[name]))
    if total == 0:
        return None
    return mean / total if name in SUMS else math.exp(mean / total)


def _inside(name: str, value: float) -> bool:
    """Whether a constant lies within its bounds, not on one of them."""
    return BOUNDS[name].low * ON_BOUND < value < BOUNDS[name].high / ON_BOUND


@lru_cache(maxsize=1024)
def _profile(use: Use) -> KernelProfile | None:
    """The profile of a use; None where its GPU or kernel is not known any more."""
    try:
        kv_dtype = "fp8" if use.dtype.endswith("8-bit") else ""
        return load_profile(use.kernel, load_gpu(use.gpu), use.engine, kv_dtype).of_phase(use.phase == "decode")
    except InputError:
        return None
