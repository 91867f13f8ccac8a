"""What each Einsum of a binding costs for one head: cycles on its array, elements it holds and moves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import ceil, prod

from ..einsum import bind, einsum_costs
from ..einsum.graph import is_previous
from ..einsum.ir import Access, index_vars
from ..einsum.passes import leaves
from .binding import Binding, Stage


class Work:
    """A binding at given rank sizes. All numbers are for one head of one sequence.

    Sizes of the keys and the queries are rounded up to whole tiles: a PE without work waits for the others.
    """

    def __init__(self, binding: Binding, sizes: Mapping[str, int]) -> None:
        """Bind the sizes.

        Raises:
            InputError: a size is missing, impossible, or of no rank of the cascade.
        """
        self.binding = binding
        self.scope = binding.cascade.scope
        tile = binding.tile
        bind(binding.cascade, sizes)  # for the user's own numbers in messages
        given = dict(sizes)
        for rank in (binding.keys, binding.queries):
            if rank in given:
                given[rank] = tile * ceil(given[rank] / tile)
        self.key_leaves = leaves(self.scope, binding.keys)
        if len(self.key_leaves) > 1:
            given[self.key_leaves[-1]] = tile
        self.sizes: dict[str, int] = bind(binding.cascade, given)
        self.key_tiles = ceil(self.sizes[binding.keys] / tile)
        self.query_tiles = ceil(self.sizes[binding.queries] / tile)
        self.tiles = self.key_tiles * self.query_tiles
        self.ops: dict[str, dict[str, int]] = {}
        self.matmuls: list[str] = []
        for cost in einsum_costs(binding.cascade):
            mine = self.ops.setdefault(cost.tensor, {})
            for op, count in cost.ops.items():
                mine[op] = mine.get(op, 0) + count.at(self.sizes)
            if cost.matmul and binding.array_of(cost.tensor) is not None:
                self.matmuls.append(cost.tensor)
        # Looked up for every mapping a mapper tries.
        self._ranks = {tensor: self._shape(tensor) for tensor in self.scope.shapes}
        self._elements = {tensor: prod(self.sizes[r] for r in ranks) for tensor, ranks in self._ranks.items()}
        self._reads = {tensor: self._accesses(tensor) for tensor in self.scope.producers}

    def cycles(self, tensor: str) -> float:
        """Cycles its array is busy with an Einsum, all PEs at work."""
        array = self.binding.array_of(tensor)
        assert array is not None, f"{tensor} is folded"
        hardware = self.binding.accelerator
        each = [hardware.op_cycles(array, op) * count for op, count in self.ops[tensor].items() if count]
        total = max(each, default=0.0) if tensor in self.binding.chained else sum(each)
        return total / hardware.pes(array)

    def busy(self, array: str) -> float:
        """Cycles an array is busy, all Einsums together."""
        return sum(self.cycles(tensor) for stage in self.binding.stages for tensor in stage.arrays.get(array, ()))

    def stage_cycles(self, stage: Stage) -> float:
        """Cycles of a stage over all tiles: its busier array, and what it waits for a drain."""
        side_by_side = max((sum(map(self.cycles, tensors)) for tensors in stage.arrays.values()), default=0.0)
        # A partial result goes one PE on for each time its Einsum runs, through all rows.
        drained = sum(self.binding.accelerator.array_2d_rows * self.cycles(tensor) for tensor in stage.drain)
        return side_by_side + drained

    def op_energy_j(self) -> float:
        """Energy of all operators that run on an array, joule."""
        hardware = self.binding.accelerator
        placed = {tensor for stage in self.binding.stages for tensor in stage.tensors}
        return sum(
            hardware.op_energy_j(op) * count
            for tensor, ops in self.ops.items()
            if tensor in placed
            for op, count in ops.items()
            if count
        )

    def ranks(self, tensor: str) -> tuple[str, ...]:
        """Its ranks; of a state, those of one step."""
        return self._ranks[tensor]

    def has_keys(self, tensor: str) -> bool:
        """Whether it has an element for each key (a chunk's number is none)."""
        return any(rank in (self.binding.keys, self.key_leaves[-1]) for rank in self.ranks(tensor))

    def has_queries(self, tensor: str) -> bool:
        """Whether it has an element for each query."""
        return self.binding.queries in self.ranks(tensor)

    def elements(self, tensor: str) -> int:
        """Elements of the whole tensor."""
        return self._elements[tensor]

    def tile_elements(self, tensor: str) -> int:
        """Elements of its part in one tile."""
        total = 1
        for rank in self.ranks(tensor):
            if rank in (self.binding.keys, self.binding.queries, self.key_leaves[-1]):
                total *= self.binding.tile
            elif rank not in self.key_leaves:
                total *= self.sizes[rank]
        return total

    def per_query(self, tensor: str) -> int:
        """Elements held for each query while a tile of keys goes by."""
        return self.tile_elements(tensor) // self.binding.tile

    def runs(self, tensor: str) -> int:
        """Times its Einsum runs on a tile: once for each tile of the ranks it iterates."""
        variables = {v for n in self._einsums(tensor) for v in self._vars(n)}
        over = {self.scope.rank(v) for v in variables}
        keys = self.key_tiles if over & {self.binding.keys, *self.key_leaves} else 1
        return keys * (self.query_tiles if self.binding.queries in over else 1)

    def reads(self, tensor: str) -> tuple[Access, ...]:
        """What its Einsums read."""
        return self._reads[tensor]

    def readers(self, tensor: str) -> tuple[str, ...]:
        """The Einsums on an array that read it, each once."""
        return tuple(other for other in self.placed if any(read.tensor == tensor for read in self.reads(other)))

    @cached_property
    def placed(self) -> tuple[str, ...]:
        """Every Einsum that runs on an array."""
        return tuple(tensor for stage in self.binding.stages for tensor in stage.tensors)

    @cached_property
    def arrivals(self) -> tuple[str, ...]:
        """Tensors that come from outside: inputs, and what folded Einsums make."""
        placed = set(self.placed)
        names = (read.tensor for tensor in self.placed for read in self.reads(tensor))
        return tuple(dict.fromkeys(name for name in names if name not in placed))

    def carries_state(self, tensor: str) -> bool:
        """Whether it is a state that its own or another Einsum takes from the step before."""
        return any(is_previous(self.scope, read) for other in self.placed for read in self.reads(other)
                   if read.tensor == tensor)  # fmt: skip

    def read_at_end(self, tensor: str) -> tuple[str, ...]:
        """The Einsums that read a state after its last step."""
        return tuple(
            other
            for other in self.placed
            if any(read.tensor == tensor and any(i.last for i in read.indices) for read in self.reads(other))
        )

    def _shape(self, tensor: str) -> tuple[str, ...]:
        place = self.scope.states.get(tensor)
        return tuple(rank for k, rank in enumerate(self.scope.shapes[tensor]) if k != place)

    def _accesses(self, tensor: str) -> tuple[Access, ...]:
        return tuple(read for n in self._einsums(tensor) for read in self.scope.reads[n])

    def _einsums(self, tensor: str) -> list[int]:
        return [n for n in self.scope.producers[tensor] if n in self.scope.live]

    def _vars(self, number: int) -> tuple[str, ...]:
        einsum = self.scope.einsums[number]
        return (*index_vars(*einsum.target.indices), *einsum.over)
