"""On which GPU should a model be served, and what would one do that nobody sells?

A prefill of 32,768 tokens and a decoding step of 32 sequences, 32 query heads on 8 key/value heads, on every GPU that
attncast knows and on one of your own (examples/add_gpu).

    python examples/compare_gpus.py [GPU or FILE.toml ...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from attncast import Conditions, Estimate, Workload, predict
from attncast.hwmodels import gpu_names
from attncast.simulator.estimate import seconds_text

CALLS = {
    "prefill": Workload(32768, heads=32, head_dim=128, heads_kv=8),
    "decode": Workload(1, heads=32, head_dim=128, heads_kv=8, batch=32, cached=8191),
}
OWN = str(Path(__file__).parent / "add_gpu" / "h100-slow-memory.toml")


def forecasts(call: Workload, gpus: list[str]) -> list[Estimate]:
    """The call in a CUDA graph on each GPU, with the kernel that its users run; fastest first."""
    graph = Conditions(graph=True)
    return sorted((predict(call, "causal", gpu, conditions=graph) for gpu in gpus), key=lambda e: e.time_s)


def main(gpus: list[str]) -> None:
    for name, call in CALLS.items():
        print(f"{name:18}{'kernel':15}{'time':>9}{'80% interval':>22}{'tokens/s':>12}  bound by")
        for e in forecasts(call, gpus):
            interval = f"{seconds_text(e.time_low_s)} - {seconds_text(e.time_high_s)}"
            rate = call.batch * call.tokens / e.time_s
            print(f"{e.gpu:18}{e.kernel:15}{seconds_text(e.time_s):>9}{interval:>22}{rate:>12,.0f}  {e.bound_by}")
        print()


if __name__ == "__main__":
    main(sys.argv[1:] or [*gpu_names(), OWN])
