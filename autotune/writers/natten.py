"""A Python module that calls NATTEN (0.21) with the tile shapes of the tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...errors import InputError
from ...hwmodels import load_gpu
from ...simulator import parse_pattern
from ...simulator.patterns import Neighborhood
from ...simulator.profile import load_profile
from ...simulator.workload import parse_grid
from ..result import Tuning
from .words import problem_text, time_text

_MODULE: Final = '''"""NATTEN's neighborhood attention with the fastest tile shapes: {time}.

{problem}
"""

from natten import {function}


def attention(q, k, v):
    """q, k, v and the result: [batch, {axes}, heads, dim]."""
    return {function}(
        q,
        k,
        v,
        kernel_size={window},
        stride={stride},
        dilation={dilation},
        is_causal={causal},
        backend={backend!r},
        q_tile_shape={q_tile},
        kv_tile_shape={kv_tile},
    )
'''


def text(tunings: Sequence[Tuning]) -> str:
    """The module's text. Raises InputError for a pattern that is not NATTEN's."""
    (tuning,) = tunings
    pattern = parse_pattern(tuning.pattern)
    if not isinstance(pattern, Neighborhood):
        raise InputError(
            f"pattern {tuning.pattern!r}: expected a neighborhood, as 'na window=...', for format 'natten'"
        )
    axes = len(pattern.window)
    config = tuning.best.config
    return _MODULE.format(
        time=time_text(tuning.best),
        problem=problem_text(tuning),
        function=f"na{axes}d",
        axes=", ".join(("depth", "height", "width")[-axes:] if axes > 1 else ("length",)),
        window=pattern.window,
        stride=pattern.stride,
        dilation=pattern.dilation,
        causal=pattern.causal,
        # Tile shapes belong to a backend: "NATTEN hopper-fna".
        backend=load_profile("natten", load_gpu(tuning.gpu)).title.split()[-1],
        q_tile=parse_grid(str(config["q_tile"])),
        kv_tile=parse_grid(str(config["kv_tile"])),
    )
