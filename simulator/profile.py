"""Kernel profiles: how an implementation runs a tile. Data in ``profiles/*.toml``, one file for each kernel."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from ..errors import InputError, suggest
from ..files import names_file, shortened
from ..hwmodels import GPU
from .instructions import MASK_ALU_PER_AXIS, MASK_ALU_SELECT
from .schedule import SplitRule
from .tile_operations import TileOperations, library_operations
from .tile_table import TileChoice, read_tile
from .tiles import KvTiling

_HERE: Final = Path(__file__).parent

DECODE_QUERIES = 8  # one new token, or the few of a speculative step
MAX_TILE_TOKENS = 4096  # an accumulator of more rows fits no SM


@dataclass(frozen=True)
class Fused:
    """Rotation and append inside an attention kernel: from which head dims on, and how many query heads a CTA loads and rotates
    at a time, a memory latency each."""

    from_dim: int
    heads_at_once: int


@dataclass(frozen=True)
class KernelProfile:
    """How one implementation runs attention on one GPU architecture.

    ``forecast`` also takes profiles whose ``operand_rows``, ``mma_rows``, ``mma_fraction``, ``overlap``,
    ``in_flight`` and ``round_trips`` are arrays of one value for each call (see autotune.rank_machine).

    Attributes:
        key: name on the command line ("natten"), or the path of a user's own file.
        title: of this variant ("NATTEN hopper-fna"). source: where from.
        family: kernels built alike, which wait for memory alike ("" none).
        engines, kv_dtypes: serving engines whose builds or calls of the kernel this variant is, and dtypes of the cache; empty:
            all that have none of their own.
        dtypes, patterns: what it takes; patterns are families ("band": dense, causal, window; "na"; "mask": any).
        tiles: choices, the default of each number of axes first.
        decode_tiles: 1-D choices for calls of at most ``DECODE_QUERIES`` tokens whose rows fit; empty when it has none.
            Otherwise a Q tile is run whole, however few of its rows are queries.
        cascade: its algorithm, a name in the cascade library: where its operation counts come from.
        rescaled_tiles: share of KV tiles after which the accumulator is rescaled (1, unless the kernel skips it).
        products: where matrix products run: "tensor", or "cuda": on the FMA pipe, an element at a time.
        operands: "async" when the tensor cores read operands from shared memory on their own (wgmma, tcgen05);
            "registers" when warps must load them first (mma.sync), which then costs issue time too.
        operand_rows: Q rows served by one read of a KV tile from shared memory.
        row_warps: warps among which a Q tile's rows are divided, 16 each at least; they read Q from shared memory for every KV
            tile as well as K and V. Warps without rows share the keys, and all are merged at the end. 0: operand_rows says.
        mma_rows: rows of one MMA instruction; a tile of fewer still takes its time (tcgen05 at 64 rows runs at half rate).
        scores_through_smem: the scores go through shared memory between the two GEMMs.
        output_in_registers: "always", or "kv_tile": only when head_dim_v fits the KV tile, else the fp32 accumulator is
            read and written in global memory for each KV tile.
        coordinates: "precomputed", or "divided": grid coordinates come from integer divisions for each access and score.
        mask_alu_per_axis, mask_alu_select: compare-pipe operations to mask one score (see operations).
        mma_fraction: share of the tensor rate its MMA instructions reach.
        mask_waits: masking overlaps nothing: a warp's maximum waits for its own mask, and all warps mask the same tile.
        window_axes: further coordinates that a sliding window's other bound compares. fp8_window_axes: those that masking a
            score of one in fp8 takes as long as (measured, where it is).
        chain: what a CTA does one after the other in each KV tile, while only other CTAs of its SM work (see waiting): "none",
            its warps or tiles taking turns; "pipes", its products, softmax and reductions: ``overlap`` is then that of a CTA
            with a warp on each scheduler, and those that share an SM, or have more warps, overlap more (see pipes); or "loads",
            its loads too, no stage being ahead. tile_round_trips: memory latencies for each load that it waits for. Where a
            compiler told how long a tile takes, overlap is how many times that it takes.
        tile_wait: cycles of a KV tile in which a warpgroup waits for its own products with nothing else to do.
        transposes_fp8: V in fp8 is transposed in shared memory, as wgmma takes 8-bit operands in one order only.
        promotes_fp8: fp8 products of a KV tile are added to a second accumulator, of true fp32. serial_fp8_dim: head
            dimension from which the two products of such a tile do not overlap.
        emulated_exp: share of exponentials computed on the FMA pipe.
        overlap: a in  cycles = max(pipes) + a * (sum(pipes) - max(pipes)); 0 perfect, 1 none. Before calibration a prior,
            see overlap_source.
        order: "longest-first" or "launch" (in the order of the grid).
        in_flight: CTAs, or tiles of a persistent CTA, whose memory latencies overlap on an SM; with a chain no more than its
            shared memory holds Q, K and V tiles of.
        prefill_reads: where a prefill finds its new keys and values: in the "cache", or as the layer before hands them over
            ("new"), in the dtype of its products.
        merge_trips: memory latencies that a CTA of the kernel that merges split keys takes over a token and head, of which it
            merges one after the other. part_trips: the same for each part that the keys were split into, where it adds them one
            after the other.
        round_trips: memory latencies one after the other in a CTA's life (sizes or page table, Q and K, V, output).
        masking: "partial": partial tiles only; "natten": every tile, unless NATTEN's predicate says that none needs it.
        kv_tiling: where KV tiles begin (see patterns.neighborhood). skips_windows: when tiles outside a window are skipped
            without a look: "always", or "decode" (at most ``DECODE_QUERIES`` tokens; beyond, every KV tile is tested first).
        pack_gqa: whether the rows of query heads that share keys lie side by side in Q tiles: "always", "decode" (for at
            most ``DECODE_QUERIES`` tokens) or "never".
        packs_by_copying: such rows are brought together by copies of the queries and, back, of the output, before and after.
        padded: whose head dims are run at the power of two that holds them, "values" or "both" keys and values; "rows": both,
            or at the next multiple of 128 bytes where that is less.
        drops_wide_windows: a window that holds all keys is none: the kernel of calls without one runs.
        packs_windows: whether it still does so under a sliding window. min_packed, max_packed: fewest and most heads that it
            packs; with others it packs none.
        split_kv: whether the keys are split over CTAs when there are too few of them: "always", "packed" (only where heads
            are packed), "decode" (for at most ``DECODE_QUERIES`` tokens) or "never".
        split_rule: into how many parts (see schedule). empty_parts: parts beyond the last tile run all the same.
        captured_tokens, captured_splits: calls of at most so many tokens, decoded in a CUDA graph, may cut the keys of a
            sequence into so many parts whatever the rule says, and always launch the merge.
        sequences_walked: sequences that a CTA walks over in one memory latency to find its next tile; 0 when it need not.
        merge: who adds the parts up: "launch", a kernel of its own, or "last": the CTA that ends last, which reads
            ``merge_ways`` parts at once, each of them ``merge_columns`` of a head's columns (0: all).
        decode_from: what makes a call decoding: at most ``DECODE_QUERIES`` "tokens", or also a "history": a prompt, however
            short, is none.
        decode_kernel: the kernel that serves calls of at most ``DECODE_QUERIES`` tokens in its place ("" itself).
        other_heads: the kernel that serves calls with other numbers of heads than it packs ("" itself). least_share: share of
            the SMs that a call's parts must fill (see schedule.history_parts); those of fewer go to that kernel too.
        fused: how the kernel itself rotates and appends, without a pass before it; None where it does not.
        heads_apart: a cache that it reads holds the keys of a block head by head, so that an engine's warps append a head each.
        row_store_bytes: bytes of one row of the output that a thread, or a quad, stores at once, each to a line of its own that
            takes the L1 a cycle (0: stores fill lines).
        warp_keys: keys of a KV tile that one warp takes, where warps beyond the end of a sequence do nothing (0: all go on).
        unroll: values that a thread loads before it uses them, where CTAs take keys in turns (1: loads run ahead instead).
        query_rate: bytes per clock of each SM that rotating and quantising queries reach; None: as fast as DRAM moves them.
        call_s, sequence_s, key_s: seconds of a serving engine's call, of each of its sequences, and of each new key (of a
            token and a head: a warp each appends them, whatever their length), beyond launches and the bytes it moves (fitted;
            0 until then).
        permute: tokens are made contiguous by tile before the kernel and put back after it.
        interval: half width of the 80% interval of log(time), a prior until calibrated.
    """

    key: str
    title: str
    source: str
    archs: tuple[str, ...]
    dtypes: tuple[str, ...]
    patterns: tuple[str, ...]
    tiles: tuple[TileChoice, ...]
    overlap: float
    overlap_source: str
    operand_rows: int
    interval: float
    family: str = ""
    engines: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    decode_tiles: tuple[TileChoice, ...] = ()
    cascade: str = "flash_attention_2"
    rescaled_tiles: float = 1.0
    operands: Literal["async", "registers"] = "async"
    row_warps: int = 0
    mma_rows: int = 16
    scores_through_smem: bool = False
    output_in_registers: Literal["always", "kv_tile"] = "always"
    coordinates: Literal["precomputed", "divided"] = "precomputed"
    mask_alu_per_axis: float = MASK_ALU_PER_AXIS
    mask_alu_select: float = MASK_ALU_SELECT
    mask_waits: bool = False
    window_axes: float = 0.0
    fp8_window_axes: float = 0.0
    chain: Literal["none", "pipes", "loads"] = "none"
    tile_round_trips: float = 0.0
    tile_wait: float = 0.0
    transposes_fp8: bool = False
    promotes_fp8: bool = False
    serial_fp8_dim: int = 1024
    mma_fraction: float = 1.0
    emulated_exp: float = 0.0
    order: Literal["longest-first", "launch"] = "launch"
    in_flight: int = 1
    prefill_reads: Literal["cache", "new"] = "cache"
    merge_trips: float = 0.0
    part_trips: float = 0.0
    round_trips: float = 4
    masking: Literal["partial", "natten"] = "partial"
    kv_tiling: KvTiling = "static"
    skips_windows: Literal["always", "decode"] = "always"
    pack_gqa: Literal["always", "decode", "never"] = "never"
    packs_by_copying: bool = False
    padded: Literal["none", "values", "both", "rows"] = "none"
    drops_wide_windows: bool = False
    packs_windows: bool = True
    min_packed: int = 1
    max_packed: int = 1024
    products: Literal["tensor", "cuda"] = "tensor"
    split_kv: Literal["always", "packed", "decode", "never"] = "never"
    split_rule: SplitRule = "fill"
    captured_tokens: int = 0
    captured_splits: int = 1
    sequences_walked: int = 0
    empty_parts: bool = False
    merge: Literal["launch", "last"] = "launch"
    merge_ways: int = 1
    merge_columns: int = 0
    permute: bool = False
    decode_kernel: str = ""
    decode_from: Literal["tokens", "history"] = "tokens"
    other_heads: str = ""
    least_share: float = 0.0
    heads_apart: bool = False
    row_store_bytes: float = 0.0
    fused: Fused | None = None
    warp_keys: int = 0
    unroll: int = 1
    query_rate: float | None = None
    call_s: float = 0.0
    key_s: float = 0.0
    sequence_s: float = 0.0

    def __hash__(self) -> int:
        return hash((self.key, self.archs, self.engines, self.kv_dtypes))  # as a cache key; the rest follows from these

    @property
    def operations(self) -> TileOperations:
        """Operation counts of its algorithm, from its cascade."""
        return library_operations(self.cascade)

    def tile_for(
        self,
        axes: int,
        head_dim: int,
        queries: int | None = None,
        packed: int = 1,
        dtype: str = "bf16",
        kv_dtype: str | None = None,
        windowed: bool = False,
        value_dim: int = 0,
        cached: int = 1,
    ) -> TileChoice:
        """The default tile shapes for a number of axes and a head dimension.

        Args:
            queries: tokens of a sequence; so few that a decode tile fits them get one.
            packed: query heads that share keys, which a kernel that packs them puts into one tile.
            dtype, kv_dtype: of the products, and of keys and values where that differs.
            windowed: whether the call has a sliding window. value_dim: head dimension of values (0: that of keys).
            cached: tokens already cached.

        Raises:
            InputError: the kernel has no such tile.
        """
        rows = math.inf
        if axes == 1 and queries is not None:
            decodes = bool(self.decodes(queries, cached))
            rows = queries * (packed if self.pack_gqa == "always" or (self.pack_gqa == "decode" and decodes) else 1)
            for choice in self.decode_tiles if decodes else ():
                # More rows than the tile takes are several tiles of it, which still beat one that is mostly padding.
                fits = rows <= (choice.max_rows or 4 * choice.q[0])
                if fits and choice.serves(head_dim, dtype, kv_dtype or dtype, windowed, value_dim):
                    return choice
        fitting = [choice for choice in self.tiles if len(choice.q) == axes]
        for choice in fitting:
            if choice.serves(head_dim, dtype, kv_dtype or dtype, windowed, value_dim) and rows <= (
                choice.max_rows or math.inf
            ):
                return choice
        if fitting:
            raise InputError(
                f"{self.title} has no {axes}-D tile for head dim {head_dim}: expected at most {fitting[-1].max_head_dim}"
            )
        raise InputError(f"{self.title} has no {axes}-D tiles")

    def decodes(self, queries: Any, cached: Any) -> Any:
        """Whether a call of so many new tokens, after so many cached ones, decodes. Takes numbers or arrays."""
        few = queries <= DECODE_QUERIES
        return few & (cached > 0) if self.decode_from == "history" else few

    @property
    def max_head_dim(self) -> int:
        """Largest head dimension it takes."""
        return max(choice.max_head_dim for choice in self.tiles)

    def takes_heads(self, gqa_ratio: int, parts: float, gpu: GPU) -> bool:
        """Whether it serves calls with so many query heads for a key head and so many parts, and leaves them to none."""
        if not self.other_heads:
            return True
        return self.min_packed <= gqa_ratio <= self.max_packed and parts >= self.least_share * gpu.sms

    def alternatives(self, axes: int, head_dim: int) -> list[TileChoice]:
        """Every tile choice that the kernel offers for a number of axes and a head dimension, the default first."""
        default = self.tile_for(axes, head_dim)
        return [c for c in self.tiles if len(c.q) == axes and c.max_head_dim == default.max_head_dim]


def profile_names() -> list[str]:
    """Names of the kernel profiles, sorted."""
    return sorted(path.stem for path in (_HERE / "profiles").glob("*.toml"))


def kernels_on(gpu: GPU) -> list[str]:
    """Names of the kernel profiles that run on a GPU's architecture, sorted."""
    return [name for name in profile_names() if any(gpu.arch in v["archs"] for v in _document(name)["variant"])]


