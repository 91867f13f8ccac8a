"""SASS as nvdisasm prints it: instructions, the pipe each one occupies, and the matrix instructions it holds.

The pipe of an opcode follows NVIDIA's "CUDA Binary Utilities" instruction tables and the throughput table
of the CUDA C++ Programming Guide: FADD, FMUL and FFMA run on the FMA pipe; FMNMX, FSEL and FSETP on the
integer (ALU) pipe at half its rate, so they are counted apart as ``select``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .flow import Flow, Instruction, Jump, build_flow

#: Every pipe a count may name, in the order reports show them.
PIPES = (
    "tensor", "exp", "special", "fp32", "select", "fp16", "convert", "integer", "move", "shuffle", "uniform",
    "shared", "global", "tmem", "constant", "local", "barrier", "control", "other",
)  # fmt: skip

# Longest matching prefix of the opcode decides. Families that share a stem are told apart by length.
_PREFIXES: dict[str, tuple[str, ...]] = {
    "tensor": (
        "HMMA", "IMMA", "DMMA", "BMMA", "QMMA", "OMMA", "HGMMA", "IGMMA", "QGMMA", "BGMMA",
        "UTCHMMA", "UTCIMMA", "UTCQMMA", "UTCOMMA", "UTCMXQMMA",
    ),
    "exp": ("MUFU.EX2",),
    "special": ("MUFU", "UFLO", "FLO", "POPC", "FCHK"),
    "fp32": ("FADD", "FMUL", "FFMA", "FSWZADD", "DADD", "DMUL", "DFMA"),
    "select": ("FMNMX", "FSEL", "FSETP", "FSET", "VIMNMX", "DSETP"),
    "fp16": ("HADD2", "HMUL2", "HFMA2", "HMNMX2", "HSET2", "HSETP2"),
    "convert": ("F2F", "F2FP", "F2I", "I2F", "I2FP", "F2IP", "FRND", "I2I", "UF2F", "UI2F"),
    "integer": (
        "IADD", "IMAD", "IABS", "ISETP", "LEA", "LOP", "PLOP3", "SHF", "SHL", "SHR", "SEL", "IMNMX", "BMSK",
        "SGXT", "BFE", "BFI", "BREV", "IDP", "VIADD", "VABSDIFF", "P2R", "R2P", "PRMT", "VIMNMX3",
    ),
    "move": ("MOV", "CS2R", "S2R", "IMAD.MOV", "R2UR", "UR2R", "MOVM", "S2UR", "VOTEU", "ELECT"),
    "shuffle": ("SHFL", "REDUX", "CREDUX", "VOTE", "MATCH"),
    "uniform": ("U",),
    "shared": ("LDS", "STS", "LDSM", "STSM", "ATOMS", "LDSL"),
    "global": (
        "LDG", "STG", "LD.", "ST.", "RED", "ATOM", "ATOMG", "LDGSTS", "UTMALDG", "UTMASTG", "UTMAREDG",
        "UTMAPF", "UTMACCTL", "UBLKCP", "UBLKRED", "UBLKPF", "TEX", "TLD", "CCTL",
    ),
    "tmem": ("LDTM", "STTM", "UTCCP", "UTCSHIFT"),
    "constant": ("LDC", "ULDC", "LDCU"),
    "local": ("LDL", "STL"),
    "barrier": (
        "BAR", "B2R", "SYNCS", "UTCBAR", "MEMBAR", "FENCE", "DEPBAR", "LDGDEPBAR", "WARPGROUP", "WARPSYNC",
        "UTMACMDFLUSH", "ARRIVES", "ERRBAR", "UTCATOMSWS", "USETMAXREG", "CGAERRBAR", "UCGABAR", "ACQBULK",
        "ACQSHMINIT",
    ),
    "control": (
        "BRA", "BRX", "BRXU", "JMP", "JMX", "CALL", "RET", "EXIT", "BSSY", "BSYNC", "BREAK", "BPT", "NOP",
        "NANOSLEEP", "YIELD", "KILL", "RPCMOV", "BMOV", "PREEXIT",
    ),
}  # fmt: skip
_PIPE_OF = {prefix: pipe for pipe, prefixes in _PREFIXES.items() for prefix in prefixes}
_LONGEST = max(map(len, _PIPE_OF))

_LINE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P[T\d]+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;\s*$")
_LABEL = re.compile(r"^(\.L_\w+):")
_TARGET = re.compile(r"`\((\.L_\w+)\)")
_TABLE = re.compile(r"BRANCH_TARGETS ([^\"]*)")


def pipe_of(opcode: str) -> str:
    """Return the pipe that ``opcode`` (with its modifiers) occupies; "other" when no table names it."""
    for length in range(min(len(opcode), _LONGEST), 0, -1):
        pipe = _PIPE_OF.get(opcode[:length])
        if pipe is not None:
            return pipe
    return "other"


_MATRICES = re.compile(r"^(?:LDSM|STSM)\.16\.MT?88(?:\.(\d))?")
_SHARED = re.compile(r"^(?:LDS|STS|LDGSTS|ATOMS|LDL|STL)\b(?!M)(?:.*\.(64|128)\b)?")


def shared_bytes_of(opcode: str) -> int:
    """Return the bytes one warp moves between registers and the shared memory and L1 array.

    Bank conflicts are not counted, and less than 4 bytes a lane count as 4: a wavefront moves 128 bytes at
    most. Loads from global to shared memory (LDGSTS) and spills go through the same array; TMA and the
    operands that wgmma and tcgen05 fetch themselves are not instructions of a warp and give 0.

    >>> shared_bytes_of("LDSM.16.MT88.4"), shared_bytes_of("STS.128"), shared_bytes_of("LDGSTS.E")
    (512, 512, 128)
    """
    if matrices := _MATRICES.match(opcode):
        return 128 * int(matrices[1] or 1)
    if access := _SHARED.match(opcode):
        return int(access[1] or 32) * 4
    return 0


def _jump(opcode: str, predicate: str, operands: str) -> tuple[Jump, tuple[str, ...], bool]:
    """Return (kind of jump, labels it may reach, whether the next instruction may follow)."""
    stem = opcode.split(".", 1)[0]
    if stem in ("EXIT", "RET", "KILL"):
        return "exit", (), bool(predicate)
    if stem in ("BRX", "BRXU", "JMX"):
        table = _TABLE.search(operands)
        return "branch", tuple(table[1].split(",")) if table else (), bool(predicate)
    if stem in ("BRA", "JMP", "CALL"):
        labels = tuple(_TARGET.findall(operands))
        # "BRA.U !UP0, label" and "BRA.DIV UR4, label" carry their condition as an operand. ptxas for sm_80
        # writes the far exit of a loop as a conditional call to a local label, which never returns here.
        conditional = bool(predicate) or operands.lstrip().startswith(("UP", "!UP", "P", "!P", "UR", "~UR"))
        return "branch", labels, conditional or stem == "CALL"
    return "none", (), True


def parse_sass(text: str, function: str | None = None) -> Flow:
    """Return the control flow of ``function`` (default: the first) in the output of ``nvdisasm -c``.

    Raises ``ValueError`` when the text holds no instruction of it.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    inside = False
    for line in text.splitlines():
        if line.startswith(".text."):
            if inside and instructions:
                break
            inside = function is None or line.rstrip().rstrip(":") == f".text.{function}"
            continue
        if not inside:
            continue
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _LINE.match(line):
            predicate, opcode, operands = found[1] or "", found[2], found[3]
            if predicate in ("@PT", "@UPT"):
                predicate = ""
            jump, targets, falls = _jump(opcode, predicate, operands)
            instructions.append(Instruction(opcode, operands, predicate, jump, targets, falls))
    if not instructions:
        raise ValueError(f"no SASS of function {function!r} in the disassembly")
    return build_flow(instructions, labels)


