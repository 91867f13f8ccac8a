"""Which window and stride pay for a video model, and what is left of them end to end?

HunyuanVideo: 30 x 48 x 80 tokens. Dense attention takes 61% of a run, and 70% of the steps may be sparse.

    python examples/choose_a_window.py [GPU]
"""

from __future__ import annotations

import itertools
import sys

from attncast import Estimate, Workload, predict
from attncast.hwmodels import load_gpu
from attncast.simulator.advise import advise
from attncast.simulator.estimate import seconds_text
from attncast.simulator.profile import load_profile
from attncast.simulator.workload import grid_text

VIDEO = Workload("30x48x80", heads=24, head_dim=128, dtype="fp16")
WINDOWS = ("18x24x24", "24x24x40", "30x48x40")
STRIDES = ("1x1x1", "2x8x8", "16x8x8", "18x24x24")


def forecasts(gpu: str) -> list[Estimate]:
    """Every window with every stride, each on the fastest of the tiles that NATTEN has for the GPU."""
    tiles = load_profile("natten", load_gpu(gpu)).alternatives(axes=3, head_dim=VIDEO.head_dim)
    found = []
    for window, stride in itertools.product(WINDOWS, STRIDES):
        text = f"na window={window} stride={stride}"
        ways = [
            predict(VIDEO, text, gpu, "natten", q_tile=t.q, kv_tile=t.kv, attention_share=0.607, sparse_share=0.70)
            for t in tiles
        ]
        found.append(min(ways, key=lambda e: e.time_s))
    return found


def main(gpu: str) -> None:
    found = forecasts(gpu)
    print(f"{gpu}: dense {found[0].baseline.kernel} takes {seconds_text(found[0].baseline.time_s)}")
    print(f"{'pattern':36}{'tiles':>17}{'keeps':>7}{'at most':>9}{'forecast':>10}{'end to end':>12}  masks")
    for e in sorted(found, key=lambda e: e.time_s):
        assert e.end_to_end is not None
        tiles = f"{grid_text(e.q_tile)} | {grid_text(e.kv_tile)}"
        masks = "every tile" if e.limits_s["mask"] else "none"  # by NATTEN's own rule, whatever the tiles need
        print(
            f"{e.pattern:36}{tiles:>17}{1 / e.work.bound_flop:>7.1%}{e.work.bound_tiles_max:>8.2f}x{e.speedup:>9.2f}x"
            f"{e.end_to_end.speedup:>11.2f}x  {masks}"
        )
    # The same question the other way round: 9% of the keys may be kept; which window, stride and tiles are fastest?
    advice = advise(VIDEO, load_gpu(gpu), 0.09)
    best = advice.best
    print(f"\nfastest of {advice.searched:,} ways to keep 9%: {best.pattern}, {seconds_text(best.time_s)}")
    for _, sentence in advice.alternatives:
        print(f"  {sentence}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "h100")
