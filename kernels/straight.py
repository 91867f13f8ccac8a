"""What of a kernel's machine code a walk goes over: its loops, and what a CTA runs before and after one.

``nvdisasm -hex -c`` prints instructions with their encodings.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError

_LABEL = re.compile(r"\s*(\.L_\w+):")
# An nvdisasm before CUDA 13 notes scoreboards and stalls behind an instruction for sm_120: "&req={2} ?trans1".
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?)(?:\s{2,}[&?]\w.*?)?;\s+/\* 0x[0-9a-f]+ \*/")
_CONTROL = re.compile(r"/\* 0x([0-9a-f]+) \*/")
_TARGET = re.compile(r"`\((\.L_\w+)\)")


@dataclass(frozen=True)
class Step:
    """An instruction and how it is issued.

    Attributes:
        text: as disassembled. stall: cycles until the next may be issued. writes, reads: scoreboards that its result and its
            operands release (7: none). waits: bits of those that it waits for.
    """

    text: str
    stall: int
    writes: int
    reads: int
    waits: int

    @property
    def opcode(self) -> str:
        """With its modifiers, without its predicate."""
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split()[0]


def steps(text: str) -> tuple[list[Step], dict[str, int]]:
    """Instructions of ``nvdisasm -hex -c``, and where each label stands.

    Raises:
        InputError: there are none with their encodings.
    """
    found: list[Step] = []
    labels: dict[str, int] = {}
    lines = text.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        elif (instruction := _INSTRUCTION.search(line)) and (control := _CONTROL.search(below)):
            bits = int(control[1], 16) >> 41  # bits 105 to 121 of the encoding
            found.append(Step(instruction[1].strip(), bits & 15, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63))
    if not found:
        raise InputError("no instruction with its encoding: expected the output of nvdisasm -hex -c")
    return found, labels


def loops(code: Sequence[Step], labels: dict[str, int]) -> list[list[Step]]:
    """Bodies of the innermost loops that take an exponential, in the order of the code; branches forward that are always
    taken are followed, others are not."""
    return [_straight(code, labels, start, end) for start, end in _spans(code, labels)]


def _spans(code: Sequence[Step], labels: dict[str, int]) -> list[tuple[int, int]]:
    """First and last instruction of each of ``loops``."""
    spans = []
    for end, step in enumerate(code):
        start = _target(step, labels)
        if (
            start is not None
            and start <= end
            and any(inner.opcode.startswith("MUFU") for inner in code[start : end + 1])
        ):
            spans.append((start, end))
    return [(a, b) for a, b in sorted(spans) if not any((c, d) != (a, b) and a <= c and d <= b for c, d in spans)]


def outside(code: Sequence[Step], labels: dict[str, int], loop: int) -> list[Step]:
    """What a CTA runs before and after the turns of a loop of ``loops``, past other loops with matrix products."""
    spans = _spans(code, labels)
    start, end = spans[loop]
    barred = {
        at
        for first, last in spans
        if not first <= end <= last and not start <= last <= end  # what overlaps the loop is its own wait for a barrier
        if any(_multiplies(step) for step in code[first : last + 1])
        for at in range(first, last + 1)
    }
    ends = {at for at, step in enumerate(code) if step.opcode == "EXIT" and _always(step)} | {len(code)}
    return [*_way(code, labels, 0, {start}, barred), *_way(code, labels, end + 1, ends, barred)]


def _way(code: Sequence[Step], labels: dict[str, int], at: int, goals: set[int], barred: set[int]) -> list[Step]:
    """Instructions from one to the first of some others, not included; a branch is taken where nothing else leads there."""
    before: dict[int, list[int]] = defaultdict(list)
    for place in range(len(code)):
        for after in _after(code, labels, place):
            if after not in barred:
                before[after].append(place)
    leading, open_ones = set(goals), list(goals)
    while open_ones:
        for place in before[open_ones.pop()]:
            if place not in leading:
                leading.add(place)
                open_ones.append(place)
    found: list[Step] = []
    seen = set()
    while at not in goals:
        seen.add(at)
        found.append(code[at])
        ways = [after for after in _after(code, labels, at) if after in leading and after not in barred | seen]
        if not ways:
            raise InputError(f"no way from {code[at].text!r} to the loop or the end: expected the code of one kernel")
        at = ways[0]
    return found


def _after(code: Sequence[Step], labels: dict[str, int], at: int) -> list[int]:
    """Instructions that may follow one, the next one first."""
    step = code[at]
    target = _target(step, labels)
    leaves = _always(step) and (target is not None or step.opcode == "EXIT")
    return ([] if leaves else [at + 1]) + ([] if target is None else [target])


def _target(step: Step, labels: dict[str, int]) -> int | None:
    name = _TARGET.search(step.text) if "BRA" in step.opcode else None
    return labels.get(name[1]) if name else None


def _straight(code: Sequence[Step], labels: dict[str, int], start: int, end: int) -> list[Step]:
    found, at = [], start
    while at <= end:
        step = code[at]
        found.append(step)
        target = _target(step, labels)
        at = target if target is not None and _always(step) and target > at else at + 1
    return found


def _always(step: Step) -> bool:
    """Whether a branch is taken whatever the predicates."""
    return not step.text.startswith("@") and " UP" not in step.text and "!UP" not in step.text


def _multiplies(step: Step) -> bool:
    return "MMA" in step.opcode.split(".")[0]


def skipped_turn(code: Sequence[Step], labels: dict[str, int], loop: int) -> list[Step]:
    """What a turn of a loop of ``loops`` runs that finds a tile to lie outside a window: up to the branch that leaves it before
    its products, and from where that goes to the turn's end.

    Empty where nothing leaves it.
    """
    start, end = _spans(code, labels)[loop]
    body = _straight(code, labels, start, end)
    products = [index for index, step in enumerate(body) if _multiplies(step)]
    if not products:
        return []
    leaving = [index for index in range(products[0]) if _leaves(body[index])]
    if not leaving:
        return []
    goal = _target(body[leaving[-1]], labels)
    rest = end if goal is None or not start < goal <= end else goal
    return [*body[: leaving[-1] + 1], *_straight(code, labels, rest, end)]


def _leaves(step: Step) -> bool:
    return step.opcode.startswith("BRA") and step.text.startswith("@")
