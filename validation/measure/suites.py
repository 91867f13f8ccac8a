"""Suites are data: ``suites/*.toml``, each a list of shapes, patterns and kernels to be combined."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...errors import InputError, unknown
from ...hwmodels import GPU
from ...kernels.space import attention_space
from ...kernels.static import estimate_configs
from ...simulator.workload import grid_text, parse_grid
from .case import Case, config_text
from .libraries import LIBRARIES

FOLDER: Final = Path(__file__).parent / "suites"
SMALL_TOKENS: Final = 256
_SMALL_WINDOW: Final = 100
_ENTRY: Final = {
    "kernels", "shapes", "heads", "head_dims", "dtypes", "patterns", "measures", "configs", "small_grid", "small_patterns"
}  # fmt: skip
_COMPILED: Final = {"dense": "dense", "causal": "causal", "window": "window", "na": "blocks", "blocks": "blocks"}


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        name, title: of the suite. seconds: what it is sized to take on one H100. warm: L2 warm.
        sample_seconds: GPU seconds of timed calls for each case. entries: the tables of its file.
    """

    name: str
    title: str
    seconds: float
    warm: bool
    sample_seconds: float
    entries: tuple[Mapping[str, Any], ...]

    def cases(self, gpu: GPU, *, small: bool = False) -> list[Case]:
        """Cases for a GPU, in order and without repetition; with ``small`` the tiny ones that try each on a CPU.

        Configurations that ``kernels.static`` calls hopeless on this GPU are left out, and kernels that do not take a
        pattern or shape are passed over.
        """
        found: dict[Case, None] = {}
        for entry in self.entries:
            for case, tiny in _expand(entry, self.warm):
                chosen = tiny if small else case
                if not LIBRARIES[case.kernel].takes(case):
                    continue
                if entry.get("configs", "default") == "all" and case.kernel == "attncast":
                    found.update((replace(chosen, config=text), None) for text in _configs(gpu, case))
                else:
                    found[chosen] = None
        return list(found)


@cache
def suite_names() -> tuple[str, ...]:
    """Names of the suites, smallest first."""
    files = {path.stem: tomllib.loads(path.read_text(encoding="utf-8")) for path in FOLDER.glob("*.toml")}
    return tuple(sorted(files, key=lambda name: (files[name]["seconds"], name)))


def load_suite(name: str) -> Suite:
    """The suite of that name. Raises InputError for an unknown one."""
    if name not in suite_names():
        raise unknown("suite", name, suite_names())
    document = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    for entry in document["cases"]:
        if not set(entry) <= _ENTRY:
            raise InputError(f"suite {name!r} has unknown settings {sorted(set(entry) - _ENTRY)}")
        for kernel in entry["kernels"]:
            if kernel not in LIBRARIES:
                raise unknown(f"kernel in suite {name!r}", kernel, LIBRARIES)
    return Suite(
        name,
        document["title"],
        document["seconds"],
        document["cache"] == "warm",
        document["sample_seconds"],
        tuple(document["cases"]),
    )


def _expand(entry: Mapping[str, Any], warm: bool) -> Iterator[tuple[Case, Case]]:
    """Each combination of an entry, and its tiny version. What compares with one another stands together."""
    combinations = itertools.product(
        entry["shapes"], entry["heads"], entry["head_dims"], entry.get("dtypes", ["bf16"]),
        range(len(entry["patterns"])), entry.get("measures", ["kernel"]), entry["kernels"],
    )  # fmt: skip
    for (batch, grid, *cached), heads, head_dim, dtype, number, measures, kernel in combinations:
        pattern = entry["patterns"][number]
        q_heads, kv_heads = map(int, heads.split(":"))
        case = Case(
            kernel, batch, q_heads, kv_heads, grid, cached[0] if cached else 0, head_dim, dtype, pattern, measures, warm
        )
        smaller = entry["small_patterns"][number] if "small_patterns" in entry else _small_pattern(pattern)
        yield (
            case,
            replace(
                case,
                batch=min(batch, 2),
                heads=max(2, q_heads // kv_heads) if q_heads > 1 else 1,
                heads_kv=1 if q_heads > kv_heads else min(2, q_heads),
                grid=entry.get("small_grid", _small_grid(grid)),
                cached=min(case.cached, SMALL_TOKENS),
                pattern=smaller,
            ),
        )


def _small_grid(grid: str) -> str:
    return grid_text(tuple(min(length, SMALL_TOKENS) for length in parse_grid(grid)))


def _small_pattern(pattern: str) -> str:
    """A window that is smaller than the tiny sequences; other bands as they are."""
    words = []
    for word in pattern.split():
        name, equals, value = word.partition("=")
        words.append(f"{name}={min(int(value), _SMALL_WINDOW)}" if equals else word)
    return " ".join(words)


@cache
def _configs(gpu: GPU, case: Case) -> tuple[str, ...]:
    """Configurations of our kernel that are not hopeless on ``gpu``.

    On sm_90 warp specialisation is left out: Triton 3.6 to 3.9 does not compile it with 4 warps and ignores it with 8.
    """
    every = list(attention_space(gpu.arch, [case.head_dim], case.dtype, _COMPILED[case.kind]))
    hopeless = np.asarray(estimate_configs(gpu, every).hopeless)
    return tuple(
        config_text(config.forward_config())
        for config, no in zip(every, hopeless, strict=True)
        if not no and not (config.warp_specialize and gpu.arch == "sm_90")
    )
