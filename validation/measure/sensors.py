"""Clock, temperature and power of a GPU: by nvidia-ml-py where it is installed, else by nvidia-smi, else unknown."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Reading:
    """SM clock in Hz, temperature in degrees Celsius, power in watts; None what was not to be had."""

    clock_hz: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON takes them."""
        return asdict(self)


@dataclass(frozen=True)
class Sensor:
    """How a GPU is asked: ``source`` says by what, ``read`` asks."""

    source: str
    read: Callable[[], Reading]


def find_sensor(uuid: str) -> Sensor:
    """The best sensor there is for the GPU with that UUID ("GPU-..."); one that knows nothing when there is none."""
    return _by_nvml(uuid) or _by_smi(uuid) or Sensor("no sensor", Reading)


def _by_nvml(uuid: str) -> Sensor | None:
    try:
        pynvml = import_module("pynvml")
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except Exception:  # not installed, no driver, no such device: each has a class of its own in each version
        return None

    def asked(question: Callable[[], float], scale: float) -> float | None:
        try:
            return question() * scale
        except pynvml.NVMLError:
            return None

    def read() -> Reading:
        return Reading(
            asked(lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM), 1e6),
            asked(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU), 1.0),
            asked(lambda: pynvml.nvmlDeviceGetPowerUsage(handle), 1e-3),
        )

    return Sensor("nvml", read)


def _by_smi(uuid: str) -> Sensor | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [
        program, f"--id={uuid}", "--query-gpu=clocks.sm,temperature.gpu,power.draw", "--format=csv,noheader,nounits"
    ]  # fmt: skip

    def read() -> Reading:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return Reading()
        values = [_number(cell) for cell in done.stdout.strip().split(",")]
        if len(values) != 3:
            return Reading()
        clock_mhz, temperature_c, power_w = values
        return Reading(None if clock_mhz is None else clock_mhz * 1e6, temperature_c, power_w)

    return Sensor("nvidia-smi", read) if read() != Reading() else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:  # "[N/A]"
        return None
