"""How long a loop's machine code takes: a walk over it in order, by stall counts and scoreboards.

Since Volta each instruction carries what the hardware needs to issue it: cycles to stall after it, the scoreboard that its
result or its operands release, and those that it waits for (Z. Jia et al., arXiv 1804.06826, section 2). ``nvdisasm -hex``
prints them. A walk issues the instructions of some warps of one scheduler in order, each when its stall, its scoreboards and
its pipe allow; warps meet at barriers. Spilled registers come from the L1 or the L2 (see near_memory), loads from
global memory take their bandwidth here but their latency elsewhere (``waits``), asynchronous copies take no time here, and
asynchronous products none but what a wait for them takes at least.

This gives the figures of ``compiled`` in kernel profiles (see simulator.waiting):

    nvdisasm -hex -c kernel.cubin > kernel.txt
    python -m attncast.kernels.walk kernel.txt --gpu h100 --loop 1 --warps 8 --ptx kernel.ptx
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean

import click

from ..errors import InputError
from ..hwmodels import load_gpu
from .conflicts import Access, lane_bytes, repeated_loads, wavefronts
from .instruction_costs import L1_CYCLES, cost_of, words
from .near_memory import NearMemory, Traffic
from .straight import Step, loops, outside, skipped_turn, steps

SCHEDULERS = 4  # of an SM
TURNS = 8  # of each of several CTAs that are walked together
# Parts of a turn by which one of them starts after another. Which is chance, and tells: CTAs half a turn apart may find their
# pipes free where all others wait, or wait where others do not.
STARTS = (0.125, 0.375, 0.625, 0.875)
SCOREBOARDS = 6
NO_SCOREBOARD = 7
BARRIER_CYCLES, BARRIER_WARP_CYCLES = 21, 2  # and for each warp of the CTA: measured on A100 and B300 (see their files)
OPERANDS_READ = 10  # until a store has read its registers
_DRAINED = re.compile(r"DEPBAR\.LE SB(\d), 0x0$")  # all copies that were told to this scoreboard are there
_ADDRESS = re.compile(r"\[(\w+)?\+?(?:0x([0-9a-f]+))?\]")


@dataclass(frozen=True)
class Walked:
    """A walk: ``cycles`` of a CTA alone, and of those ``busy`` ones in which its busiest pipe has work."""

    cycles: float
    busy: float

    def beside(self, residents: int) -> float:
        """Cycles of each of so many CTAs that share an SM: n jobs that take turns on the pipes, S in all and M on the busiest,
        need (S + (n - 1) M) / n each at most, the balanced job bound of queueing networks (see simulator.pipes)."""
        return (self.cycles + (residents - 1) * self.busy) / residents


def walked(
    body: Sequence[Step],
    warps: int,
    global_cycles: int = 0,
    arch: str = "sm_90",
    memory: NearMemory | None = None,
    conflicts: Mapping[Access, float] | None = None,
    repeated: Sequence[bool] = (),
    turns: int = 3,
    ctas: int = 1,
    apart: float = 0.0,
) -> Walked:
    """A turn of a loop for ``warps`` warps of one scheduler, all of one CTA, or of each of several that share it.

    Args:
        body: its instructions. global_cycles: until a load from global memory is there. arch: whose pipes.
        memory: where spilled registers are and loads come from; an L1 that holds all, without limit, where None.
        conflicts: wavefronts of a warp's access to shared memory, where bank conflicts make them more than its bytes do.
        repeated: whether the L1 has what each load from global memory asks for, from the same turn; never where empty.
        turns: after which the walk ends; the mean of all but the first counts, or 1: what runs once, with nothing in the L1.
        ctas: that share the scheduler, ``memory`` being what one of them has of the L1; the cycles are those of a turn of any
            of them. apart: cycles by which each starts after the one before it.

    The warps of a CTA start together and are kept so by the loop's barriers. Where several may be issued, the CTA that has done
    fewest turns goes first. The mean is without the first turn.
    """
    costs = [cost_of(step, global_cycles, arch, conflicts or {}) for step in body]
    loads = [index for index, step in enumerate(body) if step.opcode.startswith("LDG.")]
    for index, again in zip(loads, repeated, strict=True) if len(loads) == len(repeated) else ():
        if again:
            costs[index] = replace(costs[index], latency=L1_CYCLES)
    asked = [_lines(step) if memory else None for step in body]
    traffic = Traffic(replace(memory, l1_bytes=ctas * memory.l1_bytes)) if memory else None
    every = range(warps * ctas)
    at, turn, ready = [0 for _ in every], [0 for _ in every], [apart * (warp // warps) for warp in every]
    boards = [[0.0] * SCOREBOARDS for _ in every]
    copied = [0.0 for _ in every]  # when a warp's asynchronous copies are there
    pipes: dict[str, float] = {}
    busy: dict[str, float] = defaultdict(float)
    waiting: set[int] = set()
    ends: list[list[float]] = [[] for _ in range(ctas)]  # when the last warp of each CTA ends each turn
    clock = 0.0
    while min(turn) < turns:
        earliest = []
        for warp in every:
            # One that has done its turns goes on beside other CTAs that have not.
            if warp not in waiting and (ctas > 1 or turn[warp] < turns):
                step, cost = body[at[warp]], costs[at[warp]]
                released = [boards[warp][board] for board in range(SCOREBOARDS) if step.waits >> board & 1]
                if drained := _DRAINED.match(step.text):
                    released.append(boards[warp][int(drained[1])])
                if traffic and asked[at[warp]]:
                    released.append(traffic.accepts(step.opcode.startswith("STL")))
                free = max(ready[warp], pipes.get(cost.pipe, 0) - (cost.slots - 1), *released, 0)
                earliest.append((free, len(ends[warp // warps]), warp))
        now, _, warp = min(earliest)
        now = max(now, clock)
        step, cost = body[at[warp]], costs[at[warp]]
        clock = now + cost.slots
        cta = range(warp // warps * warps, (warp // warps + 1) * warps)
        there = now + max(cost.latency, cost.occupied, 1)
        if traffic and (lines := asked[at[warp]]):
            there = max(there, _move(traffic, step, now, [(warp, *line) for line in lines]))
        if step.opcode.startswith("LDGSTS"):
            copied[warp] = max(copied[warp], there)
        elif step.opcode == "LDGDEPBAR":
            there = max(there, copied[warp])
        busy["issue"] += cost.slots
        if cost.pipe:
            pipes[cost.pipe] = clock - 1 + cost.occupied
            busy[cost.pipe] += cost.occupied
        if step.writes != NO_SCOREBOARD:
            boards[warp][step.writes] = max(boards[warp][step.writes], there)  # it counts all that release it
        if step.reads != NO_SCOREBOARD:
            boards[warp][step.reads] = max(boards[warp][step.reads], now + max(cost.occupied, 1) + OPERANDS_READ)
        ready[warp] = now + max(step.stall, 1)
        at[warp] = (at[warp] + 1) % len(body)
        if at[warp] == 0:
            ended = ends[warp // warps]
            if turn[warp] == len(ended):
                ended.append(0.0)
            ended[turn[warp]] = max(ended[turn[warp]], ready[warp])
            turn[warp] += 1
        if step.opcode.startswith("BAR"):
            ready[warp] = max(ready[warp], now + BARRIER_CYCLES + BARRIER_WARP_CYCLES * SCHEDULERS * warps)
            waiting.add(warp)
            if all(other in waiting or (ctas == 1 and turn[other] >= turns) for other in cta):
                met = max(ready[other] for other in cta if other in waiting)
                for other in waiting.intersection(cta):
                    ready[other] = met
                waiting.difference_update(cta)
    busy["port"] = traffic.busy if traffic else 0.0
    if turns == 1:
        return Walked(ends[0][0], max(busy.values()))
    paces = [(len(ended) - 1) / (ended[-1] - ended[0]) for ended in ends]
    return Walked(1.0 / sum(paces), max(busy.values()) / sum(len(ended) for ended in ends))


def _lines(step: Step) -> list[tuple[str, int]] | None:
    """Lines of 128 bytes that a warp's access asks for, as (base register, word); None where it asks for none.

    Of loads from global memory those of 16 bytes count: shorter ones are of where keys lie, the same for many threads.
    """
    opcode, *modifiers = step.opcode.split(".")
    if opcode not in ("LDL", "STL") and not (opcode == "LDG" and "128" in modifiers):
        return None
    address = _ADDRESS.search(step.text)
    base, word = (address[1] or "", int(address[2] or "0", 16) // 4) if address else ("", 0)
    return [(base, word + extra) for extra in range(words(modifiers))]


def _move(traffic: Traffic, step: Step, now: float, lines: Sequence[tuple[int, str, int]]) -> float:
    """Cycle at which what a step asks for is there, as far as spilled registers go."""
    if step.opcode.startswith("LDL"):
        return max(traffic.load(now, line) for line in lines)
    if step.opcode.startswith("STL"):
        for line in lines:
            traffic.store(now, line)
    else:
        return traffic.stream(now, len(lines))
    return now


def in_code_order(body: Sequence[Step], told: Sequence[tuple[int, bool]]) -> list[bool]:
    """``repeated`` of ``walked`` from what conflicts.repeated_loads tells of the PTX; empty where the loads are others.

    ptxas moves loads past each other, but leaves those of one size in their order: of SGLang's decoding at head dim 192 the
    PTX loads where all keys and values lie first, the machine code where values lie after most of the keys.
    """
    sizes = [lane_bytes(step.opcode.split(".")) for step in body if step.opcode.startswith("LDG.")]
    if sorted(sizes) != sorted(size for size, _ in told):
        return []
    of_size = {size: iter([again for other, again in told if other == size]) for size in set(sizes)}
    return [next(of_size[size]) for size in sizes]


REGISTER_BYTES = 4


def stored_words(body: Sequence[Step]) -> list[tuple[str, int]]:
    """Words of local memory that a thread stores, as (base register, word), one for each time."""
    return [word for step in body if step.opcode.split(".")[0] == "STL" for word in _lines(step) or ()]


FAR = 1500  # cycles, so many that waits for memory stand out


def serial_loads(body: Sequence[Step], repeated: Sequence[bool] = ()) -> float:
    """Loads from global memory that one warp waits for one after the other in a turn; ``repeated`` as in ``walked``."""
    return (walked(body, 1, FAR, repeated=repeated).cycles - walked(body, 1, repeated=repeated).cycles) / FAR


class _Refused(click.ClickException):
    exit_code = 2


@click.command(name="python -m attncast.kernels.walk")
@click.argument("text", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--gpu", required=True, help="Whose pipes, L1 and L2.")
@click.option("--loop", default=0, help="Which of the loops that take an exponential; 0 is the first.")
@click.option("--warps", required=True, type=click.IntRange(1, 32), help="Warps of a CTA.")
@click.option("--residents", default=1, type=click.IntRange(1, 32), help="CTAs that an SM holds.")
@click.option("--together", is_flag=True, help="Walk these CTAs together, in place of a bound on what they take.")
@click.option("--shared-bytes", type=click.IntRange(0), help="Shared memory of a CTA; the most of an SM by default.")
@click.option(
    "--ptx", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Its PTX, for what its addresses cost."
)
def main(
    text: Path,
    gpu: str,
    loop: int,
    warps: int,
    residents: int,
    together: bool,
    shared_bytes: int | None,
    ptx: Path | None,
) -> None:
    """Figures of a kernel for ``compiled`` in a profile: of a loop and of what lies around it, from nvdisasm -hex -c."""
    try:
        lines = _figures(text, gpu, loop, warps, residents, shared_bytes, ptx, together)
    except InputError as error:
        raise _Refused(str(error)) from None
    click.echo("\n".join(lines))


def _figures(
    text: Path,
    gpu: str,
    loop: int,
    warps: int,
    residents: int,
    shared_bytes: int | None,
    ptx: Path | None,
    together: bool,
) -> list[str]:
    model = load_gpu(gpu)
    memory, arch = NearMemory.of(model, residents, shared_bytes), model.arch
    code, labels = steps(text.read_text(encoding="utf-8", errors="replace"))
    bodies = loops(code, labels)
    if not 0 <= loop < len(bodies):
        raise InputError(f"there is no loop {loop}: expected 0 to {len(bodies) - 1}")
    text_of_ptx = ptx.read_text(encoding="utf-8", errors="replace") if ptx else ""
    conflicts = wavefronts(text_of_ptx, loop) if ptx else {}
    repeated = in_code_order(bodies[loop], repeated_loads(text_of_ptx, loop)) if ptx else []
    walk = partial(walked, arch=arch, memory=memory, conflicts=conflicts)

    of_scheduler = max(1, warps // SCHEDULERS)

    def pair(name: str, body: Sequence[Step], repeated: Sequence[bool]) -> str:
        alone = walk(body, of_scheduler, repeated=repeated)
        work = alone.beside(residents)
        if together and residents > 1:
            work = mean(
                walk(
                    body, of_scheduler, repeated=repeated, turns=TURNS, ctas=residents, apart=part * alone.cycles
                ).cycles
                for part in STARTS
            )
        return f"{name}cycles = {alone.cycles:.0f}, {name}work_cycles = {work:.0f}"

    lines = [pair("", bodies[loop], repeated)]
    if skipped := skipped_turn(code, labels, loop):
        lines.append(pair("test_", skipped, ()))
    if around := outside(code, labels, loop):
        once = walk(around, of_scheduler, turns=1)
        lines.append(f"end_cycles = {once.cycles:.0f}, end_work_cycles = {once.beside(residents):.0f}")
    lines.append(f"waits = {serial_loads(bodies[loop], repeated):.1f}")
    in_loop, outside_it = stored_words(bodies[loop]), stored_words(around)
    if frame := {*in_loop, *outside_it}:
        sizes = {"frame_bytes": len(frame), "stored_bytes": len(in_loop), "end_stored_bytes": len(outside_it)}
        lines.append(", ".join(f"{name} = {REGISTER_BYTES * words}" for name, words in sizes.items()))
    return lines


if __name__ == "__main__":
    main()
