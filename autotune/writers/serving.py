"""A tuned file as serving engines (vLLM, SGLang) keep theirs, which our own kernels look up: see kernels/tuned.py.

The GPU and the dtype are in the file's name, the Triton version inside, and configurations by size, here within a group of
problems: head dim and pattern. Our attention kernel's pattern is a family, or decode; for other
kernels it is the whole text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import InputError
from ...hwmodels import load_gpu
from ...kernels import tuned
from ...kernels.cache import triton_version
from ...simulator import parse_pattern
from ...simulator.patterns import Band
from ...simulator.patterns.band import UNLIMITED
from ..result import Tuning


def name_of(tuning: Tuning) -> str:
    """The name of the file that a tuning belongs in."""
    return tuned.file_name(tuning.kernel, load_gpu(tuning.gpu), tuning.workload.dtype)


def group_of(tuning: Tuning) -> str:
    """The group of problems that a tuning stands for."""
    workload = tuning.workload
    pattern = tuning.pattern
    if tuning.kernel == "triton":
        pattern = family_of(pattern) if "BLOCK_M" in tuning.best.config else "decode"
    return tuned.group_name(max(workload.head_dim, workload.dim_v), pattern)


def family_of(text: str) -> str:
    """What our kernel runs a pattern as."""
    pattern = parse_pattern(text)
    if not isinstance(pattern, Band):
        return "blocks"
    left, right = (None if side >= UNLIMITED else side for side in (pattern.left, pattern.right))
    return tuned.family_of(left, right)


def text(tunings: Sequence[Tuning]) -> str:
    """The JSON text of one file.

    Of two tunings of one group and size that of the longer call is kept: it has more to gain. Raises InputError for tunings
    that belong in different files.
    """
    names = sorted({name_of(tuning) for tuning in tunings})
    if len(names) > 1:
        raise InputError(f"one tuned file cannot be both {names[0]!r} and {names[1]!r}: expected a folder to write to")
    document: dict[str, Any] = {"triton_version": triton_version(), "attncast_version": __version__}
    for tuning in sorted(tunings, key=lambda tuning: (group_of(tuning), _rows(tuning), tuning.best.time_s)):
        document.setdefault(group_of(tuning), {})[str(_rows(tuning))] = _knobs(tuning)
    return json.dumps(document, indent=2) + "\n"


def _knobs(tuning: Tuning) -> dict[str, int | bool | str]:
    """The best configuration; of our attention kernel the knobs of its launch, for tokens that it permutes itself."""
    config = tuning.best.config
    if tuning.kernel != "triton" or "BLOCK_M" not in config:
        return dict(config)
    permuted = (c.config for c in tuning.ranking if c.config.get("order") != "row")
    return {name: value for name, value in next(permuted, config).items() if name in tuned.KNOBS}


def _rows(tuning: Tuning) -> int:
    w = tuning.workload
    return w.batch * w.heads * w.tokens


def merged(path: Path, new: str) -> str:
    """``new`` with what the file at ``path`` holds of other groups and sizes. Raises InputError for a file of another kind."""
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return new
    except (OSError, ValueError) as error:
        raise InputError(f"cannot add to {str(path)!r}: expected a tuned file ({error})") from None
    if not isinstance(old, dict):
        raise InputError(f"cannot add to {str(path)!r}: expected a tuned file, an object of groups")
    document = json.loads(new)
    for group, sizes in old.items():
        if isinstance(sizes, dict):
            both = {**sizes, **document.get(group, {})}
            document[group] = dict(sorted(both.items(), key=lambda item: (len(item[0]), item[0])))
    return json.dumps(document, indent=2) + "\n"