@dataclass(frozen=True, order=True)
class Mma:
    """A matrix instruction: family, tile (rows, columns, depth), and how many warps issue one together.

    ``warps`` is 1 for mma.sync, 4 for wgmma; 0 for tcgen05, which one thread issues for the whole CTA.
    """

    family: str
    m: int
    n: int
    k: int
    warps: int

    @property
    def flop(self) -> int:
        """Floating-point operations of one instruction, multiply and add counted apart."""
        return 2 * self.m * self.n * self.k

    def __str__(self) -> str:
        return f"{self.family} m{self.m}n{self.n}k{self.k}"


_WGMMA = re.compile(r"^[HIQB]GMMA(?:\.SP)?\.(\d+)x(\d+)x(\d+)")
_SYNC = re.compile(r"^[HIQOD]MMA(?:\.SF|\.SP)*\.(\d+)")
#: mma.sync shapes as SASS spells them, without separators.
_SYNC_SHAPES = {
    "16816": (16, 8, 16),
    "1688": (16, 8, 8),
    "16832": (16, 8, 32),
    "16864": (16, 8, 64),
    "884": (8, 8, 4),
}
#: Depth of one tcgen05.mma by kind (PTX ISA, "tcgen05 instruction descriptor"): 32 bytes of operand.
_TCGEN05_DEPTH = {"UTCHMMA": 16, "UTCQMMA": 32, "UTCIMMA": 32, "UTCMXQMMA": 32, "UTCOMMA": 64}


