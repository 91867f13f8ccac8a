"""What the Python modules among the forms say at their head, and a workload as the code that makes it."""

from __future__ import annotations

from ... import __version__
from ...simulator import Workload
from ...simulator.estimate import seconds_text
from ...simulator.workload import grid_text
from ..result import Candidate, Tuning


def time_text(candidate: Candidate) -> str:
    """The time of a candidate, and whether a GPU or the model says so."""
    if candidate.measured_s is not None:
        return f"{seconds_text(candidate.measured_s)} measured"
    return f"{seconds_text(candidate.time_s)} predicted"


def problem_text(tuning: Tuning) -> str:
    """The problem and how it was tuned, in one line of a docstring."""
    w = tuning.workload
    heads = f"{w.heads} heads" if w.heads == w.kv_heads else f"{w.heads} heads on {w.kv_heads}"
    keys = "" if w.keys == w.grid else f" to {grid_text(w.keys)}"
    shape = f"{w.batch} x {heads}, {grid_text(w.grid)}{keys} tokens, head dim {w.head_dim}, {w.dtype}"
    return f"{tuning.pattern} on {tuning.gpu}: {shape}; attncast {__version__}, effort {tuning.effort}."


def workload_code(w: Workload) -> str:
    """Python that makes the workload again."""
    parts = {"grid": w.grid, "heads": w.heads, "head_dim": w.head_dim, "batch": w.batch, "heads_kv": w.kv_heads}
    parts |= {"cached": w.cached} if w.cached else {"kv_grid": w.keys}
    parts |= {"dtype": w.dtype, "kv_dtype": w.kv_dtype, "head_dim_v": w.dim_v}
    return f"Workload({', '.join(f'{name}={value!r}' for name, value in parts.items())})"
