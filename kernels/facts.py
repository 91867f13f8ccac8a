"""What is known about one compiled configuration: ``CompileFacts``, built from a worker's record."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .loops import KvLoop, LoopReport, Tile, analyse
from .ptx import PTX, parse_ptx
from .sass import SASS, parse_sass
from .space import KernelConfig
from .ttgir import read_ttgir

#: What the loops over KV tiles are called, in program order.
LOOPS = {"attention": ("full", "partial"), "decode": ("keys",)}


@dataclass(frozen=True)
class CompileFacts:
    """The compiler's word on one configuration for one architecture.

    ``status`` is "ok", or "failed", "crashed", "timeout" or "skipped" with a ``reason``; the figures below are then
    None or empty. ``shared_bytes`` is dynamic shared memory per CTA, ``tmem_columns`` tensor memory columns
    per CTA, ``warps`` the warps launched (more than num_warps when specialised). ``spill_bytes`` is local
    memory per thread, ``spill_store_bytes`` and ``spill_load_bytes`` the code that fills and reads it.
    ``isa`` names what loops were read from: "sass", or "ptx" where no disassembler was at hand.
    """

    config: KernelConfig
    arch: str
    status: str
    reason: str = ""
    registers: int | None = None
    spill_bytes: int | None = None
    spill_store_bytes: int | None = None
    spill_load_bytes: int | None = None
    shared_bytes: int | None = None
    tmem_columns: int | None = None
    warps: int | None = None
    cubin_bytes: int | None = None
    isa: str = ""
    loops: tuple[KvLoop, ...] = ()
    notes: tuple[str, ...] = field(default=())
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the compiler produced code; it may still not fit a GPU."""
        return self.status == "ok"

    @property
    def main_loop(self) -> KvLoop | None:
        """The loop over full blocks, where nearly all time goes; None when no loop was found."""
        return self.loops[0] if self.loops else None

    @property
    def mma(self) -> str:
        """The matrix instructions of the main loop, as "wgmma m64n64k16, m64n128k16"; empty when unknown."""
        loop = self.main_loop
        if loop is None or not loop.mma:
            return ""
        families: dict[str, list[str]] = {}
        for mma in sorted(loop.mma):
            families.setdefault(mma.family, []).append(f"m{mma.m}n{mma.n}k{mma.k}" if mma.m else "of unknown shape")
        return "; ".join(f"{family} {', '.join(shapes)}" for family, shapes in families.items())


def facts_from_record(config: KernelConfig, arch: str, record: Mapping[str, Any]) -> CompileFacts:
    """Read a record of ``compile_worker.compile_job``.

    Raises KeyError, TypeError or ValueError when the record is not one: the caller then compiles again.
    """
    seconds = float(record.get("seconds", 0.0))
    if record["status"] != "ok":
        return CompileFacts(config, arch, record["status"], record["reason"], seconds=seconds)
    report = _loops(config, record)
    stack = record["stack_bytes"]
    return CompileFacts(
        config,
        arch,
        "ok",
        "",
        record["registers"],
        stack,
        record["spill_store_bytes"],
        record["spill_load_bytes"],
        record["shared_bytes"],
        record["tmem_columns"],
        record["warps"],
        record["cubin_bytes"],
        record["isa"],
        report.loops,
        report.notes,
        seconds,
    )


def _selects(loop: KvLoop) -> float:
    return loop.instructions.get("select", 0.0)


def unpack(text: str) -> str:
    """Return a text that ``compile_worker.pack`` packed. Raises ValueError when it is damaged."""
    try:
        return zlib.decompress(base64.b85decode(text)).decode()
    except zlib.error as error:
        raise ValueError(f"damaged record: {error}") from error


def _loops(config: KernelConfig, record: Mapping[str, Any]) -> LoopReport:
    code, ir = unpack(record["code"]), read_ttgir(unpack(record["ttgir"]))
    sass = record["isa"] == "sass"
    dim = config.padded_head_dim
    report = analyse(
        parse_sass(code) if sass else parse_ptx(code),
        Tile(config.block_m, config.block_n, dim, dim),
        ir,
        warps=config.num_warps,
        names=LOOPS[config.kernel],
        isa=SASS if sass else PTX,
    )
    notes = list(report.notes)
    if not sass:
        notes.append("counts are from PTX: no disassembler for this architecture")
    if len(LOOPS[config.kernel]) == len(report.loops) == 2 and _selects(report.loops[0]) > _selects(report.loops[1]):
        # The full loop comes first in the source and masks nothing: seen otherwise, the order is not trusted.
        notes.append("the first KV loop selects more than the second: full and partial may be exchanged")
    if config.warp_specialize and not ir.specialised:
        notes.append("warp_specialize had no effect: Triton left the loops whole")
    return LoopReport(report.loops, tuple(notes))
