"""The one table of units a hardware file may use, and the one place where they are converted."""

from __future__ import annotations

import re
from typing import Final

from ..errors import InputError, suggest

# Unit as written -> (dimension, factor to the dimension's base unit). A unit converts only within its
# dimension. KiB and MiB are powers of 1024, GB and TB powers of 1000, as datasheets use them.
UNITS: Final[dict[str, tuple[str, float]]] = {
    "1": ("number", 1.0),
    "Hz": ("frequency", 1.0),
    "MHz": ("frequency", 1e6),
    "GHz": ("frequency", 1e9),
    "B": ("bytes", 1.0),
    "KiB": ("bytes", 2.0**10),
    "MiB": ("bytes", 2.0**20),
    "GiB": ("bytes", 2.0**30),
    "MB": ("bytes", 1e6),
    "GB": ("bytes", 1e9),
    "B/s": ("bandwidth", 1.0),
    "GB/s": ("bandwidth", 1e9),
    "TB/s": ("bandwidth", 1e12),
    "GiB/s": ("bandwidth", 2.0**30),
    "FLOP/s": ("tensor throughput", 1.0),
    "TFLOP/s": ("tensor throughput", 1e12),
    "PFLOP/s": ("tensor throughput", 1e15),
    "s": ("time", 1.0),
    "ms": ("time", 1e-3),
    "us": ("time", 1e-6),
    "ns": ("time", 1e-9),
    "W": ("power", 1.0),
    "kW": ("power", 1e3),
    "cycle": ("cycles", 1.0),
    "pJ": ("energy", 1e-12),
    "nJ": ("energy", 1e-9),
    "FLOP/clk/SM": ("tensor rate", 1.0),
    "op/clk/SM": ("operation rate", 1.0),
    "FMA/clk/SM": ("FMA rate", 1.0),
    "B/clk/SM": ("bytes per clock", 1.0),
    "CTA/clk": ("dispatch rate", 1.0),
}


def units_of(dimension: str) -> list[str]:
    """The units that measure ``dimension``, as a file may write them."""
    return [unit for unit, (measured, _) in UNITS.items() if measured == dimension]


def to_base(value: float, unit: str, dimension: str, where: str) -> float:
    """Convert ``value`` from ``unit`` to the base unit of ``dimension``.

    ``where`` opens the error message. Raises InputError for an unknown unit or one of another dimension.
    """
    measured, factor = UNITS.get(unit, ("", 0.0))
    if measured == dimension:
        return value * factor
    wanted = ", ".join(units_of(dimension))
    if not measured:
        raise InputError(f"{where}: unknown unit {unit!r}, expected one of {wanted}{suggest(unit, UNITS)}")
    raise InputError(f"{where}: unit {unit!r} measures {measured}, expected {dimension} ({wanted})")


def parse_frequency(text: str) -> float:
    """Hz of a frequency as a user writes it: a number and its unit, "1410MHz" or "1.4 GHz". Raises InputError."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)\s*", text)
    wanted = f"clock {text!r}: expected a number and a unit ({', '.join(units_of('frequency'))}), e.g. 1410MHz"
    if found is None:
        raise InputError(wanted)
    exact = {unit.lower(): unit for unit in units_of("frequency")}
    unit = exact.get(found[2].lower(), found[2])
    value_hz = to_base(float(found[1]), unit, "frequency", f"clock {text!r}")
    if value_hz <= 0:
        raise InputError(wanted)
    return value_hz
