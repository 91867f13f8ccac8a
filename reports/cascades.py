"""The page of the cascades: passes, operation counts and graphs of every algorithm, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..simulator.einsum import Cascade
from ..simulator.einsum.plot import cascade_figure
from ..simulator.plots import INK, SERIES, WIDTH, new_figure, rc
from .page import Cell, Fact, Page, Picture, Section, Table, count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("mul_add", "exp", "max", "add", "sub", "mul", "divide")
WIDE_INCHES = 7.5


@dataclass(frozen=True)
class Algorithm:
    """A cascade and what it costs.

    Attributes:
        title: what it is, in a few words. costs: as ``simulator.einsum.summary`` gives them, counts as polynomials.
        counts: operations by operator at the sizes of the page; None where these are not all its ranks.
        per_pair: whether it has an element for each query-key pair.
    """

    cascade: Cascade
    title: str
    costs: Mapping[str, Any]
    counts: Mapping[str, int] | None
    per_pair: bool


def cascades_page(found: Sequence[Algorithm], sizes: Mapping[str, int], footer: str) -> Page:
    """The page; ``sizes`` are the rank sizes at which ``counts`` were taken, M keys and P queries among them."""
    pairs = sizes["M"] * sizes["P"]
    counted = [a for a in found if a.counts is not None and a.per_pair]
    shown = ", ".join(f"{rank}={size:,}" for rank, size in sizes.items())
    blocks: list[Picture | Table] = []
    if counted:
        caption = f"Operations other than multiply-add, over the query-key pairs, at {shown}."
        figure = per_pair_figure(counted, pairs)
        blocks.append(Picture("per-pair", "Vector operations for each query-key pair", caption, figure))
    caption = "Passes over the rank with most of them: each is a time that all of a fiber must be read or kept."
    blocks.insert(0, Picture("passes", "Passes", caption, passes_figure(found)))
    blocks += [_summary(found), _operations(found, shown), _barriers(found)]
    graphs = tuple(_graph(algorithm) for algorithm in found)
    single = sum(max(a.costs["passes"].values(), default=1) == 1 for a in found)
    facts = (
        Fact("algorithms", str(len(found))),
        Fact("with one pass", str(single), "over every rank they reduce"),
        Fact("most passes", str(max(max(a.costs["passes"].values(), default=1) for a in found))),
    )
    return Page(
        name="cascades",
        title="Attention algorithms as cascades of Einsums",
        lines=(
            "What each costs in principle, whatever the machine: passes over its ranks, operations, and who reads whom.",
        ),
        sections=(
            Section("compare", "Side by side", facts=facts, blocks=tuple(blocks)),
            Section(
                "graphs",
                "Graphs",
                ("Colour: the pass that makes a tensor. Dashed: carried from step to step.",),
                blocks=graphs,
            ),
        ),
        footer=footer,
    )


def _summary(found: Sequence[Algorithm]) -> Table:
    header = ("cascade", "what", "passes", "most", *COLUMNS, "others")
    rows: list[tuple[Cell, ...]] = []
    for a in found:
        passes, ops = a.costs["passes"], a.costs["ops"]
        others = "; ".join(f"{op} {n}" for op, n in ops.items() if op not in COLUMNS)
        counts = ", ".join(f"{rank} {n}" for rank, n in passes.items())
        rows.append(
            (
                a.cascade.name,
                a.title,
                counts or "-",
                count(max(passes.values(), default=1)),
                *(str(ops.get(op, "-")) for op in COLUMNS),
                others or "-",
            )
        )
    note = "Operations as polynomials in rank sizes: E and F head dims, M keys, P queries, N tokens."
    return Table("algorithms", "Passes and operations", header, tuple(rows), note)


def _operations(found: Sequence[Algorithm], shown: str) -> Table:
    rows = tuple(
        (a.cascade.name, op, count(number)) for a in found if a.counts is not None for op, number in a.counts.items()
    )
    note = f"At {shown}; cascades with other ranks are left out."
    return Table("operations", "Operations in numbers", ("cascade", "operator", "count"), rows, note)


def _barriers(found: Sequence[Algorithm]) -> Table:
    rows = tuple((a.cascade.name, sentence) for a in found for sentence in a.costs["barriers"])
    return Table("barriers", "What forces another pass", ("cascade", "why"), rows)


def _graph(algorithm: Algorithm) -> Picture:
    figure = cascade_figure(algorithm.cascade)
    name = algorithm.cascade.name
    key = f"graph-{name.replace('_', '-')}"
    return Picture(key, name, algorithm.title, figure, wide=figure.get_size_inches()[0] > WIDE_INCHES)


def passes_figure(found: Sequence[Algorithm]) -> Figure:
    """How many algorithms need how many passes."""
    with rc():
        most = [max(a.costs["passes"].values(), default=1) for a in found]
        levels = range(1, max(most) + 1)
        figure, axes = new_figure()
        heights = [most.count(level) for level in levels]
        axes.bar(levels, heights, color=SERIES[0], width=0.62)
        for level, height in zip(levels, heights, strict=True):
            axes.annotate(str(height), (level, height), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        axes.set_xticks(list(levels))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="passes over the rank with most", ylabel="algorithms")
        return figure


def per_pair_figure(found: Sequence[Algorithm], pairs: int) -> Figure:
    """Vector operations for each query-key pair, by operator, the cheapest at the top."""

    def per_pair(a: Algorithm) -> dict[str, float]:
        assert a.counts is not None
        return {op: n / pairs for op, n in a.counts.items() if op != "mul_add"}

    ordered = sorted(found, key=lambda a: sum(per_pair(a).values()))
    named = ("exp", "max", "add", "sub", "mul", "divide")
    with rc():
        figure, axes = new_figure(WIDTH, 1.6 + 0.24 * len(ordered))
        left = [0.0] * len(ordered)
        for index, op in enumerate((*named, "others")):
            widths = [
                sum(n for name, n in per_pair(a).items() if (name == op or (op == "others" and name not in named)))
                for a in ordered
            ]
            axes.barh(range(len(ordered)), widths, left=left, color=SERIES[index], height=0.66, label=op)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        for index, total in enumerate(left):
            axes.annotate(
                f"{total:.3g}", (total, index), (4, 0), textcoords="offset points", va="center", fontsize=8, color=INK
            )
        axes.set_yticks(range(len(ordered)), [a.cascade.name for a in ordered], fontsize=8.5)
        axes.set_xlim(0, 1.14 * max(left))
        axes.set_xlabel("operations for each pair")
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        figure.legend(loc="outside upper left", ncols=4, columnspacing=1.0, handlelength=1.2)
        return figure
