"""``attention`` against float64: bands, lists, every dtype, ragged shapes, empty rows, bad arguments."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl

from attncast.kernels import BlockLists, ForwardConfig, attention
from attncast.kernels.masks import causal_mask, document_mask
from attncast.kernels.reference import attention_reference, band_mask
from attncast.tests.kernels.helpers import assert_attention_close, assert_lse_close, draw

FP8 = torch.float8_e4m3fn


def check(q, k, v, pairs=None, **arguments):
    """Hold the kernel against the reference; ``pairs`` is the bool mask that the arguments mean."""
    if q.dtype == FP8 and q.is_cuda and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no fp8 on this GPU")
    scale = arguments.get("scale")
    out, lse = attention(q, k, v, return_lse=True, **arguments)
    pairs = None if pairs is None else pairs.to(q.device)
    expected, expected_lse = attention_reference(q, k, v, pairs, scale)
    weighted, _ = attention_reference(q, k, v.double().abs(), pairs, scale)
    assert_attention_close(out, expected, weighted, q.dtype)
    assert_lse_close(lse, expected_lse)
    return out, lse


def operands(device, dtype, heads, kv_heads, queries, keys, dim, v_dim=None, batch=1, seed=0):
    q = draw((batch, heads, queries, dim), dtype, device, seed)
    k = draw((batch, kv_heads, keys, dim), dtype, device, seed + 1)
    v = draw((batch, kv_heads, keys, v_dim or dim), dtype, device, seed + 2)
    return q, k, v


# heads, KV heads, queries, keys, dim, V dim, dtype, left, right: odd lengths, GQA, MQA, windows past either
# end.
BANDS = [
    (2, 2, 64, 64, 64, 64, torch.float16, None, None),
    (2, 1, 33, 97, 128, 128, torch.bfloat16, None, None),
    (4, 2, 61, 61, 64, 64, torch.bfloat16, None, 0),
    (3, 1, 1, 77, 96, 96, torch.float16, None, 0),
    (1, 1, 77, 40, 64, 32, torch.float16, None, 0),
    (2, 1, 75, 75, 64, 64, FP8, None, 0),
    (1, 1, 95, 99, 256, 256, torch.bfloat16, 31, 0),
    (2, 2, 70, 90, 96, 64, torch.float32, 9, 17),
    (1, 1, 100, 67, 64, 64, torch.float16, 0, 0),
    (1, 1, 40, 130, 64, 64, torch.bfloat16, 500, 3),
]


@pytest.mark.parametrize("case", BANDS, ids=lambda c: "-".join(str(x).removeprefix("torch.") for x in c))
def test_dense_causal_and_windows(device, case):
    *shape, dtype, left, right = case
    q, k, v = operands(device, dtype, *shape)
    mask = band_mask(q.shape[2], k.shape[2], left, right)
    check(q, k, v, mask, window=(left, right))


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes(device, seed):
    pick = torch.Generator().manual_seed(seed)

    def among(*values):
        return values[int(torch.randint(len(values), (), generator=pick))]

    group, kv_heads = among(1, 2, 3), among(1, 2)
    queries, keys = (int(torch.randint(1, 120, (), generator=pick)) for _ in range(2))
    dim, dtype = among(64, 96, 128, 40), among(torch.float16, torch.bfloat16)
    left, right = among(None, 0, 13, 70), among(None, 0, 5, 64)
    q, k, v = operands(device, dtype, group * kv_heads, kv_heads, queries, keys, dim, seed=seed)
    config = among(None, ForwardConfig(64, 16, 4, 1), ForwardConfig(16, 64, 4, 2, head_group=2))
    check(q, k, v, band_mask(queries, keys, left, right), window=(left, right), scale=0.3, config=config)


def test_every_knob_gives_the_same_result(device):
    q, k, v = operands(device, torch.float16, 2, 1, 70, 70, 64, batch=2)
    expected = attention(q, k, v, causal=True, config=ForwardConfig(32, 32, 4, 1))
    knobs = [{"head_group": 3}]
    if device == "cpu" or torch.cuda.get_device_capability() >= (9, 0):
        knobs += [{"use_tma": True}]
    if device == "cpu" or torch.cuda.get_device_capability() >= (10, 0):
        knobs += [{"use_tma": True, "warp_specialize": True}]
    for settings in knobs:
        out = attention(q, k, v, causal=True, config=ForwardConfig(32, 32, 4, 1, **settings))
        torch.testing.assert_close(out, expected, rtol=0, atol=2e-3)


def test_strided_operands(device):
    """Heads last in memory, as projections leave them."""
    q, k, v = (draw((2, 50, h, 64), torch.float16, device, h).transpose(1, 2) for h in (4, 2, 2))
    check(q, k, v, band_mask(50, 50, None, 0), causal=True)


def test_rows_without_a_key_are_zero(device):
    """More queries than keys, causal: the first ones see nothing, in whole tiles and inside one."""
    q, k, v = operands(device, torch.float16, 1, 1, 90, 20, 64)
    out, lse = check(q, k, v, band_mask(90, 20, None, 0), causal=True)
    assert (out[:, :, :70] == 0).all()
    assert (lse[:, :, :70] == -torch.inf).all()
    assert lse[:, :, 70:].isfinite().all()


def random_mask(heads, queries, keys, seed):
    """Sparse pairs, a full stretch, empty rows, a tile of queries without any, and tiles masked out."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand((1, heads, queries, keys), generator=generator) < 0.1
    mask[..., 64:96] = True
    mask[..., 30:70, :] = False
    mask[:, :, 70:, :32] = False
    return mask


