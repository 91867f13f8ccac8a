"""How far forecasts without fitted constants were from measured runs, and of which."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from ..hwmodels import GPU, load_gpu
from .calibration import Use, use_of
from .evidence import Seen, outside, parse_seen
from .patterns import Pattern
from .workload import Workload

CHECKED: Final = Path(__file__).parent / "checked.csv"


@dataclass(frozen=True)
class Checked:
    """Measured runs of a use that forecasts by priors were held against.

    Attributes:
        rows: how many. mape, bias: mean size of their relative errors, and mean. seen: what they span.
    """

    rows: int
    mape: float
    bias: float
    seen: Seen


@lru_cache(maxsize=1)
def checked() -> Mapping[Use, Checked]:
    """By use, without an engine: ``checked.csv``, which ``python -m attncast.validation.checked`` writes."""
    found = {}
    with CHECKED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            use = Use(*(row[item.name] for item in fields(Use)))
            seen = parse_seen(row["seen"], f"{CHECKED.name}, {use}")
            found[use] = Checked(int(row["rows"]), float(row["mape"]), float(row["bias"]), seen)
    return found


def unfitted_note(gpu: GPU, kernel: str, workload: Workload, pattern: Pattern, time_s: float) -> str:
    """What a forecast without fitted constants was held against, in a sentence or two."""
    text, seen = _held_against(use_of(gpu, kernel, workload, ""), gpu.generation)
    return text if seen is None else text + outside(seen, workload, pattern, time_s)


@lru_cache(maxsize=1024)
def _held_against(use: Use, generation: str) -> tuple[str, Seen | None]:
    """A sentence, and what the runs of this very use span; None where there are none."""
    held = checked()
    if use in held:
        return f"Nothing is fitted; {_error(use, held[use])}.", held[use].seen
    others = [other for other in held if replace(other, gpu=use.gpu) == use]
    text = f"Nothing is fitted, and no measured run of {use} is known"
    if not others:
        return f"{text}.", None
    most = max(others, key=lambda other: (load_gpu(other.gpu).generation == generation, held[other].rows))
    return f"{text}; {_error(most, held[most])}.", None


def _error(use: Use, found: Checked) -> str:
    runs = "one measured run" if found.rows == 1 else f"{found.rows:,} measured runs"
    return f"forecasts of {runs} of {use} are {found.mape:.0%} off on average"
