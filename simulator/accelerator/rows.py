"""FLAT's dataflow: blocks of whole rows of scores, and the mapper that chooses the block and what stays on chip.

The mapper is FLAT's (Kao et al., arXiv 2107.06419) as its choices show, in the table of FuseMax's artifact: it looks
at the matrix products alone, takes the fastest mapping, of those the coarsest, of those the one with the fewest bytes
on chip. All matrix products share one stationarity. What exceeds the buffer spills, each access of it in proportion.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product as choices
from math import ceil, prod

from .dataflow import Movement, Phase, fibers, operands
from .work import Work


@dataclass(frozen=True)
class Mapping:
    """One mapping of the matrix products.

    Attributes:
        rows: query rows in a block.
        still: which tensor of a product stays in the PEs: ``"output"``, ``"weight"`` (the operand without
            queries) or ``"input"`` (the one with).
        fused: whether scores stay on chip from one array to the next.
        kept: tensors that come to the buffer once for each block, instead of each time they are used.
    """

    rows: int
    still: str
    fused: bool
    kept: frozenset[str]


def rows(work: Work) -> Movement:
    """Movement under the mapping the mapper chooses."""
    mapping = min(_mappings(work), key=lambda m: _rank(work, m))
    return _movement(work, mapping)


def _mappings(work: Work) -> Iterator[Mapping]:
    queries = work.sizes[work.binding.queries]
    blocks = dict.fromkeys((queries, *(block for block in work.binding.rows if block < queries)))
    for block, still, fused in choices(blocks, ("output", "weight", "input"), (True, False)):
        for flags in choices((False, True), repeat=len(_ends(work))):
            kept = frozenset(t for t, keep in zip(_ends(work), flags, strict=True) if keep)
            yield Mapping(block, still, fused, kept)


def _ends(work: Work) -> list[str]:
    """What comes from DRAM or goes there for good."""
    return [*work.arrivals, *work.scope.outputs]


def _rank(work: Work, mapping: Mapping) -> tuple[float, float, float]:
    hardware = work.binding.accelerator
    elements = sum(_moved(work, mapping, t, name) for t in work.matmuls for name in (*operands(work, t), t))
    memory = elements * hardware.element_bytes / hardware.dram_bandwidth_bytes_s
    compute = _matrix_cycles(work, mapping) / hardware.clock_hz
    return max(memory, compute), -mapping.rows, _need(work, mapping)


def _movement(work: Work, mapping: Mapping) -> Movement:
    binding, hardware = work.binding, work.binding.accelerator
    spilled = _spilled(work, mapping)
    moved = reads = writes = 0.0
    others = [t for t in work.placed if t not in work.matmuls]
    for tensor in work.matmuls:
        for name in (*operands(work, tensor), tensor):
            moved += _moved(work, mapping, tensor, name)
            if name in mapping.kept:
                times, size = _accesses(work, mapping, tensor, name), work.elements(name)
                reads += size * (times if name != tensor else times - 1)
                writes += size * (times if name == tensor else 1)
    if mapping.fused:
        # Scores never leave the chip but for what spills: each is written once and read by each of its readers.
        for name in work.placed:
            if work.has_keys(name) and work.has_queries(name):
                takers = [r for r in work.readers(name) if (r, name) not in binding.as_made]
                reads += work.elements(name) * len(takers)
                writes += work.elements(name)
                inner = [t for t in (name, *takers) if t in others]
                moved += spilled * work.elements(name) * len(inner)
    else:
        crossed, read, written = fibers(work, others)
        moved, reads, writes = moved + crossed, reads + read, writes + written
    arrays = [_matrix_cycles(work, mapping), sum(map(work.cycles, others))]
    kept = ", ".join(sorted(mapping.kept)) or "nothing else"
    scores = f"scores on chip, {spilled:.2%} spilled" if mapping.fused else "scores in DRAM"
    words = f"blocks of {mapping.rows:,} rows, {mapping.still} stationary, {scores}; {kept} kept on chip"
    return Movement((Phase(max(arrays), moved * hardware.element_bytes),), reads, writes, words)


def _still(work: Work, mapping: Mapping, tensor: str) -> str:
    """The tensor of a matrix product that stays in the PEs."""
    if mapping.still == "output":
        return tensor
    wants = mapping.still == "input"
    return next((name for name in operands(work, tensor) if work.has_queries(name) == wants), tensor)


def _all_ranks(work: Work, tensor: str) -> list[str]:
    return list(dict.fromkeys(rank for name in operands(work, tensor) for rank in work.ranks(name)))


def _matrix_cycles(work: Work, mapping: Mapping) -> float:
    """Cycles of the 2-D array: the still tensor's tiles, each for as long as the other rank streams by."""
    total = 0.0
    for tensor in work.matmuls:
        spread = work.ranks(_still(work, mapping, tensor))
        parts = (
            ceil(work.sizes[r] / work.binding.tile) if r in spread else work.sizes[r] for r in _all_ranks(work, tensor)
        )
        total += prod(parts)
    return total


def _accesses(work: Work, mapping: Mapping, tensor: str, name: str) -> int:
    """How often a matrix product goes through one of its tensors: once for each tile of the ranks it lacks."""
    times = 1
    for rank in _all_ranks(work, tensor):
        if rank in work.ranks(name):
            continue
        if name != _still(work, mapping, tensor):
            times *= ceil(work.sizes[rank] / work.binding.tile)
        elif rank == work.binding.queries:  # it stays for a block of rows, then comes again for the next
            times *= ceil(work.sizes[rank] / mapping.rows)
    return times


def _moved(work: Work, mapping: Mapping, tensor: str, name: str) -> float:
    """Elements of one tensor that a matrix product moves from and to DRAM."""
    size, times, spilled = work.elements(name), _accesses(work, mapping, tensor, name), _spilled(work, mapping)
    if work.has_keys(name) and work.has_queries(name):
        return size * (spilled if mapping.fused else 1.0) * times
    both_ways = 2 * times - 1 if name == tensor else times  # sums are read again to be added to
    return size * (1 - spilled + spilled * both_ways) if name in mapping.kept else size * both_ways


def _need(work: Work, mapping: Mapping) -> int:
    """Bytes on chip: a block of scores, and two blocks (one in use, one on its way) of all else."""
    binding = work.binding
    total = mapping.rows * work.sizes[binding.keys] if mapping.fused else 0
    for name in _ends(work):
        wide = 1
        for rank in work.ranks(name):
            if rank in (binding.queries, binding.keys):
                whole = mapping.rows if rank == binding.queries else work.sizes[rank]
                wide *= whole if name in mapping.kept else min(binding.tile, whole)
            else:
                wide *= work.sizes[rank]
        total += 2 * wide
    return total * binding.accelerator.element_bytes


def _spilled(work: Work, mapping: Mapping) -> float:
    """The share of what is on chip that the buffer has no room for."""
    return 1 - min(1.0, work.binding.accelerator.buffer_bytes / _need(work, mapping))
