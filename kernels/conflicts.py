"""What the addresses of a kernel's accesses cost, from its PTX: every thread's, worked out by its integers.

Shared memory has 32 banks of 4 bytes; a warp's access takes as many wavefronts as the busiest bank has different words of it
(CUDA C++ Programming Guide, shared memory). Accesses of 8 and 16 bytes go a half and a quarter of a warp at a time. Addresses
are functions of the thread: what comes from memory, from other threads or from the grid counts as 0 here, and each parameter
of the kernel as a large number of its own, the same for all threads. Of a line of global memory the L1 fetches the sectors
that are asked for; those that any warp of the CTA has asked for before in the same turn of a loop are there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .occupancy import WARP

Lanes = NDArray[np.int64]
# What an access is, in PTX and in SASS alike: "load", "store", "matrix load" or "matrix store", and bytes of a lane.
Access = tuple[str, int]

SECTOR_BYTES = 32
PARAMETER = 1 << 20
BANKS = 32
BANK_BYTES = 4
MATRIX_ROWS = 8  # of 16 bytes, whose addresses as many lanes give
_COMMENT = re.compile(r"//[^\n]*|^\s*\.loc[^\n]*", re.MULTILINE)
_STATEMENT = re.compile(r"(?:@(!?%\w+)\s+)?([a-z][\w.:]*)\s*(.*)$", re.DOTALL)
_LABEL = re.compile(r"(\$\w+):\s*")
_RESULT = re.compile(r"(\{[^}]*\}|%\w+(?:\|%\w+)?)\s*,\s*(.*)$", re.DOTALL)
_OPERAND = re.compile(r",(?![^{]*\})")
_SASS = re.compile(r"(LDSM?|STSM?)\b(.*)")
_SASS_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


@dataclass(frozen=True)
class _Statement:
    predicate: str
    opcode: str
    operands: str


@dataclass
class _Kernel:
    """Statements of a kernel, the first definition of each register, and where labels stand."""

    threads: int
    statements: list[_Statement] = field(default_factory=list)
    defined: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    known: dict[str, Lanes | None] = field(default_factory=dict)

    def value(self, operand: str) -> Lanes:
        """Of each thread."""
        if operand == "%tid.x":
            return np.arange(self.threads, dtype=np.int64)
        if operand in self.known or operand in self.defined:
            if operand not in self.known:
                self.known[operand] = None  # while it is worked out: a register that a loop changes begins at 0
                self.known[operand] = self._result(*self.defined[operand])
            found = self.known[operand]
            return self._zeros() if found is None else found
        try:
            return np.full(self.threads, int(operand, 0), dtype=np.int64)
        except ValueError:
            return self._zeros()

    def follows(self, operand: str, sources: set[str]) -> bool:
        """Whether an operand is worked out from some registers."""
        open_ones, seen = [operand], set[str]()
        while open_ones:
            name = open_ones.pop()
            if name in sources:
                return True
            if name not in seen and name in self.defined:
                seen.add(name)
                open_ones += self.defined[name][1]
        return False

    def _zeros(self) -> Lanes:
        return np.zeros(self.threads, dtype=np.int64)

    def _result(self, opcode: str, operands: list[str]) -> Lanes:
        name, *modifiers = opcode.split(".")
        if opcode.startswith("ld.param"):  # pointers and strides, each a size of its own
            number = re.search(r"(\d+)\]", operands[0])
            return self._zeros() + ((int(number[1]) if number else 0) + 1) * PARAMETER
        compute = _INTEGERS.get(name)
        if compute is None or any(
            modifier in ("f32", "f64", "f16", "bf16", "f16x2", "bf16x2") for modifier in modifiers
        ):
            return self._zeros()
        values = [self.value(operand) for operand in operands]
        if any(modifier.startswith("s") for modifier in modifiers):
            values = [(value + (1 << 31) & 0xFFFFFFFF) - (1 << 31) if name != "selp" else value for value in values]
        found: Lanes = np.asarray(compute(modifiers, *values)).astype(np.int64)
        wide = "wide" in modifiers or any(modifier.endswith("64") for modifier in modifiers)
        return found if wide else found & 0xFFFFFFFF


def _lop3(_: list[str], a: Lanes, b: Lanes, c: Lanes, table: Lanes) -> Lanes:
    found = np.zeros_like(a)
    for bits in range(8):
        if int(table[0]) >> bits & 1:
            found |= (a if bits & 4 else ~a) & (b if bits & 2 else ~b) & (c if bits & 1 else ~c)
    return found


def _compare(modifiers: list[str], a: Lanes, b: Lanes) -> Lanes:
    compare = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
    found: Lanes = compare.get(modifiers[0], np.greater_equal)(a, b).astype(np.int64)
    return found


_INTEGERS: dict[str, Callable[..., Lanes]] = {
    "mov": lambda _, a: a,
    "cvt": lambda _, a: a,
    "and": lambda _, a, b: a & b,
    "or": lambda _, a, b: a | b,
    "xor": lambda _, a, b: a ^ b,
    "not": lambda m, a: 1 - a if m[0] == "pred" else ~a,
    "neg": lambda _, a: -a,
    "shl": lambda _, a, b: a << b,
    "shr": lambda _, a, b: a >> b,
    "add": lambda _, a, b: a + b,
    "sub": lambda _, a, b: a - b,
    "mul": lambda _, a, b: a * b,
    "mad": lambda _, a, b, c: a * b + c,
    "min": lambda _, a, b: np.minimum(a, b),
    "max": lambda _, a, b: np.maximum(a, b),
    "bfe": lambda _, a, start, length: a >> start & ((1 << length) - 1),
    "bfi": lambda _, a, b, start, length: b & ~(((1 << length) - 1) << start) | (a & ((1 << length) - 1)) << start,
    "selp": lambda _, a, b, chosen: np.asarray(np.where(chosen != 0, a, b), dtype=np.int64),
    "setp": _compare,
    "lop3": _lop3,
}


def wavefronts(ptx: str, loop: int) -> dict[Access, float]:
    """Wavefronts that a warp's access takes, by its kind: the mean over those of a loop and over the CTA's warps.

    Args:
        loop: which of the innermost loops that take an exponential; 0 is the first.

    Raises:
        InputError: the text holds no kernel of a fixed number of threads, or no such loop.
    """
    kernel = _read(ptx)
    spans = _loops(kernel)
    if not 0 <= loop < len(spans):
        raise InputError(f"the PTX has no loop {loop}: expected 0 to {len(spans) - 1}")
    found: dict[Access, list[float]] = defaultdict(list)
    start, end = spans[loop]
    for statement in kernel.statements[start : end + 1]:
        access = _access(statement.opcode)
        if access is not None:
            found[access].extend(_of_warps(kernel, statement, access))
    return {access: float(np.mean(counts)) for access, counts in found.items()}


def repeated_loads(ptx: str, loop: int) -> list[tuple[int, bool]]:
    """For each load from global memory in a loop (as in ``wavefronts``): bytes of a lane, and whether the L1 has it from the
    same turn.

    Never where its address comes from what the loop itself loads.
    """
    kernel = _read(ptx)
    spans = _loops(kernel)
    if not 0 <= loop < len(spans):
        raise InputError(f"the PTX has no loop {loop}: expected 0 to {len(spans) - 1}")
    start, end = spans[loop]
    body = kernel.statements[start : end + 1]
    loaded = {
        register
        for statement in body
        if statement.opcode.startswith(("ld.", "ldmatrix"))
        for register in re.findall(r"%\w+", statement.operands.split("[")[0])
    }
    asked: set[int] = set()  # sectors, by whichever warp: they share the L1, and barriers keep them in the same turn
    found = []
    for statement in body:
        if not statement.opcode.startswith("ld.global"):
            continue
        address = re.search(r"\[([^\]]*)\]", statement.operands)
        terms = [part.strip() for part in (address[1] if address else "").split("+")]
        at: Lanes = sum((kernel.value(term) for term in terms), kernel.value("0")) // SECTOR_BYTES
        sectors = {int(sector) for sector in at}
        size = _lane_bytes(statement.opcode)
        if any(kernel.follows(term, loaded) for term in terms):
            found.append((size, False))
        else:
            found.append((size, sectors <= asked))
            asked |= sectors
    return found


def access_of(opcode: str) -> Access:
    """The access that an opcode of SASS is; ("", 0) where it touches no shared memory.

    >>> access_of("STS.U8"), access_of("LDSM.16.M88.4"), access_of("LDS.128"), access_of("LDGSTS.E.128")
    (('store', 1), ('matrix load', 16), ('load', 16), ('', 0))
    """
    match = _SASS.fullmatch(opcode)
    if match is None:
        return "", 0
    kind = "load" if match[1].startswith("L") else "store"
    modifiers = match[2].split(".")
    if match[1].endswith("M"):
        return f"matrix {kind}", BANK_BYTES * int(modifiers[-1] if modifiers[-1] in ("2", "4") else 1)
    return kind, lane_bytes(modifiers)


def lane_bytes(modifiers: Sequence[str]) -> int:
    """Bytes that a load or store of SASS moves for each thread."""
    return next((_SASS_BYTES[modifier] for modifier in modifiers if modifier in _SASS_BYTES), BANK_BYTES)


def _read(text: str) -> _Kernel:
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", text)
    body = text.find("{", text.find(".entry"))
    if threads is None or body < 0:
        raise InputError("the PTX holds no kernel of a fixed number of threads: expected .entry and .reqntid")
    kernel = _Kernel(int(threads[1]))
    for piece in _COMMENT.sub("", text[body + 1 :]).split(";"):
        rest = piece.lstrip(" \t\n{}")  # a scope, of inline assembly, that ends or begins before it
        while label := _LABEL.match(rest):
            kernel.labels[label[1]] = len(kernel.statements)
            rest = rest[label.end() :]
        match = _STATEMENT.match(rest)
        if match is None:
            continue
        kernel.statements.append(_Statement(match[1] or "", match[2], match[3]))
        result = _RESULT.match(match[3])
        if result and not match[2].startswith(("st.", "bra", "bar", "red.")):
            operands = [operand.strip() for operand in _OPERAND.split(result[2])]
            for register in re.findall(r"%\w+", result[1]):
                kernel.defined.setdefault(register, (match[2], operands))
    return kernel


def _loops(kernel: _Kernel) -> list[tuple[int, int]]:
    spans = []
    for end, statement in enumerate(kernel.statements):
        start = (
            kernel.labels.get(statement.operands.strip(), end + 1) if statement.opcode.startswith("bra") else end + 1
        )
        if start <= end and any(inner.opcode.startswith("ex2") for inner in kernel.statements[start:end]):
            spans.append((start, end))
    return [(a, b) for a, b in sorted(spans) if not any((c, d) != (a, b) and a <= c and d <= b for c, d in spans)]


def _access(opcode: str) -> Access | None:
    """The access to shared memory that a PTX instruction is."""
    head = opcode.split(".")[0]
    if ".shared" not in opcode or head not in ("ld", "st", "ldmatrix", "stmatrix"):
        return None
    kind = "load" if head.startswith("ld") else "store"
    if head.endswith("matrix"):
        many = re.search(r"\.x(\d)", opcode)
        return f"matrix {kind}", BANK_BYTES * int(many[1] if many else 1)
    return kind, _lane_bytes(opcode)


def _lane_bytes(opcode: str) -> int:
    """Bytes that a PTX load or store moves for each thread."""
    many, bits = re.search(r"\.[vx](\d)", opcode), re.search(r"\.[bfus](\d+)$", opcode)
    return int(bits[1] if bits else 32) // 8 * int(many[1] if many else 1)


def _of_warps(kernel: _Kernel, statement: _Statement, access: Access) -> Iterator[float]:
    """Wavefronts of each warp of the CTA whose predicate lets it go on."""
    address = re.search(r"\[([^\]]*)\]", statement.operands)
    at = sum((kernel.value(part.strip()) for part in (address[1] if address else "").split("+")), kernel.value("0"))
    at &= 0xFFFFFFFF
    active = np.ones(kernel.threads, dtype=bool)
    if statement.predicate:
        active = (kernel.value(statement.predicate.lstrip("!")) != 0) != statement.predicate.startswith("!")
    matrix = access[0].startswith("matrix")
    if matrix:  # each eight lanes give the rows of one matrix
        size, group, lanes = 16, MATRIX_ROWS, MATRIX_ROWS * access[1] // BANK_BYTES
    else:
        size, group, lanes = access[1], min(WARP, 4 * WARP // access[1]), WARP
    for first in range(0, kernel.threads, WARP):
        groups = [slice(begin, begin + group) for begin in range(first, first + lanes, group)]
        if active[first : first + WARP].any():
            yield float(sum(_busiest(at[g][active[g]], size) for g in groups))


def _busiest(addresses: Lanes, size: int) -> int:
    """Different words of the busiest bank."""
    words = {int(word) + extra for word in addresses // BANK_BYTES for extra in range(max(1, size // BANK_BYTES))}
    counts: dict[int, int] = defaultdict(int)
    for word in words:
        counts[word % BANKS] += 1
    return max(counts.values(), default=0)
