"""``attncast tiles``."""

from __future__ import annotations

import math
from typing import Any

import click

from ..simulator import Workload
from ..simulator.call import checked_tile
from ..simulator.estimate import bounds_dict, tiles_dict
from ..simulator.workload import grid_text, parse_grid
from .options import grid_option, json_option, keys_options, mask_option, pattern_option, read_pattern
from .output import print_json


@click.command()
@grid_option
@pattern_option
@mask_option
@keys_options
@click.option("--q-tile", required=True, metavar="TILE", help="Q tile, tokens per axis, e.g. 4x8x8.")
@click.option("--kv-tile", required=True, metavar="TILE", help="KV tile, tokens per axis.")
@click.option(
    "--kv-tiling",
    type=click.Choice(["static", "dynamic"]),
    default="static",
    show_default=True,
    help="static: KV tiles on a fixed grid; dynamic: they begin at the first key a Q tile needs.",
)
@json_option
def tiles(
    grid: str,
    pattern: str | None,
    mask: str | None,
    kv_grid: str | None,
    cached: int,
    q_tile: str,
    kv_tile: str,
    kv_tiling: Any,
    as_json: bool,
) -> None:
    """Count the tiles of a pattern exactly, for one head of one sequence, and say whether masks are needed.

    \b
    Examples:
      attncast tiles -i 30x48x80 -p "na window=18x24x24 stride=16x8x8" --q-tile 4x8x8 --kv-tile 2x8x8
      attncast tiles -i 131072 -p causal --q-tile 128 --kv-tile 64 --json
    """
    workload = Workload(
        parse_grid(grid),
        heads=1,
        head_dim=128,
        kv_grid=parse_grid(kv_grid, "kv grid") if kv_grid else None,
        cached=cached,
    )
    wanted = read_pattern(pattern, mask)
    wanted.check(workload)
    q_shape = checked_tile(parse_grid(q_tile, "q tile"), "q tile", wanted)
    kv_shape = checked_tile(parse_grid(kv_tile, "kv tile"), "kv tile", wanted)
    work = wanted.tile_work(workload, q_shape, kv_shape, kv_tiling)
    if as_json:
        print_json(
            [
                {
                    "pattern": str(wanted),
                    "q_tile": grid_text(q_shape),
                    "kv_tile": grid_text(kv_shape),
                    "kv_tiling": kv_tiling,
                    **tiles_dict(work),
                    "dense": work.dense_q_tiles * work.dense_kv_tiles,
                    "pairs": work.pairs,
                    "dense_pairs": work.dense_pairs,
                    "bounds": bounds_dict(work),
                    "needs_mask": work.needs_mask,
                    "notes": list(wanted.notes),
                }
            ]
        )
        return
    dense = work.dense_q_tiles * work.dense_kv_tiles
    click.echo(f"{wanted} on {grid}, tiles {grid_text(q_shape)} | {grid_text(kv_shape)}, {kv_tiling} KV tiling")
    click.echo(f"  visited   {work.visited_total:,} of {dense:,} KV tiles ({work.visited_total / dense:.1%})")
    click.echo(f"  full      {work.full_total:,}")
    click.echo(f"  per Q     {work.visited_min:,} to {work.visited_max:,} for each of {work.q_tiles:,} Q tiles")
    click.echo(f"  pairs     {work.pairs:,} of {work.dense_pairs:,} ({work.pairs / work.dense_pairs:.3%})")
    bounds = [("FLOPs", work.bound_flop), ("tiles mean", work.bound_tiles_mean), ("tiles max", work.bound_tiles_max)]
    shown = [f"{name} {value:.2f}x" if math.isfinite(value) else f"{name} none" for name, value in bounds]
    click.echo(f"  bounds    {', '.join(shown)}")
    for note in wanted.notes:
        click.echo(f"  note      {note}")
    partial = work.visited_total - work.full_total
    click.echo(f"  masks     {f'needed in {partial:,} tiles' if work.needs_mask else 'not needed: every tile is full'}")
