"""``attncast cascade``."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from ..errors import InputError, unknown
from ..simulator import cascades
from ..simulator.einsum import Cascade, bind, evaluate, passes, random_inputs, reduced_ranks, show, summary
from . import complete
from .options import json_option
from .output import print_json, print_object, print_table

_TOLERANCE: Final = 1e-6  # of a difference between sums of a few dozen float64 terms of order one


@click.group()
def cascade() -> None:
    """Attention algorithms as cascades of Einsums, and what each costs in principle.

    NAME is a cascade that comes with attncast, or the path of a file of your own.

    \b
    Examples:
      attncast cascade list
      attncast cascade show fa2 --sizes E=128,F=128,M=65536,P=65536
      attncast cascade show ./mine.cascade --png mine.png
      attncast cascade compare three_pass fa2
      attncast cascade check ./mine.cascade
    """


@cascade.command("list")
@json_option
def list_cascades(as_json: bool) -> None:
    """List the cascades, with their passes over each rank they reduce.

    \b
    Examples:
      attncast cascade list
      attncast cascade list --json
    """
    found = [cascades.load(name) for name in cascades.names()]
    if as_json:
        print_json([{"name": c.name, "title": title(c), "passes": _passes(c)} for c in found])
        return
    rows = [[c.name, ", ".join(f"{rank} {n}" for rank, n in _passes(c).items()) or "-", title(c)] for c in found]
    width = max(len(row[0]) for row in rows)
    inner = max(len(row[1]) for row in rows)
    click.echo(f"{'cascade':{width}}  {'passes':{inner}}  what")
    for name, counts, what in rows:
        click.echo(f"{name:{width}}  {counts:{inner}}  {what}")


@cascade.command("show")
@click.argument("name", shell_complete=complete.cascade)
@click.option("--sizes", metavar="R=N,...", help="Rank sizes; counts are polynomials without them.")
@click.option(
    "--png",
    metavar="FILE",
    shell_complete=complete.files,
    help="Draw the graph, passes in colour, instead of printing.",
)
@json_option
def show_cascade(name: str, sizes: str | None, png: str | None, as_json: bool) -> None:
    """Show a cascade: its text, passes and what forces them, operations, live footprint.

    \b
    Examples:
      attncast cascade show three_pass
      attncast cascade show fa2 --sizes E=128,F=128,M=65536,P=65536 --json
      attncast cascade show ./mine.cascade --png mine.png
    """
    found = cascades.load(name)
    if png is not None:
        from .cascade_png import draw

        draw(found, png)
        click.echo(f"wrote {png}", err=True)
        return
    result = summary(found, parse_sizes(sizes))
    if as_json:
        print_object(result)
        return
    click.echo(show(found))
    click.echo("passes      " + (", ".join(f"{n} over {rank}" for rank, n in result["passes"].items()) or "none"))
    for sentence in result["barriers"]:
        click.echo(f"            {sentence}")
    click.echo("operations")
    for op, count in result["ops"].items():
        click.echo(f"  {op:9s} {_count(count)}")
    click.echo("footprint")
    for tensor, live in result["footprint"].items():
        click.echo(f"  {tensor:9s} {_count(live)}")


@cascade.command()
@click.argument("first", shell_complete=complete.cascade)
@click.argument("second", shell_complete=complete.cascade)
@click.option("--sizes", metavar="R=N,...", help="Rank sizes; counts are polynomials without them.")
@json_option
def compare(first: str, second: str, sizes: str | None, as_json: bool) -> None:
    """Compare what two cascades cost: passes and operations.

    \b
    Examples:
      attncast cascade compare three_pass fa2
      attncast cascade compare fa2 ./mine.cascade --sizes E=128,F=128,M=8192,P=8192
    """
    pair = [cascades.load(first), cascades.load(second)]
    given = parse_sizes(sizes)
    results = [summary(each, _own(each, pair, given)) for each in pair]
    if as_json:
        print_json(results)
        return
    rows = []
    for rank in _union(results, "passes"):
        rows.append([f"passes over {rank}", *(str(r["passes"].get(rank, 0)) for r in results)])
    for op in _union(results, "ops"):
        counts = [r["ops"].get(op, 0) for r in results]
        rows.append([op, *(_count(n) for n in counts)])
        if given is not None:
            rows[-1].append(f"{counts[1] / counts[0]:.3f}x" if counts[0] else "-")
    if given is not None:
        rows = [row if len(row) == 4 else [*row, ""] for row in rows]
    print_table(["", pair[0].name, pair[1].name, *(["ratio"] if given is not None else [])], rows)


@cascade.command()
@click.argument("name", shell_complete=complete.cascade)
@click.option(
    "--against",
    default="naive",
    show_default=True,
    metavar="NAME",
    shell_complete=complete.cascade,
    help="The cascade it should equal.",
)
@click.option("--sizes", metavar="R=N,...", help="Rank sizes; small ones when left out.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the random inputs.")
@json_option
def check(name: str, against: str, sizes: str | None, seed: int, as_json: bool) -> None:
    """Run a cascade on random inputs against another: status 0 if they agree, 1 if not.

    The default is softmax attention as it is defined, for Q, K and V without a mask.

    \b
    Examples:
      attncast cascade check ./mine.cascade
      attncast cascade check fusemax --against three_pass --seed 1
    """
    found, reference = cascades.load(name), cascades.load(against)
    given = parse_sizes(sizes)
    bound = bind(found, _small_sizes(found) if given is None else given, exact=True)
    error = _difference(found, reference, bound, seed)
    agrees = error <= _TOLERANCE  # false for NaN
    if as_json:
        number = error if error == error and error != float("inf") else None
        print_object(
            {"name": found.name, "against": reference.name, "difference": number, "agrees": agrees, "sizes": bound}
        )
    else:
        shapes = ", ".join(f"{rank}={size}" for rank, size in bound.items())
        verdict = "agrees with" if agrees else "DIFFERS from"
        click.echo(f"{found.name} {verdict} {reference.name}: largest difference {error:.3g} at {shapes}, seed {seed}")
        if not agrees and any(found.scope.filters) and not any(reference.scope.filters):
            click.echo(f"{found.name} has a mask and {reference.name} has none: name a masked one with --against")
    if not agrees:
        sys.exit(1)


def _difference(found: Cascade, reference: Cascade, sizes: Mapping[str, int], seed: int) -> float:
    """The largest difference of the outputs on the same inputs, whose ranks may go by other names.

    Raises:
        InputError: inputs or outputs that do not match.
    """
    mine, theirs = (
        {name: len(tensor.ranks) for name, tensor in each.scope.inputs.items()} for each in (found, reference)
    )
    if mine != theirs:
        raise InputError(
            f"cascade {found.name!r} takes {_signature(found)} but {reference.name!r} takes {_signature(reference)}: "
            "expected the same inputs, name another cascade with --against"
        )
    inputs = random_inputs(found, sizes, seed)
    known = {rank: size for rank, size in sizes.items() if rank in reference.scope.same}
    declared = {rank for tensor in reference.scope.inputs.values() for rank in tensor.ranks}
    chunks = {rank: size for rank, size in known.items() if rank not in declared}
    ours = list(evaluate(found, inputs, sizes).values())
    expected = list(evaluate(reference, inputs, chunks).values())
    if [a.shape for a in ours] != [b.shape for b in expected]:
        raise InputError(f"cascades {found.name!r} and {reference.name!r} have outputs of different shapes")
    return max(float(abs(a - b).max()) for a, b in zip(ours, expected, strict=True))


def _signature(each: Cascade) -> str:
    return ", ".join(f"{name}[{', '.join(tensor.ranks)}]" for name, tensor in each.scope.inputs.items())


def parse_sizes(text: str | None) -> dict[str, int] | None:
    """``E=128,M=65536`` as sizes by rank; None for None. InputError quotes the part that is wrong."""
    if text is None:
        return None
    sizes: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([A-Za-z]\w*)\s*=\s*(\d{1,15})\s*", part)
        if match is None:
            raise InputError(f"size {part.strip()!r} is not clear: expected RANK=NUMBER joined by commas, e.g. E=128")
        rank, size = match[1], int(match[2])
        if sizes.setdefault(rank, size) != size:
            raise InputError(f"rank {rank!r} has two sizes in {text!r}, expected one")
    return sizes


def title(found: Cascade) -> str:
    """What a cascade is: the first sentence of its header."""
    text = " ".join(found.header.split("\n"))
    return re.split(r"(?<=[a-z0-9)])[.:] ", text)[0].rstrip(".")


def _passes(found: Cascade) -> dict[str, int]:
    return {rank: passes(found, rank).count for rank in reduced_ranks(found)}


def _own(each: Cascade, pair: list[Cascade], given: Mapping[str, int] | None) -> dict[str, int] | None:
    """The sizes of a cascade's own ranks. InputError for a rank that neither has."""
    if given is None:
        return None
    ranks = {rank for one in pair for rank in one.scope.ranks}
    for rank in given:
        if rank not in ranks:
            raise unknown(f"rank of cascades '{pair[0].name}' and '{pair[1].name}'", rank, ranks)
    return {rank: size for rank, size in given.items() if rank in each.scope.same}


def _small_sizes(found: Cascade) -> dict[str, int]:
    """Small sizes, different for different ranks: what two ranks should share, they must share by name."""
    scope = found.scope
    free = dict.fromkeys(scope.same[rank] for rank in scope.ranks if rank not in scope.parts)
    wholes = {scope.same[rank] for rank in scope.parts}
    parts = {scope.same[part] for group in scope.parts.values() for part in group}
    sizes, small, large = {}, 1, 3
    for rank in free:
        if rank in parts:
            small += 1
            sizes[rank] = small
        elif rank not in wholes:
            large += 1
            sizes[rank] = large
    return sizes


def _union(results: list[dict[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result[key]))


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