@pytest.mark.parametrize(("dtype", "dim", "use_tma"), [(torch.float16, 64, False), (torch.bfloat16, 128, True)])
def test_packed_masks(device, dtype, dim, use_tma):
    if use_tma and device == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("no tensor descriptors on this GPU")
    q, k, v = operands(device, dtype, 2, 1, 101, 113, dim)
    mask = random_mask(2, 101, 113, 3)
    blocks = BlockLists.from_mask(mask, (32, 32)).to(device)
    assert blocks.has_full
    assert blocks.has_partial
    assert (blocks.maps()[0].sum(-1) == 0).any(), "a Q tile without any block"
    check(q, k, v, mask, blocks=blocks, config=ForwardConfig(32, 32, 4, 1, use_tma=use_tma))


def test_blocks_larger_than_tiles(device):
    q, k, v = operands(device, torch.float16, 2, 2, 130, 150, 64)
    mask = random_mask(2, 130, 150, 4)
    blocks = BlockLists.from_mask(mask, (64, 64)).to(device)
    check(q, k, v, mask, blocks=blocks, config=ForwardConfig(32, 16, 4, 1))


def test_only_full_blocks(device):
    q, k, v = operands(device, torch.float16, 1, 1, 96, 64, 64)
    table = torch.tensor([[1, 0], [0, 0], [1, 1]], dtype=torch.bool)
    blocks = BlockLists.from_maps(table, table, (32, 32), (96, 64)).to(device)
    assert not blocks.has_partial
    assert blocks.order.flatten().tolist() == [2, 0, 1]
    mask = table.repeat_interleave(32, 0).repeat_interleave(32, 1)
    check(q, k, v, mask, blocks=blocks)


@triton.jit
def every_third(batch, head, query, key, aux_ptr, ARGS: tl.constexpr):
    return (query + key + head) % ARGS[0] == 0


def test_masks_as_functions(device):
    q, k, v = operands(device, torch.float16, 2, 2, 80, 80, 64)
    every = torch.ones((3, 3), dtype=torch.bool)
    lists = BlockLists.from_maps(every, torch.zeros_like(every), (32, 32), (80, 80)).to(device)
    check(q, k, v, band_mask(80, 80, None, 0), blocks=lists, mask=causal_mask)
    place = torch.arange(80)
    mask = (place[:, None] + place + torch.arange(2)[:, None, None]) % 3 == 0
    check(q, k, v, mask, blocks=lists, mask=every_third, mask_args=(3,))
    documents = torch.arange(80, dtype=torch.int32) // 27
    mask = (documents[:, None] == documents) & band_mask(80, 80, None, 0)
    aux = documents.to(device)
    check(q, k, v, mask, blocks=lists, mask=document_mask, mask_args=(80,), aux=aux, causal=True)


