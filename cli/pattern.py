"""``attncast pattern``: the library of patterns, and one of them as numbers and a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import click

from ..errors import InputError
from ..files import write_whole
from ..simulator.patterns import Pattern, parse_pattern
from ..simulator.patterns.combine import own_grid
from ..simulator.patterns.dynamic import Dynamic
from ..simulator.patterns.library import PATTERNS, Entry
from ..simulator.patterns.picture import picture
from ..simulator.workload import Grid, Workload, grid_text, parse_grid
from . import complete
from .output import print_json

if TYPE_CHECKING:
    from ..simulator.patterns.picture import Picture
    from ..simulator.tiles import TileWork

GROUPS = {
    "band": "bands of the sequence",
    "local": "local, on a token grid",
    "global": "static, of the whole sequence",
    "dynamic": "chosen at run time: expectations, and the cost of choosing",
    "combine": "of several patterns",
}
COMBINE = (
    ("A | B", "union of two patterns"),
    ("A & B", "intersection of two patterns"),
    ("heads 8*A + 24*B", "patterns by head, weighted by their number"),
    ("layers 12*A + 48*B", "patterns by layer"),
)
# A tile of 128 tokens on each number of axes, as NATTEN has on Hopper.
TILES: dict[int, Grid] = {1: (128,), 2: (16, 8), 3: (2, 8, 8)}
TERMINAL_CELLS = 48
PNG_CELLS = 1024
MOST_DRAWN = 1 << 22  # tokens: a picture looks at each, the counts do not


@click.group()
def pattern() -> None:
    """Sparsity patterns: list them, show one.

    \b
    Examples:
      attncast pattern list
      attncast pattern show "na window=18x24x24 stride=16x8x8" -i 30x48x80
    """


@pattern.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_patterns(as_json: bool) -> None:
    """List every pattern with its parameters and source.

    \b
    Examples:
      attncast pattern list
      attncast pattern list --json
    """
    if as_json:
        print_json([_described(entry) for entry in PATTERNS.values()])
        return
    for group, title in GROUPS.items():
        click.secho(f"\n{title}", bold=True)
        for entry in PATTERNS.values():
            if entry.group == group:
                _print_entry(entry)
        if group == "combine":
            for form, about in COMBINE:
                click.echo(f"  {click.style(form, bold=True)}: {about}")


def _print_entry(entry: Entry) -> None:
    click.echo(f"  {click.style(entry.name, bold=True)}: {entry.about}")
    for item in entry.parameters:
        default = "required" if item.required else f"default {_default(item.default)}"
        click.echo(f"      {item.key}: {item.about} ({default})")
    click.echo(f"      e.g. {entry.example!r}. Source: {entry.source}")


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, tuple):
        return ",".join(":".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in value)
    return str(value)


def _described(entry: Entry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "group": entry.group,
        "about": entry.about,
        "source": entry.source,
        "example": entry.example,
        "parameters": [
            {"key": item.key, "about": item.about, "required": item.required, "default": item.default}
            for item in entry.parameters
        ],
    }


@pattern.command("show")
@click.argument("text", metavar="PATTERN", shell_complete=complete.pattern)
@click.option("-i", "grid", help="Token grid, e.g. 30x48x80; the pattern's own when left out.")
@click.option("--kv", "kv_grid", help="Token grid of the keys; that of the queries when left out.")
@click.option("-n", "heads", default=1, show_default=True, help="Query heads, for the cost of choosing.")
@click.option("-d", "head_dim", default=128, show_default=True, help="Head dimension, for the cost of choosing.")
@click.option("--q-tile", help="Q tile, tokens per axis; 128 tokens when left out.")
@click.option("--kv-tile", help="KV tile, tokens per axis; 128 tokens when left out.")
@click.option(
    "--png",
    metavar="FILE",
    shell_complete=complete.files,
    help="Write a picture to this file (needs the extra 'plot').",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(
    text: str, grid: str | None, kv_grid: str | None, heads: int, head_dim: int, q_tile: str | None,
    kv_tile: str | None, png: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show one pattern: density, tiles, bounds, and a picture of tokens or blocks.

    \b
    Examples:
      attncast pattern show "na window=18x24x24 stride=16x8x8" -i 30x48x80
      attncast pattern show "window left=1023 right=0" -i 8192 --png window.png
      attncast pattern show "sparge density=0.46" -i 16384 -n 32 --json
    """
    shown = parse_pattern(text)
    workload = Workload(
        _grid(shown, grid), heads, head_dim, kv_grid=None if kv_grid is None else parse_grid(kv_grid, "kv grid")
    )
    shown.check(workload)
    tiles = (_tile(shown, q_tile, "q tile"), _tile(shown, kv_tile, "kv tile"))
    work = shown.tile_work(workload, *tiles)
    too_long = max(workload.tokens, workload.kv_tokens) > MOST_DRAWN
    drawn = None if isinstance(shown, Dynamic) or too_long else _drawn(shown, workload, TERMINAL_CELLS)
    if png is not None:
        if too_long:
            raise InputError(f"--png {png!r} of {workload.tokens:,} tokens: expected at most {MOST_DRAWN:,} to draw")
        write_png(png, picture(shown, workload, PNG_CELLS), str(shown))
    report = _report(shown, workload, tiles, work)
    if as_json:
        print_json([report])
        return
    for key, value in report.items():
        click.echo(f"{key.replace('_', ' '):>22}: {_shown(value)}")
    if too_long:
        click.echo(f"\nno picture: more than {MOST_DRAWN:,} tokens")
    if drawn is not None:
        click.echo(
            f"\none character = {drawn.q_cell} x {drawn.kv_cell} tokens; · empty, ▒ partial, █ full\n{drawn.text()}"
        )


