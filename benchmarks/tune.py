"""How fast an instant tuning is: ``python benchmarks/tune.py``. Medians of seven runs in milliseconds; no GPU, no compiler.

Each run has a shape of its own, so that the figures are those of a first call.
"""

from __future__ import annotations

import statistics
import time

from attncast import Workload
from attncast.autotune.tune import tune

RUNS = 7
GNA = "na window=18x24x24 stride=16x8x8"
CASES = (
    ("causal 4096", "causal", "triton", lambda i: Workload((4096 + 128 * i,), 32, 128)),
    ("window 131072", "window left=4095 right=0", "triton", lambda i: Workload((131_072 + 128 * i,), 32, 64)),
    ("GNA video", GNA, "triton", lambda i: Workload((30 + i, 48, 80), 24, 128)),
    ("GNA video", GNA, "natten", lambda i: Workload((30 + i, 48, 80), 24, 128)),
    ("GNA video", GNA, "flex", lambda i: Workload((30 + i, 48, 80), 24, 128)),
    ("longformer 16384", "longformer window=1024", "flex", lambda i: Workload((16_384 + 128 * i,), 32, 128)),
    ("decode 8192", "causal", "triton", lambda i: Workload((1,), 32, 128, heads_kv=8, cached=8191 + 64 * i)),
)


def main() -> None:
    """Print a row for each case, a column for each GPU."""
    gpus = ("a100", "h100", "b200", "rtx5090")
    print(f"{'problem':<18}{'kernel':<8}" + "".join(f"{gpu:>9}" for gpu in gpus))
    for name, pattern, kernel, workload in CASES:
        row = f"{name:<18}{kernel:<8}"
        for gpu in gpus:
            taken = []
            for i in range(RUNS):
                begin = time.perf_counter()
                tune(workload(i), pattern, gpu, kernel)
                taken.append(time.perf_counter() - begin)
            row += f"{statistics.median(taken) * 1e3:>9.0f}"
        print(row)


if __name__ == "__main__":
    main()
