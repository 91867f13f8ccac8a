"""``sparse_attention``: patterns by name against a brute-force mask, and the tile maps against counting
pairs.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from attncast.kernels import ForwardConfig, sparse_attention
from attncast.kernels.neighborhood import Axis, axis_tiles, choose_tiles, parse_pattern
from attncast.kernels.reference import attention_reference, band_mask, neighborhood_reference
from attncast.kernels.sparse import plan
from attncast.tests.kernels.helpers import assert_attention_close, assert_lse_close, draw

SMALL = ForwardConfig(32, 32, 4, 1)


def brute(text: str, grid: tuple[int, ...]) -> torch.Tensor:
    axes = parse_pattern(text, grid).axes
    columns = zip(*((a.window, a.stride, a.dilation, a.causal) for a in axes), strict=True)
    return neighborhood_reference(grid, *columns)


# pattern, grid, Q tile, KV tile, heads: strides, dilation, causal axes, ragged grids, unequal tiles, GQA.
CASES = [
    ("na window=32 stride=8", (96,), (32,), (32,), (1, 1)),
    ("na window=7", (50,), (16,), (32,), (2, 1)),
    ("na window=4x6 stride=2x1 dilation=2x2 causal=1x0", (8, 12), (4, 8), (4, 4), (1, 1)),
    ("na window=5x5", (9, 11), (4, 4), (4, 8), (1, 1)),
    ("na window=2x4x4 stride=1x4x4", (4, 8, 8), (2, 4, 4), (2, 4, 4), (2, 1)),
    ("na window=3x2x5 stride=2x1x2 causal=1x0x0", (3, 4, 5), (2, 4, 4), (2, 2, 4), (1, 1)),
]


@pytest.mark.parametrize(("text", "grid", "q_tile", "kv_tile", "heads"), CASES)
def test_neighborhoods(device, text, grid, q_tile, kv_tile, heads):
    tokens = math.prod(grid)
    q, k, v = (draw((1, h, tokens, 64), torch.float16, device, i) for i, h in enumerate((heads[0], heads[1], heads[1])))
    out, lse = sparse_attention(q, k, v, text, grid, q_tile=q_tile, kv_tile=kv_tile, return_lse=True, config=SMALL)
    mask = brute(text, grid).to(device)
    expected, expected_lse = attention_reference(q, k, v, mask)
    weighted, _ = attention_reference(q, k, v.double().abs(), mask)
    assert_attention_close(out, expected, weighted, torch.float16)
    assert_lse_close(lse, expected_lse)


@pytest.mark.parametrize(
    ("text", "band"), [("dense", (None, None)), ("causal", (None, 0)), ("window left=20 right=3", (20, 3))]
)
def test_bands_by_name(device, text, band):
    q, k, v = (draw((1, 1, 70, 64), torch.float16, device, i) for i in range(3))
    mask = band_mask(70, 70, *band).to(device)
    expected, _ = attention_reference(q, k, v, mask)
    weighted, _ = attention_reference(q, k, v.double().abs(), mask)
    assert_attention_close(sparse_attention(q, k, v, text), expected, weighted, torch.float16)


def test_axis_tiles_against_counting_pairs():
    """Every axis of up to 13 tokens: windows, strides, dilations, causal or not, unequal tiles."""
    for length, window, stride, dilation, causal in itertools.product(
        (5, 8, 13), (1, 3, 4), (1, 2, 4), (1, 2, 3), (False, True)
    ):
        if stride > window or window * dilation > length:
            continue
        mask = neighborhood_reference((length,), (window,), (stride,), (dilation,), (causal,)).numpy()
        for q_tile, kv_tile in ((2, 4), (4, 2), (8, 1)):
            live, full = axis_tiles(Axis(length, window, stride, dilation, causal), q_tile, kv_tile)
            for group in range(dilation):
                pairs = mask[group::dilation, group::dilation]
                for i, j in np.ndindex(live.shape[1:]):
                    cell = pairs[i * q_tile : (i + 1) * q_tile, j * kv_tile : (j + 1) * kv_tile]
                    assert live[group, i, j] == cell.any()
                    assert full[group, i, j] == (cell.size > 0 and cell.all() and cell.shape[1] == kv_tile)


def test_hunyuan_video_needs_no_mask():
    """30x48x80 under window 18x24x24, stride 16x8x8: perfectly block-sparse, 81 of 900 tiles for every Q
    tile.
    """
    made = plan("na window=18x24x24 stride=16x8x8", (30, 48, 80), None, None, "cpu")
    assert (made.queries.tile, made.keys.tile) == ((2, 8, 8), (2, 8, 8))
    assert not made.blocks.has_partial
    assert made.blocks.full_count.unique().tolist() == [81]
    assert made.queries.padded_tokens == 115200


def test_choose_tiles_is_the_cheapest_of_all():
    pattern = parse_pattern("na window=4x6 stride=2x1", (16, 24))
    q_tile, kv_tile = choose_tiles(pattern, 32, 16)

    def cost(q, k):
        live, full = pattern.tile_maps(q, k)
        return full.sum() + 1.5 * (live.sum() - full.sum())

    shapes = [[(1 << e, n >> e) for e in range(n.bit_length())] for n in (32, 16)]
    assert cost(q_tile, kv_tile) == min(cost(q, k) for q in shapes[0] for k in shapes[1])


def test_bad_patterns_are_quoted(device):
    q, k, v = (draw((1, 1, 64, 64), torch.float16, device, i) for i in range(3))
    for text, arguments, message in [
        ("banded", {}, "unknown pattern 'banded'"),
        ("causl", {}, "did you mean 'causal'"),
        ("na stride=2", {}, "'na stride=2': expected window=..."),
        ("na window=4x4", {}, "expected 1 sizes for window, one per axis of grid"),
        ("na window=four", {}, "expected window=<whole numbers joined by x>, got 'window=four'"),
        ("na window=80", {}, "window=80 .* on an axis of 64 tokens"),
        ("na window=4 stride=5", {}, "stride=5: expected 1 <= stride <= window=4"),
        ("na window=4x4", {"grid": (8, 9)}, r"q: expected 72 tokens for grid \(8, 9\), got 64"),
        ("na window=4", {"q_tile": (24,), "kv_tile": (16,)}, "q_tile=.*multiple of 16 tokens"),
        ("window left=1x2", {}, "expected one number for left"),
        ("causal", {"q_tile": (16,)}, "no tile shapes"),
    ]:
        with pytest.raises(ValueError, match=message):
            sparse_attention(q, k, v, text, **arguments)
