"""Make the pages and pictures of ``reports/gallery``: ``make gallery``.

Two runs on one machine give the same bytes. Another machine's browser draws the front picture with its own fonts, and its
linear algebra may differ in the last digits of what was fitted.
"""

from __future__ import annotations

import csv
import io
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "reports/gallery"
WINDOW = "na window=18x24x24 stride=16x8x8"
CALL = ["-i", "30x48x80", "-n", "24", "-d", "128", "--dtype", "fp16", "-p", WINDOW]
# page -> the words of `attncast report` that make it
PAGES = {
    "predict": ["predict", "-g", "h100,b200", *CALL, "--attention-share", "0.607", "--sparse-share", "0.70"],
    "validation": ["validation", "--above", "50us"],
}
FRONT = "hunyuan.png"
FRONT_SIZE = (1200, 1425)  # pixels of the page's beginning
INDEX = "README.md"
# picture -> what the index says of it
SHOWN = {
    "predict-pattern-h100.png": "The window's tiles: which are full, which are partial, which are never visited.",
    "predict-limits-h100.png": "What each resource alone would take: masks decide, not the tensor cores.",
    "predict-other-tiles-b200.png": "The same window on NATTEN's other tiles: some need no masks.",
    "predict-gpus.png": "The same call on every GPU.",
    "validation-scatter.png": "Forecast against measured, on shapes that no constant saw.",
    "validation-baselines.png": "Beside simpler ways to forecast the same rows.",
}
COLOURS = 256  # of a picture: no pixel is off by more than can be seen
DIGITS = 5  # of a number in a CSV: what follows says more of the machine than of the model


def main() -> None:
    """Make the gallery beside the old one, and put it in its place."""
    with tempfile.TemporaryDirectory(dir=ROOT / "reports", prefix=".gallery-") as name:
        made = Path(name) / FOLDER
        for page, words in PAGES.items():
            print(f"attncast report {spoken(words)}", flush=True)
            # Run from the folder above, so that the page's footer names the path that the reader has.
            command = [sys.executable, "-m", "attncast", "report", *words, "-o", FOLDER]
            subprocess.run(command, cwd=name, check=True)
            assert (made / f"{page}.html").is_file()
        for path in made.glob("*.csv"):
            shorten(path)
        front(made)
        for path in made.glob("*.png"):
            shrink(path)
        (made / INDEX).write_text(index(), encoding="utf-8")
        target = ROOT / FOLDER
        if target.exists():
            target.rename(Path(name) / "old")
        made.rename(target)
    sizes = [path.stat().st_size for path in target.iterdir()]
    print(f"wrote {FOLDER}: {len(sizes)} files, {sum(sizes) / 1e6:.2f} MB")


def spoken(words: list[str]) -> str:
    """A command's words as they are typed."""
    return shlex.join(words)


def shorten(path: Path) -> None:
    """Write the numbers of a CSV with fewer digits."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[_short(cell) for cell in row] for row in rows])
    path.write_text(out.getvalue(), encoding="utf-8")


def _short(cell: str) -> str:
    return f"{float(cell):.{DIGITS}g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell) else cell


def front(folder: Path) -> None:
    """The picture of the front page: how the page of the prediction begins; one of its figures where no browser is."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    target = folder / FRONT
    if browser is None:
        print(f"no chromium: {FRONT} is a figure of the page")
        shutil.copy(folder / next(iter(SHOWN)), target)
        return
    width, height = FRONT_SIZE
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}",
                f"--window-size={width},{height}", f"--screenshot={target}", (folder / "predict.html").as_uri(),
            ],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip


def shrink(path: Path) -> None:
    """Write a PNG with a palette."""
    from PIL import Image  # with matplotlib, which needs it

    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small.save(path, "png", optimize=True)


def index() -> str:
    """The gallery's README: GitHub shows pictures where it does not show pages."""
    lines = [
        "# Gallery",
        "",
        "Made by `make gallery`; the pages are files to download and open, no network needed:",
        "[a prediction](predict.html) (HunyuanVideo's attention with a window, H100 and B200) and",
        "[the validation](validation.html) (curated runs of 50 us and more, by constants that did not see their shapes).",
    ]
    for name, words in SHOWN.items():
        lines += ["", words, "", f"![{words}]({name})"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
