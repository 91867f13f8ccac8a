"""Radial Attention: reach among the tokens of two frames falls with their distance; shrunk to blocks or by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ...errors import InputError
from ..workload import Grid, Workload
from .engine import Piece, Rule
from .local import with_text
from .relations import Bools, Interval, Relation, Table
from .spec import MAX_BLOCKS, Group, Static, check_layout, flag, number, parameter, whole
from .tokens import Layout, Segment

HIGH_DENSITY = 1 / 3  # a column of a block counts as dense above this share of its rows
KEPT_SHARE = 0.6  # a block is kept when more than this share of its non-empty columns is dense


@dataclass(frozen=True)
class Radial(Static):
    """Video tokens in frames of S; d = distance of two frames, g = bit length of d, R = 2^bit_length(S) / 2^g.

    d <= 1: all pairs. Farther: pairs of tokens |k - l| <= max(block, R * decay), of frame pairs with R >= block or d a
    multiple of floor(block / R). Sink: all keys of frame 0. Text tokens attend and are attended by everything.

    Shrunk (what the kernel runs): a block is kept when more than 60% of its non-empty columns are kept by more than
    1/3 of its rows, frame pair by frame pair; a ragged last block is kept.
    """

    name: ClassVar[str] = "radial"
    group: ClassVar[Group] = "global"
    about: ClassVar[str] = "reach among tokens falls with the distance of their frames; far frame pairs thinned out"
    source: ClassVar[str] = "Radial Attention, arXiv 2506.19852, mit-han-lab/radial-attention radial_attn/attn_mask.py"

    frames: int = parameter("frames of the video", whole(1, 65536))
    tokens: int = parameter("tokens of a frame", whole())
    decay: float = parameter("decay factor of the reach (0.95 HunyuanVideo, 0.2 Wan)", number(1e-6, 1e6, 0.95), 1.0)
    sink: bool = parameter("1: all attend the first frame (Wan)", flag, False)
    text: int = parameter("text tokens, after the video", whole(0), 0)
    block: int = parameter("block of the rule and of the kernel, tokens", whole(), 128)
    shrink: bool = parameter("1: whole blocks, as the kernel runs it; 0: the rule token by token", flag, True)

    @property
    def axes(self) -> int:
        """Coordinates that masking one score has to compare: blocks by index, or frame and place."""
        return 1 if self.shrink else 2

    @property
    def own_grid(self) -> Grid | None:
        """Tokens that the pattern itself asks for."""
        return (self.frames * self.tokens + self.text,)

    def reach(self, distance: int) -> float | None:
        """Largest |k - l| kept between frames at a distance, tokens; None when the frame pair is left out."""
        if distance <= 1:
            return float(self.tokens)
        span = float(2 ** self.tokens.bit_length()) / float(2 ** distance.bit_length())
        if span < self.block and distance % int(self.block / span):
            return None
        return max(float(self.block), span * self.decay)

    def rule(self, workload: Workload) -> Rule:
        """Which pairs are kept."""
        video = self.frames * self.tokens
        if self.shrink:
            layout: Layout = (Segment((video,)),)
        else:
            layout = (Segment((self.frames, self.tokens)),)
        if self.text:
            layout += (Segment((self.text,)),)
        check_layout(self, layout, workload.tokens, "queries")
        check_layout(self, layout, workload.kv_tokens, "keys")
        if not self.shrink:
            return with_text(layout, tuple(self._bands()))
        if -(-video // self.block) > MAX_BLOCKS:
            raise InputError(f"pattern '{self}' makes more than {MAX_BLOCKS:,} blocks: expected a larger block")
        table = Table(0, self.blocks(), video, video, self.block, self.block)
        return with_text(layout, (Piece((table,)),))

    def _bands(self) -> list[Piece]:
        """One piece per width of the band, on (frame, place)."""
        frames = np.arange(self.frames)
        distance = abs(frames[:, None] - frames[None])
        reaches = [self.reach(d) for d in range(self.frames)]
        pieces = []
        for width in sorted({reach for reach in reaches if reach is not None}):
            keep = np.array([reach == width for reach in reaches])[distance]
            if self.sink:
                keep[:, 0] = False
            i, w = np.arange(self.tokens), int(width)
            band = Interval(1, np.maximum(i - w, 0), np.minimum(i + w + 1, self.tokens))
            pieces.append(Piece(_frames(keep, self.frames, band)))
        if self.sink:
            keep = np.broadcast_to(frames[None] == 0, (self.frames, self.frames))
            pieces.append(Piece((Table(0, keep, self.frames, self.frames),)))
        return pieces

    def blocks(self) -> Bools:
        """Kept blocks of the video, shape (blocks, blocks)."""
        size, tokens = self.block, self.tokens
        count = -(-self.frames * tokens // size)
        keep = np.zeros((count, count), dtype=bool)
        shrunk: dict[tuple[float, int, int], Bools] = {}
        for i in range(self.frames):
            for j in range(self.frames):
                reach = float(tokens) if self.sink and j == 0 else self.reach(abs(i - j))
                if reach is None:
                    continue
                key = (min(reach, float(tokens)), i * tokens % size, j * tokens % size)
                if key not in shrunk:
                    shrunk[key] = self._shrunk(*key)
                top, left = i * tokens // size, j * tokens // size
                part = shrunk[key][: count - top, : count - left]
                keep[top : top + part.shape[0], left : left + part.shape[1]] |= part
        if self.frames * tokens % size:
            keep[-1], keep[:, -1] = True, True
        return keep

    def _shrunk(self, reach: float, above: int, before: int) -> Bools:
        """Blocks of one frame pair that starts ``above`` rows and ``before`` columns into its first block."""
        size, tokens = self.block, self.tokens
        # As many blocks as the code looks at: it pads the frame to whole blocks after the offset, and drops the rest.
        rows, columns = ((rest + -(-tokens // size) * size) // size for rest in (above, before))
        top = np.arange(rows)[:, None] * size - above
        key = np.arange(columns * size)[None] - before
        w = int(reach)
        kept = np.minimum(np.minimum(top + size, tokens), key + w + 1) - np.maximum(np.maximum(top, 0), key - w)
        kept = np.where((key >= 0) & (key < tokens), np.maximum(kept, 0), 0).reshape(rows, columns, size)
        dense, some = (kept / size > HIGH_DENSITY).sum(axis=2), (kept > 0).sum(axis=2)
        return np.asarray(dense / (some + 1e-9) > KEPT_SHARE)


def _frames(keep: Bools, frames: int, band: Interval) -> tuple[Relation, ...]:
    return Table(0, keep, frames, frames), band
