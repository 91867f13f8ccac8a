"""A cascade's analyses as one JSON-able dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .counts import op_counts
from .footprint import live_footprint, reduced_ranks
from .ir import Cascade
from .passes import passes
from .poly import Poly
from .sizes import bind


def summary(cascade: Cascade, sizes: Mapping[str, int] | None = None) -> dict[str, Any]:
    """What a cascade costs in principle.

    Args:
        cascade: the cascade.
        sizes: elements per rank; without them counts and footprints are polynomials, as text.

    Returns:
        ``name``; ``passes`` per reduced rank; ``ops`` per operator; ``footprint``, the live elements of each
        tensor's fibers of the reduced ranks when fused at the pass bound ("O(1)", "O(M0)", "O(M)");
        ``barriers``, one sentence for each Einsum that forces a pass after a rank's first; ``dead``, the
        tensors no output needs, which count nowhere.

    Raises:
        InputError: a size missing, unknown or in conflict.
    """
    scope = cascade.scope
    bound = None if sizes is None else bind(cascade, sizes)
    results = [passes(cascade, rank) for rank in reduced_ranks(cascade)]
    footprint: dict[str, Poly] = {}
    for result in results:
        for tensor, live in live_footprint(cascade, result.rank).items():
            footprint[tensor] = footprint[tensor] * live if tensor in footprint else live
    return {
        "name": cascade.name,
        "passes": {result.rank: result.count for result in results},
        "ops": {op: str(n) if bound is None else n.at(bound) for op, n in sorted(op_counts(cascade).items())},
        "footprint": {t: f"O({n})" if bound is None else n.at(bound) for t, n in footprint.items()},
        "barriers": [
            f"pass {b.begins} over {result.rank}: {b.reader} reads it again after {b.reduction} is complete"
            for result in results
            for b in result.barriers
        ],
        "dead": [e.target.tensor for n, e in enumerate(scope.einsums) if n not in scope.live],
    }