def tcgen05_shape(descriptor: int) -> tuple[int, int]:
    """Return (rows, columns) held in a 32-bit tcgen05 instruction descriptor.

    Bits 17-22 hold N / 8 and bits 24-28 M / 16 (PTX ISA 8.7, table "Instruction descriptor format").

    >>> tcgen05_shape(0x8100490)
    (128, 64)
    """
    return (descriptor >> 24 & 31) * 16, (descriptor >> 17 & 63) * 8


def mma_of(flow: Flow, block: int, index: int) -> Mma | None:
    """Return the matrix instruction at ``index`` of ``block``, or None when it is another instruction.

    A tcgen05 shape lives in a register; the constant is looked up backwards through the code. A shape that
    cannot be found so has ``m == n == 0``.
    """
    instruction = flow.body(block)[index]
    opcode = instruction.opcode
    if wide := _WGMMA.match(opcode):
        return Mma("wgmma", int(wide[1]), int(wide[2]), int(wide[3]), 4)
    if opcode.startswith("UTC") and "MMA" in opcode:
        depth = _TCGEN05_DEPTH.get(opcode.split(".", 1)[0], 16)
        register = re.search(r"idesc\[(UR\d+)\]", instruction.operands)
        value = _constant_before(flow, block, index, register[1]) if register else None
        rows, columns = tcgen05_shape(value) if value is not None else (0, 0)
        return Mma("tcgen05", rows, columns, depth, 0)
    if narrow := _SYNC.match(opcode):
        rows, columns, depth = _SYNC_SHAPES.get(narrow[1], (0, 0, 0))
        return Mma("mma.sync", rows, columns, depth, 1)
    return None


def _constant_before(flow: Flow, block: int, index: int, register: str) -> int | None:
    """Return the one constant every path gives ``register`` before instruction ``index`` of ``block``."""
    values: set[int] = set()
    seen: set[int] = set()
    todo = [(block, index)]
    while todo:
        at, stop = todo.pop()
        written = _last_write(flow.body(at)[:stop], register)
        if written == "unknown":
            return None
        if isinstance(written, int):
            values.add(written)
            continue
        for before in flow.predecessors[at]:
            if before not in seen and flow.dominator[before] is not None:
                seen.add(before)
                todo.append((before, len(flow.body(before))))
    return values.pop() if len(values) == 1 else None


def _last_write(instructions: Sequence[Instruction], register: str) -> int | str | None:
    """Return the constant last moved to ``register``, "unknown" for another write, None for no write."""
    low_half = f"UR{int(register[2:]) - 1}"
    for instruction in reversed(instructions):
        target, _, source = instruction.operands.partition(",")
        target, source = target.strip(), source.strip()
        if instruction.opcode == "UMOV.64" and target in (register, low_half):
            if not re.fullmatch(r"0x[0-9a-f]+", source):
                return "unknown"
            value = int(source, 16)
            return value & 0xFFFFFFFF if target == register else value >> 32
        if target == register:
            if instruction.opcode == "UMOV" and re.fullmatch(r"0x[0-9a-f]+", source):
                return int(source, 16)
            return "unknown"
    return None


@dataclass(frozen=True)
class Isa:
    """How to read one instruction set.

    The pipe of an opcode, the matrix instruction at a place, the bytes of shared memory an opcode moves.
    """

    pipe_of: Callable[[str], str]
    mma_of: Callable[[Flow, int, int], Mma | None]
    shared_bytes_of: Callable[[str], int]


SASS = Isa(pipe_of, mma_of, shared_bytes_of)


def count_pipes(flow: Flow, blocks: Iterable[int], isa: Isa = SASS) -> dict[str, int]:
    """Return how many instructions of ``blocks`` go to each pipe; pipes without any are left out."""
    counts: dict[str, int] = {}
    for block in blocks:
        for instruction in flow.body(block):
            pipe = isa.pipe_of(instruction.opcode)
            counts[pipe] = counts.get(pipe, 0) + 1
    return {pipe: counts[pipe] for pipe in PIPES if pipe in counts}


def count_shared_bytes(flow: Flow, blocks: Iterable[int], isa: Isa = SASS) -> int:
    """Return the bytes that one warp moves through shared memory in ``blocks``; see ``shared_bytes_of``."""
    return sum(isa.shared_bytes_of(instruction.opcode) for block in blocks for instruction in flow.body(block))


def count_mma(flow: Flow, blocks: Iterable[int], isa: Isa = SASS) -> Mapping[Mma, int]:
    """Return the matrix instructions of ``blocks`` and how often each stands there."""
    counts: dict[Mma, int] = {}
    for block in sorted(blocks):
        for index in range(len(flow.body(block))):
            mma = isa.mma_of(flow, block, index)
            if mma is not None:
                counts[mma] = counts.get(mma, 0) + 1
    return counts
