"""The inner loops of a compiled kernel, per KV tile: instructions by pipe, exponentials, MMA work.

Loops come from the control-flow graph (flow.py). An inner loop is a natural loop that issues matrix
instructions or exponentials itself while no loop inside it does. Where one loop issues both, it is the
whole KV loop. Where warp specialisation has split the work, one KV loop is several machine loops (softmax,
correction, MMA, loads), each run by its own warps; they are put together again in program order, with the
warp counts from Triton's GPU dialect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .flow import Flow, Loop, find_loops, steady_blocks
from .occupancy import WARP
from .sass import PIPES, SASS, Isa, Mma, count_mma, count_pipes, count_shared_bytes
from .ttgir import GpuIr, Region


@dataclass(frozen=True)
class Tile:
    """The work of one KV tile: ``block_m`` x ``block_n`` pairs, head dims as padded by the kernel."""

    block_m: int
    block_n: int
    head_dim: int
    v_head_dim: int

    @property
    def mma_flop(self) -> int:
        """Floating-point operations of QK^T and PV: 4 x block_m x block_n x head_dim when the dims are
        equal.
        """
        return 2 * self.block_m * self.block_n * (self.head_dim + self.v_head_dim)


@dataclass(frozen=True)
class Part:
    """One machine loop: who runs it, how many warps (0 when unknown), and what one warp does per trip.

    ``instructions`` by pipe; ``shared_bytes`` moved through shared memory (``sass.shared_bytes_of``).
    """

    role: str
    warps: int
    instructions: dict[str, int]
    shared_bytes: int = 0


@dataclass(frozen=True)
class KvLoop:
    """One loop over KV tiles, counts per tile and CTA.

    ``mma_flop`` is the matrix work issued for one tile and ``exp`` the exponentials evaluated, as executed
    over the whole CTA: ``copies`` says how many times the warps compute the same scores and the same output
    (1 and 1 in a good configuration). ``tile.mma_flop`` and ``pairs`` are what the algorithm needs.
    """

    name: str
    parts: tuple[Part, ...]
    mma: dict[Mma, int]
    tiles_per_trip: float
    mma_flop: float
    exp: float | None
    copies: tuple[int, int]
    tile: Tile

    @property
    def instructions(self) -> dict[str, float]:
        """SASS instructions per KV tile by pipe, as one warp sees them; specialised parts are added up."""
        total: dict[str, float] = {}
        for part in self.parts:
            for pipe, count in part.instructions.items():
                total[pipe] = total.get(pipe, 0) + count / self.tiles_per_trip
        return {pipe: total[pipe] for pipe in PIPES if pipe in total}

    @property
    def warp_instructions(self) -> dict[str, float]:
        """Warp-instructions per KV tile and CTA by pipe: each part counted once for every warp that runs it.

        A tcgen05 instruction is issued by one thread, whatever the warps: it counts once.
        """
        total: dict[str, float] = {}
        once = all(mma.family == "tcgen05" for mma in self.mma)
        for part in self.parts:
            for pipe, count in part.instructions.items():
                warps = 1 if pipe == "tensor" and once else part.warps
                total[pipe] = total.get(pipe, 0) + count * warps / self.tiles_per_trip
        return {pipe: total[pipe] for pipe in PIPES if pipe in total}

    @property
    def shared_bytes(self) -> float:
        """Bytes that warps move through shared memory per KV tile and CTA, without bank conflicts."""
        return sum(part.shared_bytes * part.warps for part in self.parts) / self.tiles_per_trip

    @property
    def pairs(self) -> int:
        """Scores in one tile: the exponentials that the softmax itself needs."""
        return self.tile.block_m * self.tile.block_n

    @property
    def exp_corrections_per_row(self) -> float | None:
        """Exponentials beyond one per score, per query row: rescaling factors, once for each thread that
        holds one.
        """
        return None if self.exp is None else (self.exp / self.copies[0] - self.pairs) / self.tile.block_m


@dataclass(frozen=True)
class LoopReport:
    """KV loops in program order and remarks on what could not be told for certain."""

    loops: tuple[KvLoop, ...]
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class _Hot:
    """An innermost loop with MMA or exponentials, and whether it sits inside another loop (a dispatch
    loop).
    """

    mma: dict[Mma, int]
    pipes: dict[str, int]
    shared_bytes: int
    nested: bool

    @property
    def region(self) -> tuple[bool, bool]:
        return "exp" in self.pipes, bool(self.mma)


def analyse(flow: Flow, tile: Tile, ir: GpuIr, *, warps: int, names: Sequence[str], isa: Isa = SASS) -> LoopReport:
    """Return the KV loops of ``flow``.

    ``warps`` is the configuration's num_warps (those of the default region), ``names`` what the kernel's
    loops are called in program order ("full", "partial"); other names are made up when the count differs.
    """
    hot = _hot_loops(flow, isa)
    notes: list[str] = []
    if all(loop.mma and "exp" in loop.pipes for loop in hot):
        groups = [[(loop, "all", warps)] for loop in hot]
    else:
        groups = _regroup(hot, ir, warps, notes)
    if len(groups) != len(names):
        notes.append(f"the kernel has {len(names)} KV loops in its source, the code has {len(groups)}")
        names = [f"loop{number}" for number in range(1, len(groups) + 1)]
    copies = _copies(ir, len(groups), notes)
    loops = tuple(
        _kv_loop(name, group, tile, copies[number], notes)
        for number, (name, group) in enumerate(zip(names, groups, strict=True))
    )
    return LoopReport(loops, tuple(notes))


def _copies(ir: GpuIr, loops: int, notes: list[str]) -> list[tuple[int, int]]:
    """How often each loop computes its scores and its output: the dots come in pairs, QK^T and then PV."""
    if len(ir.copies) == 2 * loops:
        return list(zip(ir.copies[::2], ir.copies[1::2], strict=True))
    if any(count > 1 for count in ir.copies):
        notes.append(f"{len(ir.copies)} dots in {loops} loops: which of them are computed repeatedly is not known")
    return [(1, 1)] * loops


def _hot_loops(flow: Flow, isa: Isa) -> list[_Hot]:
    """Innermost loops that issue matrix instructions or exponentials, in address order."""
    hot: list[_Hot] = []

    def visit(loop: Loop, nested: bool) -> bool:
        below = [visit(child, True) for child in loop.children]
        if any(below):
            return True
        blocks = steady_blocks(flow, loop)
        pipes = count_pipes(flow, blocks, isa)
        mma = dict(count_mma(flow, blocks, isa))
        if not mma and "exp" not in pipes:
            return False
        hot.append(_Hot(mma, pipes, count_shared_bytes(flow, blocks, isa), nested))
        return True

    for root in find_loops(flow):
        visit(root, False)
    return hot


def _regroup(hot: Sequence[_Hot], ir: GpuIr, warps: int, notes: list[str]) -> list[list[tuple[_Hot, str, int]]]:
    """Put the machine loops of each warp-specialised KV loop together.

    The default regions run outside the loop that hands work to the other warps, the partitions inside it;
    of those that hold the same (softmax, MMA), the first in the code belongs to the first KV loop. Where
    that does not match Triton's regions, a note says so, and MMA and softmax loops are paired in address
    order with unknown warps.
    """
    rest = list(hot)
    groups: list[list[tuple[_Hot, str, int]]] = []
    for regions in ir.specialised:
        group: list[tuple[_Hot, str, int]] = []
        for number, region in enumerate(regions):
            if not (region.exp or region.mma):
                continue
            wanted = (number > 0, (region.exp, region.mma))
            loop = next((loop for loop in rest if (loop.nested, loop.region) == wanted), None)
            if loop is None:
                notes.append("the code lacks a loop that Triton's warp-specialised regions have")
                return _pair_by_order(hot)
            rest.remove(loop)
            group.append((loop, _role(region, number), region.warps))
        groups.append(group)
    if rest or not groups:
        notes.append("some loops belong to no warp-specialised region that Triton lists")
        return _pair_by_order(hot)
    return groups


def _role(region: Region, number: int) -> str:
    if region.mma:
        return "all" if region.exp else "mma"
    return "softmax" if number == 0 else "correction"


def _pair_by_order(hot: Sequence[_Hot]) -> list[list[tuple[_Hot, str, int]]]:
    """Give each loop with MMA the exponential loops of the same rank; warps are unknown (0)."""
    with_mma = [loop for loop in hot if loop.mma]
    rest = [loop for loop in hot if not loop.mma]
    if not with_mma:
        return [[(loop, "softmax", 0)] for loop in rest]
    share = max(1, len(rest) // len(with_mma))
    return [
        [(loop, "mma", 0), *((other, "softmax", 0) for other in rest[rank * share : (rank + 1) * share])]
        for rank, loop in enumerate(with_mma)
    ]


def _kv_loop(
    name: str,
    group: Sequence[tuple[_Hot, str, int]],
    tile: Tile,
    copies: tuple[int, int],
    notes: list[str],
) -> KvLoop:
    """Assemble one KV loop; ``copies`` is how often the scores and the output are computed."""
    pair_flop = 2 * tile.block_m * tile.block_n
    planned = pair_flop * (tile.head_dim * copies[0] + tile.v_head_dim * copies[1])
    flop = 0.0
    mma: dict[Mma, int] = {}
    for loop, _, warps in group:
        for kind, count in loop.mma.items():
            mma[kind] = mma.get(kind, 0) + count
            flop += count * kind.flop * (warps / kind.warps if kind.warps else 1)
    trips = flop / planned if flop else 1.0
    if trips != round(trips):
        notes.append(f"{name}: {flop:.0f} FLOP of matrix instructions per trip, expected a multiple of {planned:.0f}")
    known = all(warps for loop, _, warps in group if "exp" in loop.pipes)
    exp = sum(loop.pipes.get("exp", 0) * WARP * warps for loop, _, warps in group) / trips if known else None
    parts = tuple(Part(role, warps, loop.pipes, loop.shared_bytes) for loop, role, warps in group)
    return KvLoop(name, parts, mma, trips, flop / trips, exp, copies, tile)
