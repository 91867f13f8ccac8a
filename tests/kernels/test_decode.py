"""``decode`` against float64 attention of each sequence by itself: pages, windows, shared prefix, splits,
GQA.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from attncast.kernels import decode, merge_states
from attncast.kernels.reference import attention_reference, band_mask
from attncast.tests.kernels.helpers import assert_attention_close, assert_lse_close, draw

BATCH, PAGE = 2, 16


def make(device, dtype, heads, kv_heads, tokens, keys, dim, v_dim=None):
    q = draw((BATCH, heads, tokens, dim), dtype, device, 0)
    k = draw((BATCH, kv_heads, keys, dim), dtype, device, 1)
    v = draw((BATCH, kv_heads, keys, v_dim or dim), dtype, device, 2)
    return q, k, v


def paged(k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scatter contiguous caches over shuffled pages; unused page space holds NaN, which must never be read
    into.
    """
    batch, kv_heads, keys, _ = k.shape
    per_sequence = -(-keys // PAGE)
    table = torch.randperm(batch * per_sequence + 3, generator=torch.Generator().manual_seed(0)).int().to(k.device)
    table = table[: batch * per_sequence].view(batch, per_sequence).contiguous()
    pools = []
    for source in (k, v):
        pool = torch.full((batch * per_sequence + 3, PAGE, kv_heads, source.shape[-1]), torch.nan, dtype=k.dtype)
        pool = pool.to(k.device)
        for b, n in itertools.product(range(batch), range(keys)):
            pool[table[b, n // PAGE], n % PAGE] = source[b, :, n]
        pools.append(pool)
    return pools[0], pools[1], table


def expected(q, k, v, lengths, prefix, window, causal):
    parts = []
    for b in range(BATCH):
        keys, values = (t[b : b + 1, :, : int(lengths[b])] for t in (k, v))
        if prefix is not None:
            keys, values = (torch.cat([p[None], t], 2) for p, t in zip(prefix, (keys, values), strict=True))
        mask = band_mask(q.shape[2], keys.shape[2], window, 0 if causal else None).to(q.device)
        out, lse = attention_reference(q[b : b + 1], keys, values, mask)
        weighted, _ = attention_reference(q[b : b + 1], keys, values.double().abs(), mask)
        parts.append((out, lse, weighted))
    return (torch.cat(column) for column in zip(*parts, strict=True))


# heads, KV heads, tokens, dim, dtype, lengths, paged, prefix, window, causal, splits
CASES = [
    (4, 1, 1, 64, torch.bfloat16, (200, 77), False, 0, None, True, None),
    (4, 2, 1, 128, torch.float16, (131, 9), True, 0, None, True, 2),
    (2, 2, 3, 96, torch.float16, (150, 150), True, 0, 20, True, 3),
    (8, 2, 1, 64, torch.bfloat16, (100, 40), True, 70, None, True, None),
    (2, 1, 5, 64, torch.float16, (90, 33), False, 65, 50, True, 2),
    (2, 1, 2, 64, torch.float16, (100, 5), False, 40, None, False, 1),
    (1, 1, 1, 256, torch.bfloat16, (70, 1), False, 0, 0, True, 1),
    (24, 1, 4, 64, torch.float32, (70, 65), False, 33, 60, True, 2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(x).removeprefix("torch.") for x in c))
def test_against_the_reference(device, case):
    heads, kv_heads, tokens, dim, dtype, lengths, is_paged, prefix_len, window, causal, splits = case
    q, k, v = make(device, dtype, heads, kv_heads, tokens, max(lengths), dim)
    prefix = None
    if prefix_len:
        prefix = tuple(draw((kv_heads, prefix_len, dim), dtype, device, seed) for seed in (3, 4))
    out, lse, weighted = expected(q, k, v, lengths, prefix, window, causal)
    table = None
    if is_paged:
        k, v, table = paged(k, v)
    counts = torch.tensor(lengths, dtype=torch.int32, device=device)
    got, got_lse = decode(
        q, k, v, lengths=counts, block_table=table, prefix=prefix, window=window, causal=causal,
        splits=splits, return_lse=True,
    )  # fmt: skip
    assert got.dtype == dtype
    # With splits the states between the passes are float32: only the weights and the result are rounded.
    assert_attention_close(got, out, weighted, dtype)
    assert_lse_close(got_lse, lse)


def test_a_sequence_without_keys(device):
    q, k, v = make(device, torch.float16, 2, 1, 1, 40, 64)
    lengths = torch.tensor([0, 40], dtype=torch.int32, device=device)
    for splits in (1, 3):
        out, lse = decode(q, k, v, lengths=lengths, splits=splits, return_lse=True)
        assert (out[0] == 0).all()
        assert (lse[0] == -torch.inf).all()
        assert out[1].isfinite().all()
        assert (out[1] != 0).any()


def test_merging_states_is_attention_over_the_union(device):
    q, k, v = make(device, torch.float32, 2, 2, 3, 60, 64)
    cuts = [(0, 7), (7, 7), (7, 40), (40, 60)]
    states, lses = [], []
    for low, high in cuts:
        if low == high:
            states.append(torch.zeros_like(q))
            lses.append(torch.full(q.shape[:3], -torch.inf, device=device))
            continue
        out, lse = attention_reference(q, k[:, :, low:high], v[:, :, low:high])
        states.append(out.float())
        lses.append(lse.float())
    out, lse = merge_states(torch.stack(states), torch.stack(lses))
    whole, whole_lse = attention_reference(q, k, v)
    torch.testing.assert_close(out.double(), whole, rtol=1e-5, atol=1e-5)
    assert_lse_close(lse, whole_lse)
    out, lse = merge_states(torch.stack(states)[1:2].repeat(20, 1, 1, 1, 1), torch.stack(lses)[1:2].repeat(20, 1, 1, 1))
    assert (out == 0).all()
    assert (lse == -torch.inf).all()


def test_bad_arguments_are_named(device):
    q, k, v = make(device, torch.float16, 4, 2, 1, 32, 64)
    table = torch.zeros((BATCH, 2), dtype=torch.int32, device=device)
    pages = torch.zeros((4, PAGE, 2, 64), dtype=torch.float16, device=device)
    lengths = torch.tensor([3, 4], dtype=torch.int32, device=device)
    for arguments, options, message in [
        ((q, k, v[:, :1]), {}, "v: expected 2 along kv_heads"),
        ((q, k[..., :32], v), {}, "k: expected 64 along dim"),
        ((q, pages, pages), {"block_table": table}, "lengths: expected the number of keys"),
        (
            (q, pages, pages),
            {"block_table": table.long(), "lengths": lengths},
            "block_table: expected dtype int32",
        ),
        ((q, k, v), {"lengths": lengths[:1]}, "lengths: expected 2 along batch"),
        ((q, k, v), {"prefix": (k[0, :1], v[0, :1])}, "prefix.0.: expected 2 along kv_heads"),
        ((q, k, v), {"window": -1}, "window: expected a number of tokens"),
        ((q, k, v), {"splits": 0}, "splits: expected 1 or more"),
        ((q[:, :3], k, v), {}, "k: expected a number of heads that divides the 3 of q"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode(*arguments, **options)
    with pytest.raises(ValueError, match="lse: expected shape"):
        merge_states(torch.zeros(2, 3, 8, device=device), torch.zeros(2, 4, device=device))