@lru_cache(maxsize=64)
def _document(key: str) -> Mapping[str, Any]:
    path = _HERE / "profiles" / f"{key}.toml"
    if key != path.stem or not path.is_file():
        names = [*profile_names(), "auto"]
        raise InputError(
            f"unknown kernel {shortened(key)}: expected one of {', '.join(sorted(names))}, or the path of a .toml file"
            f"{suggest(key, names)}"
        )
    return tomllib.loads(path.read_text(encoding="utf-8"))


def load_profile(key: str, gpu: GPU, engine: str = "", kv_dtype: str = "") -> KernelProfile:
    """The profile of kernel ``key`` on the architecture of ``gpu``, as a serving engine builds and calls it; cached.

    ``kv_dtype`` is the cache's, "" for none that has a variant of its own. What ends in ``.toml`` or contains a path
    separator is a file of the user's (see profile_file).

    Raises:
        InputError: unknown kernel, or one that does not run on this GPU (the message names those that do), or a wrong file.
    """
    if names_file(key):
        from .profile_file import load_profile_file  # here, not above: a forecast of a named kernel starts without it

        return load_profile_file(key, gpu, engine, kv_dtype)
    return _load_shipped(key.lower(), gpu, engine, kv_dtype)


def shipped_profile(key: str, gpu: GPU, engine: str = "", kv_dtype: str = "") -> Mapping[str, Any] | None:
    """The table of a kernel that comes with attncast, for a GPU's architecture and an engine; None where it does not run.

    Variants without engines, or dtypes of the cache, are for all that have none of their own, and for the kernel alone.
    """
    document = dict(_document(key))
    variant = fitting_variant(document.pop("variant"), gpu.arch, engine, kv_dtype)
    return None if variant is None else {**document, **variant}


