"""What Triton's GPU dialect says that SASS no longer does: warp layouts of the dots, and warp-specialised
partitions.

Only text is read, so no Triton is needed. The forms are those of Triton 3.6 to 3.9.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_LAYOUT = re.compile(
    r"^(#\w+) = #ttg\.nvidia_mma<\{versionMajor = (\d+).*?warpsPerCTA = \[([\d, ]+)\]"
    r".*?instrShape = \[([\d, ]+)\]"
)
_DOT = re.compile(r"(?:tt\.dot|ttng\.warp_group_dot) .*-> tensor<(\d+)x(\d+)xf32, (#\w+)>")
_WARPS = re.compile(r'"ttg\.num-warps" = (\d+)')
_PARTITION = re.compile(r"^(\s*)partition(\d+)\(.*\bnum_warps\((\d+)\)")
_MMA = re.compile(r"tt\.dot |warp_group_dot |tc_gen5_mma")


@dataclass(frozen=True)
class Region:
    """Code that its own group of warps runs: ``warps`` of them, with what its loop holds."""

    warps: int
    exp: bool
    mma: bool


@dataclass(frozen=True)
class GpuIr:
    """Facts from one ``ttgir`` text.

    ``copies`` tells for each dot of a warp-level MMA, in program order, how many times each element of its
    result is computed: 1, or more when the layout has more warps than the tile has instruction tiles.
    (tcgen05 dots are issued once for the CTA and not listed.) ``specialised`` holds, for each
    warp-specialised loop in program order, the default region and then the partitions.
    """

    copies: tuple[int, ...]
    specialised: tuple[tuple[Region, ...], ...]


def without_locations(text: str) -> str:
    """Return the text less its source locations, which are most of its size."""
    return re.sub(r" loc\(.*\)$|^#loc.*\n", "", text, flags=re.MULTILINE)


def read_ttgir(text: str) -> GpuIr:
    """Return the layouts and partitions in ``text``; unknown forms are skipped, never an error."""
    found = _WARPS.search(text)
    warps = int(found[1]) if found else 0
    layouts: dict[str, tuple[list[int], list[int]]] = {}
    all_copies: list[int] = []
    for line in text.splitlines():
        if layout := _LAYOUT.match(line):
            per_cta = [int(part) for part in layout[3].split(",")]
            layouts[layout[1]] = (per_cta, [int(part) for part in layout[4].split(",")][:2])
        elif dot := _DOT.search(line):
            shape = (int(dot[1]), int(dot[2]))
            if dot[3] in layouts:
                per_cta, instruction = layouts[dot[3]]
                copies = 1
                for size, groups, step in zip(shape, per_cta[-2:], instruction, strict=False):
                    copies *= max(1, groups * step // size)
                all_copies.append(copies)
    return GpuIr(tuple(all_copies), _specialised(text, warps))


def _specialised(text: str, warps: int) -> tuple[tuple[Region, ...], ...]:
    """Read ``ttg.warp_specialize`` operations: a ``default { }`` region, then ``partitionN(...) { }``
    regions.
    """
    operations: list[tuple[Region, ...]] = []
    current: list[list[int | bool]] = []
    end = ""
    for line in text.splitlines():
        if "ttg.warp_specialize(" in line:
            current, end = [], ""
        elif not end and line.strip() == "default {":
            current = [[warps, False, False]]
            end = line[: len(line) - len(line.lstrip())] + "}"
        elif end and (partition := _PARTITION.match(line)):
            current.append([int(partition[3]), False, False])
        elif end and line.startswith(end) and " : (" in line:
            operations.append(tuple(Region(int(w), bool(e), bool(m)) for w, e, m in current))
            end = ""
        elif end and current:
            current[-1][1] = current[-1][1] or "math.exp2" in line
            current[-1][2] = current[-1][2] or bool(_MMA.search(line))
    return tuple(operations)