def test_flex_block_mask_is_taken_over(device):
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    made = flex.create_block_mask(lambda b, h, i, j: j <= i, None, None, 96, 96, device="cpu", BLOCK_SIZE=32)
    blocks = BlockLists.from_flex(made).to(device)
    assert (int(blocks.full_count.sum()), int(blocks.part_count.sum())) == (3, 3)
    q, k, v = operands(device, torch.float16, 1, 1, 96, 96, 64)
    check(q, k, v, band_mask(96, 96, None, 0), blocks=blocks, mask=causal_mask)


def test_transposing_lists_twice_gives_them_back():
    mask = random_mask(2, 101, 113, 5)
    blocks = BlockLists.from_mask(mask, (32, 32))
    back = blocks.transposed().transposed()
    for ours, again in zip(blocks.maps(), back.maps(), strict=True):
        assert torch.equal(ours, again)
    used = torch.arange(blocks.part_index.shape[-1]) < blocks.part_count[..., None]
    assert torch.equal(blocks.part_bits[used], back.part_bits[used])


def test_bad_arguments_are_named(device):
    q, k, v = operands(device, torch.float16, 2, 2, 32, 32, 64)
    lists = BlockLists.from_maps(torch.ones(1, 1) > 0, torch.ones(1, 1) > 0, (32, 32), (32, 32)).to(device)
    odd = draw((1, 2, 32, 60), torch.float16, device, 0)
    cases = [
        ((q[0], k, v), {}, r"q: expected 4 dimensions .* got shape \(2, 32, 64\)"),
        ((q.int(), k, v), {}, "q: expected dtype float16 or bfloat16"),
        ((q, k.float(), v), {}, "k: expected dtype float16 .* got float32"),
        ((q, k[..., :32], v), {}, "k: expected 64 along dim"),
        ((q, k, v[:, :, :8]), {}, "v: expected 32 along keys"),
        ((q, k, v.transpose(2, 3).contiguous().transpose(2, 3)), {}, "v: expected unit stride along v_dim"),
        ((odd, odd, odd), {}, "q: expected a head dim that is a multiple of 8 .* got 60"),
        (
            (torch.cat([q, q[:, :1]], 1), k, v),
            {},
            "k: expected a number of heads that divides the 3 of q, got 2",
        ),
        ((q, k, v), {"scale": -1.0}, "scale: expected a positive number, got -1.0"),
        ((q, k, v), {"window": (3, -2)}, "window: expected"),
        ((q, k, v), {"mask": causal_mask}, "mask: expected block lists too"),
        (
            (q[:, :, :16], k, v),
            {"blocks": lists},
            r"blocks: expected lists per Q block for \(16, 32\) tokens",
        ),
    ]
    for tensors, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            attention(*tensors, **arguments)
    with pytest.raises(ValueError, match="block_n=24: expected a power of two"):
        ForwardConfig(block_n=24)
    with pytest.raises(ValueError, match="mask: expected a bool tensor"):
        BlockLists.from_mask(q[0, 0], (32, 32))


def test_off_a_gpu_one_sentence_says_so():
    """In a process of its own: here the interpreter may be on, and importing attncast must load no torch."""
    code = (
        "import sys, attncast.kernels as kernels\n"
        "assert 'torch' not in sys.modules and 'triton' not in sys.modules\n"
        "import torch\n"
        "q = torch.zeros(1, 1, 16, 64, dtype=torch.float16)\n"
        "for call, more in ((kernels.attention, ()), (kernels.sparse_attention, ('causal',))):\n"
        "    try:\n"
        "        call(q, q, q, *more)\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("need a CUDA GPU and q is on cpu" in line for line in lines)
