"""Clock, temperature and power, by NVML, by nvidia-smi, or not at all."""

from __future__ import annotations

import sys
from types import SimpleNamespace

from attncast.validation.measure.device import _shown
from attncast.validation.measure.sensors import Reading, find_sensor

SMI = """#!/bin/sh
echo "$@" > "$(dirname "$0")/asked"
echo "{answer}"
"""


def _without_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)


def _smi(tmp_path, monkeypatch, answer):
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.replace("{answer}", answer))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_nvml(monkeypatch):
    class Problem(Exception):
        pass

    def power(handle):
        raise Problem

    fake = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByUUID=lambda uuid: {"GPU-1": "handle"}[uuid],
        nvmlDeviceGetClockInfo=lambda handle, which: 1755, nvmlDeviceGetTemperature=lambda handle, which: 45,
        nvmlDeviceGetPowerUsage=power, NVML_CLOCK_SM=1, NVML_TEMPERATURE_GPU=0, NVMLError=Problem,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    sensor = find_sensor("GPU-1")
    assert (sensor.source, sensor.read()) == ("nvml", Reading(1.755e9, 45.0, None))


def test_nvidia_smi(tmp_path, monkeypatch):
    _without_nvml(monkeypatch)
    _smi(tmp_path, monkeypatch, "1755, 45, [N/A]")
    sensor = find_sensor("GPU-1")
    assert (sensor.source, sensor.read()) == ("nvidia-smi", Reading(1.755e9, 45.0, None))
    asked = (tmp_path / "asked").read_text()
    assert "--id=GPU-1" in asked
    assert "clocks.sm,temperature.gpu,power.draw" in asked


def test_nothing_to_ask(tmp_path, monkeypatch):
    _without_nvml(monkeypatch)
    _smi(tmp_path, monkeypatch, "No devices were found")
    sensor = find_sensor("GPU-1")
    assert (sensor.source, sensor.read()) == ("no sensor", Reading())
    assert _shown({"before": Reading()}, sensor.source) == "no clock, temperature or power read"


def test_readings_in_words():
    readings = {"before": Reading(1.98e9, 41.0, 120.0), "during": Reading(None, 45.0, 640.4)}
    assert _shown(readings, "nvml") == "SM 1980/? MHz, 41/45 C, 120/640 W before/during (nvml)"
