"""What a kernel profile states of one matter: a group of fields, a table of its own in ``profiles/*.toml``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .instructions import MASK_ALU_PER_AXIS, MASK_ALU_SELECT
from .schedule import SplitRule


@dataclass(frozen=True)
class Products:
    """How the matrix products of a tile run.

    Attributes:
        operand_rows: Q rows served by one read of a KV tile from shared memory (may be an array, see KernelProfile).
        unit: "tensor", or "cuda": on the FMA pipe, an element at a time.
        operands: "async" when the tensor cores read operands from shared memory on their own (wgmma, tcgen05);
            "registers" when warps must load them first (mma.sync), which then costs issue time too.
        row_warps: warps among which a Q tile's rows are divided, 16 each at least; they read Q from shared memory for every KV
            tile as well as K and V. Warps without rows share the keys, and all are merged at the end. 0: operand_rows says.
        mma_rows: rows of one MMA instruction; a tile of fewer still takes its time (tcgen05 at 64 rows runs at half rate).
        mma_fraction: share of the tensor rate its MMA instructions reach.
        scores_through_smem: the scores go through shared memory between the two GEMMs.
        output_in_registers: "always", or "kv_tile": only when head_dim_v fits the KV tile, else the fp32 accumulator is
            read and written in global memory for each KV tile.
        wait_cycles: cycles of a KV tile in which a warpgroup waits for its own products with nothing else to do.
        exposed_ends: a CTA's first product waits until its queries and first keys have come, with nothing else to work on: they
            are asked for when it begins, or when its shared memory is free of the tile before. Its output passes through
            shared memory before it is stored, but parts of it, in fp32, come from the registers and are staged for nothing.
        tile_ctas: each Q tile is a CTA of its own that fills its SM, so that its first loads begin when the one before it has
            ended; elsewhere another CTA, or the same one, asks for them before.
        fills: the softmax of a CTA's first KV tile and the product of the last one's values have no other tile's work beside
            them.
        one_query_buffer: a CTA's next queries are loaded, empty rows of a tile too, once the last products of the tile before
            have read theirs.
        transposes_fp8: V in fp8 is transposed in shared memory, as wgmma takes 8-bit operands in one order only.
        promotes_fp8: fp8 products of a KV tile are added to a second accumulator, of true fp32. serial_fp8_dim: head
            dimension from which the two products of a tile in fp8 do not overlap.
    """

    operand_rows: int
    unit: Literal["tensor", "cuda"] = "tensor"
    operands: Literal["async", "registers"] = "async"
    row_warps: int = 0
    mma_rows: int = 16
    mma_fraction: float = 1.0
    scores_through_smem: bool = False
    output_in_registers: Literal["always", "kv_tile"] = "always"
    wait_cycles: float = 0.0
    exposed_ends: bool = False
    tile_ctas: bool = False
    fills: bool = False
    one_query_buffer: bool = False
    transposes_fp8: bool = False
    promotes_fp8: bool = False
    serial_fp8_dim: int = 1024


@dataclass(frozen=True)
class Masking:
    """Which tiles are visited and masked, and what masking one score takes.

    Attributes:
        tiles: "partial": partial tiles only; "natten": every tile, unless NATTEN's predicate says that none needs it.
        first: a KV tile of each Q tile, its first or its last, is masked whether its pattern and length ask for it or not.
        alu_per_axis, alu_select: compare-pipe operations to mask one score (see operations). alu_by_axes: the same in all, for
            one axis and each further one, where they were counted one by one (empty: not so).
        waits: masking overlaps nothing: a warp's maximum waits for its own mask, and all warps mask the same tile.
        window_axes: further coordinates that a sliding window's other bound compares.
        coordinates: "precomputed", or "divided": grid coordinates come from integer divisions for each access and score.
        skips_windows: when tiles outside a window are skipped without a look: "always", or "decode": for at most
            ``DECODE_QUERIES`` tokens, which go over a list of a window's keys from its first on, of as many as it reaches back,
            the newest among them; beyond, every KV tile is tested first.
        drops_wide_windows: a window that holds all keys is none: the kernel of calls without one runs.
        empty_rows: a Q tile visits the KV tiles up to the diagonal of its last row, whether that holds a query or not.
    """

    tiles: Literal["partial", "natten"] = "partial"
    first: bool = False
    alu_per_axis: float = MASK_ALU_PER_AXIS
    alu_select: float = MASK_ALU_SELECT
    alu_by_axes: tuple[float, ...] = ()
    waits: bool = False
    window_axes: float = 0.0
    coordinates: Literal["precomputed", "divided"] = "precomputed"
    skips_windows: Literal["always", "decode"] = "always"
    drops_wide_windows: bool = False
    empty_rows: bool = False


@dataclass(frozen=True)
class Packing:
    """Query heads that share keys, side by side in Q tiles.

    Attributes:
        heads: whether their rows are packed: "always", "decode" (for at most ``DECODE_QUERIES`` tokens), "token" (for one) or
            "never".
        least, most: fewest and most heads that it packs; with others it packs none.
        under_windows: whether it still does so under a sliding window.
        by_copying: such rows are brought together by copies of the queries and, back, of the output, before and after.
        gather_cycles: cycles more of a Q tile whose rows threads load one by one, where another kernel asks for them at once:
            one whose keys are not split, on more than one warpgroup, for head dims that are equal.
        box_heads: numbers of packed heads that have that other kernel.
    """

    heads: Literal["always", "decode", "token", "never"] = "never"
    least: int = 1
    most: int = 1024
    under_windows: bool = True
    by_copying: bool = False
    gather_cycles: float = 0.0
    box_heads: tuple[int, ...] = ()


@dataclass(frozen=True)
class Splitting:
    """Keys of a sequence over several CTAs, and how CTAs find and share them.

    Attributes:
        when: whether the keys are split when there are too few CTAs: "always", "packed" (only where heads are packed),
            "decode" (for at most ``DECODE_QUERIES`` tokens) or "never".
        rule: into how many parts (see schedule). empty_parts: parts beyond the last tile run all the same.
        grid_parts: parts that the grid of a split call always has (0: as many as the rule says); CTAs of those beyond it end
            after a memory latency, and the merge is launched for one part too.
        captured_tokens, captured_parts: calls of at most so many tokens, decoded in a CUDA graph, may cut the keys of a
            sequence into so many parts whatever the rule says, and always launch the merge.
        searches: a CTA finds its sequence by a binary search, and the grid has a Q tile for each tile's worth of all new tokens
            and one for each sequence more: those that no sequence has end after it.
        sequences_walked: sequences that a CTA walks over in one memory latency to find its next tile; 0 when it need not.
        warp_keys: keys of a KV tile that one warp loads, where warps beyond the end of a sequence load nothing (0: all go on).
        unroll: values that a thread loads before it uses them, where CTAs take keys in turns (1: loads run ahead instead).
    """

    when: Literal["always", "packed", "decode", "never"] = "never"
    rule: SplitRule = "fill"
    empty_parts: bool = False
    grid_parts: int = 0
    captured_tokens: int = 0
    captured_parts: int = 1
    searches: bool = False
    sequences_walked: int = 0
    warp_keys: int = 0
    unroll: int = 1


@dataclass(frozen=True)
class Merging:
    """Who adds the parts up that the keys were split into, and how.

    Attributes:
        by: "launch", a kernel of its own, or "last": the CTA that ends last.
        ways, columns: that CTA reads so many parts at once, each of them so many of a head's columns (0: all): those that a
            warp loads at a time, of keys and values too.
        token_trips: memory latencies that a CTA of the merging kernel takes over a token and head, of which it merges one after
            the other; or that the last CTA takes besides those for its parts. part_trips: the same for each part, where the
            kernel adds them one after the other.
        head_instructions, part_instructions: those of a merging kernel that has a CTA of ``MERGE_THREADS`` for each token and
            head, for each of its threads, and more for each part (0: CTAs go over tokens and heads). ``token_trips`` is then
            of each such CTA.
        sequences_walked: sequences that a CTA of that kernel walks over in one latency of the L2 to find its tokens; 0 when it
            need not.
    """

    by: Literal["launch", "last"] = "launch"
    ways: int = 1
    columns: int = 0
    token_trips: float = 0.0
    part_trips: float = 0.0
    head_instructions: float = 0.0
    part_instructions: float = 0.0
    sequences_walked: int = 0


@dataclass(frozen=True)
class Fused:
    """Rotation and append inside an attention kernel.

    Attributes:
        heads_at_once: query heads that a CTA loads and rotates at a time, a memory latency each.
        within_heads: only where no more dims are rotated than a head has; a pass before it does both elsewhere.
    """

    heads_at_once: int
    within_heads: bool = False


@dataclass(frozen=True)
class Serving:
    """How a serving engine calls the kernel, and which kernel it calls instead.

    Attributes:
        prefill_reads: where a prefill finds its new keys and values: in the "cache", or as the layer before hands them over
            ("new"), in the dtype of its products; "both": so, but by a kernel that is built for the cache's dtype as well.
        heads_apart: a cache that it reads holds the keys of a block head by head, so that an engine's warps append a head each.
        decode_from: what makes a call decoding: at most ``DECODE_QUERIES`` "tokens", or also a "history": a prompt, however
            short, is none; or one "token" alone.
        decode_kernel: the kernel that serves calls of at most ``DECODE_QUERIES`` tokens in its place ("" itself).
        other_heads: the kernel that serves calls with other numbers of heads than it packs ("" itself). least_share: share of
            the SMs that a call's parts must fill (see schedule.history_parts); those of fewer go to that kernel too.
        fused: how the kernel itself rotates and appends, without a pass before it; None where it does not.
        index_bytes: bytes for each cached key of a sequence that tell where it lies, and that are read beside it.
    """

    prefill_reads: Literal["cache", "new", "both"] = "cache"
    heads_apart: bool = False
    decode_from: Literal["token", "tokens", "history"] = "tokens"
    decode_kernel: str = ""
    other_heads: str = ""
    least_share: float = 0.0
    fused: Fused | None = None
    index_bytes: float = 0.0
