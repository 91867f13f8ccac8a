"""Extended Einsums: a notation for attention algorithms, and what follows from it.

Parse once, bind sizes later: ``parse`` a text (NOTATION.md describes it), then ask for ``passes``,
``op_counts``, ``live_footprint``, ``traffic_bound`` or ``summary``, or ``evaluate`` it on arrays. The
representation is in ``ir``.
"""

from .counts import EinsumCost, einsum_costs, op_counts
from .evaluate import difference, evaluate, random_inputs
from .footprint import Traffic, live_footprint, reduced_ranks, traffic_bound
from .graph import dependency_graph
from .ir import Cascade
from .parser import parse
from .passes import Barrier, Passes, passes
from .poly import Poly
from .printer import show
from .sizes import bind
from .summary import summary

__all__ = [
    "Barrier",
    "Cascade",
    "EinsumCost",
    "Passes",
    "Poly",
    "Traffic",
    "bind",
    "dependency_graph",
    "difference",
    "einsum_costs",
    "evaluate",
    "live_footprint",
    "op_counts",
    "parse",
    "passes",
    "random_inputs",
    "reduced_ranks",
    "show",
    "summary",
    "traffic_bound",
]