def _drawn(shown: Pattern, workload: Workload, cells: int) -> Picture | None:
    """A picture, or None for a pattern that is several."""
    return picture(shown, workload, cells) if hasattr(shown, "rule") else None


def _grid(shown: Pattern, given: str | None) -> Grid:
    if given is not None:
        return parse_grid(given)
    own = own_grid(shown)
    if own is None:
        raise InputError(f"pattern '{shown}' fits any number of tokens: give a grid, e.g. -i 4096 or -i 30x48x80")
    return own


def _tile(shown: Pattern, given: str | None, what: str) -> Grid:
    if given is None:
        return TILES[shown.tile_axes]
    tile = parse_grid(given, what)
    if shown.tile_axes > 1 and len(tile) != shown.tile_axes:
        raise InputError(f"{what} {given!r} has {len(tile)} axes but pattern '{shown}' has {shown.tile_axes}")
    return tile


def _report(shown: Pattern, workload: Workload, tiles: tuple[Grid, Grid], work: TileWork) -> dict[str, Any]:
    report: dict[str, Any] = {
        "pattern": str(shown),
        "queries": grid_text(workload.grid),
        "keys": grid_text(workload.keys),
        "q_tile": grid_text(tiles[0]),
        "kv_tile": grid_text(tiles[1]),
        "counts": "expected" if isinstance(shown, Dynamic) else "exact",
        "pairs": work.pairs,
        "density": work.pairs / work.dense_pairs,
        "kv_tiles_visited": work.visited_total,
        "kv_tiles_full": work.full_total,
        "tile_density": work.visited_total / (work.dense_q_tiles * work.dense_kv_tiles),
        "bound_flop": work.bound_flop,
        "bound_tiles_mean": work.bound_tiles_mean,
        "bound_tiles_max": work.bound_tiles_max,
    }
    if isinstance(shown, Dynamic):
        cost = shown.selection(workload)
        report |= {"choosing_flops": cost.flops, "choosing_bytes": cost.bytes, "choosing_kernels": cost.kernels}
    return report


def _shown(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def write_png(path: str, drawn: Picture, title: str) -> None:
    """Write a picture. Raises InputError where matplotlib is not installed or the file cannot be written."""
    from ..reports.predict_figures import pattern_figure

    figure = pattern_figure(drawn)
    figure.suptitle(title if len(title) < 60 else f"{title[:57]}...", fontsize=10)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=200)
    write_whole(path, out.getvalue())
