"""Time to classify masks of 131,072 x 131,072 pairs into 128 x 128 blocks: ``python benchmarks/masks.py``.

Prints the median of seven runs, in milliseconds, and how the 1,048,576 blocks were decided. No GPU, no PyTorch.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from attncast.simulator.masks import BlockMap, Mask
from attncast.simulator.masks.classify import classify

LENGTH = 131_072
RUNS = 7
_cuts = np.sort(np.random.default_rng(0).choice(np.arange(1, LENGTH), 127, replace=False))
DOCUMENT = np.searchsorted(_cuts, np.arange(LENGTH), side="right")
OFFSETS = np.concatenate([[0], _cuts])
WIDTH = 512


def causal(b, h, q, kv):
    """The lower triangle."""
    return q >= kv


def causal_document(b, h, q, kv):
    """128 documents of random lengths, packed."""
    return (DOCUMENT[q] == DOCUMENT[kv]) & (q >= kv)


def logical_document(b, h, q, kv):
    """The same by positions within the document, as attention-gym writes it."""
    return (DOCUMENT[q] == DOCUMENT[kv]) & (q - OFFSETS[DOCUMENT[q]] >= kv - OFFSETS[DOCUMENT[kv]])


def dilated(b, h, q, kv):
    """Every third key: all blocks in reach are partial."""
    return ((q - kv) % 3 == 0) & (abs(q - kv) <= 90_000)


def neighborhood(b, h, q, kv):
    """13 x 13 on a grid of 256 x 512."""
    x, y = (q // WIDTH).clamp(6, LENGTH // WIDTH - 7), (q % WIDTH).clamp(6, WIDTH - 7)
    return (abs(x - kv // WIDTH) <= 6) & (abs(y - kv % WIDTH) <= 6)


def measure(mask: Mask) -> tuple[float, BlockMap]:
    """Median milliseconds, and the map."""
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        block_map = classify(mask.graph, LENGTH, LENGTH, 128, 128)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3, block_map


def main() -> None:
    """Print one line for each mask."""
    print(f"{'mask':<18}{'ms':>8}{'by region':>12}{'by block':>10}{'alike':>10}{'pair by pair':>14}{'sparsity':>10}")
    for function in (causal, causal_document, logical_document, dilated, neighborhood):
        time_ms, m = measure(Mask.from_function(function))
        d = m.decided
        counts = f"{d['region']:>12,}{d['block']:>10,}{d['alike']:>10,}{d['pairs']:>14,}"
        print(f"{function.__name__:<18}{time_ms:>8.1f}{counts}{m.sparsity:>10.2%}")


if __name__ == "__main__":
    main()
