"""Triton's autotune cache: ``<kernel>.autotune.json`` in a folder of TRITON_CACHE_DIR.

``{"key": [values and dtypes that chose the entry], "configs_timings": [[config, [median, 20%, 80%]], ...]}``. One file is
one problem. A configuration is ``{"kwargs": {...}, "num_warps", "num_ctas", "num_stages", "maxnreg", ...}``; times are
milliseconds of ``triton.testing.do_bench``, which flushes the L2 before each call; Infinity where it did not compile or
fit. Nothing says what the problem was: all of the workload is the user's. The 20% and 80% quantiles become a spread of
quartiles as if times were normal. Source: Triton 3.9, triton/runtime/autotuner.py (check_disk_cache, _bench).
"""

from __future__ import annotations

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
from .reading import json_document
from .stated import stated_run, tiles_of

SOURCE: Final = "Triton autotune cache"
_QUARTILES_OF_20_80: Final = 0.6745 / 0.8416  # of a normal distribution
_ENDING: Final = ".autotune.json"


def entries(path: Path, given: Given) -> Iterator[Entry]:
    """One entry for each configuration."""
    document = json_document(path)
    timings = document.get("configs_timings") if isinstance(document, dict) else None
    if not isinstance(timings, list):
        raise InputError(f"{str(path)!r} is not a Triton autotune cache: expected an object with 'configs_timings'")
    kernel = path.name.removesuffix(".gz").removesuffix(_ENDING)
    for index, item in enumerate(timings):
        yield Entry(f"configuration {index + 1}", str(index + 1), (kernel, item))


def read(entry: Entry, given: Given, names: Names) -> list[Measurement]:
    """One configuration, one run."""
    kernel, item = entry.value
    if not (isinstance(item, list) and len(item) == 2 and isinstance(item[0], dict)):
        raise BadEntry("it is not a pair of a configuration and its times", "not a configuration and times")
    config, times = item
    config = {key: value for key, value in config.items() if key != "pre_hook"}
    kwargs = config.pop("kwargs", {})
    if not isinstance(kwargs, dict):
        raise BadEntry("its kwargs are not an object", "kwargs are not an object")
    if not isinstance(times, list):
        times = [times]  # a bench function of the user's own may return one time
    if times and all(value == float("inf") for value in times):
        raise NoRun("the configuration did not compile or fit")
    if len(times) not in (1, 3):
        raise BadEntry(
            f"it has {len(times)} times: expected the median and the 20% and 80% quantiles", "number of times"
        )
    found = [seconds(value, "time") for value in times]
    spread: float | None = None
    if len(found) == 3:
        if not found[1] <= found[0] <= found[2]:
            raise BadEntry("its median is not between its 20% and 80% quantiles", "quantiles out of order")
        spread = (found[2] - found[1]) / 2 * _QUARTILES_OF_20_80
    options: dict[str, Any] = {**kwargs, **config}
    gpu = names.gpu("")
    run = stated_run(
        given,
        gpu,
        names.kernel(kernel, gpu),
        found[0],
        **{"software": given.software or f"Triton kernel {kernel}", **tiles_of(options, given)},
        warm=False,
        method="triton.testing.do_bench, L2 flushed, median",
        source=SOURCE,
        config=config_text(options),
        spread_s=spread,
    )
    return [Measurement(run)]


FORMAT: Final = Format("Triton autotune cache", SOURCE, entries, read, needs=("gpu", *WORKLOAD), takes=WORKLOAD_MORE)
