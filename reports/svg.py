"""A matplotlib figure as an inline SVG whose colours follow the page's light or dark mode."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Final

from ..simulator.plots import GRID, INK, MUTED, SERIES, rc

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Drawn with -> the style sheet's word for it.
COLOURS: Final = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    **{colour: f"var(--c{index + 1})" for index, colour in enumerate(SERIES)},
}


def themed_svg(figure: Figure, key: str) -> str:
    """The figure as an ``<svg>`` element that scales with its box; ``key`` keeps its ids apart from other figures'."""
    out = io.StringIO()
    with rc():
        # matplotlib names clip paths and markers at random unless it is given a salt.
        import matplotlib

        with matplotlib.rc_context({"svg.hashsalt": key}):
            figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None}, dpi=110)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would speak for the whole page
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', _opening, text, count=1)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'href="#', f'href="#{key}-', text)
    text = re.sub(r"url\(#", f"url(#{key}-", text)
    # The page's font: matplotlib writes "font-family: ..." or, before 3.11, "font: SIZE ...".
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    text = re.sub(r"font: ([^;\"']*?[\d.]+px) '[^;\"]*", r"font: \1 var(--font)", text)
    for colour, word in COLOURS.items():
        text = re.sub(re.escape(colour), word, text, flags=re.IGNORECASE)
    return text


def _opening(match: re.Match[str]) -> str:
    width = float(match[1].split()[2])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{match[1]}" '
        f'style="--natural: {width * 96 / 72:.0f}px" aria-hidden="true">'
    )
