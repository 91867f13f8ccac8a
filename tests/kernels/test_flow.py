"""Control flow: dominators against their definition, loops and what runs in one trip of them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from attncast.kernels.flow import Flow, Instruction, build_flow, find_loops, steady_blocks, walk


def program(*lines: str) -> Flow:
    """Build a flow from a toy assembler: "label:", "jump a", "maybe a" (conditional), "stop", anything
    else.
    """
    instructions, labels = [], {}
    for line in lines:
        word, _, rest = line.partition(" ")
        if line.endswith(":"):
            labels[line[:-1]] = len(instructions)
        elif word in ("jump", "maybe"):
            instructions.append(Instruction(word, "", "", "branch", (rest,), word == "maybe"))
        elif word == "stop":
            instructions.append(Instruction("stop", "", "", "exit", (), False))
        else:
            instructions.append(Instruction(line))
    return build_flow(instructions, labels)


def opcodes(flow: Flow, blocks: frozenset[int]) -> list[str]:
    return [instruction.opcode for block in sorted(blocks) for instruction in flow.body(block)]


@st.composite
def random_flows(draw: st.DrawFn) -> Flow:
    size = draw(st.integers(1, 9))
    lines = []
    for block in range(size):
        lines.append(f"b{block}:")
        kind = draw(st.sampled_from(["jump", "maybe", "plain", "stop"]))
        target = draw(st.integers(0, size - 1))
        lines.append(kind if kind in ("plain", "stop") else f"{kind} b{target}")
    return program(*lines, "stop")


def reached(flow: Flow, without: int | None = None) -> set[int]:
    seen: set[int] = set()
    todo = [] if without == 0 else [0]
    while todo:
        block = todo.pop()
        if block not in seen:
            seen.add(block)
            todo += [after for after in flow.blocks[block].successors if after != without]
    return seen


@given(random_flows())
@settings(max_examples=300)
def test_dominance_is_its_definition(flow: Flow) -> None:
    alive = reached(flow)
    for over in alive:
        cut_off = alive - reached(flow, without=over)
        for under in alive:
            assert flow.dominates(over, under) == (under in cut_off)


@given(random_flows())
@settings(max_examples=200)
def test_a_loop_is_entered_at_its_header_and_nested_loops_stay_inside(flow: Flow) -> None:
    for loop in walk(find_loops(flow)):
        assert all(flow.dominates(loop.header, block) for block in loop.blocks)
        assert all(loop.header in flow.blocks[latch].successors for latch in loop.latches)
        assert all(child.blocks < loop.blocks for child in loop.children)


def test_a_spin_moved_out_of_line_is_not_part_of_a_trip() -> None:
    flow = program(
        "top:",
        "try",
        "maybe slow",
        "on:",
        "mma",
        "maybe top",
        "stop",
        "slow:",
        "try again",
        "maybe slow",
        "jump on",
    )
    (loop,) = find_loops(flow)
    assert opcodes(flow, steady_blocks(flow, loop)) == ["try", "maybe", "mma", "maybe"]


def test_a_nested_loop_on_the_straight_path_counts_once() -> None:
    flow = program("top:", "a", "in:", "b", "maybe in", "c", "maybe top", "stop")
    (loop,) = find_loops(flow)
    assert opcodes(flow, steady_blocks(flow, loop)) == ["a", "b", "maybe", "c", "maybe"]
    assert opcodes(flow, steady_blocks(flow, loop.children[0])) == ["b", "maybe"]


def test_loops_nest() -> None:
    flow = program("o:", "x", "i:", "y", "maybe i", "j:", "z", "maybe j", "maybe o", "stop")
    (outer,) = find_loops(flow)
    assert len(outer.children) == 2
    assert len(list(walk([outer]))) == 3
    assert opcodes(flow, outer.own_blocks) == ["x", "maybe"]
