"""Mask functions of the attention-gym family, written from their definitions, with PyTorch's own operations."""

from __future__ import annotations

import torch
from torch.nn.attention.flex_attention import and_masks, or_masks

LENGTH = 1024  # entries of every table
_generator = torch.Generator().manual_seed(0)
DOCUMENT = torch.sort(torch.randint(0, 9, (LENGTH,), generator=_generator)).values.to(torch.int32)
SHUFFLED = torch.randint(0, 3, (LENGTH,), generator=_generator)
OFFSETS = torch.searchsorted(DOCUMENT.contiguous(), torch.arange(10, dtype=torch.int32))
PREFIX = torch.tensor([70, 333])
SLOPES = torch.tensor([0.5, 0.25, 0.125])
SPANS = torch.tensor([16, 200, 64])
IS_GLOBAL = torch.zeros(LENGTH, dtype=torch.bool)
IS_GLOBAL[torch.tensor([0, 5, 130, 131, 600])] = True
BATCH_DOCUMENT = torch.stack([DOCUMENT, SHUFFLED.to(torch.int32)])
WIDTH = 24  # tokens in a row of the 2-D masks


def noop(b, h, q_idx, kv_idx):
    return b.new_ones(size=(), dtype=torch.bool)


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def sliding_window(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx >= 0) & (q_idx - kv_idx <= 100)


def prefix_lm(b, h, q_idx, kv_idx):
    return (kv_idx < PREFIX[b]) | (q_idx >= kv_idx)


def document(b, h, q_idx, kv_idx):
    return DOCUMENT[q_idx] == DOCUMENT[kv_idx]


causal_document = and_masks(causal, document)


def logical_document(b, h, q_idx, kv_idx):
    """attention-gym's document mask: an inner mask on positions within the document."""
    same = DOCUMENT[q_idx] == DOCUMENT[kv_idx]
    q, kv = q_idx - OFFSETS[DOCUMENT[q_idx]], kv_idx - OFFSETS[DOCUMENT[kv_idx]]
    return torch.where(same, sliding_window(b, h, q, kv), False)


def batch_document(b, h, q_idx, kv_idx):
    return (BATCH_DOCUMENT[b, q_idx] == BATCH_DOCUMENT[b][kv_idx]).logical_and(q_idx >= kv_idx)


def shuffled(b, h, q_idx, kv_idx):
    return (SHUFFLED[q_idx] == SHUFFLED[kv_idx]) & (kv_idx <= q_idx)


def dilated(b, h, q_idx, kv_idx):
    return ((q_idx - kv_idx) % 3 == 0) & ((q_idx - kv_idx).abs() <= 150)


def natten_2d(b, h, q_idx, kv_idx):
    rows = LENGTH // WIDTH
    q_x, q_y, kv_x, kv_y = q_idx // WIDTH, q_idx % WIDTH, kv_idx // WIDTH, kv_idx % WIDTH
    center_x, center_y = q_x.clamp(3, rows - 1 - 3), q_y.clamp(3, WIDTH - 1 - 3)
    return ((center_x - kv_x).abs() <= 3) & ((center_y - kv_y).abs() <= 3)


def tiled_natten_2d(b, h, q_idx, kv_idx):
    """Tokens in tiles of 4 x 8, the tiles row by row."""

    def position(index):
        tile, inside = index // 32, index % 32
        return tile // (WIDTH // 8) * 4 + inside // 8, tile % (WIDTH // 8) * 8 + inside % 8

    q_x, q_y = position(q_idx)
    kv_x, kv_y = position(kv_idx)
    center_x = torch.clamp(q_x, min=3, max=LENGTH // WIDTH - 1 - 3)
    center_y = torch.clamp(q_y, 3, WIDTH - 1 - 3)
    return (torch.abs(center_x - kv_x) <= 3) & (torch.abs(center_y - kv_y) <= 3)


def alibi_window(b, h, q_idx, kv_idx):
    """Keys whose ALiBi bias is above a bound; the slope is the head's."""
    bias = (kv_idx - q_idx) * SLOPES[h]
    return (bias >= -20.3) & causal(b, h, q_idx, kv_idx)


def sink(b, h, q_idx, kv_idx):
    return causal(b, h, q_idx, kv_idx) & ((kv_idx < 4) | (q_idx - kv_idx < 64))


def global_tokens(b, h, q_idx, kv_idx):
    return IS_GLOBAL[q_idx] | IS_GLOBAL[kv_idx] | ((q_idx - kv_idx).abs() < 32)


union = or_masks(sliding_window, dilated)
intersection = and_masks(causal, natten_2d, document)


def swin(b, h, q_idx, kv_idx):
    """Shifted windows of 6 x 6 on a grid."""
    q_x, q_y, kv_x, kv_y = q_idx // WIDTH + 3, q_idx % WIDTH + 3, kv_idx // WIDTH + 3, kv_idx % WIDTH + 3
    return (q_x // 6 == kv_x // 6) & (q_y // 6 == kv_y // 6)


def blockwise(b, h, q_idx, kv_idx):
    return (q_idx // 100) == (kv_idx // 100)


def strided(b, h, q_idx, kv_idx):
    """Sparse Transformer: the last 64 keys, and the last of each 64."""
    return (q_idx >= kv_idx) & ((q_idx - kv_idx < 64) | (kv_idx % 64 == 63))


def per_head(b, h, q_idx, kv_idx):
    return (q_idx - kv_idx).abs() <= torch.where(h == 1, SPANS[h], 8 * h)


def circle(b, h, q_idx, kv_idx):
    """CLEAR: keys within a circle, as a distance in floating point."""
    d_x, d_y = q_idx // WIDTH - kv_idx // WIDTH, q_idx % WIDTH - kv_idx % WIDTH
    return torch.sqrt((d_x * d_x + d_y**2).float()) <= 5.5


def members(b, h, q_idx, kv_idx):
    return torch.isin(kv_idx, torch.tensor([3, 77, 500])) | (q_idx == kv_idx) ^ (kv_idx & 15 == 2)


def unknown_operation(b, h, q_idx, kv_idx):
    return (torch.cos(q_idx * 0.1) > torch.sin(kv_idx * 0.3)) & (q_idx >= kv_idx) & (kv_idx >= q_idx - 200)


def unknown_reduction(b, h, q_idx, kv_idx):
    return (PREFIX[None, :] <= q_idx).any() & (q_idx >= kv_idx)


MASKS = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and not name.startswith("_") and getattr(value, "__module__", "").endswith(("zoo", "flex_attention"))
    and name not in ("and_masks", "or_masks")
}  # fmt: skip
