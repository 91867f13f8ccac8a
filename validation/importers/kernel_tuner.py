"""Kernel Tuner's cache file.

``{"device_name", "kernel_name", "problem_size", "tune_params_keys", "tune_params", "cache": {"8,64": {"bs_x": 8, ...,
"time": 1.2, "times": [...], "compile_time": ...}}}``. ``time``: milliseconds, the mean of ``times``, calls one after the
other on a warm L2; the name of an error ("CompilationFailedConfig") where a configuration failed. The median of
``times`` is taken where they are there. The file of an unfinished session has no closing braces for the cache and the
whole, and maybe a comma in their place: that alone is repaired. The workload is the user's; the device names the GPU.
Source: github.com/KernelTuner/kernel_tuner, util.py (process_cache, correct_open_cache), schema/cache/1.1.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ...errors import InputError
from .base import (
    WORKLOAD,
    WORKLOAD_MORE,
    BadEntry,
    Entry,
    Format,
    Given,
    Measurement,
    Names,
    NoRun,
    config_text,
    seconds,
)  # fmt: skip
from .reading import document_text, json_document
from .stated import median, quartile_spread, stated_run, tiles_of

SOURCE: Final = "Kernel Tuner cache"
FAILED: Final = ("InvalidConfig", "CompilationFailedConfig", "RuntimeFailedConfig")


def entries(path: Path, given: Given) -> Iterator[Entry]:
    """One entry for each configuration."""
    text = document_text(path)
    document = json_document(path, _closed(text))
    if not isinstance(document, dict) or not isinstance(document.get("cache"), dict):
        raise InputError(f"{str(path)!r} is not a Kernel Tuner cache: expected an object with an object 'cache'")
    keys = document.get("tune_params_keys", list(document.get("tune_params") or {}))
    texts = (document.get("device_name"), document.get("kernel_name"))
    if not isinstance(keys, list) or not all(isinstance(item, str) for item in (*keys, *texts)):
        raise InputError(f"{str(path)!r} names no device, kernel or tuning parameters: expected a Kernel Tuner cache")
    for index, (name, value) in enumerate(document["cache"].items()):
        yield Entry(f"configuration {name[:80]!r}", str(index + 1), (*texts, keys, value))


def _closed(text: str) -> str:
    """The text with the two closing braces of an unfinished session, if they are what it lacks."""
    body = text.strip()
    try:
        json.loads(body)
    except json.JSONDecodeError as error:
        if error.pos >= len(body.rstrip(",")) and body.rstrip(",").endswith(("}", "{")):
            return body.removesuffix(",") + "}}"
    except (RecursionError, ValueError):
        pass  # json_document says what is wrong
    return text


def read(entry: Entry, given: Given, names: Names) -> list[Measurement]:
    """One configuration, one run."""
    device, kernel, keys, value = entry.value
    if not isinstance(value, dict) or "time" not in value:
        raise BadEntry("it is not an object with a time", "no time")
    if value["time"] in FAILED:
        raise NoRun("the configuration failed")
    time_s = seconds(value["time"], "time")
    rest: dict[str, Any] = {}
    times = value.get("times")
    if times is not None:
        if not isinstance(times, list) or not times:
            raise BadEntry("its times are not a list", "times are not a list")
        found = [seconds(item, "times") for item in times]
        if not min(found) <= time_s * 1.000001 or not time_s <= max(found) * 1.000001:
            raise BadEntry("its time is not between the least and the largest of its times", "time contradicts times")
        time_s = median(found)
        rest = {"spread_s": quartile_spread(found), "samples": len(found)}
    config = {key: value[key] for key in keys if key in value}
    gpu = names.gpu(device)
    run = stated_run(
        given,
        gpu,
        names.kernel(kernel, gpu),
        time_s,
        **{"software": given.software or f"Kernel Tuner, kernel {kernel}", **tiles_of(config, given), **rest},
        warm=True,
        method=f"Kernel Tuner, calls back to back, {'median' if rest else 'mean'}",
        source=SOURCE,
        config=config_text(config),
    )
    return [Measurement(run)]


FORMAT: Final = Format("Kernel Tuner cache", SOURCE, entries, read, needs=WORKLOAD, takes=WORKLOAD_MORE)
