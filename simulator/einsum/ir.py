"""What a cascade of extended Einsums is: the whole representation, on one page.

A cascade is a list of lines (statements with their comments), so it prints back as the text it came from.
``Scope`` is what the checker (``scope.py``) derives from the lines once, for every analysis to read. Sizes
are bound later: nothing here knows a number of elements.

``at`` is the (line, column) in the text, counted from 1; it takes no part in comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

At = tuple[int, int]


@dataclass(frozen=True)
class Term:
    """A variable of an index and the ranks it strides over: ``m1*M0`` is ``Term("m1", ("M0",))``."""

    var: str
    stride: tuple[str, ...] = ()


@dataclass(frozen=True)
class Index:
    """A coordinate: terms plus an offset; or ``last``, the one after an iterative rank's last step."""

    terms: tuple[Term, ...] = ()
    offset: int = 0
    last: str | None = None
    at: At = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Access:
    """A tensor read or written at one coordinate per rank."""

    tensor: str
    indices: tuple[Index, ...]
    at: At = field(default=(0, 0), compare=False, repr=False)

    @cached_property
    def vars(self) -> tuple[str, ...]:
        """The variables of its coordinates, each once, in order; every analysis asks for them."""
        return index_vars(*self.indices)


@dataclass(frozen=True)
class Number:
    """A literal."""

    value: float


@dataclass(frozen=True)
class Name:
    """A constant, a rank's size, a rank variable's value, or a parameter of a ``def``."""

    name: str
    at: At = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Apply:
    """A compute operator of ``operators.py``, or of a ``def``, on its operands."""

    op: str
    args: tuple[Expr, ...]
    at: At = field(default=(0, 0), compare=False, repr=False)


Expr = Access | Number | Name | Apply


@dataclass(frozen=True)
class Filter:
    """A comparison of two coordinates: the points where it is false are absent."""

    left: Index
    op: str
    right: Index
    at: At = field(default=(0, 0), compare=False, repr=False)

    @cached_property
    def vars(self) -> tuple[str, ...]:
        """The variables of both coordinates, each once, in order."""
        return index_vars(self.left, self.right)


@dataclass(frozen=True)
class Einsum:
    """``target = reduce(over) expr where filters``: ``expr`` is the map action, ``reduce`` is optional."""

    target: Access
    expr: Expr
    reduce: str | None = None
    over: tuple[str, ...] = ()
    where: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class Rank:
    """``rank M = M1*M0`` (parts, outermost first), ``rank P = M`` (one part: same size), ``default 128``."""

    name: str
    parts: tuple[str, ...] = ()
    default: int | None = None
    at: At = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Const:
    """A scalar computed from rank sizes and numbers when sizes are bound."""

    name: str
    value: Expr
    at: At = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Define:
    """A user's operator, made of known ones: ``def silu2(x) = x * sigmoid(x)``."""

    name: str
    params: tuple[str, ...]
    body: Expr
    at: At = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Tensor:
    """A tensor that is given, with its ranks."""

    name: str
    ranks: tuple[str, ...]
    at: At = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Input:
    """One ``input`` line."""

    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Iterate:
    """An iterative rank: ``var`` counts from 0 and stops when it equals the size of ``stop``."""

    var: str
    stop: str
    at: At = field(default=(0, 0), compare=False, repr=False)


@dataclass(frozen=True)
class Output:
    """The tensors the cascade is for; an Einsum none of them needs is dead."""

    names: tuple[Name, ...]


Statement = Rank | Const | Define | Input | Iterate | Output | Einsum


@dataclass(frozen=True)
class Line:
    """One line of text: a statement, a comment (without its ``#``), both, or neither."""

    statement: Statement | None = None
    comment: str | None = None


@dataclass(frozen=True)
class Scope:
    """Every name resolved. Einsums are referred to by their position in ``einsums``.

    ``same`` maps each rank to the rank whose size it shares (itself, if none); ``parts`` maps a partitioned
    rank to its parts, outermost first. ``states`` gives the position of the iterated rank in the tensors that
    carry state. ``reads`` lists each Einsum's operands. ``groups`` is an order of evaluation: a group with a
    variable is a loop, in its inner order. ``filters`` holds each Einsum's own filters and those its operands
    hand down. ``memo`` keeps what analyses found: a cascade never changes.
    """

    ranks: tuple[str, ...]
    same: Mapping[str, str]
    parts: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, int]
    consts: Mapping[str, Expr]
    functions: Mapping[str, Define]
    stops: Mapping[str, str]
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    einsums: tuple[Einsum, ...]
    producers: Mapping[str, tuple[int, ...]]
    shapes: Mapping[str, tuple[str, ...]]
    states: Mapping[str, int]
    reads: tuple[tuple[Access, ...], ...]
    groups: tuple[tuple[str | None, tuple[int, ...]], ...] = ()
    live: frozenset[int] = frozenset()
    filters: tuple[tuple[Filter, ...], ...] = ()
    memo: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def rank(self, var: str) -> str:
        """The rank a variable runs over: its name in upper case."""
        return var.upper()


@dataclass(frozen=True)
class Cascade:
    """A named cascade. Equal cascades have the same name and the same text, spacing aside."""

    name: str
    lines: tuple[Line, ...]
    scope: Scope = field(compare=False, repr=False)

    @property
    def header(self) -> str:
        """The comment lines the text opens with, joined by newlines: what the cascade is, and its source."""
        words = []
        for line in self.lines:
            if line.statement is not None or line.comment is None:
                break
            words.append(line.comment.strip())
        return "\n".join(words)

    def _repr_html_(self) -> str:
        from ..html import html_table
        from .summary import summary  # here, not above: the analyses are made of this module

        found = summary(self)
        passes = [[f"passes over {rank}", str(n)] for rank, n in found["passes"].items()]
        ops = [[op, str(n)] for op, n in found["ops"].items()]
        return html_table(f"{self.name}: {self.header}", ["", "count"], passes + ops, found["barriers"])

    def plot(self) -> Figure:
        """Its graph, passes in colour. Needs matplotlib and networkx."""
        from .plot import cascade_figure

        return cascade_figure(self)


def accesses(expr: Expr) -> tuple[Access, ...]:
    """Every tensor read in an expression, from left to right."""
    if isinstance(expr, Access):
        return (expr,)
    if isinstance(expr, Apply):
        return tuple(access for arg in expr.args for access in accesses(arg))
    return ()


def index_vars(*indices: Index) -> tuple[str, ...]:
    """The variables of some coordinates, each once, in order."""
    return tuple(dict.fromkeys(term.var for index in indices for term in index.terms))
