"""What an instruction takes: issue slots, cycles of its pipe, and cycles until its result is there.

Rounded: latencies of the order that microbenchmarks print (arXiv 2501.12084), rates as in the CUDA C++ Programming Guide. Not
fitted. Which pipe, and how many slots: ptxas writes into each instruction for how long its warp stalls after it. Where the next
one needs a pipe that is taken it stalls for as long as that is, elsewhere for one cycle. So the stalls between two kinds of
instructions, the least that occur often over many programs, tell what they share (here those of SGLang's kernels, compiled by
ptxas 13.0 for sm_80, sm_90, sm_100 and sm_120).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .conflicts import Access, access_of
from .straight import Step

L1_CYCLES = 40  # until a load is there that the L1 has
_WAVEFRONT_CYCLES = 4  # of a scheduler's share of the shared memory: 128 bytes for an SM a cycle


@dataclass(frozen=True)
class Cost:
    """Of an instruction of one warp.

    Attributes:
        latency: cycles until its result is there, where a scoreboard tells; fixed latencies are in the stalls.
        pipe: that it takes; "" for none. occupied: cycles of its scheduler's share of that pipe.
        slots: cycles in which the scheduler issues nothing else. It takes its pipe in the last of them.
    """

    latency: int
    pipe: str = ""
    occupied: float = 0
    slots: int = 1


_COSTS: dict[tuple[str, ...], Cost] = {
    ("MUFU",): Cost(30, "special", 8),
    ("LDS", "LDSM"): Cost(30, "memory", 4),
    ("STS", "STSM", "STL"): Cost(20, "memory", 4),
    ("LDL",): Cost(L1_CYCLES, "memory", 4),
    ("LDG", "LDGSTS"): Cost(0, "memory", 8),
    ("STG",): Cost(20, "memory", 8),
    ("SHFL",): Cost(25, "memory", 4),
    ("HMMA", "IMMA", "QMMA"): Cost(33, "tensor", 8),
    ("I2F", "F2I", "POPC", "FLO"): Cost(20, "convert", 8),
    ("S2R", "S2UR"): Cost(30),
    ("LDC", "LDCU"): Cost(40),
    ("R2UR", "VOTE", "VOTEU"): Cost(15),
    ("REDUX", "CREDUX"): Cost(15, "convert", 8),
    ("LDTM", "STTM"): Cost(60, "", 8),
    ("FFMA", "FMUL", "FADD"): Cost(0, "fma", 1),
    ("IMAD", "VIADD"): Cost(0, "fma", 2),
    (
        "ISETP", "SEL", "FSEL", "LOP3", "FMNMX", "FMNMX3", "VIMNMX", "PRMT", "SHF", "FSETP", "PLOP3", "IADD3", "LEA",
        "F2FP", "MOV", "P2R", "R2P",
    ): Cost(0, "alu", 2),
}  # fmt: skip
# A100's fp32 takes its pipe for two cycles. Consumer Blackwell compares, selects and moves 32 bits in any cycle, right after
# what takes its ALU or its fma pipe for two. After 64 bits whatever comes next is stalled two cycles, what needs the ALU three,
# and they themselves one after that: they are issued twice, and need the ALU the second time. Its tensor cores take twice as
# long for an mma.sync of 16x8x16.
_OF_ARCH: dict[str, dict[tuple[str, ...], Cost]] = {
    "sm_80": {("FFMA", "FMUL", "FADD"): Cost(0, "fma", 2)},
    "sm_120": {
        ("ISETP", "SEL", "FSEL", "FMNMX", "VIMNMX", "FSETP", "MOV"): Cost(0),
        ("ISETP.64", "IADD.64", "MOV.64"): Cost(0, "alu", 2, slots=2),
        ("HMMA", "IMMA", "QMMA"): Cost(33, "tensor", 16),
    },
}
# Cycles of a scheduler's share of the way to shared memory and L1, which all four have in common, that any instruction takes.
# Data-centre parts pass one on each cycle (NVIDIA, forums.developer.nvidia.com/t/273699), an RTX A6000 every other (Huerta et
# al., Dissecting and Modeling the Architecture of Modern GPU Cores, MICRO 2025, table 1; they carry it to an RTX 5070 Ti, which
# is sm_120 too).
_PASSED_ON = {"sm_120": 8}
_COST_OF = {opcode: cost for opcodes, cost in _COSTS.items() for opcode in opcodes}
_OWN_COST_OF = {
    arch: {opcode: cost for opcodes, cost in costs.items() for opcode in opcodes} for arch, costs in _OF_ARCH.items()
}
_UNIFORM = Cost(12)  # what a warp computes once for all its threads
# A wait for tcgen05's products: what a single one takes beyond its pipe's time (200 cycles for 128 columns, 64 of
# them there: SemiAnalysis B200 microbenchmarks, github.com/SemiAnalysisAI/microbench-blackwell at 9a068d8).
_PRODUCT_CYCLES = 136
_TCGEN05 = ("sm_100", "sm_103")
_WORDS = {"64": 2, "128": 4, "2": 2, "4": 4}


def words(modifiers: Sequence[str]) -> int:
    """Words of 32 bits, or matrices, that a thread's, or a warp's, access moves."""
    return max([_WORDS[modifier] for modifier in modifiers if modifier in _WORDS], default=1)


def cost_of(step: Step, global_cycles: int, arch: str, conflicts: Mapping[Access, float]) -> Cost:
    """The cost of an instruction; arguments as in ``walk.walked``."""
    opcode, *modifiers = step.opcode.split(".")
    wide = f"{opcode}.64" if {"64", "S64", "U64"}.intersection(modifiers) else opcode
    own = _OWN_COST_OF.get(arch, {})
    cost = own.get(wide) or own.get(opcode) or _COST_OF.get(opcode) or (_UNIFORM if opcode[:1] == "U" else Cost(0))
    latency, occupied = cost.latency, cost.occupied
    if opcode in ("LDS", "LDSM", "STS", "STSM", "LDL", "STL"):
        occupied = _WAVEFRONT_CYCLES * words(modifiers)
    if opcode in ("LDG", "LDGSTS"):
        latency = global_cycles
    if cost.pipe == "memory":
        occupied = max(occupied, _PASSED_ON.get(arch, 0))
    if opcode == "SYNCS" and "PHASECHK" in modifiers and arch in _TCGEN05:
        latency = _PRODUCT_CYCLES
    access = access_of(step.opcode)
    if access in conflicts:
        occupied = max(occupied, _WAVEFRONT_CYCLES * conflicts[access])
    return Cost(latency, cost.pipe, occupied, cost.slots)
