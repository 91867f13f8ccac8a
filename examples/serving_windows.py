"""When does a sliding window pay in decoding, on which GPU and in which serving engine?

Each engine's attention call in a CUDA graph, with constants fitted on measured calls, for 60 context lengths at once: the
arrays that ``predict`` fills with one call take any number.

    python examples/serving_windows.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attncast import Workload, parse_pattern
from attncast.hwmodels import load_gpu
from attncast.simulator.batch import stack
from attncast.simulator.calibration import packaged_calibration, use_of
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import engine_conditions
from attncast.simulator.forecast import forecast
from attncast.simulator.kernel_choice import choose_profile

# What each engine decodes with on each GPU, by default.
KERNELS = {
    ("a100", "vllm"): "fa2",
    ("a100", "sglang"): "fa3",
    ("h100", "vllm"): "fa3",
    ("h100", "sglang"): "fa3",
    ("h100", "trtllm"): "trtllm",
    ("h200", "vllm"): "fa3",
    ("b200", "vllm"): "trtllm-decode",
    ("b200", "sglang"): "trtllm-decode",
    ("b200", "trtllm"): "trtllm-decode",
    ("rtx-pro-6000", "vllm"): "fa2",
    ("rtx-pro-6000", "sglang"): "flashinfer",
}
WINDOWS = (1024, 4096)
CONTEXTS = np.unique(np.geomspace(256, 131072, 60).astype(int))
PAYS = 1.10  # a gain worth a change of the model


def seconds(gpu: str, engine: str, pattern: str) -> tuple[NDArray[np.float64], str]:
    """Time of a decoding step of 32 sequences, shape (contexts,), and the error of its constants on held-out shapes."""
    mask = parse_pattern(pattern)
    calls = [Workload(1, 32, 128, batch=32, heads_kv=8, cached=int(n) - 1) for n in CONTEXTS]
    # Cold: between two steps of one layer the tensors of all others pass through the L2.
    conditions = engine_conditions(engine, calls[0], warm_l2=False)
    model, fits = load_gpu(gpu), packaged_calibration()
    profile = choose_profile(
        KERNELS[gpu, engine], model, "band", "bf16", 128, queries=1, gqa_ratio=4, engine=engine
    ).of_phase(True)
    known = fits.constants.get(use_of(model, profile.key, calls[0], engine))
    profile, model, note = fits.apply(profile, model, calls[0], conditions)
    tiles = resolve_tiles(profile, mask, calls[0], None, None)
    rows = [
        single_call(model, profile, call, mask, tiles, kernel_work(profile, mask, call, tiles), conditions)
        for call in calls
    ]
    unknown = "carried" if "carried over" in note else "priors"
    error = unknown if known is None else f"{known.held_out_mape:.0%}"
    return forecast(model, profile, stack(rows)).time_s, error


def main() -> None:
    print(
        f"A window of W keys is {PAYS:.2f}x as fast from a context of so many tokens on; and at {CONTEXTS[-1]:,} tokens"
    )
    print(f"{'GPU':14}{'engine':8}{'kernel':15}{'off by':>7}" + "".join(f"{f'W = {w:,}':>18}" for w in WINDOWS))
    for (gpu, engine), kernel in KERNELS.items():
        whole, error = seconds(gpu, engine, "causal")
        cells = []
        for window in WINDOWS:
            gain = whole / seconds(gpu, engine, f"window left={window - 1} right=0")[0]
            short = np.flatnonzero(gain < PAYS)
            first = short[-1] + 1 if short.size else 0
            words = f"{CONTEXTS[first]:,}" if first < CONTEXTS.size else "never"
            cells.append(f"{words:>11}{gain[-1]:>6.1f}x")
        print(f"{gpu:14}{engine:8}{kernel:15}{error:>7}" + "".join(cells))


if __name__ == "__main__":
    main()
