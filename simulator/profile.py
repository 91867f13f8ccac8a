"""Kernel profiles: how an implementation runs a tile. Data in ``profiles/*.toml``, one file for each kernel."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from ..errors import InputError, suggest
from ..files import names_file, shortened
from ..hwmodels import GPU
from .head_dims import HeadDims
from .profile_groups import Fused, Masking, Merging, Packing, Products, Serving, Splitting
from .tile_operations import TileOperations, library_operations
from .tile_table import TileChoice, read_tile
from .tiles import KvTiling
from .workload import DTYPE_BYTES, Workload

_HERE: Final = Path(__file__).parent
GROUPS: Final[dict[str, type]] = {
    "products": Products,
    "masking": Masking,
    "packing": Packing,
    "splitting": Splitting,
    "merging": Merging,
    "serving": Serving,
    "head_dims": HeadDims,
}

DECODE_QUERIES = 8  # one new token, or the few of a speculative step
MAX_TILE_TOKENS = 4096  # an accumulator of more rows fits no SM


@dataclass(frozen=True)
class OlderCalls:
    """Calls that a library runs on its program for an older architecture. Each bound is inclusive, 0 where there is none.

    Attributes:
        least_tokens, most_tokens: new tokens of a sequence. most_keys: its keys. least_dim: head dimension, of keys or values.
    """

    least_tokens: int = 0
    most_tokens: int = 0
    most_keys: int = 0
    least_dim: int = 0

    def hold(self, tokens: int, keys: int, head_dim: int) -> bool:
        """Whether a call is one of them."""
        few = tokens <= (self.most_tokens or tokens) and keys <= (self.most_keys or keys)
        return few and tokens >= self.least_tokens and head_dim >= self.least_dim


@dataclass(frozen=True)
class Older:
    """A program for an older architecture, and which calls a library leaves to it; none of them is in fp8.

    In a kernel's file a table: ``arch`` names the variant whose program it is, ``calls`` are tables of ``OlderCalls``, and the
    rest is what differs of that program on this architecture.
    """

    calls: tuple[OlderCalls, ...]
    profile: KernelProfile


@dataclass(frozen=True)
class KernelProfile:
    """How one implementation runs attention on one GPU architecture.

    ``forecast`` also takes profiles whose ``products.operand_rows``, ``products.mma_fraction``, ``overlap``, ``in_flight`` and
    ``round_trips`` are arrays of one value for each call (see autotune.rank_machine).

    Attributes:
        key: name on the command line ("natten"), or the path of a user's own file.
        title: of this variant ("NATTEN hopper-fna"). source: where from.
        family: kernels built alike, which wait for memory alike ("" none).
        engines, kv_dtypes: serving engines whose builds or calls of the kernel this variant is, and dtypes of the cache; empty:
            all that have none of their own.
        dtypes, patterns: what it takes; patterns are families ("band": dense, causal, window; "na"; "mask": any).
        tiles: choices, the default of each number of axes first.
        decode_tiles: 1-D choices for calls that decode (see ``decodes``) whose rows fit; empty when it has none.
            Otherwise a Q tile is run whole, however few of its rows are queries.
        products, masking, packing, splitting, merging, serving: see profile_groups. head_dims: see there; any, and none
            is padded, where nothing is said.
        cascade: its algorithm, a name in the cascade library: where its operation counts come from.
        rescaled_tiles: share of KV tiles after which the accumulator is rescaled (1, unless the kernel skips it).
        emulated_exp: share of exponentials computed on the FMA pipe.
        overlap: a in  cycles = max(pipes) + a * (sum(pipes) - max(pipes)); 0 perfect, 1 none. Before calibration a prior,
            see overlap_source.
        chain: what a CTA does one after the other in each KV tile, while only other CTAs of its SM work (see waiting): "none",
            its warps or tiles taking turns; "pipes", its products, softmax and reductions: ``overlap`` is then that of a CTA
            with a warp on each scheduler, and those that share an SM, or have more warps, overlap more (see pipes); or "loads",
            its loads too, no stage being ahead. tile_round_trips: memory latencies for each load that it waits for. Where a
            compiler told how long a tile takes, overlap is how many times that it takes.
        order: "longest-first"; "launch", in the order of the grid: a head's Q tiles, then the next head's; "by-tile": all
            heads' and sequences' first Q tiles, then their second ones; "dealt": each SM is told beforehand which of a
            prompt's Q tiles it takes, every so-manyth (see schedule.dealt_makespan); or "sections" (see sections).
        in_flight: CTAs, or tiles of a persistent CTA, whose memory latencies overlap on an SM; with a chain no more than its
            shared memory holds Q, K and V tiles of.
        round_trips: memory latencies one after the other in a CTA's life (sizes or page table, Q and K, V, output).
        kv_tiling: where KV tiles begin (see patterns.neighborhood).
        in_step: CTAs are alike, load for themselves and end with their Q tile, so that they keep step (see steps).
        permute: tokens are made contiguous by tile before the kernel and put back after it.
        row_store_bytes: bytes of one row of the output that a thread, or a quad, stores at once, each to a line of its own that
            takes the L1 a cycle (0: stores fill lines).
        query_rate: bytes per clock of each SM that quantising queries in a pass of its own reaches. rotation_efficiency: share
            of the L2's bandwidth that the pass reaches which rotates them, over all that its threads load and store. None: as
            fast as DRAM moves the queries.
        call_s, sequence_s, key_s: seconds of a serving engine's call, of each of its sequences, and of each new key (of a
            token and a head: a warp each appends them, whatever their length), beyond launches and the bytes it moves (fitted;
            0 until then).
        interval: half width of the 80% interval of log(time), a prior until calibrated.
        decoding: what runs decoding where that is another program of the same name; in a file a table of what differs.
        older: the program of an older architecture that runs some calls; not in files of the user's own.
    """

    key: str
    title: str
    source: str
    archs: tuple[str, ...]
    dtypes: tuple[str, ...]
    patterns: tuple[str, ...]
    tiles: tuple[TileChoice, ...]
    products: Products
    overlap: float
    overlap_source: str
    interval: float
    family: str = ""
    engines: tuple[str, ...] = ()
    kv_dtypes: tuple[str, ...] = ()
    decode_tiles: tuple[TileChoice, ...] = ()
    masking: Masking = field(default_factory=Masking)
    packing: Packing = field(default_factory=Packing)
    splitting: Splitting = field(default_factory=Splitting)
    merging: Merging = field(default_factory=Merging)
    serving: Serving = field(default_factory=Serving)
    head_dims: HeadDims = field(default_factory=lambda: HeadDims(unequal=True))
    cascade: str = "flash_attention_2"
    rescaled_tiles: float = 1.0
    emulated_exp: float = 0.0
    chain: Literal["none", "pipes", "loads"] = "none"
    order: Literal["longest-first", "launch", "by-tile", "dealt", "sections"] = "launch"
    in_flight: int = 1
    kv_tiling: KvTiling = "static"
    in_step: bool = False
    permute: bool = False
    row_store_bytes: float = 0.0
    round_trips: float = 4
    tile_round_trips: float = 0.0
    query_rate: float | None = None
    rotation_efficiency: float | None = None
    call_s: float = 0.0
    key_s: float = 0.0
    sequence_s: float = 0.0
    decoding: KernelProfile | None = None
    older: Older | None = None

    def __hash__(self) -> int:
        return hash((self.key, self.archs, self.engines, self.kv_dtypes))  # as a cache key; the rest follows from these

    def of_phase(self, decodes: Any) -> KernelProfile:
        """The program that runs calls which decode, or those which do not."""
        return self.decoding if decodes and self.decoding is not None else self

    def program_of(self, w: Workload) -> KernelProfile:
        """The program that runs a call."""
        if self.runs_older(w):
            assert self.older is not None
            return self.older.profile
        return self.of_phase(self.decodes(w.tokens, w.cached))

    def runs_older(self, w: Workload) -> bool:
        """Whether the program of an older architecture runs a call."""
        if self.older is None or DTYPE_BYTES[w.dtype] < 2:
            return False
        sizes = (w.tokens, w.kv_tokens, max(w.head_dim, w.dim_v))
        return any(calls.hold(*sizes) for calls in self.older.calls)

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
        key_heads: float = math.inf,
    ) -> TileChoice:
        """The default tile shapes for a number of axes and a head dimension.

        Args:
            queries: tokens of a sequence; so few that a decode tile fits them get one.
            packed: query heads that share keys, which a kernel that packs them puts into one tile.
            dtype, kv_dtype: of the products, and of keys and values where that differs.
            windowed: whether the call has a sliding window. value_dim: head dimension of values (0: that of keys).
            cached: tokens already cached. key_heads: of the call.

        Raises:
            InputError: the kernel has no such tile.
        """
        rows = math.inf
        if axes == 1 and queries is not None:
            decodes = bool(self.decodes(queries, cached))
            packs = {"always": True, "decode": decodes, "token": queries == 1, "never": False}[self.packing.heads]
            rows = queries * (packed if packs else 1)
            for choice in self.decode_tiles if decodes else ():
                # More rows than the tile takes are several tiles of it, which still beat one that is mostly padding.
                fits = rows <= (choice.max_rows or 4 * choice.q[0]) and key_heads <= (choice.max_key_heads or math.inf)
                if fits and choice.serves(head_dim, dtype, kv_dtype or dtype, windowed, value_dim):
                    if choice.min_keys <= queries + cached:
                        return choice
                    break  # fewer keys are not split: they run on the tiles of prompts
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

    @property
    def few_tokens(self) -> int:
        """New tokens of a sequence at which it decodes, at most."""
        return 1 if self.serving.decode_from == "token" else DECODE_QUERIES

    def decodes(self, queries: Any, cached: Any) -> Any:
        """Whether a call of so many new tokens, after so many cached ones, decodes. Takes numbers or arrays."""
        few = queries <= self.few_tokens
        return few & (cached > 0) if self.serving.decode_from == "history" else few

    def max_head_dim(self, axes: int) -> int:
        """Largest head dimension that it takes in tiles of so many axes; 0 where it has none."""
        return max((choice.max_head_dim for choice in self.tiles if len(choice.q) == axes), default=0)

    def takes_heads(self, gqa_ratio: int, parts: float, gpu: GPU) -> bool:
        """Whether it serves calls with so many query heads for a key head and so many parts, and leaves them to none."""
        if not self.serving.other_heads:
            return True
        return self.packing.least <= gqa_ratio <= self.packing.most and parts >= self.serving.least_share * gpu.sms

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
    variants = document.pop("variant")
    variant = fitting_variant(variants, gpu.arch, engine, kv_dtype)
    if variant is None:
        return None
    return with_older(layered(document, variant), document, variants, engine, kv_dtype)


def with_older(
    table: dict[str, Any],
    document: Mapping[str, Any],
    variants: Sequence[Mapping[str, Any]],
    engine: str,
    kv_dtype: str,
) -> dict[str, Any]:
    """A variant's table with that of the older architecture's program, where it names one.

    Raises:
        InputError: there is no variant of that architecture.
    """
    if "older" not in table:
        return table
    differs = dict(table["older"])
    calls, arch = differs.pop("calls"), differs.pop("arch")
    below = fitting_variant(variants, arch, engine, kv_dtype)
    if below is None:
        raise InputError(f"older names the program of {arch!r}: expected a variant for it")
    return {**table, "older": {"calls": calls, "table": layered(layered(document, below), differs)}}


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


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's table with what another states put over it, field by field of a group too."""
    table = {**below, **above}
    return {
        name: {**below[name], **value} if name in GROUPS and name in below and name in above else value
        for name, value in table.items()
    }


