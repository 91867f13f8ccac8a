"""The gallery, where it has been made, holds what ``make gallery`` makes and nothing else, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re

import pytest

from ..paths import ROOT

spec = importlib.util.spec_from_file_location("gallery", ROOT / "benchmarks" / "gallery.py")
assert spec is not None
assert spec.loader is not None
gallery = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gallery)

FOLDER = ROOT / gallery.FOLDER
MOST_BYTES = 1.6e6


def links(name: str) -> set[str]:
    text = (FOLDER / name).read_text(encoding="utf-8")
    found = re.findall(r'(?:href|src)="([^"#:]+)"' if name.endswith(".html") else r"\]\(([^)]+)\)", text)
    assert found
    return set(found)


def test_it_holds_what_its_pages_name_and_nothing_else():
    pages = {f"{page}.html" for page in gallery.PAGES}
    named = set().union(*map(links, [*pages, gallery.INDEX]))
    assert pages <= links(gallery.INDEX)
    assert {path.name for path in FOLDER.iterdir()} == named | {gallery.FRONT, gallery.INDEX}


def test_it_is_small_and_was_made_by_the_commands_of_today():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < MOST_BYTES
    assert (FOLDER / gallery.INDEX).read_text(encoding="utf-8") == gallery.index()
    for page, words in gallery.PAGES.items():
        text = (FOLDER / f"{page}.html").read_text(encoding="utf-8").replace("&#39;", "'")
        assert f"attncast report {gallery.spoken(words)} -o {gallery.FOLDER}</p>" in text


def test_numbers_are_cut_and_words_are_not(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("id,time_s,count,gpu\naic-1,0.00216990566,12345678,rtx-pro-6000\n1.2.3,-1.23456789e-05,,h100\n")
    gallery.shorten(path)
    assert path.read_text() == "id,time_s,count,gpu\naic-1,0.0021699,12345678,rtx-pro-6000\n1.2.3,-1.2346e-05,,h100\n"


def test_pictures_keep_their_colours(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    path = tmp_path / "picture.png"
    picture = image.new("RGB", (64, 64), "white")
    colours = [(42, 111, 184), (194, 97, 12), (15, 138, 114), (168, 68, 127)]
    for index, colour in enumerate(colours):
        picture.paste(colour, (index * 9, 0, index * 9 + 3, 2))  # few pixels each, as a legend's
    picture.save(path)
    gallery.shrink(path)
    with image.open(path) as small:
        assert small.mode == "P"
        assert [small.convert("RGB").getpixel((index * 9 + 1, 1)) for index in range(4)] == colours


def test_without_a_browser_the_front_picture_is_a_figure_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery.shutil, "which", lambda name: None)
    figure = tmp_path / next(iter(gallery.SHOWN))
    figure.write_bytes(b"a picture")
    gallery.front(tmp_path)
    assert (tmp_path / gallery.FRONT).read_bytes() == b"a picture"
