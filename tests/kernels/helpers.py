"""Random operands, and how far a kernel may be from the float64 reference."""

from __future__ import annotations

import torch


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int) -> torch.Tensor:
    """Standard normal numbers, rounded to ``dtype``; the reference starts from the rounded ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).to(device)


def assert_attention_close(
    out: torch.Tensor, expected: torch.Tensor, weighted: torch.Tensor, dtype: torch.dtype
) -> None:
    """Check an attention output against float64.

    The kernel rounds two things to 16 (8) bits: each softmax weight and the output, by at most half an eps of
    themselves on a GPU and a whole one under the interpreter, which truncates to bf16. The first moves the
    output by at most that part of ``weighted``, the output for |v|. 5% more are for float32 sums. In e4m3
    weights below 2**-6 are subnormal: each is off by up to 2**-10 more, against a sum of weights of 1 or
    more. Float32 keeps the weights: there the sums over keys count, a few dozen eps.
    """
    eps = torch.finfo(dtype).eps
    bound = 1.05 * eps * (weighted + expected.abs()) + 1e-6
    if dtype == torch.float32:
        bound = 64 * eps * (weighted + 1)
    if dtype == torch.float8_e4m3fn:
        bound = bound + 0.05 * weighted.amax()
    difference = (out.double() - expected).abs()
    assert not out.isnan().any()
    assert (difference <= bound).all(), f"off by {difference.max():.3g}, bound {bound.max():.3g}"


def assert_lse_close(lse: torch.Tensor, expected: torch.Tensor) -> None:
    """Log-sum-exps are float32 throughout; empty rows agree on -inf."""
    torch.testing.assert_close(lse.double(), expected, rtol=2e-6, atol=2e-5)


def assert_gradient_close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    """Check a gradient against autograd in float64.

    P, dS and the result are rounded by half an eps each, O (in delta) too: against the largest entry, four
    eps cover the sum of those errors, which mostly cancel. Float32 sums get a few dozen.
    """
    eps = torch.finfo(dtype).eps
    bound = (64 if dtype == torch.float32 else 4) * eps * max(1.0, float(expected.abs().max()))
    difference = float((actual.double() - expected).abs().max())
    assert not actual.isnan().any()
    assert difference <= bound, f"off by {difference:.3g}, bound {bound:.3g}"
