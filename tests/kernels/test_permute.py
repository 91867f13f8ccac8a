"""Tiles made contiguous, against a loop over tiles; and back."""

from __future__ import annotations

import math

import pytest
import torch

from attncast.kernels import TokenLayout, permute_tokens, unpermute_tokens
from attncast.kernels.reference import permute_reference
from attncast.tests.kernels.helpers import draw

# grid, tile, dim, dtype: axes the tiles divide and axes they do not, one to three of them.
CASES = [
    ((96,), (32,), 64, torch.float16),
    ((45,), (16,), 96, torch.bfloat16),
    ((9, 11), (4, 4), 24, torch.float32),
    ((6, 8, 8), (2, 4, 4), 128, torch.bfloat16),
    ((5, 6, 7), (2, 4, 4), 64, torch.float8_e4m3fn),
    ((3, 1, 10), (2, 1, 4), 256, torch.float16),
]


@pytest.mark.parametrize(("grid", "tile", "dim", "dtype"), CASES)
def test_against_a_loop_over_tiles(device, grid, tile, dim, dtype):
    x = draw((2, 3, math.prod(grid), dim), dtype, device, 0)
    tiled = permute_tokens(x, grid, tile)
    assert tiled.is_contiguous()
    expected = permute_reference(x.float(), grid, tile)
    assert torch.equal(tiled.float(), expected)
    assert torch.equal(unpermute_tokens(tiled, grid, tile).float(), x.float())


@pytest.mark.parametrize(
    ("grid", "tile", "dilation"),
    [((5, 6, 7), (2, 4, 4), (2, 1, 3)), ((130,), (32,), (3,)), ((8, 9), (4, 2), (2, 4))],
)
def test_dilation_makes_groups_contiguous(device, grid, tile, dilation):
    layout = TokenLayout(grid, tile, dilation)
    x = draw((1, 2, layout.tokens, 32), torch.float16, device, 1)
    tiled = permute_tokens(x, grid, tile, dilation)
    source = torch.from_numpy(layout.source.copy()).to(device)
    assert torch.equal(tiled[:, :, source >= 0], x[:, :, source[source >= 0]])
    assert (tiled[:, :, source < 0] == 0).all()
    assert torch.equal(unpermute_tokens(tiled, grid, tile, dilation), x)
    # Every token of a tile belongs to one dilation group.
    places = source.view(-1, layout.tile_tokens)
    for tile_tokens in places:
        tokens = tile_tokens[tile_tokens >= 0].cpu()
        stride = 1
        for length, d in zip(reversed(grid), reversed(dilation), strict=True):
            assert (tokens // stride % length % d).unique().numel() <= 1
            stride *= length


def test_strided_tokens(device):
    x = draw((2, 30, 3, 64), torch.float16, device, 2).transpose(1, 2)
    assert torch.equal(permute_tokens(x, (5, 6), (4, 4)), permute_reference(x, (5, 6), (4, 4)))


def test_layout_knows_when_nothing_moves():
    assert TokenLayout((100,), (32,)).is_identity
    assert TokenLayout((4, 32), (1, 32)).is_identity
    assert not TokenLayout((4, 30), (1, 32)).is_identity
    assert not TokenLayout((64,), (32,), (2,)).is_identity


def test_bad_arguments_are_named(device):
    x = draw((1, 1, 30, 64), torch.float16, device, 3)
    for call, message in [
        (lambda: permute_tokens(x, (5, 5), (4, 4)), "x: expected 25 along tokens"),
        (lambda: unpermute_tokens(x, (5, 6), (4, 4)), "x: expected 64 along tokens"),
        (lambda: permute_tokens(x, (5, 6), (4,)), "expected one to three axes, and a tile size for each"),
        (lambda: permute_tokens(x, (5, 6), (4, 0)), "expected sizes of 1 or more"),
        (lambda: permute_tokens(x.int(), (5, 6), (4, 4)), "x: expected dtype"),
        (lambda: permute_tokens(x[0], (5, 6), (4, 4)), "x: expected 4 dimensions"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
