"""``linear_attention`` against the quadratic sum in float64."""

from __future__ import annotations

import pytest
import torch

from attncast.kernels import linear_attention
from attncast.kernels.reference import linear_attention_reference
from attncast.tests.kernels.helpers import draw

# heads, KV heads, tokens, dim, V dim, dtype, causal, decay, segments
CASES = [
    (2, 1, 200, 64, 64, torch.float32, True, False, None),
    (2, 2, 130, 64, 64, torch.bfloat16, True, True, None),
    (4, 2, 300, 64, 40, torch.float16, True, True, 3),
    (1, 1, 65, 128, 128, torch.bfloat16, True, False, 2),
    (1, 1, 63, 256, 64, torch.float16, True, True, None),
    (2, 1, 150, 96, 64, torch.bfloat16, False, False, None),
    (1, 1, 257, 64, 64, torch.float16, False, False, 2),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(str(x).removeprefix("torch.") for x in c))
def test_against_the_quadratic_sum(device, case):
    heads, kv_heads, tokens, dim, v_dim, dtype, causal, has_decay, segments = case
    q = draw((1, heads, tokens, dim), dtype, device, 0)
    k = draw((1, kv_heads, tokens, dim), dtype, device, 1)
    v = draw((1, kv_heads, tokens, v_dim), dtype, device, 2)
    # From none at all to a decay that forgets within a few tokens, and underflows within a chunk.
    decay = torch.tensor([0.0, 0.02, 0.5, 9.0], device=device)[-heads:] if has_decay else None
    out = linear_attention(q, k, v, causal=causal, decay=decay, scale=0.1, segments=segments)
    expected = linear_attention_reference(q, k, v, causal, decay, 0.1)
    # Scores or decayed keys are rounded to dtype, the output too (half an eps each; the interpreter truncates
    # to bf16, a whole one), the state to tf32 on a GPU: within 2.1 eps of the sum of magnitudes, whatever
    # cancels in it.
    magnitude = linear_attention_reference(q.double().abs(), k.double().abs(), v.double().abs(), causal, decay, 0.1)
    eps = torch.finfo(dtype).eps * (32 if dtype == torch.float32 else 2.1)
    difference = (out.double() - expected).abs()
    assert not out.isnan().any()
    assert (difference <= eps * magnitude + 1e-6).all(), f"off by {(difference / magnitude).max():.3g} of the magnitude"


def test_cross_attention_lengths_differ_when_not_causal(device):
    q = draw((1, 2, 33, 64), torch.float32, device, 0)
    k, v = (draw((1, 1, 100, 64), torch.float32, device, i) for i in (1, 2))
    out = linear_attention(q, k, v, causal=False)
    expected = linear_attention_reference(q, k, v, False, None, 1.0)
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-2)


def test_bad_arguments_are_named(device):
    q, k, v = (draw((1, 2, 32, 64), torch.float16, device, i) for i in range(3))
    decay = torch.zeros(2, device=device)
    for arguments, options, message in [
        ((q[:, :, :8], k, v), {}, "k: expected 8 keys, as many as queries, when causal, got 32"),
        ((q, k, v), {"decay": decay, "causal": False}, "decay: expected None unless causal"),
        ((q, k, v), {"decay": decay[:1]}, "decay: expected 2 along heads"),
        ((q, k, v), {"decay": decay.half()}, "decay: expected dtype float32"),
        ((q, k, v), {"segments": 0}, "segments: expected 1 or more"),
        ((q, k, v), {"scale": float("nan")}, "scale: expected a finite number"),
        ((q, k.half().int(), v), {}, "k: expected dtype float16"),
    ]:
        with pytest.raises(ValueError, match=message):
            linear_attention(*arguments, **options)
