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

import click

from ..errors import InputError
from ..hwmodels import load_gpu
from .conflicts import Access, access_of, lane_bytes, repeated_loads, wavefronts
from .near_memory import NearMemory, Traffic
from .straight import Step, loops, outside, skipped_turn, steps

SCHEDULERS = 4  # of an SM
TURNS = 8  # of each of several CTAs that are walked together
SCOREBOARDS = 6
NO_SCOREBOARD = 7
BARRIER_CYCLES, BARRIER_WARP_CYCLES = 21, 2  # and for each warp of the CTA: measured on A100 and B300 (see their files)
OPERANDS_READ = 10  # until a store has read its registers
L1_CYCLES = 40  # until a load is there that the L1 has
WAVEFRONT_CYCLES = 4  # of a scheduler's share of the shared memory: 128 bytes for an SM a cycle
# Cycles until a result is there, where a scoreboard tells, and cycles of the scheduler's share of a pipe. Rounded: latencies of
# the order that microbenchmarks print (arXiv 2501.12084), rates as in the CUDA C++ Programming Guide. Not fitted. Which pipe:
# ptxas stalls two cycles, not one, after an instruction that takes its pipe for two when the next one needs it too.
_COSTS: dict[tuple[str, ...], tuple[int, str, int]] = {
    ("MUFU",): (30, "special", 8),
    ("LDS", "LDSM"): (30, "memory", 4),
    ("STS", "STSM", "STL"): (20, "memory", 4),
    ("LDL",): (L1_CYCLES, "memory", 4),
    ("LDG", "LDGSTS"): (0, "memory", 8),
    ("STG",): (20, "memory", 8),
    ("SHFL",): (25, "memory", 4),
    ("HMMA", "IMMA", "QMMA"): (33, "tensor", 8),
    ("I2F", "F2I", "POPC", "FLO"): (20, "convert", 8),
    ("S2R", "S2UR"): (30, "", 0),
    ("LDC", "LDCU"): (40, "", 0),
    ("R2UR", "VOTE", "VOTEU"): (15, "", 0),
    ("REDUX", "CREDUX"): (15, "convert", 8),
    ("LDTM", "STTM"): (60, "", 8),
    ("FFMA", "FMUL", "FADD"): (0, "fma", 1),
    ("IMAD", "VIADD"): (0, "fma", 2),
    (
        "ISETP", "SEL", "FSEL", "LOP3", "FMNMX", "FMNMX3", "VIMNMX", "PRMT", "SHF", "FSETP", "PLOP3", "IADD3", "LEA",
        "F2FP", "MOV", "P2R", "R2P",
    ): (0, "alu", 2),
}  # fmt: skip
# Cycles of a scheduler's share of the way to shared memory and L1, which all four have in common, that any instruction takes.
# Data-centre parts pass one on each cycle (NVIDIA, forums.developer.nvidia.com/t/273699), an RTX A6000 every other (Huerta et
# al., Dissecting and Modeling the Architecture of Modern GPU Cores, MICRO 2025, table 1; they carry it to an RTX 5070 Ti, which
# is sm_120 too).
_PASSED_ON = {"sm_120": 8}
# By the same stalls A100's fp32 takes its pipe for two cycles, and consumer Blackwell compares and selects in one; its tensor
# cores take twice as long for an mma.sync of 16x8x16.
_OF_ARCH: dict[str, dict[tuple[str, ...], tuple[int, str, int]]] = {
    "sm_80": {("FFMA", "FMUL", "FADD"): (0, "fma", 2)},
    "sm_120": {
        ("ISETP", "SEL", "FSEL", "FMNMX", "FSETP", "MOV"): (0, "alu", 1),
        ("HMMA", "IMMA", "QMMA"): (33, "tensor", 16),
    },
}
_COST_OF = {opcode: cost for opcodes, cost in _COSTS.items() for opcode in opcodes}
_OWN_COST_OF = {
    arch: {opcode: cost for opcodes, cost in costs.items() for opcode in opcodes} for arch, costs in _OF_ARCH.items()
}
# A wait for tcgen05's products: what a single one takes beyond its pipe's time (200 cycles for 128 columns, 64 of
# them there: SemiAnalysis B200 microbenchmarks, github.com/SemiAnalysisAI/microbench-blackwell at 9a068d8).
PRODUCT_CYCLES = 136
_TCGEN05 = ("sm_100", "sm_103")
_WORDS = {"64": 2, "128": 4, "2": 2, "4": 4}
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
    costs = [_cost(step, global_cycles, arch, conflicts or {}) for step in body]
    loads = [index for index, step in enumerate(body) if step.opcode.startswith("LDG.")]
    for index, again in zip(loads, repeated, strict=True) if len(loads) == len(repeated) else ():
        if again:
            costs[index] = (L1_CYCLES, *costs[index][1:])
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
                step = body[at[warp]]
                released = [boards[warp][board] for board in range(SCOREBOARDS) if step.waits >> board & 1]
                if drained := _DRAINED.match(step.text):
                    released.append(boards[warp][int(drained[1])])
                if traffic and asked[at[warp]]:
                    released.append(traffic.accepts)
                free = max(ready[warp], pipes.get(costs[at[warp]][1], 0), *released, 0)
                earliest.append((free, len(ends[warp // warps]), warp))
        now, _, warp = min(earliest)
        now = max(now, clock)
        clock = now + 1
        cta = range(warp // warps * warps, (warp // warps + 1) * warps)
        step, (latency, pipe, occupied) = body[at[warp]], costs[at[warp]]
        there = now + max(latency, occupied, 1)
        if traffic and (lines := asked[at[warp]]):
            there = max(there, _move(traffic, step, now, [(warp, *line) for line in lines]))
        if step.opcode.startswith("LDGSTS"):
            copied[warp] = max(copied[warp], there)
        elif step.opcode == "LDGDEPBAR":
            there = max(there, copied[warp])
        busy["issue"] += 1
        if pipe:
            pipes[pipe] = now + occupied
            busy[pipe] += occupied
        if step.writes != NO_SCOREBOARD:
            boards[warp][step.writes] = max(boards[warp][step.writes], there)  # it counts all that release it
        if step.reads != NO_SCOREBOARD:
            boards[warp][step.reads] = max(boards[warp][step.reads], now + max(occupied, 1) + OPERANDS_READ)
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
    return [(base, word + extra) for extra in range(_words(modifiers))]


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


def _words(modifiers: Sequence[str]) -> int:
    return max([_WORDS[modifier] for modifier in modifiers if modifier in _WORDS], default=1)


def _cost(step: Step, global_cycles: int, arch: str, conflicts: Mapping[Access, float]) -> tuple[int, str, float]:
    opcode, *modifiers = step.opcode.split(".")
    cost = _OWN_COST_OF.get(arch, {}).get(opcode) or _COST_OF.get(opcode)
    latency, pipe, occupied = cost or ((12, "", 0) if opcode.startswith("U") else (0, "", 0))
    if opcode in ("LDS", "LDSM", "STS", "STSM", "LDL", "STL"):
        occupied = WAVEFRONT_CYCLES * _words(modifiers)
    if opcode in ("LDG", "LDGSTS"):
        latency = global_cycles
    if pipe == "memory":
        occupied = max(occupied, _PASSED_ON.get(arch, 0))
    if opcode == "SYNCS" and "PHASECHK" in modifiers and arch in _TCGEN05:
        latency = PRODUCT_CYCLES
    access = access_of(step.opcode)
    if access in conflicts:
        return latency, pipe, max(occupied, WAVEFRONT_CYCLES * conflicts[access])
    return latency, pipe, occupied


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
            apart = alone.cycles / residents
            work = walk(body, of_scheduler, repeated=repeated, turns=TURNS, ctas=residents, apart=apart).cycles
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
