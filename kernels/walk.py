"""How long a loop's machine code takes: a walk over it in order, by stall counts and scoreboards.

Since Volta each instruction carries what the hardware needs to issue it: cycles to stall after it, the scoreboard that its
result or its operands release, and those that it waits for (Z. Jia et al., arXiv 1804.06826, section 2). ``nvdisasm -hex``
prints them. A walk issues the instructions of some warps of one scheduler in order, each when its stall, its scoreboards and
its pipe allow; warps meet at barriers. Waits for global memory are counted apart, and asynchronous products take no time here.

This gives the figures of ``compiled`` in kernel profiles (see simulator.waiting):

    nvdisasm -hex -c kernel.cubin > kernel.txt
    python -m attncast.kernels.walk kernel.txt --loop 1 --warps 8 --residents 2
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ..errors import InputError

SCHEDULERS = 4  # of an SM
SCOREBOARDS = 6
NO_SCOREBOARD = 7
BARRIER_CYCLES = 20
OPERANDS_READ = 10  # until a store has read its registers
# Cycles until a result is there, where a scoreboard tells, and cycles of the scheduler's share of a pipe. Rounded: latencies of
# the order that microbenchmarks print (arXiv 2501.12084), rates as in the CUDA C++ Programming Guide. Not fitted.
_COSTS: dict[tuple[str, ...], tuple[int, str, int]] = {
    ("MUFU",): (30, "special", 8),
    ("LDS", "LDSM"): (30, "memory", 4),
    ("STS", "STSM", "STL"): (20, "memory", 4),
    ("LDL",): (40, "memory", 4),
    ("LDG", "LDGSTS"): (0, "memory", 8),
    ("STG",): (20, "memory", 8),
    ("SHFL",): (25, "memory", 4),
    ("HMMA", "IMMA", "QMMA"): (33, "tensor", 8),
    ("I2F", "F2I", "POPC", "FLO"): (20, "convert", 8),
    ("S2R", "S2UR"): (30, "", 0),
    ("LDC", "LDCU"): (40, "", 0),
    ("R2UR", "VOTE", "VOTEU", "REDUX", "CREDUX"): (15, "", 0),
    ("LDTM", "STTM"): (60, "", 8),
    ("FFMA", "FMUL", "FADD", "IMAD"): (0, "fma", 1),
    (
        "ISETP", "SEL", "FSEL", "LOP3", "FMNMX", "FMNMX3", "VIMNMX", "PRMT", "SHF", "FSETP", "PLOP3", "IADD3", "LEA",
        "VIADD", "F2FP", "MOV", "P2R", "R2P",
    ): (0, "alu", 2),
}  # fmt: skip
_COST_OF = {opcode: cost for opcodes, cost in _COSTS.items() for opcode in opcodes}
_WORDS = {"64": 2, "128": 4, "2": 2, "4": 4}
_LABEL = re.compile(r"\s*(\.L_\w+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?);\s+/\* 0x[0-9a-f]+ \*/")
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
    spans = []
    for end, step in enumerate(code):
        start = _target(step, labels)
        if (
            start is not None
            and start <= end
            and any(inner.opcode.startswith("MUFU") for inner in code[start : end + 1])
        ):
            spans.append((start, end))
    inner_most = [(a, b) for a, b in sorted(spans) if not any((c, d) != (a, b) and a <= c and d <= b for c, d in spans)]
    return [_straight(code, labels, start, end) for start, end in inner_most]


def _target(step: Step, labels: dict[str, int]) -> int | None:
    name = _TARGET.search(step.text) if "BRA" in step.opcode else None
    return labels.get(name[1]) if name else None


def _straight(code: Sequence[Step], labels: dict[str, int], start: int, end: int) -> list[Step]:
    found, at = [], start
    while at <= end:
        step = code[at]
        found.append(step)
        target = _target(step, labels)
        always = not step.text.startswith("@") and " UP" not in step.text
        at = target if target is not None and always and target > at else at + 1
    return found


def turn_cycles(
    body: Sequence[Step], warps: int, global_cycles: int = 0, local_cycles: int | None = None, mma_cycles: int = 8
) -> float:
    """Cycles of a turn of a loop for ``warps`` warps of one scheduler.

    Args:
        body: its instructions. global_cycles: until a load from global memory is there. local_cycles: the same for spilled
            registers; that of the L1 where None. mma_cycles: of a scheduler's tensor core for an mma.sync of 16x8x16.

    Warps start together and are kept so by the loop's barriers.
    """
    turns = 3
    costs = [_cost(step, global_cycles, local_cycles, mma_cycles) for step in body]
    at, turn, ready = [0] * warps, [0] * warps, [0] * warps
    boards = [[0] * SCOREBOARDS for _ in range(warps)]
    pipes: dict[str, int] = {}
    waiting: set[int] = set()
    ends = [0] * turns  # when the last warp ends each turn
    clock = 0
    while live := [warp for warp in range(warps) if turn[warp] < turns]:
        earliest = []
        for warp in live:
            if warp not in waiting:
                step = body[at[warp]]
                released = [boards[warp][board] for board in range(SCOREBOARDS) if step.waits >> board & 1]
                earliest.append((max(ready[warp], pipes.get(costs[at[warp]][1], 0), *released, 0), warp))
        now, warp = min(earliest)
        now = max(now, clock)
        clock = now + 1
        step, (latency, pipe, occupied) = body[at[warp]], costs[at[warp]]
        if pipe:
            pipes[pipe] = now + occupied
        if step.writes != NO_SCOREBOARD:
            boards[warp][step.writes] = now + max(latency, occupied, 1)
        if step.reads != NO_SCOREBOARD:
            boards[warp][step.reads] = now + max(occupied, 1) + OPERANDS_READ
        ready[warp] = now + max(step.stall, 1)
        at[warp] = (at[warp] + 1) % len(body)
        if at[warp] == 0:
            ends[turn[warp]] = now
            turn[warp] += 1
        if step.opcode.startswith("BAR"):
            ready[warp] = max(ready[warp], now + BARRIER_CYCLES)
            waiting.add(warp)
            if all(other in waiting or turn[other] >= turns for other in range(warps)):
                met = max(ready[other] for other in waiting)
                for other in waiting:
                    ready[other] = met
                waiting.clear()
    return (ends[-1] - ends[0]) / (turns - 1)


def _cost(step: Step, global_cycles: int, local_cycles: int | None, mma_cycles: int) -> tuple[int, str, int]:
    opcode, *modifiers = step.opcode.split(".")
    latency, pipe, occupied = _COST_OF.get(opcode, (12, "", 0) if opcode.startswith("U") else (0, "", 0))
    if opcode in ("LDS", "LDSM", "STS", "STSM", "LDL", "STL"):
        occupied *= max([_WORDS[modifier] for modifier in modifiers if modifier in _WORDS], default=1)
    if pipe == "tensor":
        occupied = mma_cycles
    if opcode == "LDG":
        latency = global_cycles
    if opcode == "LDL" and local_cycles is not None:
        latency = local_cycles
    return latency, pipe, occupied


FAR = 1500  # cycles, so many that waits for memory stand out


def serial_loads(body: Sequence[Step]) -> float:
    """Loads from global memory that one warp waits for one after the other in a turn."""
    return (turn_cycles(body, 1, FAR) - turn_cycles(body, 1)) / FAR


@click.command(name="python -m attncast.kernels.walk")
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--loop", default=0, help="Which of the loops that take an exponential; 0 is the first.")
@click.option("--warps", required=True, type=click.IntRange(1, 32), help="Warps of a CTA.")
@click.option("--residents", default=1, type=click.IntRange(1, 32), help="CTAs that an SM holds.")
@click.option("--local-cycles", type=int, help="Latency of spilled registers, where the L1 does not hold them.")
@click.option("--mma-cycles", default=8, help="Of a scheduler's tensor core for an mma.sync; 16 on sm_120.")
def main(text: Path, loop: int, warps: int, residents: int, local_cycles: int | None, mma_cycles: int) -> None:
    """Figures of a loop for ``compiled`` in a kernel profile, from the output of nvdisasm -hex -c."""
    bodies = loops(*steps(text.read_text(encoding="utf-8")))
    if not 0 <= loop < len(bodies):
        raise click.ClickException(f"there is no loop {loop}: expected 0 to {len(bodies) - 1}")
    body, each = bodies[loop], max(1, warps // SCHEDULERS)
    alone = turn_cycles(body, each, 0, local_cycles, mma_cycles)
    together = turn_cycles(body, each * residents, 0, local_cycles, mma_cycles) / residents
    click.echo(f"cycles = {alone:.0f}, work_cycles = {min(alone, together):.0f}, waits = {serial_loads(body):.1f}")


if __name__ == "__main__":
    main()
