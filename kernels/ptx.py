"""PTX read as a stand-in for SASS, for an architecture that the shipped disassembler does not know.

The loop structure, the matrix instructions and the exponentials of PTX survive into SASS; register moves,
addresses and spills do not, so counts of other pipes are rough. Results that rest on PTX say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from .flow import Flow, Instruction, Jump, build_flow
from .sass import Isa, Mma, tcgen05_shape

_STATEMENT = re.compile(r"^(?:@(!?[%\w]+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.DOTALL)
_LABEL = re.compile(r"^([$\w]+):\s*")
_SHAPE = re.compile(r"\.m(\d+)n(\d+)k(\d+)")

# The first word decides, then the type suffix for arithmetic.
_MEMORY = {"shared": "shared", "global": "global", "local": "local", "param": "constant", "const": "constant"}
_FLOAT = ("f32", "f64", "f32x2")
_BARRIER = ("bar", "barrier", "mbarrier", "fence", "membar", "wgmma", "elect", "nanosleep", "griddepcontrol")


def pipe_of_ptx(opcode: str) -> str:
    """Return the pipe a PTX opcode ends up on, as far as PTX can tell."""
    words = opcode.split(".")
    head = words[0]
    if _is_mma(opcode):
        return "tensor"
    if head == "ex2":
        return "exp"
    if head in ("rcp", "sqrt", "rsqrt", "lg2", "sin", "cos", "tanh"):
        return "special"
    if head in ("bra", "ret", "exit", "call", "brx"):
        return "control"
    if head in ("ldmatrix", "stmatrix"):
        return "shared"
    if head == "tcgen05":
        return "tmem" if words[1] in ("ld", "st", "cp") else "barrier"
    if head == "cp" or head == "prefetch":
        return "barrier" if words[-1] in ("commit_group", "wait_group", "wait_all") else "global"
    if head in ("ld", "st", "atom", "red"):
        return next((pipe for space, pipe in _MEMORY.items() if space in opcode), "global")
    if head in _BARRIER:
        return "barrier"
    if head == "shfl" or head in ("vote", "redux", "match"):
        return "shuffle"
    if head == "cvt":
        return "convert"
    if head == "mov":
        return "move"
    if head in ("max", "min", "setp", "selp") and words[-1] in _FLOAT:
        return "select"
    if head in ("add", "sub", "mul", "fma", "mad", "neg", "abs", "div") and words[-1] in _FLOAT:
        return "fp32"
    return "integer"


def _is_mma(opcode: str) -> bool:
    return opcode.startswith(("mma.sync", "wgmma.mma_async", "tcgen05.mma"))


def parse_ptx(text: str) -> Flow:
    """Return the control flow of the kernel (the first ``.entry``) in a PTX module.

    Raises ``ValueError`` when there is none.
    """
    start = text.find(".entry")
    open_brace = text.find("{", start)
    if start < 0 or open_brace < 0:
        raise ValueError("no kernel in the PTX")
    # Comments, and line information, which is the one statement without a semicolon.
    body = re.sub(r"//[^\n]*|/\*.*?\*/", "", text[open_brace + 1 :], flags=re.DOTALL)
    body = re.sub(r"^\s*\.loc\b[^\n]*$", "", body, flags=re.MULTILINE)
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    tables: dict[str, tuple[str, ...]] = {}
    for scope, statement in _statements(body):
        _read_statement(statement, scope, instructions, labels, tables)
    if not instructions:
        raise ValueError("no instruction in the PTX kernel")
    # A branch out of inline assembly goes to a label of the enclosing scope.
    known = [_resolved(instruction, labels, tables) for instruction in instructions]
    return build_flow(known, labels)


def _statements(body: str) -> Iterator[tuple[str, str]]:
    """Yield (scope, statement). Inline assembly opens scopes of its own, in which labels may repeat.

    A brace opens a scope only where a statement could start; elsewhere it holds a vector operand.
    """
    scopes = [""]
    opened = 0
    statement = ""
    depth = 0  # of vector operands
    for piece in re.split(r"([{};])", body):
        if piece == ";":
            yield scopes[-1], statement.strip()
            statement = ""
        elif piece == "{" and not re.sub(r"[$\w]+:", "", statement).strip():
            if statement.strip():
                yield scopes[-1], statement.strip()
                statement = ""
            opened += 1
            scopes.append(f"{opened}/")
        elif piece == "{":
            depth += 1
            statement += piece
        elif piece == "}" and depth:
            depth -= 1
            statement += piece
        elif piece == "}":
            if statement.strip():
                yield scopes[-1], statement.strip()
                statement = ""
            scopes.pop()
            if not scopes:
                return
        else:
            statement += piece


def _read_statement(
    statement: str,
    scope: str,
    instructions: list[Instruction],
    labels: dict[str, int],
    tables: dict[str, tuple[str, ...]],
) -> None:
    name = ""
    while label := _LABEL.match(statement):
        name = label[1]
        labels[scope + name] = len(instructions)
        statement = statement[label.end() :]
    if statement.startswith(".branchtargets"):
        tables[name] = tuple(part.strip() for part in statement.removeprefix(".branchtargets").split(","))
    found = _STATEMENT.match(statement)
    if not found or statement.startswith("."):
        return
    predicate, opcode, operands = found[1] or "", found[2], found[3]
    jump: Jump = "none"
    targets: tuple[str, ...] = ()
    if opcode.startswith("brx"):
        jump, targets = "branch", (operands.split(",")[-1].strip(),)
    elif opcode.startswith("bra"):
        jump, targets = "branch", (scope + operands.strip(), operands.strip())
    elif opcode in ("ret", "exit"):
        jump = "exit"
    falls = jump == "none" or bool(predicate)
    instructions.append(Instruction(opcode, operands, predicate, jump, targets, falls))


def _resolved(instruction: Instruction, labels: dict[str, int], tables: dict[str, tuple[str, ...]]) -> Instruction:
    """Name the labels a jump may reach: those of its table, or the innermost label of that name."""
    if instruction.opcode.startswith("brx"):
        return replace(instruction, targets=tables.get(instruction.targets[0], ()))
    return replace(instruction, targets=tuple(label for label in instruction.targets if label in labels)[:1])


def mma_of_ptx(flow: Flow, block: int, index: int) -> Mma | None:
    """Return the matrix instruction at ``index`` of ``block``, or None when it is another instruction."""
    instruction = flow.body(block)[index]
    opcode = instruction.opcode
    if not _is_mma(opcode):
        return None
    if opcode.startswith("tcgen05"):
        operands = instruction.operands.split(",")
        register = operands[3].strip() if len(operands) > 3 else ""
        rows, columns = _descriptor(flow, register)
        return Mma("tcgen05", rows, columns, 32 if "f8f6f4" in opcode or "i8" in opcode else 16, 0)
    shape = _SHAPE.search(opcode)
    rows, columns, depth = (int(shape[1]), int(shape[2]), int(shape[3])) if shape else (0, 0, 0)
    wide = opcode.startswith("wgmma")
    return Mma("wgmma" if wide else "mma.sync", rows, columns, depth, 4 if wide else 1)


def _descriptor(flow: Flow, register: str) -> tuple[int, int]:
    """PTX is in static single assignment form: the one move to the register holds the descriptor."""
    for instruction in flow.instructions:
        if instruction.opcode.startswith("mov"):
            target, _, value = instruction.operands.partition(",")
            if target.strip() == register and value.strip().isdigit():
                return tcgen05_shape(int(value))
    return 0, 0


PTX = Isa(pipe_of_ptx, mma_of_ptx, lambda _: 0)  # widths are not worth reading: ptxas changes them
