"""Is the result right? Some query rows of some heads in float64, under the simulator's own definition of the pattern.

That definition shares no code with the kernels': who attends to whom is asked pair by pair.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ...kernels.reference import attention_reference, rounding_bound
from ...simulator import Workload, parse_pattern
from ...simulator.patterns.combine import rule_of
from .calls import Tensors
from .case import Case

ROWS = 128  # of each head looked at; half of them at the ends, where masks and padding go wrong


class WrongResult(ArithmeticError):
    """The output is not that of the case's attention."""


def check_output(case: Case, given: Tensors, out: torch.Tensor) -> float:
    """Return the largest error of the rows that are looked at.

    Args:
        out: [batch, heads, tokens, head_dim], tokens in their own order.

    Raises:
        WrongResult: wrong shape or dtype, a value that is not finite anywhere, or a row that rounding does not explain.
    """
    if out.shape != given.q.shape or out.dtype != given.q.dtype:
        raise WrongResult(f"output {list(out.shape)} {out.dtype}: expected {list(given.q.shape)} {given.q.dtype}")
    if not bool(torch.isfinite(out).all()):
        raise WrongResult("values that are not finite")
    workload = Workload(case.tokens, 1, case.head_dim, cached=case.cached)
    chosen, kept = (tensor.to(out.device) for tensor in _rows(case.pattern, workload))
    worst = 0.0
    for batch, head in {(0, 0), (case.batch - 1, case.heads - 1)}:
        shared = head * case.heads_kv // case.heads
        q = given.q[batch, head, chosen][None, None]
        k, v = (tensor[batch, shared][None, None] for tensor in (given.k, given.v))
        expected, _ = attention_reference(q, k, v, kept)
        weighted, _ = attention_reference(q, k, v.double().abs(), kept)
        difference = (out[batch, head, chosen].double() - expected[0, 0]).abs()
        bound = rounding_bound(expected, weighted, out.dtype)[0, 0]
        worst = max(worst, float(difference.max()))
        wrong = (difference > bound).any(-1)
        if bool(wrong.any()):
            row = int(chosen[wrong][0])
            raise WrongResult(
                f"off by {float(difference.max()):.3g} in {int(wrong.sum())} of {chosen.numel()} rows looked at, "
                f"the first of them token {row} of head {head}, sequence {batch}"
            )
    return worst


@lru_cache(maxsize=2)
def _rows(pattern: str, workload: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """Query tokens to look at, shape (rows,), and the keys that each attends, bool (rows, keys)."""
    tokens = workload.tokens
    ends = np.concatenate([np.arange(ROWS // 4), tokens - 1 - np.arange(ROWS // 4)])
    inner = np.random.default_rng(0).integers(0, tokens, ROWS // 2)
    rows = np.unique(np.clip(np.concatenate([ends, inner]), 0, tokens - 1))
    parsed = parse_pattern(pattern)
    parsed.check(workload)
    kept = rule_of(parsed, workload).keeps(rows[:, None], np.arange(workload.kv_tokens)[None])
    return torch.from_numpy(rows), torch.from_numpy(np.broadcast_to(kept, (rows.size, workload.kv_tokens)).copy())