def fitting_variant(
    variants: Sequence[Mapping[str, Any]], arch: str, engine: str, kv_dtype: str = ""
) -> Mapping[str, Any] | None:
    """The first variant for an architecture that names the engine, else that names none; of either, the cache's dtype first."""
    fitting = [v for v in variants if arch in v["archs"] and kv_dtype in v.get("kv_dtypes", (kv_dtype,))]
    fitting.sort(key=lambda variant: "kv_dtypes" not in variant)
    own = [variant for variant in fitting if engine in variant.get("engines", ())]
    return next(iter(own or [variant for variant in fitting if "engines" not in variant]), None)


@lru_cache(maxsize=256)
def _load_shipped(key: str, gpu: GPU, engine: str, kv_dtype: str) -> KernelProfile:
    table = shipped_profile(key, gpu, engine, kv_dtype)
    if table is not None:
        return build_profile(key, table)
    fit = ", ".join(kernels_on(gpu))
    raise InputError(f"kernel {key!r} does not run on {gpu.key} ({gpu.arch}): expected one of {fit}")


def build_profile(key: str, table: Mapping[str, Any]) -> KernelProfile:
    """The profile of a table, its lists as tuples. Raises ValueError for a field that there is not."""
    table = dict(table)
    extra = set(table) - {item.name for item in fields(KernelProfile)}
    if extra:
        raise ValueError(f"profiles/{key}.toml: unknown field {sorted(extra)[0]!r}")
    if "fused" in table:
        table["fused"] = Fused(**table["fused"])
    tiles, decode_tiles = (tuple(read_tile(c) for c in table.pop(name, ())) for name in ("tiles", "decode_tiles"))
    lists = {name: tuple(value) for name, value in table.items() if isinstance(value, list)}
    return KernelProfile(key=key, tiles=tiles, decode_tiles=decode_tiles, **{**table, **lists})
