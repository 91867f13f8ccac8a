"""Every static pattern by its definition, pair by pair, in plain Python: the oracle, independent of the engine."""

from __future__ import annotations

import itertools
import random

import numpy as np


def row_major(grid):
    return list(itertools.product(*(range(length) for length in grid)))


def tiled(grid, tile):
    """Tile after tile in row-major order, tokens of a tile in row-major order."""
    return sorted(row_major(grid), key=lambda t: ([x // s for x, s in zip(t, tile, strict=True)], t))


def morton(grid):
    """Bits of the coordinates interleaved, the first axis leading."""

    def key(token):
        return [(x >> bit) & 1 for bit in range(16, -1, -1) for x in token]

    return sorted(row_major(grid), key=key)


def mask_of(queries, keys, keep):
    return np.array([[bool(keep(q, k)) for k in keys] for q in queries], dtype=bool)


def causal_position(i, queries, keys):
    return i + keys - queries


# Each function returns keep(q, k) on coordinates (grids) or token numbers (sequences).


def swin(grid, window, shift):
    def region(x, length, w):
        # Which window the token is in after the cyclic shift, and on which side of the wrap it came from.
        rolled = (x - shift) % length if length % w == 0 else None
        if rolled is None:
            edges = list(range(shift - w, length + w, w))
            return max(i for i, b in enumerate(edges) if b <= x)
        return rolled // w, x < shift

    return lambda q, k: all(region(a, n, w) == region(b, n, w) for a, b, n, w in zip(q, k, grid, window, strict=True))


def blocked(block):
    return lambda q, k: all(a // s == b // s for a, b, s in zip(q, k, block, strict=True))


def maxvit_grid(grid, size):
    # Reshape (G, H/G): the token's place inside its stretch of H/G is what a group shares.
    return lambda q, k: all(a % (n // size) == b % (n // size) for a, b, n in zip(q, k, grid, strict=True))


def axial(along):
    return lambda q, k: any(
        all(a == b for axis, (a, b) in enumerate(zip(q, k, strict=True)) if axis != free) for free in along
    )


def freeswim(grid, high, wide):
    def inside(a, b, reach, length):
        low, up = max(reach - a, 0), max(reach + a - length + 1, 0)
        return a - reach - up <= b <= a + reach + low

    return lambda q, k: inside(q[1], k[1], high, grid[1]) and inside(q[2], k[2], wide, grid[2])


def clear(radius):
    """Text tokens are None."""
    return lambda q, k: q is None or k is None or (q[0] - k[0]) ** 2 + (q[1] - k[1]) ** 2 < radius**2


def scale_dit(radius, window, scale, near, low_radius):
    """Tokens are (kind, y, x)."""

    def keep(q, k):
        kinds = q[0] + k[0]
        if kinds == "hh":
            return abs(q[1] - k[1]) <= radius and abs(q[2] - k[2]) <= radius
        if kinds == "ll":
            return abs(q[1] - k[1]) <= low_radius and abs(q[2] - k[2]) <= low_radius
        if kinds == "hl":
            small = window // scale
            return all(abs(k[a] // small - q[a] // window) <= near for a in (1, 2))
        return kinds in ("ht", "tt", "th")

    return keep


def mvar(q_grid, k_grid, window):
    def inside(a, b, queries, keys):
        size = min(window, keys)
        centre = int((a + 0.5) / queries * keys + 1e-9)
        start = min(max(centre - size // 2, 0), keys - size)
        return start <= b < start + size

    return lambda q, k: all(inside(a, b, n, m) for a, b, n, m in zip(q, k, q_grid, k_grid, strict=True))


def streaming(sink, window):
    return lambda p, k: k <= p and (k < sink or p - k < window)


def dilated(reach, step, causal):
    return lambda p, k: abs(p - k) <= reach and abs(p - k) % step == 0 and (k <= p or not causal)


def strided(step):
    return lambda p, k: p - k >= 0 and (p - k <= step or (p - k) % step == 0)


def fixed(step, summary):
    return lambda p, k: k <= p and (k // step == p // step or k % step >= step - summary)


def longformer(window, tokens):
    return lambda p, k: p < tokens or k < tokens or abs(p - k) <= window // 2


def power(block, window, sink):
    def keep(p, k):
        x = p // block - k // block
        return k <= p and (x == 0 or bin(x).count("1") == 1 or x < window or k // block < sink)

    return keep


def prefix_lm(prefix):
    return lambda p, k: k < prefix or k <= p


def documents(lengths, causal):
    owner = [i for i, n in enumerate(lengths) for _ in range(n)]
    return lambda p, k: owner[p] == owner[k] and (k <= p or not causal)


def shared_prefix(prefix, lengths):
    owner = [-1] * prefix + [i for i, n in enumerate(lengths) for _ in range(n)]
    return lambda p, k: k <= p and (k < prefix or owner[p] == owner[k])


def parallel_context(sink, lengths, total):
    owner = [-1] * sink + [i for i, n in enumerate(lengths) for _ in range(n)]
    owner += [len(lengths)] * (total - len(owner))
    return lambda p, k: k <= p and (k < sink or owner[p] == owner[k] or owner[p] == len(lengths))


def radial_tokens(tokens, decay, sink, block):
    """By token; video tokens are (frame, place), text None. After gen_log_mask_shrinked before it shrinks."""

    def keep(q, k):
        if q is None or k is None or (sink and k[0] == 0):
            return True
        distance = abs(q[0] - k[0])
        if distance <= 1:
            return True
        decay_length = 2 ** tokens.bit_length() / 2 ** distance.bit_length()
        if decay_length < block and distance % int(block / decay_length) != 0:
            return False
        return abs(q[1] - k[1]) <= max(decay_length * decay, block)

    return keep


def radial_blocks(frames, tokens, decay, sink, block):
    """The block map, frame pair by frame pair, with dense arrays."""
    keep = radial_tokens(tokens, decay, sink, block)
    count = -(-frames * tokens // block)
    out = np.zeros((count, count), dtype=bool)
    for i, j in itertools.product(range(frames), repeat=2):
        local = np.array([[keep((i, a), (j, b)) for b in range(tokens)] for a in range(tokens)])
        above, before = i * tokens % block, j * tokens % block
        rows, columns = (rest + ((tokens - 1) // block + 1) * block for rest in (above, before))
        # The code drops what is left over after whole blocks; a frame's end never lies there unless it is ragged.
        padded = np.zeros((rows, columns), dtype=bool)
        padded[above : above + tokens, before : before + tokens] = local
        high, wide = rows // block, columns // block
        cells = padded[: high * block, : wide * block].reshape(high, block, wide, block)
        density = cells.sum(axis=1) / block
        part = (density > 1 / 3).sum(-1) / ((density > 0).sum(-1) + 1e-9) > 0.6
        top, left = i * tokens // block, j * tokens // block
        part = part[: count - top, : count - left]
        out[top : top + part.shape[0], left : left + part.shape[1]] |= part
    if frames * tokens % block:
        out[-1] = out[:, -1] = True
    return out


def some_lengths(total, seed):
    """Random lengths with a given sum."""
    draw = random.Random(seed)
    lengths = []
    while total:
        lengths.append(draw.randint(1, total))
        total -= lengths[-1]
    return lengths
