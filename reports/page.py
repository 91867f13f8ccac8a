"""What a page is made of, and how it is written: one HTML file that needs no network, PNGs and CSVs beside it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import InputError
from ..files import write_whole
from ..simulator.estimate import seconds_text
from .svg import themed_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE: Final = Path(__file__).parent
PNG_DPI: Final = 160


@dataclass(frozen=True)
class Number:
    """A number in a table: ``text`` is shown, ``value`` is sorted by and written to the CSV."""

    value: float
    text: str


Cell = str | Number


def seconds(value: float) -> Number:
    """Seconds as a cell."""
    return Number(value, seconds_text(value) if value else "0 s")


def count(value: float) -> Number:
    """A count as a cell."""
    return Number(value, f"{value:,.0f}")


def times(value: float) -> Number:
    """A ratio as a cell: ``1.25x``."""
    return Number(value, f"{value:.2f}x")


def percent(value: float, signed: bool = False) -> Number:
    """A share or a relative error as a cell; the CSV keeps the fraction."""
    text = f"{value:+.1%}" if signed else f"{value:.1%}"
    return Number(value, "0.0%" if text in ("+0.0%", "-0.0%") else text)


@dataclass(frozen=True)
class Table:
    """A table. ``key`` names its CSV; ``header`` has a name for each column; cells of one column are of one kind.

    The page has the first ``shown`` rows, the CSV all.
    """

    key: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    shown: int = 1000
    kind: str = "table"


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure. ``key`` names its PNG; ``caption`` says in words what it shows; ``wide`` ones take a line of their own."""

    key: str
    title: str
    caption: str
    figure: Figure
    wide: bool = False
    kind: str = "figure"


@dataclass(frozen=True)
class Fact:
    """A figure that stands alone: what it is, its value, a word about it."""

    name: str
    value: str
    about: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page: words, facts, pictures and tables. ``key`` is its anchor."""

    key: str
    title: str
    words: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    blocks: tuple[Picture | Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page: ``name`` is its file's, ``lines`` are said under its title, ``footer`` says what made it."""

    name: str
    title: str
    lines: tuple[str, ...]
    sections: tuple[Section, ...]
    footer: str

    def blocks(self) -> Iterator[Picture | Table]:
        """Every picture and table, in order."""
        for section in self.sections:
            yield from section.blocks


def write_page(page: Page, folder: str | Path) -> list[Path]:
    """Write ``NAME.html``, ``NAME-KEY.png`` for each picture and ``NAME-KEY.csv`` for each table into a folder, which is made.

    Each file is written whole or not at all.

    Raises:
        InputError: jinja2 is not installed, or a file cannot be written.
    """
    folder = Path(folder)
    keys = [block.key for block in page.blocks()]
    assert len(keys) == len(set(keys)), f"two blocks of page {page.name!r} have one key: {sorted(keys)}"
    html = render(page)
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for block in page.blocks():
            if isinstance(block, Picture):
                written.append(folder / f"{page.name}-{block.key}.png")
                write_whole(written[-1], _png(block.figure))
            else:
                written.append(folder / f"{page.name}-{block.key}.csv")
                write_whole(written[-1], _csv(block).encode())
        write_whole(folder / f"{page.name}.html", html.encode())
    except OSError as problem:
        raise InputError(f"cannot write to {str(folder)!r}: {problem.strerror or problem}") from None
    return [folder / f"{page.name}.html", *written]


def render(page: Page) -> str:
    """The HTML of a page. Raises InputError where jinja2 is not installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise InputError("reports need jinja2, which is not installed: pip install 'attncast[report]'") from None
    # What a user named is text: everything is escaped but our own style, script and drawings.
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def drawing(picture: Picture) -> Any:
        return Markup(themed_svg(picture.figure, picture.key))

    def columns(blocks: Sequence[Picture | Table]) -> list[bool]:
        return [_is_wide(block) or alone for block, alone in zip(blocks, _alone(blocks), strict=True)]

    def is_number(cell: Cell) -> bool:
        return isinstance(cell, Number)

    return environment.get_template("page.html").render(
        page=page,
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "tables.js").read_text(encoding="utf-8")),
        drawing=drawing,
        is_number=is_number,
        columns=columns,
    )


def _is_wide(block: Picture | Table) -> bool:
    return block.wide if isinstance(block, Picture) else len(block.header) > 4


def _alone(blocks: Sequence[Picture | Table]) -> list[bool]:
    """Whether a block would stand alone on a line of two: the last of an odd run of blocks that are not wide."""
    found = [False] * len(blocks)
    run = 0
    for index, block in enumerate(blocks):
        run = 0 if _is_wide(block) else run + 1
        ends = index + 1 == len(blocks) or _is_wide(blocks[index + 1])
        found[index] = run % 2 == 1 and ends
    return found


def _png(figure: Figure) -> bytes:
    from ..simulator.plots import rc

    out = io.BytesIO()
    with rc():
        figure.savefig(out, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return out.getvalue()


def _csv(table: Table) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.header)
    for row in table.rows:
        writer.writerow([_csv_cell(cell) for cell in row])
    return out.getvalue()


def _csv_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    return repr(cell.value) if cell.value == cell.value else ""  # NaN: nothing to say


def rows_of(items: Sequence[Any], row: Callable[[Any], tuple[Cell, ...]]) -> tuple[tuple[Cell, ...], ...]:
    """A row for each item."""
    return tuple(row(item) for item in items)


def names_of(words: Sequence[str]) -> list[str]:
    """A distinct key for each word, fit for an anchor and a file's name: small letters, digits and hyphens."""
    found: list[str] = []
    for word in words:
        plain = re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")[:40] or "x"
        found.append(plain if plain not in found else f"{plain}-{len(found) + 1}")
    return found
