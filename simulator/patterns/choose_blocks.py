"""Dynamic mechanisms in which blocks of queries choose blocks of keys: budget, blocks and cost of each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..tiles import Floats
from ..workload import Workload
from .base import SelectionCost
from .dynamic import Dynamic, element_bytes, pooled_scores
from .spec import flag, number, parameter, whole

DENSITY = "share of the keys a row may see that it keeps (measured: take it from your run)"


@dataclass(frozen=True)
class Sparge(Dynamic):
    """SpargeAttn: rows of pooled scores, cumulative mass or top-k; non-similar blocks are computed whole."""

    name: ClassVar[str] = "sparge"
    about: ClassVar[str] = (
        "SpargeAttn: pooled block scores, kept up to a cumulative mass; non-similar rows are kept whole"
    )
    source: ClassVar[str] = "SpargeAttn, arXiv 2502.18137, thu-ml/SpargeAttn spas_sage_attn/utils.py"

    causal: bool = parameter("1: no later keys", flag, False)
    density: float = parameter(DENSITY, number(0, 1, 0.5), 0.5)
    whole_rows: float = parameter(
        "share of Q blocks that are not self-similar and keep everything", number(0, 1, 0.05), 0.0
    )

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """128 queries, 64 keys."""
        return 128, 64

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """Rows that are kept whole raise the mean."""
        return seen * (self.whole_rows + (1.0 - self.whole_rows) * self.density)

    def selection(self, workload: Workload) -> SelectionCost:
        """Pooled scores, and the cosine of every pair inside each block: 2 d block operations per token."""
        w, (q_block, k_block) = workload, self.blocks(workload)
        cosines = 2.0 * w.head_dim * (w.tokens * w.heads * q_block + w.kv_tokens * w.kv_heads * k_block)
        return pooled_scores(w, q_block, k_block) + SelectionCost(w.batch * cosines, 0.0, 0)


@dataclass(frozen=True)
class SparseD(Dynamic):
    """SparseD for diffusion language models: chosen once from the exact scores, used for the other steps."""

    name: ClassVar[str] = "sparsed"
    about: ClassVar[str] = "SparseD: top share of blocks by exact scores of one step, kept for the steps after it"
    source: ClassVar[str] = "SparseD, INV-WZQ/SparseD models/*/SparseD_utils.py"

    causal: bool = parameter("1: no later keys", flag, False)
    density: float = parameter("share of the blocks that is selected", number(0, 1, 0.3), 0.3)
    block: int = parameter("block, tokens (128; 32 for short sequences)", whole(), 128)
    steps: int = parameter("denoising steps that use one choice", whole(), 102)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Square blocks."""
        return self.block, self.block

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The same share of every row."""
        return seen * self.density

    def selection(self, workload: Workload) -> SelectionCost:
        """One exact score matrix, written and averaged once for ``steps`` calls."""
        w = workload
        scores = float(w.batch * w.heads) * w.tokens * w.kv_tokens
        once = SelectionCost(2.0 * w.head_dim * scores, 2.0 * element_bytes(w) * scores, 2)
        return SelectionCost(once.flops / self.steps, once.bytes / self.steps, 0)


@dataclass(frozen=True)
class Rectified(Dynamic):
    """Rectified SpaAttn: pooled scores with un-pooled text keys; what is left out is put back from pooled values."""

    name: ClassVar[str] = "rectified"
    about: ClassVar[str] = (
        "Rectified SpaAttn: top (1 - drop) of the blocks and all text; pooled values stand for the rest"
    )
    source: ClassVar[str] = "BienLuky/Rectified-SpaAttn rectified_spaattn/rectified_hunyuan_attn.py"

    causal: bool = parameter("1: no later keys", flag, False)
    drop: float = parameter("share of the blocks that is dropped", number(0, 1, 0.8), 0.8)
    text: int = parameter("text keys, always kept", whole(0), 0)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """128 x 128."""
        return 128, 128

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """max(1, floor((1 - drop) * blocks)) blocks of the video, and the text."""
        video = np.maximum(seen - self.text, 0.0)
        return np.maximum(128.0, np.floor(video / 128.0 * (1.0 - self.drop) + 1e-9) * 128.0) + np.minimum(
            self.text, seen
        )

    def selection(self, workload: Workload) -> SelectionCost:
        """Pooled scores; text keys scored one by one; V pooled too, and one product with the pooled values."""
        w = workload
        rows, columns = -(-w.tokens // 128), -(-w.kv_tokens // 128)
        text = 2.0 * w.head_dim * rows * self.text * w.heads
        back = 2.0 * w.dim_v * rows * columns * w.heads
        values = w.kv_tokens * w.kv_heads * w.dim_v * element_bytes(w)
        output = 2.0 * w.tokens * w.heads * w.dim_v * element_bytes(w)  # read and written once more
        return pooled_scores(w, 128, 128) + SelectionCost(w.batch * (text + back), w.batch * (values + output), 3)


@dataclass(frozen=True)
class Lite(Dynamic):
    """LiteAttention: tiles whose scores stayed low in an earlier diffusion step are skipped from then on."""

    name: ClassVar[str] = "lite"
    about: ClassVar[str] = "LiteAttention: tiles of 128 x 176 skipped once their scores were low in an earlier step"
    source: ClassVar[str] = "LiteAttention, moonmath-ai/LiteAttention hopper/lite_attention.py"

    causal: bool = parameter("1: no later keys", flag, False)
    density: float = parameter(DENSITY, number(0, 1, 0.58), 0.58)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """FlashAttention-3's tile at head dim 128."""
        return 128, 176

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """A share of every row."""
        return seen * self.density

    def selection(self, workload: Workload) -> SelectionCost:
        """No kernel of its own: a list of KV tiles (4 bytes each) is read and written for every Q tile."""
        w = workload
        tiles = float(-(-w.tokens // 128)) * -(-w.kv_tokens // 176) * w.heads * w.batch
        return SelectionCost(0.0, 8.0 * tiles, 0)


@dataclass(frozen=True)
class BiFormer(Dynamic):
    """Bi-level routing: regions choose regions by their means; the chosen keys are gathered."""

    name: ClassVar[str] = "biformer"
    about: ClassVar[str] = "BiFormer: sides x sides regions, each attends the top regions by pooled scores"
    source: ClassVar[str] = "BiFormer, arXiv 2303.08810, rayleizhu/BiFormer"
    gathered: ClassVar[bool] = True

    causal: bool = parameter("1: no later keys", flag, False)
    top: int = parameter("regions kept (1, 4, 16 in the first stages)", whole(), 4)
    sides: int = parameter("regions per side of the image", whole(), 7)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """One region."""
        regions = self.sides**2
        return -(-workload.tokens // regions), -(-workload.kv_tokens // regions)

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The top regions."""
        return np.full(seen.shape, float(self.top * self.blocks(workload)[1]))

    def selection(self, workload: Workload) -> SelectionCost:
        """Region means and scores, and the chosen K and V copied side by side for every region."""
        w = workload
        rows = self.sides**2 * min(self.top * self.blocks(w)[1], w.kv_tokens)
        gathered = 2.0 * w.batch * w.kv_heads * rows * (w.head_dim + w.dim_v) * element_bytes(w)
        return pooled_scores(w, *self.blocks(w)) + SelectionCost(0.0, gathered, 1)


@dataclass(frozen=True)
class Hip(Dynamic):
    """HiP: a tree search halves key ranges and keeps the best, scored by one key each."""

    name: ClassVar[str] = "hip"
    about: ClassVar[str] = "HiP: tree search over key ranges by one representative each; sink and window kept"
    source: ClassVar[str] = "HiP Attention, arXiv 2406.09827, DeepAuto-AI/hip-attention"

    top: int = parameter("keys kept by the search", whole(), 512)
    q_block: int = parameter("queries that search together", whole(), 64)
    k_block: int = parameter("keys of a range at the end of the search (unverified)", whole(), 2)
    sink: int = parameter("first keys, always kept", whole(0), 0)
    window: int = parameter("last keys, always kept", whole(0), 0)
    refresh: int = parameter("calls that use one search (decoding)", whole(), 1)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """As given."""
        return self.q_block, self.k_block

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The same number in every row that is long enough."""
        return np.full(seen.shape, float(self.top + self.sink + self.window))

    def selection(self, workload: Workload) -> SelectionCost:
        """log2(keys / top) rounds; each scores both halves of top / k_block ranges with all queries of a block."""
        w = workload
        rounds = max(0.0, math.log2(w.kv_tokens / min(self.top, w.kv_tokens)))
        rows = -(-w.tokens // self.q_block) * w.heads * w.batch
        scored = 2.0 * self.top / self.k_block  # representatives of a round
        flops = rows * rounds * scored * min(self.q_block, w.tokens) * 2.0 * w.head_dim
        read = rows * rounds * scored * (w.head_dim * element_bytes(w) + 8.0)
        return SelectionCost(flops / self.refresh, read / self.refresh, 1)


@dataclass(frozen=True)
class Dhsa(Dynamic):
    """DHSA: top blocks by pooled scores, with sink and recent blocks."""

    name: ClassVar[str] = "dhsa"
    about: ClassVar[str] = "DHSA: top KV blocks of 32 per 128 queries by pooled scores, sink and recent blocks"
    source: ClassVar[str] = "DHSA, xiongsiheng/DHSA (2026 version)"

    top: int = parameter("keys kept by score", whole(), 2048)
    sink: int = parameter("first keys, always kept", whole(0), 128)
    window: int = parameter("last keys, always kept", whole(0), 128)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """128 queries, 32 keys."""
        return 128, 32

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The same number in every row that is long enough."""
        return np.full(seen.shape, float(self.top + self.sink + self.window))

    def selection(self, workload: Workload) -> SelectionCost:
        """Pooled scores."""
        return pooled_scores(workload, *self.blocks(workload))


@dataclass(frozen=True)
class Dma(Dynamic):
    """Dynamic Mask Attention: the top keys of every KV head by a learned bias, in blocks of 64."""

    name: ClassVar[str] = "dma"
    about: ClassVar[str] = "Dynamic Mask Attention: top keys by a bias from V, smoothed to blocks of 64"
    source: ClassVar[str] = "Dynamic Mask Attention, arXiv 2508.02124, SmallDoges/flash-dmattn"

    top: int = parameter("keys kept per query", whole(), 1024)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """Blocks of 64: smoothing makes the queries of a block agree."""
        return 64, 64

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The same number in every row that is long enough."""
        return np.full(seen.shape, float(self.top))

    def selection(self, workload: Workload) -> SelectionCost:
        """One product of V with a vector, a bias per key (fp32, written and read), a top-k over the biases.

        The bias does not depend on the query, and the measured calls (2.25 ms at 32,768 tokens on an A100) leave no
        time for a mask as large as the scores: none is charged.
        """
        w = workload
        keys = w.batch * w.kv_heads * w.kv_tokens
        return SelectionCost(2.0 * keys * w.dim_v, keys * (w.dim_v * element_bytes(w) + 8.0), 3)


@dataclass(frozen=True)
class TopBlocks(Dynamic):
    """The top blocks of every row by pooled scores."""

    name: ClassVar[str] = "top-blocks"
    about: ClassVar[str] = "top KV blocks per Q block by pooled scores"
    source: ClassVar[str] = "block top-k as in MoBA (arXiv 2502.13189) and Kinetics (Infini-AI-Lab/Kinetics)"

    top: int = parameter("blocks kept per row", whole(), 16)
    q_block: int = parameter("queries that choose together", whole(), 128)
    k_block: int = parameter("block, keys", whole(), 64)

    def blocks(self, workload: Workload) -> tuple[int, int]:
        """As given."""
        return self.q_block, self.k_block

    def kept(self, seen: Floats, workload: Workload) -> Floats:
        """The same number in every row that is long enough."""
        return np.full(seen.shape, float(self.top * self.k_block))

    def selection(self, workload: Workload) -> SelectionCost:
        """Pooled scores."""
        return pooled_scores(workload, self.q_block, self.k_block)


BY_BLOCK = (Sparge, SparseD, Rectified, Lite, BiFormer, Hip, Dhsa, Dma, TopBlocks)
