"""The tuned files that come with attncast: ``python -m attncast.autotune.defaults [--effort full] [-o FOLDER]``.

They are forecasts for four GPUs, bf16, head dims 64 and 128, and the patterns below; each is compiled for its GPU, so that
it fits. None is warp specialised: such a kernel has never run on hardware, and Triton changes it with every release.
``kernels/tuned.py`` looks them up where a user has no tuned file of their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from ..kernels.tuned import PACKAGED
from ..simulator import Workload
from .result import Tuning
from .work import executor
from .writers import write

GPUS: Final = ("a100", "h100", "b200", "rtx5090")
HEAD_DIMS: Final = (64, 128)
HEADS: Final = 16
#: Pattern and query tokens. Sizes are what a file is looked up by: few and many tiles for the SMs of a GPU.
PROBLEMS: Final = (
    *((pattern, tokens) for pattern in ("dense", "causal") for tokens in (1024, 8192, 65536)),
    *(("window left=1024 right=0", tokens) for tokens in (4096, 65536)),
    ("na window=18x24x24 stride=16x8x8", "30x48x80"),
)


def problems() -> Iterator[tuple[str, Workload, str]]:
    """GPU, workload and pattern of every tuning behind the packaged files."""
    for gpu in GPUS:
        for head_dim in HEAD_DIMS:
            for pattern, tokens in PROBLEMS:
                grid = (tokens,) if isinstance(tokens, int) else tuple(map(int, tokens.split("x")))
                yield gpu, Workload(grid, HEADS, head_dim), pattern


def tuned(effort: str, pool: Executor | None) -> list[Tuning]:
    """Tune every problem; progress goes to standard error."""
    from .tune import tune

    found = []
    for number, (gpu, workload, pattern) in enumerate(todo := list(problems()), 1):
        print(f"{number} of {len(todo)}: {gpu}, {pattern}, head dim {workload.head_dim}", file=sys.stderr)
        found.append(
            tune(workload, pattern, gpu, "triton", effort=effort, executor=pool, leave_alone=("WARP_SPECIALIZE",))
        )
    return found


def main() -> None:
    """Write the packaged files, or the same into another folder."""
    parser = argparse.ArgumentParser(prog="python -m attncast.autotune.defaults", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=PACKAGED, help="folder; the package's own by default")
    parser.add_argument("--effort", default="quick", help="of attncast tune; the least that compiles is quick")
    parser.add_argument("--workers", type=int, default=None, help="compiler processes")
    parser.add_argument("--scheduler", default=None, help="compile on a dask cluster, e.g. tcp://host:8786")
    arguments = parser.parse_args()
    with executor(arguments.scheduler, workers=arguments.workers) as pool:
        found = tuned(arguments.effort, pool)
    # Afresh: what an older version wrote for problems that are no more should not stay.
    for path in arguments.output.glob("kernel=triton,*.json"):
        path.unlink()
    for path in write(found, "serving", arguments.output):
        print(path)


if __name__ == "__main__":
    main()
