"""A binding: which Einsum of a cascade runs on which array of an accelerator, and when."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from ...errors import InputError, unknown
from ...hwmodels.accelerator import Accelerator, load_accelerator
from .. import cascades
from ..einsum import Cascade

DATAFLOWS: Final = ("stream", "rows", "phases")
_KEYS: Final = (
    "title", "source", "cascade", "accelerator", "dataflow", "keys", "queries", "tile", "rows", "chained",
    "as_made", "folded", "stage",
)  # fmt: skip
_STAGE_KEYS: Final = ("2d", "1d", "drain")


@dataclass(frozen=True)
class Stage:
    """Einsums that run side by side, one array beside the other; the Einsums of one array run in turn.

    Attributes:
        arrays: the tensors each array computes, by ``"2d"`` and ``"1d"``.
        drain: reductions on the 2-D array whose result the next stage waits for, while partial results go
            from PE to PE down every row of the array.
    """

    arrays: Mapping[str, tuple[str, ...]]
    drain: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """All it computes."""
        return (*self.arrays.get("2d", ()), *self.arrays.get("1d", ()))


@dataclass(frozen=True)
class Binding:
    """How a cascade runs on an accelerator. Building one checks it against the cascade.

    Attributes:
        name: the file's name without .toml.
        title: what a reader calls it.
        source: where it is published.
        cascade: the algorithm; an Einsum goes by the tensor it defines.
        accelerator: the hardware.
        dataflow: how tensors move (``dataflow.py``): ``stream`` (keys go by, a block of queries stays),
            ``rows`` (blocks of whole rows of scores, chosen by a mapper), ``phases`` (each stage from and to DRAM).
        keys, queries: the ranks of the keys and the queries.
        tile: keys, and queries, of a tile.
        stages: run in turn for each tile (``phases``: for the whole problem).
        rows: blocks of query rows that a mapper tries.
        chained: Einsums whose operators form a pipeline: the slowest sets the pace, instead of their sum.
        as_made: (reader, tensor) pairs where the reader takes the tensor as it is made, not from the buffer.
        folded: Einsums that run elsewhere, and why; their tensors arrive as inputs do.
    """

    name: str
    title: str
    source: str
    cascade: Cascade
    accelerator: Accelerator
    dataflow: str
    keys: str
    queries: str
    tile: int
    stages: tuple[Stage, ...]
    rows: tuple[int, ...] = ()
    chained: frozenset[str] = frozenset()
    as_made: frozenset[tuple[str, str]] = frozenset()
    folded: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        scope = self.cascade.scope
        live = {scope.einsums[n].target.tensor for n in scope.live}
        placed = [tensor for stage in self.stages for tensor in stage.tensors]
        drained = [tensor for stage in self.stages for tensor in stage.drain]
        folded = list(self.folded or ())
        pairs = [tensor for pair in self.as_made for tensor in pair]
        for tensor in (*placed, *folded, *drained, *self.chained, *pairs):
            if tensor not in live:
                raise self._error(str(unknown(f"Einsum of cascade '{self.cascade.name}'", tensor, live)))
        twice = [tensor for tensor in placed if (placed + folded).count(tensor) > 1]
        if twice:
            raise self._error(f"Einsum {twice[0]!r} is bound twice, expected one array and stage for each")
        missing = [tensor for tensor in sorted(live) if tensor not in placed + folded]
        if missing:
            raise self._error(f"Einsum {missing[0]!r} of cascade {self.cascade.name!r} is on no array, expected one")
        for rank in (self.keys, self.queries):
            if rank not in scope.ranks:
                raise self._error(str(unknown("rank", rank, scope.ranks)))
        if self.dataflow not in DATAFLOWS:
            raise self._error(str(unknown("dataflow", self.dataflow, DATAFLOWS)))
        if self.tile < 1:
            raise self._error(f"tile is {self.tile}, expected a whole number of at least 1")

    def array_of(self, tensor: str) -> str | None:
        """``"2d"``, ``"1d"``, or None for what no array computes."""
        for stage in self.stages:
            for array, tensors in stage.arrays.items():
                if tensor in tensors:
                    return array
        return None

    def _error(self, problem: str) -> InputError:
        return InputError(f"binding {self.name!r}: {problem}")


def binding_names() -> list[str]:
    """The bindings that come with attncast, sorted."""
    found = (entry.name for entry in files(__package__).joinpath("bindings").iterdir())
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load_binding(name: str) -> Binding:
    """The binding of this name, or the one in the file of this path (it has a ``/`` or a suffix).

    Raises:
        InputError: no such name or file, or what the file says is wrong.
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        try:
            return _build(path.stem, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as problem:
            raise InputError(f"cannot read binding file {name!r}: {problem}") from problem
    if name not in binding_names():
        raise unknown("configuration", name, binding_names())
    return _shipped(name)


@cache
def _shipped(name: str) -> Binding:
    return _build(name, (files(__package__) / "bindings" / f"{name}.toml").read_text(encoding="utf-8"))


def _build(name: str, text: str) -> Binding:
    def wrong(problem: str) -> InputError:
        return InputError(f"binding {name!r}: {problem}")

    def words(value: object, key: str) -> tuple[str, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, str) for v in value):
            raise wrong(f"{key} is {value!r}, expected a list of names")
        return tuple(value)

    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise wrong(f"not valid TOML: {problem}") from None
    for key in document:
        if key not in _KEYS:
            raise wrong(str(unknown("key", key, _KEYS)))
    for key in ("cascade", "accelerator", "dataflow", "keys", "queries"):
        if not isinstance(document.get(key), str):
            raise wrong(f"{key} is {document.get(key)!r}, expected text in quotes")
    tile, rows = document.get("tile", 256), document.get("rows", [])
    if not isinstance(tile, int) or not isinstance(rows, list) or not all(isinstance(r, int) and r > 0 for r in rows):
        raise wrong(f"tile is {tile!r} and rows is {rows!r}, expected a whole number and a list of them")
    tables = document.get("stage")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise wrong("no stages, expected one or more tables [[stage]]")
    stages = []
    for table in tables:
        for key in table:
            if key not in _STAGE_KEYS:
                raise wrong(str(unknown("key of a stage", key, _STAGE_KEYS)))
        arrays = {array: words(table[array], array) for array in ("2d", "1d") if array in table}
        stages.append(Stage(arrays, words(table.get("drain", []), "drain")))
    folded = document.get("folded", {})
    if not isinstance(folded, dict):
        raise wrong(f"folded is {folded!r}, expected a table of Einsums and reasons")
    pairs = document.get("as_made", [])
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise wrong(f'as_made is {pairs!r}, expected pairs such as ["SD", "SN"]')
    return Binding(
        name=name,
        title=str(document.get("title", name)),
        source=str(document.get("source", "")),
        cascade=cascades.load(document["cascade"]),
        accelerator=load_accelerator(document["accelerator"]),
        dataflow=document["dataflow"],
        keys=document["keys"],
        queries=document["queries"],
        tile=tile,
        stages=tuple(stages),
        rows=tuple(rows),
        chained=frozenset(words(document.get("chained", []), "chained")),
        as_made=frozenset((str(reader), str(tensor)) for reader, tensor in pairs),
        folded={str(tensor): str(reason) for tensor, reason in folded.items()},
    )
