"""What a page is written as: files, escaping, CSV."""

from __future__ import annotations

import csv
import re

import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from attncast import InputError
from attncast.reports.page import (
    Fact,
    Number,
    Page,
    Picture,
    Section,
    Table,
    names_of,
    percent,
    render,
    seconds,
    write_page,
)
from attncast.simulator.plots import INK, SERIES, new_figure, rc

EVIL = "<script>alert(1)</script>"


def small_page(words="plain"):
    with rc():
        figure, axes = new_figure()
        axes.plot([1, 2], [3, 4], color=SERIES[0], label=words)
        axes.set_title(words)
    rows = ((words, seconds(2e-3)), ("b", Number(float("nan"), "-")), ("c", seconds(5e-5)))
    table = Table("t", words, ("name", "time"), rows, note=words, shown=2)
    blocks = (Picture("p", words, words, figure), table)
    section = Section("s", words, (words,), (Fact(words, words, words),), blocks)
    return Page("small", words, (words,), (section,), words)


def test_every_word_is_escaped():
    html = render(small_page(EVIL))
    assert EVIL not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 10
    assert len(re.findall("<script>", html)) == 1  # ours


def test_dollars_and_backslashes_are_text():
    assert "$\\alpha_{" in render(small_page("$\\alpha_{"))


def test_figures_take_the_colours_of_the_style_sheet():
    html = render(small_page())
    drawing = html[html.index("<svg") : html.index("</svg>")]
    assert "var(--c1)" in drawing
    assert "var(--ink)" in drawing
    assert "var(--font)" in drawing
    assert INK not in drawing
    assert "plain</text>" in drawing


def test_a_page_is_one_file_without_addresses_and_its_pngs_and_csvs(tmp_path):
    written = write_page(small_page(), tmp_path / "made" / "out")
    assert [path.name for path in written] == ["small.html", "small-p.png", "small-t.csv"]
    assert written[1].read_bytes().startswith(b"\x89PNG")
    rows = list(csv.reader(written[2].open()))
    assert rows == [["name", "time"], ["plain", "0.002"], ["b", ""], ["c", "5e-05"]]
    html = written[0].read_text()
    assert "the CSV has all 3" in html
    assert ">c<" not in html
    # No address but the names of namespaces, and the files beside it.
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert sorted(path.name for path in written[0].parent.iterdir()) == ["small-p.png", "small-t.csv", "small.html"]


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        write_page(small_page(), tmp_path / "file")


def test_names_are_distinct_and_fit_for_files():
    assert names_of(["H100", "h100", "../<x>", "é"]) == ["h100", "h100-2", "x", "x-4"]


def test_ids_of_two_drawings_differ():
    page = small_page()
    (section,) = page.sections
    picture = section.blocks[0]
    twin = Picture("q", "twin", "twin", picture.figure)
    html = render(Page("two", "two", (), (Section("s", "s", blocks=(picture, twin)),), ""))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_shares_too_small_to_show_have_no_sign():
    assert [percent(value, signed=True).text for value in (-4e-4, 4e-4, 0.0, -6e-4, 0.25)] == [
        "0.0%",
        "0.0%",
        "0.0%",
        "-0.1%",
        "+25.0%",
    ]
    assert percent(-4e-4, signed=True).value == -4e-4


def test_few_columns_wrap_and_only_long_tables_scroll():
    def table(columns, rows):
        return Table("t", "t", tuple("abcdefgh"[:columns]), (("x",) * columns,) * rows)

    def classes(each):
        html = render(Page("p", "p", (), (Section("s", "s", blocks=(each,)),), ""))
        return set(re.search(r'<div class="table([^"]*)" data-table', html)[1].split()) & {"few", "long"}

    assert classes(table(4, 20)) == {"few"}
    assert classes(table(5, 21)) == {"long"}
