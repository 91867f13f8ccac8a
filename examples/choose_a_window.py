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

VIDEO = Workload("30x48x80", heads=24, head_dim=128, dtype="fp16")
WINDOWS = ("18x24x24", "24x24x40", "30x48x40")
STRIDES = ("1x1x1", "2x8x8", "16x8x8", "18x24x24")


def forecasts(gpu: str) -> list[Estimate]:
    """Every window with every stride that fits it, on tiles that divide them."""
    return [
        predict(
            VIDEO,
            f"na window={window} stride={stride}",
            gpu,
            kernel="natten",
            q_tile="2x8x8",
            kv_tile="2x8x8",
            attention_share=0.607,
            sparse_share=0.70,
        )
        for window, stride in itertools.product(WINDOWS, STRIDES)
        if all(int(s) <= int(w) for s, w in zip(stride.split("x"), window.split("x"), strict=True))
    ]


def main(gpu: str) -> None:
    found = forecasts(gpu)
    print(f"{gpu}: dense {found[0].baseline.kernel} takes {seconds_text(found[0].baseline.time_s)}")
    print(f"{'pattern':36}{'keeps':>7}{'at most':>9}{'forecast':>10}{'end to end':>12}  masks")
    for e in sorted(found, key=lambda e: e.time_s):
        assert e.end_to_end is not None
        print(
            f"{e.pattern:36}{1 / e.work.bound_flop:>7.1%}{e.work.bound_tiles_max:>8.2f}x{e.speedup:>9.2f}x"
            f"{e.end_to_end.speedup:>11.2f}x  {'in every tile' if e.work.needs_mask else 'none'}"
        )
    # The same question the other way round: 9% of the keys may be kept; which window, stride and tiles are fastest?
    advice = advise(VIDEO, load_gpu(gpu), 0.09)
    best = advice.best
    print(f"\nfastest of {advice.searched:,} ways to keep 9%: {best.pattern}, {seconds_text(best.time_s)}")
    for _, sentence in advice.alternatives:
        print(f"  {sentence}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "h100")
