"""Choose the serving rows of the curated table: ``python -m attncast.validation.curate TABLE... -o rows.csv``.

TABLE: NVIDIA aiconfigurator's attention tables. The rows are drawn to span shapes, by rules that see the runs and never
a forecast of them (data/README.md gives the rules and the counts). The same tables give the same rows.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator import parse_pattern
from ..simulator.kernel_choice import choose_profile
from ..simulator.patterns.band import Band
from .calibrate import MIN_ROWS, by_use
from .importers.run import import_runs
from .measured import MeasuredRun, save_runs

SEED: Final = 20261121
LEAST_TIME_S: Final = 15e-6  # below it a call is mostly launch
PARTNER_EVERY: Final = 4  # every fourth windowed row brings the same shape without its window
# Rows drawn from a (GPU, software, phase) of at least so many; largest first.
QUOTAS: Final = ((1500, 200), (300, 80), (0, 20))
FEWER: Final[Mapping[str, int]] = {"rtx-pro-6000": 20}  # at most: two of its engines would outweigh all of the A100
OF_A_USE: Final = (
    2 * MIN_ROWS
)  # at least, of each use that has enough to be fitted: a fit without a fold still has enough
MORE: Final[Mapping[str, int]] = {"a100": 200}  # at least: its tables are a fifth of the others' size
# (GPU, software, phase) that is not drawn from at all, and why.
LEFT_OUT: Final[Mapping[tuple[str, str, str], str]] = {
    ("a100", "TRTLLM 1.0.0 torch_flow", "decode"): "20 of its 432 rows exceed the DRAM peak: its times are not trusted",
}

Key = tuple[str | int, ...]


def phase(run: MeasuredRun) -> str:
    """Of a serving row: "prefill" or "decode", as its method says."""
    return "decode" if ", decode" in run.method else "prefill"


def windowed(run: MeasuredRun) -> bool:
    """Whether a window cuts keys that some query could see; one at least as long as the keys does not."""
    pattern, workload = parse_pattern(run.pattern), run.workload
    return isinstance(pattern, Band) and pattern.left < workload.kv_tokens - 1


def shape(run: MeasuredRun) -> Key:
    """All that two runs share which differ by their pattern alone."""
    call = (run.gpu, run.kernel, run.software, phase(run), run.measures, run.dtype, run.kv_dtype)
    return (*call, run.batch, run.heads, run.heads_kv, run.grid, run.cached, run.head_dim)


def select(runs: Iterable[MeasuredRun], seed: int = SEED) -> tuple[list[MeasuredRun], Counter[str]]:
    """Draw rows; the order of ``runs`` does not matter.

    Returns:
        the rows, sorted by GPU, software, phase and shape, and how many could not be drawn, by reason.
    """
    left_out: Counter[str] = Counter()
    groups: dict[tuple[str, str, str], list[MeasuredRun]] = defaultdict(list)
    for run in runs:
        group = (run.gpu, run.software, phase(run))
        if group in LEFT_OUT:
            left_out[f"{' '.join(group)}: {LEFT_OUT[group]}"] += 1
        elif run.time_s < LEAST_TIME_S:
            left_out[f"below {LEAST_TIME_S * 1e6:.0f} us"] += 1
        elif not _described(run):
            left_out["no kernel profile describes it"] += 1
        else:
            groups[group].append(run)
    chosen = [
        run for (gpu, *_), members in sorted(groups.items()) for run in _draw(members, _quota(gpu, len(members)), seed)
    ]
    drawn = dict(by_use(chosen))
    for use, of_use in by_use(run for members in groups.values() for run in members):
        if len(of_use) >= MIN_ROWS:
            drawn[use] = max(drawn.get(use, []), _draw(of_use, OF_A_USE, seed), key=len)
    return sorted((run for runs in drawn.values() for run in runs), key=_place), left_out


def _place(run: MeasuredRun) -> Key:
    return run.gpu, run.software, phase(run), *shape(run), run.pattern


def _described(run: MeasuredRun) -> bool:
    try:
        family = parse_pattern(run.pattern).family
        choose_profile(run.kernel, load_gpu(run.gpu), family, run.dtype, run.head_dim, value_dim=run.workload.dim_v)
    except InputError:
        return False
    return True


def _quota(gpu: str, count: int) -> int:
    rows = next(rows for least, rows in QUOTAS if count >= least)
    rows = max(rows, MORE.get(gpu, rows))
    return min(rows, FEWER.get(gpu, rows), count)


def _draw(members: Sequence[MeasuredRun], quota: int, seed: int) -> list[MeasuredRun]:
    """Rows of one group: a fair share of each stratum, windows first, since they bring their partners."""
    strata: dict[Key, list[MeasuredRun]] = defaultdict(list)
    for run in members:
        strata[run.kernel, run.dtype, run.kv_dtype, int(windowed(run))].append(run)
    shares = _shares({key: len(rows) for key, rows in strata.items()}, quota)
    causal = {shape(run): run for run in members if run.pattern == "causal"}
    chosen: list[MeasuredRun] = []
    partners: dict[Key, list[MeasuredRun]] = defaultdict(list)
    for key in sorted(strata, key=lambda key: (-int(key[-1]), key)):
        wanted = partners[key][: shares[key]]
        rows = wanted + _spread([run for run in strata[key] if run not in wanted], shares[key] - len(wanted), seed)
        chosen += rows
        if key[-1]:
            found = list(dict.fromkeys(causal[shape(run)] for run in rows if shape(run) in causal))
            partners[*key[:-1], 0] = found[: math.ceil(len(rows) / PARTNER_EVERY)]
    return sorted(chosen, key=lambda run: (shape(run), run.pattern))


def _shares(sizes: Mapping[Key, int], quota: int) -> dict[Key, int]:
    """Equal shares of ``quota``; what a small stratum cannot fill goes to the others."""
    shares: dict[Key, int] = {}
    for done, key in enumerate(sorted(sizes, key=lambda key: (sizes[key], key))):
        shares[key] = min(sizes[key], (quota - sum(shares.values())) // (len(sizes) - done))
    return shares


def _spread(runs: Sequence[MeasuredRun], count: int, seed: int) -> list[MeasuredRun]:
    """``count`` runs, in turn from each decade of time and head dimension; random within."""
    cells: dict[tuple[int, int], list[MeasuredRun]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (shape(run), run.pattern)):
        cells[math.floor(math.log10(run.time_s)), run.head_dim].append(run)
    for key, members in cells.items():
        name = repr((seed, shape(members[0])[:7], key)).encode()
        random.Random(hashlib.sha256(name).digest()).shuffle(members)
    turns = max(map(len, cells.values()), default=0)
    ordered = [cells[key][turn] for turn in range(turns) for key in sorted(cells) if turn < len(cells[key])]
    return ordered[:count]


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the tables, draw, write the rows, and say what was left out."""
    parser = argparse.ArgumentParser(prog="python -m attncast.validation.curate", description=__doc__)
    parser.add_argument("tables", nargs="+", metavar="TABLE", help="a table of NVIDIA aiconfigurator (CSV)")
    parser.add_argument("-o", dest="out", required=True, metavar="FILE", help="where the chosen rows go")
    options = parser.parse_args(arguments)
    try:
        runs: list[MeasuredRun] = []
        implausible = 0
        for table in options.tables:
            imported = import_runs("aiconfigurator", table)
            runs += imported.runs
            implausible += len(imported.implausible)
        chosen, left_out = select(runs)
        if not chosen:
            raise InputError(f"none of the {len(runs):,} runs of {', '.join(options.tables)} can be chosen")
        save_runs(options.out, chosen)
    except InputError as problem:
        print(f"attncast: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
    left_out["implausible"] += implausible
    print(f"{len(chosen):,} of {len(runs) + implausible:,} rows written to {options.out}")
    for reason, count in left_out.most_common():
        if count:
            print(f"{count:>7,}  left out: {reason}")


if __name__ == "__main__":
    main()
