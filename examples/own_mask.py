"""What does a FlexAttention mask of one's own cost, before any GPU is rented?

The mask is a plain ``mask_mod(b, h, q_idx, kv_idx)`` in a file (documents.py: causal attention within packed documents). Its
tiles are counted exactly, without an N x N mask; the forecast is FlexAttention's.

    python examples/own_mask.py [GPU]
"""

from __future__ import annotations

import sys
from pathlib import Path

from attncast import Workload, predict
from attncast.simulator.estimate import seconds_text
from attncast.simulator.masks import read_mask
from attncast.simulator.tiles import TileWork

MASK = f"{Path(__file__).parent / 'documents.py'}:causal_document"  # a mask file is code that will be run
PACKED = Workload(131072, heads=16, head_dim=128)
TILES = (64, 128, 256, 512)


def tiles() -> dict[int, TileWork]:
    """Tile counts of the mask, by tile size."""
    mask = read_mask(MASK)
    return {size: mask.tile_work(PACKED, (size,), (size,)) for size in TILES}


def main(gpu: str) -> None:
    print(f"{'tile':>6}{'visited':>10}{'full':>10}{'masked':>8}{'speedup at most':>17}")
    for size, work in tiles().items():
        masked = work.visited_total - work.full_total
        print(f"{size:>6}{work.visited_total:>10,}{work.full_total:>10,}{masked:>8,}{work.bound_tiles_mean:>16.1f}x")
    packed, whole = (predict(PACKED, pattern, gpu, "flex") for pattern in (read_mask(MASK), "causal"))
    print(f"\n{gpu}, {packed.title}: {seconds_text(packed.time_s)}, bound by {packed.bound_by}")
    print(
        f"one causal document of that length: {seconds_text(whole.time_s)}, {whole.time_s / packed.time_s:.0f}x the time"
    )


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "h100")
