"""The ten configurations that look best on each GPU: ``python -m attncast.kernels.best_configs [--write]``.

The order is that of ``rank.py``: instruction counts of the compiled inner loop against the GPU's rates,
nothing measured. ``--write`` puts the table into best_configs.md beside this file.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from .cache import kernel_hash, triton_version
from .check import CheckResult
from .rank import Ranked, rank
from .static_report import HOPELESS_SPILL_BYTES
from .sweep import GPUS, sweep

TABLE = Path(__file__).with_name("best_configs.md")
HOW_MANY = 10

_HEAD = """# `attention`: the ten configurations that look best on each GPU

Written by `python -m attncast.kernels.best_configs --write`; bf16, dense, Triton {version}, kernel
source {source}. Compiled, not run. The order is by the instructions of the inner loop (full blocks) held
against the GPU's rates, at the middle between no overlap of units and a perfect one; "of peak" gives
both ends as shares of the tensor peak. Memory traffic, latencies and tails are not in it. Configurations
that spill {spill} bytes a thread or more are left out.
"""
_COLUMNS = (
    "tile", "warps", "stages", "loads", "registers", "spills", "shared", "tmem", "CTAs per SM (limit)", "MMA",
    "busiest unit", "of peak",
)  # fmt: skip


def table(results: Sequence[CheckResult]) -> str:
    """Return the Markdown page."""
    parts = [_HEAD.format(version=triton_version(), source=kernel_hash("attention")[:12], spill=HOPELESS_SPILL_BYTES)]
    for gpu in dict.fromkeys(result.gpu.key for result in results):
        for dim in sorted({result.facts.config.head_dim for result in results}):
            own = [r for r in results if r.gpu.key == gpu and r.facts.config.head_dim == dim]
            parts.append(_section(gpu, dim, own))
    return "\n".join(parts)


def _section(gpu: str, head_dim: int, results: Sequence[CheckResult]) -> str:
    compiled = sum(result.facts.ok for result in results)
    fitting = sum(result.fits for result in results)
    calm = [
        result
        for result in results
        if (result.facts.spill_bytes or 0) < HOPELESS_SPILL_BYTES and not _specialised_in_vain(result)
    ]
    lines = [
        f"## {gpu} ({results[0].facts.arch}), head dim {head_dim}",
        "",
        f"{len(results)} configurations, {compiled} compile, {fitting} fit.",
        "",
        "| " + " | ".join(_COLUMNS) + " |",
        "|---|---:|---:|---|---:|---:|---:|---:|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_row(item) for item in rank(calm)[:HOW_MANY]), ""])


def _specialised_in_vain(result: CheckResult) -> bool:
    """Whether Triton ignored the knob, so that the same code stands in the table without it."""
    facts = result.facts
    return facts.config.warp_specialize and facts.warps == facts.config.num_warps


def _row(item: Ranked) -> str:
    facts, result = item.result.facts, item.result
    config = facts.config
    loads = ("TMA" if config.use_tma else "pointers") + (", specialised" if config.warp_specialize else "")
    limiter = result.occupancy.limiter if result.occupancy else ""
    cells = (
        f"{config.block_m} x {config.block_n}",
        str(config.num_warps),
        str(config.num_stages),
        loads,
        str(facts.registers),
        str(facts.spill_bytes),
        f"{facts.shared_bytes or 0:,}",
        str(facts.tmem_columns),
        f"{result.ctas_per_sm} ({limiter})",
        facts.mma,
        item.cycles.bound,
        f"{item.peak_share_serial:.0%} to {item.peak_share_overlapped:.0%}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table, or write it with --write."""
    parser = argparse.ArgumentParser(prog="python -m attncast.kernels.best_configs", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name} instead of printing")
    parser.add_argument("--workers", type=int, default=None)
    arguments = parser.parse_args()
    text = table(sweep(GPUS, workers=arguments.workers))
    if arguments.write:
        TABLE.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
