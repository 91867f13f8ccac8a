"""Which configurations should ``triton.autotune`` try for my attention kernel, on a GPU that is not at hand?

Ranks the whole space in a blink, writes a module of ``triton.Config`` with the model that prunes them, and, where Triton is
installed, asks that model for a call of another size.

    python examples/triton_configs.py [GPU [FILE.py]]
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from attncast import Workload
from attncast.autotune.result import Tuning
from attncast.autotune.tune import tune
from attncast.autotune.writers import write
from attncast.simulator.estimate import seconds_text

CALL = Workload(8192, heads=32, head_dim=128, batch=4)


def tuned(gpu: str) -> Tuning:
    """The space of attncast's Triton kernel, ranked for the GPU without compiling anything."""
    return tune(CALL, "causal", gpu, "triton", effort="instant")


def load(path: Path) -> ModuleType:
    """The module that was written."""
    spec = importlib.util.spec_from_file_location("configs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def expected_s(configs: ModuleType, queries: int) -> list[float]:
    """What the module's perf_model says of each of its configurations on one sequence of so many tokens, in seconds."""
    size = {"q_len": queries, "kv_len": queries, "batch_heads": CALL.heads}
    return [configs.perf_model(**size, **config.all_kwargs()) for config in configs.CONFIGS]


def main(gpu: str, path: Path) -> None:
    tuning = tuned(gpu)
    space = tuning.space
    print(
        f"{space.feasible:,} of {space.total:,} configurations may run on {gpu}; ranked in {seconds_text(tuning.seconds)}"
    )
    for candidate in tuning.ranking[:3]:
        words = " ".join(f"{name}={value}" for name, value in candidate.config.items())
        print(f"  {seconds_text(candidate.time_s)}  {words}")
    (written,) = write([tuning], "triton", path)
    print(f"wrote {written}: triton.autotune(CONFIGS, KEY, prune_configs_by=PRUNE_CONFIGS_BY)(kernel)")
    if importlib.util.find_spec("triton") is None:
        print("Triton is not installed here: its own choice for another size is left out")
        return
    configs = load(written)
    times_s = expected_s(configs, 2048)
    best = configs.CONFIGS[times_s.index(min(times_s))]
    words = " ".join(f"{name}={best.kwargs[name]}" for name in ("BLOCK_M", "BLOCK_N", "USE_TMA"))
    print(f"of its {len(times_s)}, for one sequence of 2,048 tokens: {words}, {seconds_text(min(times_s))}")


if __name__ == "__main__":
    given = sys.argv[1:]
    target = Path(given[1] if len(given) > 1 else Path(tempfile.mkdtemp()) / "configs.py")
    main(given[0] if given else "b200", target)
