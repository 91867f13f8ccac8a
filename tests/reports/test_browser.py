"""Pages as a reader sees them: opened in headless Chromium, light and dark, at the width of a desk and of a phone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("networkx", reason="networkx is not installed")
pytest.importorskip("scipy", reason="scipy is not installed")

# Text of at least this contrast is readable (WCAG 2.2, 1.4.3, level AA, for text of any size).
CONTRAST = 4.5
EVIL = "<script>alert(1)<"  # a slash ends a file's name
SWEEP = """
gpus = ["h100", "b200"]
patterns = ["causal", "window left={left} right=0", "na window=5000"]
[workload]
grid = [2048, 4096, 8192]
heads = 8
head_dim = 128
[values]
left = [127, 511, 1023]
"""


@pytest.fixture(scope="session")
def pages(tmp_path_factory, tuning):
    """Paths of one page of each kind, by name, made by the command line."""
    import sys

    from attncast.cli import main
    from attncast.reports.page import write_page
    from attncast.reports.tune import tuning_page
    from attncast.validation.measured import load_curated, save_runs

    folder = tmp_path_factory.mktemp("pages")
    mask = folder / f"{EVIL}script>.py"
    mask.write_text("def causal(b, h, q_idx, kv_idx):\n    return q_idx >= kv_idx\n")
    rows = folder / "rows.csv"
    few = [run for run in load_curated() if run.gpu == "h100" and run.kernel == "mmha"]
    save_runs(rows, [replace(run, id=f"{EVIL}script> {run.id}") for run in few])
    sweep = folder / f"{EVIL}script>.toml"
    sweep.write_text(SWEEP)
    call = ["-n", "8", "-d", "128"]
    commands = {
        "predict": [
            "report",
            "predict",
            "-g",
            "a100,h100",
            "-i",
            "16x32x32",
            *call,
            "-p",
            "na window=8x16x16 stride=4x8x8",
        ],
        "mask": ["report", "predict", "-g", "h100", "-i", "4096", *call, "--mask", f"{mask}:causal"],
        "validation": ["report", "validation", "--rows", str(rows)],
        "cascades": ["report", "cascades", "--only", "naive,fa2,retention"],
        "sweep": ["sweep", str(sweep)],
    }
    found = {}
    argv = sys.argv
    for name, words in commands.items():
        sys.argv = ["attncast", *words, "-o", str(folder / name)]
        try:
            main()
        finally:
            sys.argv = argv
        (found[name],) = (folder / name).glob("*.html")
    found["tune"] = write_page(tuning_page(tuning, EVIL), folder / "tune")[0]
    return found


NAMES = ["predict", "mask", "validation", "tune", "cascades", "sweep"]


@pytest.fixture
def open_page(browser, pages):
    """Open a page; returns it with what it said on the console and asked of the network."""
    contexts = []

    def opened(name, width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pages[name].as_uri())
        return page, said, asked

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_said_on_the_console_and_nothing_is_fetched(open_page, pages, name):
    page, said, asked = open_page(name)
    page.wait_for_timeout(200)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name].as_uri()]


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_wider_than_the_screen(open_page, name, width):
    page, _, _ = open_page(name, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # What is wider scrolls inside a box of its own.
    cut = page.evaluate(
        """width => Array.from(document.querySelectorAll('h1, h2, h3, p, dd, figcaption, figure, .table, .scroll, nav a'))
          .filter(e => { const r = e.getBoundingClientRect(); return r.width > 0 && (r.right > width + 0.5 || r.left < -0.5); })
          .map(e => e.tagName + ' ' + e.textContent.slice(0, 40))""",
        width,
    )
    assert cut == []


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", NAMES)
def test_words_of_figures_stay_in_their_cards(open_page, name, width):
    page, _, _ = open_page(name, width)
    outside = page.evaluate(
        """() => Array.from(document.querySelectorAll('figure')).flatMap(figure => {
          const box = figure.querySelector('svg').getBoundingClientRect();
          return Array.from(figure.querySelectorAll('svg text')).filter(text => {
            const r = text.getBoundingClientRect();
            return r.right > box.right + 12 || r.left < box.left - 12 || r.bottom > box.bottom + 6 || r.top < box.top - 6;
          }).map(text => figure.querySelector('h3').textContent + ': ' + text.textContent);
        })"""
    )
    assert outside == []


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_shows_something(open_page, name):
    page, _, _ = open_page(name)
    figures = page.evaluate(
        """() => Array.from(document.querySelectorAll('figure')).map(figure => {
          const svg = figure.querySelector('svg'), r = svg.getBoundingClientRect();
          const drawn = Array.from(svg.querySelectorAll('path, use, image')).filter(e => {
            const b = e.getBoundingClientRect(); return b.width > 0 || b.height > 0; });
          return [figure.querySelector('h3').textContent, r.width, r.height, drawn.length, svg.querySelectorAll('text').length];
        })"""
    )
    assert figures
    for title, width, height, drawn, words in figures:
        assert width > 250, title
        assert height > 60, title
        assert drawn >= 3, title
        assert words >= 2, title


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", NAMES)
def test_text_stands_out_from_what_is_behind_it(open_page, name, scheme):
    page, _, _ = open_page(name, scheme=scheme)
    found = page.evaluate(
        """() => {
          const channels = text => text.match(/[\\d.]+/g).map(Number);
          const linear = v => v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
          const light = c => { const f = c.slice(0, 3).map(linear);
            return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
          const behind = e => { for (; e; e = e.parentElement) { const c = channels(getComputedStyle(e).backgroundColor);
            if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
          const ratio = (a, b) => { const x = light(a) + 0.05, y = light(b) + 0.05;
            return Math.max(x, y) / Math.min(x, y); };
          const own = e => Array.from(e.childNodes).some(n => n.nodeType === 3 && n.textContent.trim());
          const texts = Array.from(document.querySelectorAll('body *')).filter(e => own(e) && e.tagName !== 'SCRIPT');
          return texts.filter(e => !e.closest('[id*=on-colour]')).map(e => {
            const style = getComputedStyle(e), inside = e.closest('svg');
            return [ratio(channels(inside ? style.fill : style.color), behind(e)), e.textContent.slice(0, 40)]; });
        }"""
    )
    assert len(found) > 50
    assert [item for item in found if item[0] < CONTRAST] == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, re.findall(r"\d+", paper)[:3])) < 150
    assert dark == (scheme == "dark")


# page -> its table, a column of numbers, one of words, and words that one row or few have
TABLES = {
    "predict": ("gpus-table", "time", "GPU", "H100 pcie", "h100-pcie", 1),
    "sweep": ("forecasts", "speedup", "pattern", "B200 left=511", "window left=511 right=0", 3),
}


def column_of(table, name):
    """The position of a column, and its head."""
    heads = [head.text_content() for head in table.locator("th").all()]
    return heads.index(name), table.locator("th").nth(heads.index(name))


@pytest.mark.parametrize("name", TABLES)
def test_tables_sort_by_value_both_ways(open_page, name):
    key, number, word, *_ = TABLES[name]
    page, _, _ = open_page(name)
    table = page.locator(f"[data-table={key}]")
    at, head = column_of(table, number)
    values = f"box => Array.from(box.querySelectorAll('tbody tr')).map(row => Number(row.cells[{at}].dataset.v))"
    place, other = column_of(table, word)
    words = f"box => Array.from(box.querySelectorAll('tbody tr')).map(row => row.cells[{place}].textContent)"
    other.locator("button").click()
    order = "texts => texts.toSorted((a, b) => a.localeCompare(b, 'en', { numeric: true }))"
    assert table.evaluate(words) == page.evaluate(order, table.evaluate(words))
    assert table.evaluate(values) != sorted(table.evaluate(values))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert other.get_attribute("aria-sort") is None
    assert table.evaluate(values) == sorted(table.evaluate(values))
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert table.evaluate(values) == sorted(table.evaluate(values), reverse=True)
    assert len(table.evaluate(values)) >= 10


@pytest.mark.parametrize("name", TABLES)
def test_tables_filter_by_words(open_page, name):
    key, _, _, typed, kept, number = TABLES[name]
    page, _, _ = open_page(name)
    table = page.locator(f"[data-table={key}]")
    visible = (
        "box => Array.from(box.querySelectorAll('tbody tr')).filter(r => r.offsetHeight > 0).map(r => r.textContent)"
    )
    every = len(table.evaluate(visible))
    table.locator("input").fill(typed)
    left = table.evaluate(visible)
    assert len(left) == number
    assert all(kept in text for text in left)
    assert table.locator(".shown").text_content() == f"{number} of {every} rows"
    table.locator("input").fill("no such words")
    assert table.evaluate(visible) == []
    table.locator("input").fill("")
    assert len(table.evaluate(visible)) == every


def test_a_table_of_few_columns_is_not_cut(open_page):
    for width in (390, 1280):
        for name in ("predict", "validation", "cascades"):
            page, _, _ = open_page(name, width)
            cut = page.evaluate(
                """() => Array.from(document.querySelectorAll('.few .scroll')).filter(e => e.scrollWidth > e.clientWidth + 1)
                  .map(e => e.closest('.table').dataset.table)"""
            )
            # Counts of twelve digits have no place to wrap.
            assert set(cut) <= ({"operations"} if width == 390 else set()), (name, width)


@pytest.mark.parametrize(
    ("name", "where"), [("mask", "h1"), ("validation", "#worst"), ("tune", "footer"), ("sweep", "h1")]
)
def test_what_is_named_like_a_script_is_text(open_page, pages, name, where):
    page, said, _ = open_page(name)
    assert said == []
    assert EVIL in page.locator(where).text_content()
    assert page.evaluate("document.scripts.length") == 1
    assert EVIL not in pages[name].read_text()


def test_a_printed_page_is_light_and_hides_its_tools(open_page):
    page, _, _ = open_page("predict", scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator(".tools").first.is_visible()
    assert len(page.pdf()) > 50_000
