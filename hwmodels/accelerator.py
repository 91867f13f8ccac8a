"""A spatial accelerator: a 2-D and a 1-D array of processing elements (PEs) that share a buffer and a DRAM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, suggest, unknown
from .figures import in_base, read_figures, read_toml, word
from .gpu import Figure
from .schema import FigureSpec

# The operators an accelerator may state a cost for, by the names a cascade counts them under.
OPERATORS: Final = ("mul_add", "mul", "add", "sub", "max", "exp", "divide")
ARRAYS: Final = ("2d", "1d")
_HERE: Final = Path(__file__).parent / "accelerators"
_TOP_LEVEL: Final = ("kind", "name", "base", "figures")

_SCALARS: Final[dict[str, FigureSpec]] = {
    "array_2d_rows": FigureSpec("array_2d_rows", "number", whole=True),
    "array_2d_columns": FigureSpec("array_2d_columns", "number", whole=True),
    "array_1d_pes": FigureSpec("array_1d_pes", "number", whole=True),
    "clock": FigureSpec("clock_hz", "frequency"),
    "buffer": FigureSpec("buffer_bytes", "bytes", whole=True),
    "buffer_row": FigureSpec("buffer_row_bytes", "bytes", whole=True),
    "dram_bandwidth": FigureSpec("dram_bandwidth_bytes_s", "bandwidth"),
    "dram_word": FigureSpec("dram_word_bytes", "bytes", whole=True),
    "element": FigureSpec("element_bytes", "bytes", whole=True),
    "energy_buffer_read": FigureSpec("buffer_read_j", "energy"),
    "energy_buffer_write": FigureSpec("buffer_write_j", "energy"),
    "energy_dram": FigureSpec("dram_access_j", "energy"),
}
_CYCLES: Final = {f"cycles_{a}_{op}": FigureSpec("", "cycles", required=False) for a in ARRAYS for op in OPERATORS}
_ENERGY: Final = {f"energy_{op}": FigureSpec("", "energy", required=False) for op in OPERATORS}
FIGURES: Final[dict[str, FigureSpec]] = {**_SCALARS, **_CYCLES, **_ENERGY}


@dataclass(frozen=True)
class Accelerator:
    """One spatial accelerator. Units are in the names: hz, bytes, bytes_s (bytes per second), j (joule).

    Attributes:
        cycles: cycles one PE takes for an operator, by (array, operator); absent where the array lacks it.
        energy_j: energy of one execution of an operator, by operator, registers included or not as its
            figure's source says.
    """

    key: str  # the file's name without .toml: "fusemax"
    name: str
    array_2d_rows: int
    array_2d_columns: int
    array_1d_pes: int
    clock_hz: float
    buffer_bytes: int  # global buffer, shared by both arrays
    buffer_row_bytes: int  # what one access of the buffer moves
    dram_bandwidth_bytes_s: float
    dram_word_bytes: int  # what one access of the DRAM moves, for energy
    element_bytes: int  # of every tensor
    buffer_read_j: float  # one row
    buffer_write_j: float  # one row
    dram_access_j: float  # one word
    cycles: Mapping[tuple[str, str], float]
    energy_j: Mapping[str, float]
    figures: Mapping[str, Figure] = field(default_factory=dict, repr=False)

    def pes(self, array: str) -> int:
        """Processing elements of ``"2d"`` or ``"1d"``."""
        return self.array_2d_rows * self.array_2d_columns if array == "2d" else self.array_1d_pes

    def op_cycles(self, array: str, op: str) -> float:
        """Cycles one PE takes for one execution. InputError where that array has no such operator."""
        if (array, op) not in self.cycles:
            has = sorted(known for where, known in self.cycles if where == array)
            raise InputError(f"the {array} array of accelerator {self.key!r} has no {op!r}: it has {', '.join(has)}")
        return self.cycles[array, op]

    def op_energy_j(self, op: str) -> float:
        """Energy of one execution of an operator, in joule. InputError where no file states it."""
        if op not in self.energy_j:
            raise InputError(f"accelerator {self.key!r} states no energy for {op!r}")
        return self.energy_j[op]


def accelerator_names() -> list[str]:
    """The accelerators that come with attncast, sorted."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def load_accelerator(name_or_path: str) -> Accelerator:
    """The accelerator of that name, or the one a TOML file describes (``base = "flat"`` states only what differs).

    Raises:
        InputError: quoting the input, for an unknown accelerator or a wrong file.
    """
    text = str(name_or_path).strip()
    if text.lower().endswith(".toml") or "/" in text or "\\" in text:
        return _build(Path(text).expanduser())
    if text not in accelerator_names():
        raise InputError(
            f"unknown accelerator {text!r}: expected one of {', '.join(accelerator_names())}, "
            f"or the path of a .toml file{suggest(text, accelerator_names())}"
        )
    return _shipped(text)


@cache
def _shipped(name: str) -> Accelerator:
    return _build(_HERE / f"{name}.toml")


def _bases(own: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """A document after those it is based on, the root first. Only shipped files are bases, so there are no cycles."""
    if "base" not in own:
        return [own]
    if own["base"] not in accelerator_names():
        raise InputError(f"{path}: {unknown('base', str(own['base']), accelerator_names())}")
    base = _HERE / f"{own['base']}.toml"
    return [*_bases(read_toml(base), base), own]


def _build(path: Path) -> Accelerator:
    own = read_toml(path)
    documents = _bases(own, path)
    document = {key: value for each in documents for key, value in each.items()}
    if document.get("kind") != "accelerator":
        raise InputError(f'{path}: kind is {document.get("kind")!r}, expected kind = "accelerator"')
    for key in own:
        if key not in _TOP_LEVEL:
            raise InputError(f"{path}: {unknown('key', key, _TOP_LEVEL)}")
    figures = {name: figure for each in documents for name, figure in read_figures(each, FIGURES, path).items()}
    missing = [name for name, spec in FIGURES.items() if spec.required and name not in figures]
    if missing:
        raise InputError(f'{path}: missing figure {missing[0]!r}, expected it stated, or base = "flat"')
    values = {name: in_base(figure, FIGURES[name], f"{path}: figure {name!r}") for name, figure in figures.items()}
    scalars: dict[str, Any] = {spec.field: values[name] for name, spec in _SCALARS.items()}
    return Accelerator(
        key=path.stem.lower(),
        name=word(document, "name", path),
        cycles={
            (array, op): values[f"cycles_{array}_{op}"]
            for array in ARRAYS
            for op in OPERATORS
            if f"cycles_{array}_{op}" in values
        },
        energy_j={op: values[f"energy_{op}"] for op in OPERATORS if f"energy_{op}" in values},
        figures=figures,
        **scalars,
    )
