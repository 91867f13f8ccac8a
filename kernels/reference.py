"""Plain PyTorch in float64: what every kernel must compute. Slow, small, and without a tile anywhere."""

from __future__ import annotations

import itertools
import math

import torch


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (out, lse) in float64 of q [b, h, m, d], k [b, hk, n, d], v [b, hk, n, e]; mask bool, broadcast
    to scores.

    A query without a key gives 0 and -inf.
    """
    group = q.shape[1] // k.shape[1]
    q, k, v = (t.double() for t in (q, k, v))
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None].masked_fill(lse[..., None] == -math.inf, 0.0)).exp()
    return weights @ v, lse


def rounding_bound(expected: torch.Tensor, weighted: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return how far a 16-bit kernel may be from float64, element by element.

    It rounds the softmax weights and the output, each by at most an eps of ``dtype`` (half of it where it does
    not truncate); the weights move the output by at most that part of ``weighted``, the output for |v|. 5%
    more are for float32 sums.
    """
    return 1.05 * torch.finfo(dtype).eps * (weighted + expected.abs()) + 1e-6


def band_mask(queries: int, keys: int, left: int | None, right: int | None) -> torch.Tensor:
    """Return bool [queries, keys]: key j for query i when i + keys - queries - left <= j <= i + keys -
    queries + right.
    """
    distance = torch.arange(keys) - torch.arange(queries)[:, None] - (keys - queries)
    mask = torch.ones((queries, keys), dtype=torch.bool)
    if left is not None:
        mask &= distance >= -left
    if right is not None:
        mask &= distance <= right
    return mask


def neighborhood_reference(
    grid: tuple[int, ...],
    window: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    causal: tuple[bool, ...],
) -> torch.Tensor:
    """Return bool [tokens, tokens] of neighborhood attention, one query and one axis at a time."""
    tables = []
    for length, w, s, d, is_causal in zip(grid, window, stride, dilation, causal, strict=True):
        table = torch.zeros((length, length), dtype=torch.bool)
        for query in range(length):
            members = [t for t in range(length) if t % d == query % d]
            i, size = members.index(query), len(members)
            if is_causal:
                leader = min(i // s * s + s - 1, size - 1)
                keys = range(max(leader - w + 1, 0), i + 1)
            else:
                leader = min(i // s * s + s // 2, size - 1)
                start = min(max(leader - w // 2, 0), size - w)
                keys = range(start, start + w)
            table[query, [members[j] for j in keys]] = True
        tables.append(table)
    mask = torch.ones((1, 1), dtype=torch.bool)
    for table in tables:
        mask = torch.kron(mask.int(), table.int()).bool()
    return mask


def permute_reference(x: torch.Tensor, grid: tuple[int, ...], tile: tuple[int, ...]) -> torch.Tensor:
    """Return x [..., tokens, d] with tiles contiguous, padded with zeros; no dilation."""
    lead, dim = x.shape[:-2], x.shape[-1]
    x = x.reshape(-1, *grid, dim)
    counts = [-(-n // t) for n, t in zip(grid, tile, strict=True)]
    out = x.new_zeros((x.shape[0], math.prod(counts) * math.prod(tile), dim))
    for number, corner in enumerate(itertools.product(*map(range, counts))):
        for place, inner in enumerate(itertools.product(*map(range, tile))):
            at = [c * t + i for c, t, i in zip(corner, tile, inner, strict=True)]
            if all(a < n for a, n in zip(at, grid, strict=True)):
                token = x
                for a in at:  # one axis of the grid after the other
                    token = token[:, a]
                out[:, number * math.prod(tile) + place] = token
    return out.reshape(*lead, -1, dim)


def linear_attention_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, decay: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """Return float64 out_t = scale * sum over s (<= t if causal) of exp(-decay_h (t - s)) (q_t . k_s) v_s."""
    group = q.shape[1] // k.shape[1]
    q, k, v = (t.double() for t in (q, k, v))
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) * scale
    if causal:
        distance = (torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])).to(q.device)
        weight = (distance >= 0).double()
        if decay is not None:
            weight = weight * torch.exp(-decay.double()[:, None, None] * distance.clamp(min=0))
        scores = scores * weight
    return scores @ v
