"""How good the static estimate is: ``python -m attncast.kernels.static_report [--fit] [--workers N]``.

Every configuration of the space is compiled (or remembered), and the estimate's verdict held against the
compiler's. A configuration is hopeless in truth when it does not fit the GPU or spills 256 bytes a thread
or more. Those that break the compiler itself are counted apart: no arithmetic foretells an assertion.
``--fit`` prints the register constants that fit head dim 64 best; head dim 128 is never fitted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .check import CheckResult
from .static import PATHS, estimate_configs, mma_path, register_terms
from .sweep import GPUS, sweep

# : Bytes of a thread's registers in memory from which a configuration is not worth running: a quarter of
# the file.
HOPELESS_SPILL_BYTES = 256
_FITTED_HEAD_DIM = 64


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
    """Return register constants by path: least squares over what neither spills nor sits at the limit."""
    terms: dict[str, list[NDArray[Any]]] = {name: [] for name in PATHS}
    seen: dict[str, list[int]] = {name: [] for name in PATHS}
    for result in results:
        facts, config = result.facts, result.facts.config
        usable = facts.ok and result.fits and not facts.spill_bytes and (facts.registers or 0) < 255
        if not usable or config.head_dim != _FITTED_HEAD_DIM:
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
        seen[PATHS[int(path)]].append(facts.registers or 0)
    constants = {}
    for name, kept in terms.items():
        if len(kept) >= 4:
            constants[name] = _not_negative(np.array(kept), np.array(seen[name]))
    return constants


def _not_negative(terms: NDArray[Any], registers: NDArray[Any]) -> tuple[float, ...]:
    """Least squares with no constant below 0 (nothing that a thread keeps saves registers): terms that want
    it go.
    """
    solved = np.zeros(terms.shape[1])
    kept = np.arange(terms.shape[1])
    while kept.size:
        part, *_ = np.linalg.lstsq(terms[:, kept], registers, rcond=None)
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
    parser.add_argument("--workers", type=int, default=None)
    arguments = parser.parse_args()
    results = sweep(GPUS, workers=arguments.workers)
    if arguments.fit:
        for name, constants in fit(results).items():
            print(f"    {name!r}: {constants},")
    print(report(results))


if __name__ == "__main__":
    main()
