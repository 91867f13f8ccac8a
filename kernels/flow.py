"""Control flow of disassembled code: basic blocks, dominators, natural loops, and what runs once a trip.

Nothing here knows an instruction set. A reader of SASS or PTX hands in instructions with their jumps
resolved to label names; this module answers which blocks form a loop, how loops nest, and which blocks of a
loop are certain to run at most now and then (out-of-line spins on a barrier that is usually already open).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Jump = Literal["none", "branch", "exit"]


@dataclass(frozen=True)
class Instruction:
    """One machine instruction.

    ``jump`` is "branch" when control may go to ``targets`` (label names) and "exit" when it ends the thread;
    ``falls_through`` says whether the next instruction may also follow.
    """

    opcode: str
    operands: str = ""
    predicate: str = ""
    jump: Jump = "none"
    targets: tuple[str, ...] = ()
    falls_through: bool = True


@dataclass(frozen=True)
class Block:
    """A basic block: ``first`` and ``stop`` index the instruction list; successors are block numbers."""

    first: int
    stop: int
    successors: tuple[int, ...]


@dataclass(frozen=True)
class Flow:
    """The control-flow graph of one function; block 0 is the entry."""

    instructions: Sequence[Instruction]
    blocks: tuple[Block, ...]
    predecessors: tuple[tuple[int, ...], ...]
    dominator: tuple[int | None, ...]  # immediate dominator; None when the entry does not reach the block

    def body(self, block: int) -> Sequence[Instruction]:
        """Return the instructions of a block."""
        found = self.blocks[block]
        return self.instructions[found.first : found.stop]

    def dominates(self, over: int, under: int) -> bool:
        """Return whether every path from the entry to ``under`` passes ``over``."""
        at: int | None = under
        while at is not None and at != over:
            above = self.dominator[at]
            at = None if above == at else above
        return at == over


@dataclass(frozen=True)
class Loop:
    """A natural loop: its header, the blocks inside, and the blocks that jump back to the header."""

    header: int
    blocks: frozenset[int]
    latches: tuple[int, ...]
    children: tuple[Loop, ...] = field(default=())

    @property
    def own_blocks(self) -> frozenset[int]:
        """Blocks that belong to this loop and to no loop nested in it."""
        return self.blocks.difference(*(child.blocks for child in self.children))


def build_flow(instructions: Sequence[Instruction], labels: Mapping[str, int]) -> Flow:
    """Cut ``instructions`` into basic blocks and compute dominators.

    ``labels`` maps a label to the index of the instruction it stands before. Jumps to labels that are not in
    the map (another function) are treated as calls that return.
    """
    leaders = {0, *(index for index in labels.values() if index < len(instructions))}
    for index, instruction in enumerate(instructions):
        if instruction.jump != "none" and index + 1 < len(instructions):
            leaders.add(index + 1)
    starts = sorted(leaders)
    number = {start: block for block, start in enumerate(starts)}
    blocks = []
    for block, start in enumerate(starts):
        stop = starts[block + 1] if block + 1 < len(starts) else len(instructions)
        last = instructions[stop - 1]
        following = [labels[target] for target in last.targets if target in labels]
        if last.falls_through or (last.jump == "branch" and not following):
            following.append(stop)
        blocks.append(Block(start, stop, tuple(sorted({number[at] for at in following if at in number}))))
    predecessors: list[list[int]] = [[] for _ in blocks]
    for block, found in enumerate(blocks):
        for successor in found.successors:
            predecessors[successor].append(block)
    return Flow(
        tuple(instructions),
        tuple(blocks),
        tuple(map(tuple, predecessors)),
        _dominators(blocks, predecessors),
    )


def _dominators(blocks: Sequence[Block], predecessors: Sequence[Sequence[int]]) -> tuple[int | None, ...]:
    """Immediate dominators by Cooper, Harvey and Kennedy's iteration ("A Simple, Fast Dominance
    Algorithm").
    """
    order = _reverse_postorder(blocks)
    rank = {block: position for position, block in enumerate(order)}
    dominator: list[int | None] = [None] * len(blocks)
    dominator[0] = 0

    def meet(left: int, right: int) -> int:
        while left != right:
            while rank[left] > rank[right]:
                above = dominator[left]
                assert above is not None
                left = above
            while rank[right] > rank[left]:
                above = dominator[right]
                assert above is not None
                right = above
        return left

    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            known = [p for p in predecessors[block] if dominator[p] is not None]
            best = known[0]
            for other in known[1:]:
                best = meet(other, best)
            if dominator[block] != best:
                dominator[block] = best
                changed = True
    return tuple(dominator)


def _reverse_postorder(blocks: Sequence[Block]) -> list[int]:
    """Blocks the entry reaches, each before its successors except along back edges."""
    seen = {0}
    done: list[int] = []
    stack = [(0, iter(blocks[0].successors))]
    while stack:
        block, rest = stack[-1]
        for successor in rest:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(blocks[successor].successors)))
                break
        else:
            done.append(block)
            stack.pop()
    return done[::-1]


def find_loops(flow: Flow) -> tuple[Loop, ...]:
    """Return the outermost natural loops in address order; nested ones hang below them as ``children``."""
    latches: dict[int, list[int]] = {}
    for block, found in enumerate(flow.blocks):
        if flow.dominator[block] is None:
            continue
        for successor in found.successors:
            if flow.dominates(successor, block):
                latches.setdefault(successor, []).append(block)
    flat = {header: _natural_loop(flow, header, ends) for header, ends in latches.items()}
    # Smallest first, so that a loop's children are complete before it adopts them.
    roots: list[Loop] = []
    for header in sorted(flat, key=lambda h: (len(flat[h]), h)):
        inside = [loop for loop in roots if loop.header in flat[header]]
        roots = [loop for loop in roots if loop not in inside]
        children = tuple(sorted(inside, key=lambda loop: loop.header))
        roots.append(Loop(header, flat[header], tuple(latches[header]), children))
    return tuple(sorted(roots, key=lambda loop: loop.header))


def _natural_loop(flow: Flow, header: int, latches: Iterable[int]) -> frozenset[int]:
    inside = {header}
    todo = [block for block in latches if block != header]
    while todo:
        block = todo.pop()
        if block not in inside:
            inside.add(block)
            todo.extend(p for p in flow.predecessors[block] if flow.dominator[p] is not None)
    return frozenset(inside)


def walk(loops: Iterable[Loop]) -> Iterable[Loop]:
    """Yield every loop of a forest, each before the loops inside it."""
    for loop in loops:
        yield loop
        yield from walk(loop.children)


def steady_blocks(flow: Flow, loop: Loop) -> frozenset[int]:
    """Return the blocks that make up one trip of ``loop`` when nothing has to wait.

    A nested loop that every trip must enter is counted as entered once. A nested loop off the straight path
    (the compiler moves the retry of a barrier wait out of line) is not counted, and neither is the code
    behind it that only leads back to the straight path.
    """
    cold: set[int] = set()
    for child in loop.children:
        if not all(flow.dominates(child.header, latch) for latch in loop.latches):
            cold.update(child.blocks)
    heads = [child.header for child in loop.children if child.header in cold]
    return frozenset(
        block for block in loop.blocks if block not in cold and not any(flow.dominates(head, block) for head in heads)
    )
