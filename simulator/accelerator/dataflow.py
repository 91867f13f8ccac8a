"""How tensors move between DRAM, buffer and arrays under a binding: bytes, rows of the buffer, and time."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from ...errors import InputError
from .matmul import largest_divisor, matmul_traffic
from .work import Work


@dataclass(frozen=True)
class Phase:
    """Work whose arithmetic and traffic overlap: it takes the longer of the two. For one head.

    Attributes:
        cycles: of the arrays.
        traffic: bytes from and to DRAM.
    """

    cycles: float
    traffic: float


@dataclass(frozen=True)
class Movement:
    """One head's phases, run in turn; elements read from and written to the buffer; the mapping in words."""

    phases: tuple[Phase, ...]
    buffer_reads: float
    buffer_writes: float
    mapping: str


def stream(work: Work) -> Movement:
    """Keys and values go by a tile at a time, for a block of queries that stays in the buffer with its states.

    In the buffer: what arrives, the states, and tiles of keys x queries that go from one array to the other.
    All else is handed on in registers.

    Raises:
        InputError: not even one tile of queries fits the buffer.
    """
    binding, hardware = work.binding, work.binding.accelerator
    size, tile = hardware.element_bytes, binding.tile
    stay = [t for t in work.arrivals if work.has_queries(t)]
    go_by = [t for t in work.arrivals if not work.has_queries(t)]
    states = [t for t in work.placed if work.carries_state(t)]
    crossing = [
        t
        for t in work.placed
        if work.has_keys(t) and any(binding.array_of(r) != binding.array_of(t) for r in work.readers(t))
    ]
    held = sum(work.tile_elements(t) for t in go_by) * size
    per_query = sum(work.per_query(t) for t in (*stay, *states, *crossing)) * size
    fits = (hardware.buffer_bytes - held) // (per_query * tile)
    if fits < 1:
        raise InputError(
            f"binding {binding.name!r}: a tile of {tile} queries needs {held + per_query * tile:,} bytes, but the "
            f"buffer of accelerator {hardware.key!r} has {hardware.buffer_bytes:,}"
        )
    block = largest_divisor(work.query_tiles, fits)
    again = work.query_tiles // block
    outputs = sum(work.elements(t) for t in work.scope.outputs)
    loaded = sum(work.elements(t) for t in stay) + again * sum(work.elements(t) for t in go_by)

    reads, writes = 0, loaded
    for tensor in work.placed:
        for name in dict.fromkeys(read.tensor for read in work.reads(tensor)):
            if name in (*work.arrivals, *crossing) and (tensor, name) not in binding.as_made:
                reads += work.tile_elements(name) * work.runs(tensor)
    for state in states:  # taken from the step before, left for the next; within a step it is in registers
        reads += work.tile_elements(state) * work.tiles
        writes += work.tile_elements(state) * work.tiles
        reads += sum(work.tile_elements(state) * work.runs(reader) for reader in work.read_at_end(state))
    writes += sum(work.tile_elements(t) * work.runs(t) for t in crossing)
    cycles = sum(map(work.stage_cycles, binding.stages))
    words = f"{block * tile:,} queries stay in the buffer, keys and values go by {again:,} times"
    return Movement((Phase(cycles, (loaded + outputs) * size),), reads, writes, words)


def phases(work: Work) -> Movement:
    """Each stage takes all it reads from DRAM and leaves all it makes there."""
    binding, hardware = work.binding, work.binding.accelerator
    size, found, reads, writes = hardware.element_bytes, [], 0.0, 0.0
    for stage in binding.stages:
        elements = 0.0
        inside = [t for t in stage.tensors if t not in work.matmuls]
        for tensor in stage.tensors:
            if tensor in work.matmuls:
                moved, read, written = _product(work, tensor)
                elements += moved
                reads, writes = reads + read, writes + written
        if inside:
            moved, read, written = fibers(work, inside)
            elements += moved
            reads, writes = reads + read, writes + written
        found.append(Phase(work.stage_cycles(stage), elements * size))
    return Movement(tuple(found), reads, writes, "each stage from and to DRAM")


def fibers(work: Work, tensors: list[str]) -> tuple[float, float, float]:
    """Elements moved from and to DRAM, read from and written to the buffer, by Einsums on rows of scores.

    A row comes to the buffer once and stays until its last reader is done. What only others read leaves
    straight for DRAM. Tensors without keys are small and not counted.
    """
    moved = reads = writes = 0.0
    names = dict.fromkeys((*(read.tensor for t in tensors for read in work.reads(t)), *tensors))
    for name in names:
        if not (work.has_keys(name) and work.has_queries(name)):
            continue
        size = work.elements(name)
        takers = [r for r in work.readers(name) if r in tensors and (r, name) not in work.binding.as_made]
        leaves = name in tensors and any(r not in tensors for r in work.readers(name))
        arrives = name not in tensors
        moved += size * (arrives + leaves)
        reads += size * len(takers)
        writes += size if arrives or takers else 0
    return moved, reads, writes


def _product(work: Work, tensor: str) -> tuple[float, float, float]:
    """Elements a matrix product moves from and to DRAM, and reads from and writes to the buffer.

    Operands that are no intermediates wait in the buffer; an intermediate goes straight from or to DRAM. Sums
    over the keys are added up in the buffer, a tile of keys at a time.
    """
    hardware, tile = work.binding.accelerator, work.binding.tile
    left, right = operands(work, tensor)
    shared = [rank for rank in work.ranks(left) if rank in work.ranks(right)]
    row, column = (prod(work.sizes[r] for r in work.ranks(t) if r not in shared) for t in (left, right))
    inner = prod(work.sizes[rank] for rank in shared)
    size = hardware.element_bytes
    moved = matmul_traffic(row, inner, column, hardware.buffer_bytes, size, tile) / size
    reads = writes = 0.0
    for name, lacks in ((left, column), (right, row)):
        if name not in work.placed:
            writes += work.elements(name)
            reads += work.elements(name) * ceil(lacks / tile)
    if work.binding.keys in shared:
        reads += work.elements(tensor) * work.key_tiles
        writes += work.elements(tensor) * work.key_tiles
    return moved, reads, writes


def operands(work: Work, tensor: str) -> tuple[str, str]:
    """The two tensors a matrix product multiplies."""
    names = list(dict.fromkeys(read.tensor for read in work.reads(tensor)))
    if len(names) != 2:
        raise InputError(
            f"binding {work.binding.name!r}: Einsum {tensor!r} multiplies {', '.join(names)}, expected two tensors"
        )
    return names[0], names[1]
