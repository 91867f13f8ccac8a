"""How good the static estimate is: ``python -m attncast.kernels.static_report [--fit] [--write]``.

Every configuration of the space is compiled (or remembered), and the estimate's verdict held against the
compiler's. A configuration is hopeless in truth when it does not fit the GPU or spills 256 bytes a thread
or more. Those that break the compiler itself are counted apart: no arithmetic foretells an assertion.
``--fit`` prints the register constants that fit head dim 64 best; head dim 128 is never fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cache import kernel_hash, triton_version
from .check import CheckResult
from .static import PATHS, estimate_configs, mma_path, register_terms
from .sweep import GPUS, sweep

PAGE = Path(__file__).with_name("static_report.md")
_HEAD = """# The static estimate against the compiler

Written by `python -m attncast.kernels.static_report --write`; `attention`, bf16, dense, Triton {version},
kernel source {source}. Hopeless: does not fit the GPU, or spills 256 bytes a thread or more. Register
constants are fitted on head dim 64; head dim 128 was never fitted. What broke the compiler itself is in no
figure but its own column.
"""
#: Bytes of a thread's registers in memory from which a configuration is not worth running: a quarter
#: of the register file.
HOPELESS_SPILL_BYTES = 256
_FITTED_HEAD_DIM = 64
_GIVEN_UP_BYTES = 1024


@dataclass(frozen=True)
class Verdicts:
    """Estimate against compiler over some configurations; sizes in bytes and registers."""

    total: int
    broken: int
    hopeless: int
    called_hopeless: int
    both: int
    shared_worst: int
    tmem_wrong: int
    registers_median: float

    @property
    def precision(self) -> float:
        """Of those the estimate calls hopeless, the share that are."""
        return self.both / self.called_hopeless if self.called_hopeless else 1.0

    @property
    def recall(self) -> float:
        """Of those that are hopeless, the share that the estimate finds."""
        return self.both / self.hopeless if self.hopeless else 1.0


def verdicts(results: Sequence[CheckResult]) -> Verdicts:
    """Hold the estimate against results of one GPU."""
    compiled = [result for result in results if result.facts.ok]
    facts = [result.facts for result in compiled]
    guess = estimate_configs(results[0].gpu, [fact.config for fact in facts])
    spills = np.array([fact.spill_bytes or 0 for fact in facts])
    truth = np.array([not result.fits for result in compiled]) | (spills >= HOPELESS_SPILL_BYTES)
    shared = np.array([fact.shared_bytes or 0 for fact in facts]) - guess.shared_bytes
    tmem = np.array([fact.tmem_columns or 0 for fact in facts]) != guess.tmem_columns
    registers = np.array([fact.registers or 0 for fact in facts])
    plain = spills == 0
    off = np.abs(np.minimum(guess.registers, 255) - registers)[plain]
    return Verdicts(
        len(results),
        len(results) - len(compiled),
        int(truth.sum()),
        int(guess.hopeless.sum()),
        int((truth & guess.hopeless).sum()),
        int(np.abs(shared).max()),
        int(tmem.sum()),
        float(np.median(off)),
    )


def fit(results: Sequence[CheckResult]) -> dict[str, tuple[float, ...]]:
    """Return register constants by path: least squares on what a thread wants, head dim 64 alone.

    What it wants is its registers and the words it spills. Past a kilobyte of spills the compiler has given
    up (24 KB have been seen for a tile that wants twice the file), which says nothing of the want.
    """
    terms: dict[str, list[NDArray[Any]]] = {name: [] for name in PATHS}
    wanted: dict[str, list[float]] = {name: [] for name in PATHS}
    for result in results:
        facts, config = result.facts, result.facts.config
        spilled = facts.spill_bytes or 0
        if facts.main_loop is None or config.head_dim != _FITTED_HEAD_DIM or spilled > _GIVEN_UP_BYTES:
            continue
        rows, keys, warps, dim, tma, special = map(
            np.asarray,
            (
                config.block_m,
                config.block_n,
                config.num_warps,
                config.padded_head_dim,
                int(config.use_tma),
                int(config.warp_specialize),
            ),
        )
        path = mma_path(facts.arch, rows, special)
        row = register_terms(path, dim, rows, keys, warps, tma)
        terms[PATHS[int(path)]].append(row)
        wanted[PATHS[int(path)]].append((facts.registers or 0) + spilled / 4)
    constants = {}
    for name, kept in terms.items():
        if len(kept) >= 4:
            constants[name] = _not_negative(np.array(kept), np.array(wanted[name]))
    return constants


def _not_negative(terms: NDArray[Any], wanted: NDArray[Any]) -> tuple[float, ...]:
    """Least squares with no constant below 0 (nothing that a thread keeps saves registers): terms that want
    it go.
    """
    solved = np.zeros(terms.shape[1])
    kept = np.arange(terms.shape[1])
    while kept.size:
        part, *_ = np.linalg.lstsq(terms[:, kept], wanted, rcond=None)
        if (part >= 0).all():
            solved[kept] = part
            break
        kept = np.delete(kept, np.argmin(part))
    return tuple(round(float(value), 2) for value in solved)


def report(results: Sequence[CheckResult]) -> str:
    """Return the table of precision and recall, by GPU and head dim."""
    lines = [
        "| GPU | head dim | configurations | compiler fails | hopeless | called hopeless | precision | recall"
        " | shared off by at most | tmem wrong | registers off by (median) |",
        "|---|" + "---:|" * 10,
    ]
    totals = np.zeros(3, dtype=int)
    for gpu in dict.fromkeys(result.gpu.key for result in results):
        for dim in sorted({result.facts.config.head_dim for result in results}):
            own = [r for r in results if r.gpu.key == gpu and r.facts.config.head_dim == dim]
            told = verdicts(own)
            totals += (told.hopeless, told.called_hopeless, told.both)
            lines.append(
                f"| {gpu} | {dim} | {told.total} | {told.broken} | {told.hopeless} | {told.called_hopeless} |"
                f" {told.precision:.0%} | {told.recall:.0%} | {told.shared_worst} B | {told.tmem_wrong} |"
                f" {told.registers_median:.0f} |"
            )
    hopeless, called, both = (int(value) for value in totals)
    lines.append(
        f"\nOver all: precision {both}/{called} = {both / max(called, 1):.1%},"
        f" recall {both}/{hopeless} = {both / max(hopeless, 1):.1%}."
    )
    return "\n".join(lines)


def main() -> None:
    """Print the report, and with --fit the constants."""
    parser = argparse.ArgumentParser(prog="python -m attncast.kernels.static_report", description=__doc__)
    parser.add_argument("--fit", action="store_true", help="print fitted register constants")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} instead of printing")
    parser.add_argument("--workers", type=int, default=None)
    arguments = parser.parse_args()
    results = sweep(GPUS, workers=arguments.workers)
    if arguments.fit:
        for name, constants in fit(results).items():
            print(f"    {name!r}: {constants},")
    if arguments.write:
        page = _HEAD.format(version=triton_version(), source=kernel_hash("attention")[:12])
        PAGE.write_text(f"{page}\n{report(results)}\n", encoding="utf-8")
    else:
        print(report(results))


if __name__ == "__main__":
    main()
