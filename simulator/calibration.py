"""Fitted constants of a kernel on a GPU: what they mean, between which bounds, and how a prediction takes them."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, suggest
from ..hwmodels import GPU
from .profile import KernelProfile


@dataclass(frozen=True)
class Bounds:
    """Physical bounds of a constant, and what it means."""

    low: float
    high: float
    meaning: str


# At most six for a kernel on a GPU.
BOUNDS: Final[dict[str, Bounds]] = {
    "overlap": Bounds(0.01, 1.5, "a in cycles = max(pipes) + a (sum(pipes) - max(pipes)): 0 perfect overlap, 1 none"),
    "clock": Bounds(0.4, 1.0, "sustained clock over the clock of the stated tensor peak"),
    "round_trips": Bounds(0.3, 60.0, "memory latencies one after the other in a CTA's life"),
    "dram_efficiency": Bounds(0.3, 1.0, "DRAM bandwidth reached over the physical peak"),
    "call_s": Bounds(1e-7, 3e-5, "seconds of a serving engine's call beyond its launches, where it appends to a cache"),
    "token_s": Bounds(1e-13, 2e-8, "seconds of such a call for each new token, beyond the bytes of the append"),
}


@dataclass(frozen=True)
class Constants:
    """Constants of one kernel on one GPU, and what they were fitted on.

    Attributes:
        overlap ... token_s: see BOUNDS.
        interval: half width of log(time) that held 80% of the rows left out of the fit.
        rows, held_out_mape: rows fitted on, and the mean error on rows that no constant saw (cross-validation by shape).
        data, date, command: what they were fitted on, when, and by which command.
    """

    overlap: float
    clock: float
    round_trips: float
    dram_efficiency: float
    call_s: float
    token_s: float
    interval: float
    rows: int
    held_out_mape: float
    data: str
    date: str
    command: str

    def apply(self, profile: KernelProfile, gpu: GPU) -> tuple[KernelProfile, GPU]:
        """The profile and the GPU with these constants."""
        fitted = replace(
            profile,
            overlap=self.overlap,
            overlap_source=f"fitted on {self.rows} rows of {self.data}, {self.date}",
            round_trips=self.round_trips,
            call_s=self.call_s,
            token_s=self.token_s,
            interval=self.interval,
        )
        return fitted, replace(gpu, sustained_clock_fraction=self.clock, dram_efficiency=self.dram_efficiency)


@dataclass(frozen=True)
class Calibration:
    """Constants by (GPU, kernel); hashable by its file, for caches."""

    path: str
    constants: Mapping[tuple[str, str], Constants]

    def __hash__(self) -> int:
        return hash(self.path)

    def apply(self, profile: KernelProfile, gpu: GPU) -> tuple[KernelProfile, GPU]:
        """The profile and the GPU with their constants; as they are where there are none."""
        found = self.constants.get((gpu.key, profile.key))
        return (profile, gpu) if found is None else found.apply(profile, gpu)


def load_calibration(path: str) -> Calibration:
    """Read a file that ``attncast calibrate`` wrote.

    Raises:
        InputError: no such file, no TOML, an unknown or missing constant, or one out of its bounds.
    """
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"cannot read calibration {path!r}: {problem.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"calibration {path!r} is not TOML: {problem}") from None
    found = {}
    for gpu, kernels in document.items():
        if not isinstance(kernels, dict) or not all(isinstance(table, dict) for table in kernels.values()):
            raise InputError(f"calibration {path!r}: expected a table [GPU.KERNEL], got {gpu!r}")
        for kernel, table in kernels.items():
            found[gpu, kernel] = _constants(table, f"calibration {path!r} [{gpu}.{kernel}]")
    return Calibration(path, found)


def _constants(table: Mapping[str, Any], where: str) -> Constants:
    names = [item.name for item in fields(Constants)]
    for name in table:
        if name not in names:
            raise InputError(f"{where}: unknown constant {name!r}{suggest(name, names)}")
    for item in fields(Constants):
        if item.name not in table:
            raise InputError(f"{where} has no {item.name!r}")
        value = table[item.name]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if (item.type == "str") != isinstance(value, str) or (item.type != "str" and not number):
            raise InputError(
                f"{where}: {item.name} is {value!r}, expected {'text' if item.type == 'str' else 'a number'}"
            )
        bounds = BOUNDS.get(item.name)
        if bounds is not None and not bounds.low * 0.999 <= value <= bounds.high * 1.001:
            raise InputError(f"{where}: {item.name} is {value:g}, expected {bounds.low:g} to {bounds.high:g}")
    return Constants(**table)


def calibration_text(constants: Mapping[tuple[str, str], Constants]) -> str:
    """The TOML of some constants."""
    lines = ["# Fitted constants; written by `attncast calibrate`, not by hand.", ""]
    for (gpu, kernel), found in sorted(constants.items()):
        lines.append(f"[{gpu}.{kernel}]")
        for name, value in asdict(found).items():
            text = f'"{_escaped(value)}"' if isinstance(value, str) else f"{value:.6g}"
            meaning = f"  # {BOUNDS[name].meaning}" if name in BOUNDS else ""
            lines.append(f"{name} = {text}{meaning}")
        lines.append("")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