def build_profile(key: str, table: Mapping[str, Any]) -> KernelProfile:
    """The profile of a table, its lists as tuples. Raises ValueError for a field that there is not."""
    table = dict(table)
    where = f"profiles/{key}.toml"
    differs = table.pop("decoding", None)
    decoding = None if differs is None else build_profile(key, layered(table, differs))
    older = table.pop("older", None)
    if older is not None:
        older = Older(tuple(OlderCalls(**calls) for calls in older["calls"]), build_profile(key, older["table"]))
    groups = {name: _group(cls, table.pop(name), f"{where}: {name}") for name, cls in GROUPS.items() if name in table}
    tiles, decode_tiles = (tuple(read_tile(c) for c in table.pop(name, ())) for name in ("tiles", "decode_tiles"))
    lists = {name: tuple(value) for name, value in table.items() if isinstance(value, list)}
    _known(KernelProfile, table, where)
    values = {**table, **lists, **groups}
    return KernelProfile(key=key, tiles=tiles, decode_tiles=decode_tiles, decoding=decoding, older=older, **values)


def _group(cls: type, table: Mapping[str, Any], where: str) -> Any:
    _known(cls, table, where)
    values = {name: _as_tuples(value) for name, value in table.items()}
    return cls(**{**values, "fused": Fused(**table["fused"])} if "fused" in table else values)


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def _known(cls: type, table: Mapping[str, Any], where: str) -> None:
    extra = set(table) - {item.name for item in fields(cls)}
    if extra:
        raise ValueError(f"{where}: unknown field {sorted(extra)[0]!r}")
