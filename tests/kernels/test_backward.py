"""``attention_backward`` against autograd through the float64 reference."""

from __future__ import annotations

import pytest
import torch

from attncast.kernels import BlockLists, ForwardConfig, attention, attention_backward
from attncast.kernels.masks import causal_mask, neighborhood_mask
from attncast.kernels.reference import attention_reference, band_mask, neighborhood_reference
from attncast.kernels.sparse import plan
from attncast.tests.kernels.helpers import assert_gradient_close, draw


def check(q, k, v, pairs=None, configs=None, **arguments):
    out, lse = attention(q, k, v, return_lse=True, **arguments)
    grad = draw(tuple(out.shape), q.dtype, str(q.device), 9)
    results = attention_backward(grad, q, k, v, out, lse, configs=configs, **arguments)
    leaves = [t.double().requires_grad_() for t in (q, k, v)]
    pairs = None if pairs is None else pairs.to(q.device)
    expected, _ = attention_reference(*leaves, pairs)
    expected.backward(grad.double())
    for result, leaf, operand in zip(results, leaves, (q, k, v), strict=True):
        assert result.shape == operand.shape
        assert_gradient_close(result, leaf.grad, q.dtype)
    return results


def operands(device, dtype, heads, kv_heads, queries, keys, dim, v_dim, batch=1):
    q = draw((batch, heads, queries, dim), dtype, device, 0)
    k = draw((batch, kv_heads, keys, dim), dtype, device, 1)
    v = draw((batch, kv_heads, keys, v_dim), dtype, device, 2)
    return q, k, v


@pytest.mark.parametrize(
    ("shape", "dtype", "window"),
    [
        ((2, 2, 64, 64, 64, 64), torch.float16, (None, None)),
        ((2, 1, 45, 77, 128, 128), torch.bfloat16, (None, 0)),
        ((3, 1, 70, 33, 64, 96), torch.float16, (None, 0)),
        ((1, 1, 50, 95, 96, 64), torch.float32, (10, 3)),
        ((1, 1, 33, 40, 256, 256), torch.bfloat16, (None, 0)),
        ((2, 2, 90, 60, 64, 64), torch.float16, (5, None)),
    ],
)
def test_bands(device, shape, dtype, window):
    q, k, v = operands(device, dtype, *shape)
    check(q, k, v, band_mask(q.shape[2], k.shape[2], *window), window=window)


def test_packed_masks_and_empty_rows(device):
    q, k, v = operands(device, torch.float16, 2, 1, 101, 113, 64, 64)
    mask = torch.rand((1, 2, 101, 113), generator=torch.Generator().manual_seed(3)) < 0.1
    mask[..., 64:96] = True
    mask[..., 30:70, :] = False
    mask[..., 100:] = False  # and keys that nobody sees
    blocks = BlockLists.from_mask(mask, (32, 32)).to(device)
    dq, dk, dv = check(q, k, v, mask, blocks=blocks)
    assert (dq[:, :, 30:70] == 0).all()
    assert (dk[:, :, 100:] == 0).all()
    assert (dv[:, :, 100:] == 0).all()


def test_blocks_larger_than_tiles(device):
    q, k, v = operands(device, torch.float16, 1, 1, 70, 90, 64, 64)
    mask = band_mask(70, 90, 40, -5)
    blocks = BlockLists.from_mask(mask, (64, 64)).to(device)
    check(q, k, v, mask, blocks=blocks, configs=(ForwardConfig(32, 16, 4, 1), ForwardConfig(16, 32, 4, 1)))


def test_a_mask_function_over_lists(device):
    q, k, v = operands(device, torch.bfloat16, 2, 2, 80, 80, 64, 64)
    live = torch.ones((3, 3)).tril().bool()
    blocks = BlockLists.from_maps(live, torch.ones((3, 3)).tril(-1).bool(), (32, 32), (80, 80)).to(device)
    check(q, k, v, band_mask(80, 80, None, 0), blocks=blocks, mask=causal_mask)


def test_a_neighborhood_on_permuted_tokens(device):
    """The lists and the mask of ``sparse_attention``'s plan; here on tokens already in the tiled order."""
    made = plan("na window=4x6 stride=2x2", (8, 8), (4, 4), (4, 8), device)
    q, k, v = operands(device, torch.float16, 1, 1, 64, 64, 64, 64)
    rows, columns = (torch.from_numpy(layout.source.copy()) for layout in (made.queries, made.keys))
    mask = neighborhood_reference((8, 8), (4, 6), (2, 2), (1, 1), (False, False))[rows][:, columns]
    assert made.blocks.has_partial
    check(q, k, v, mask, blocks=made.blocks, mask=neighborhood_mask, mask_args=made.mask_args)


def test_results_repeat_bit_for_bit(device):
    q, k, v = operands(device, torch.float16, 2, 1, 64, 64, 64, 64)
    first, second = (check(q, k, v, band_mask(64, 64, None, 0), causal=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_bad_arguments_are_named(device):
    q, k, v = operands(device, torch.float16, 2, 2, 32, 32, 64, 64)
    out, lse = attention(q, k, v, return_lse=True)
    for arguments, message in [
        ((out[..., :8], q, k, v, out, lse), "grad_out: expected 64 along v_dim"),
        ((out, q, k, v, out, lse.half()), "lse: expected dtype float32"),
        ((out, q, k, v, out.float(), lse), "out: expected dtype float16"),
        ((out, q, k, v, out, lse[:, :1]), "lse: expected 2 along heads"),
    ]:
        with pytest.raises(ValueError, match=message):
            attention_backward(*arguments)
