"""Brute force: the mask as an array, and its tiles by looking at every pair."""

from __future__ import annotations

import itertools

import numpy as np


def neighborhood_axis(length, window, stride, dilation, causal):
    """Mask of one axis by the definition, pair by pair: shape (length, length)."""
    mask = np.zeros((length, length), dtype=bool)
    for i, j in itertools.product(range(length), repeat=2):
        if i % dilation != j % dilation:
            continue
        group = i % dilation
        size = length // dilation + (group < length % dilation)
        q, k = i // dilation, j // dilation
        if causal:
            leader = min(q // stride * stride + stride - 1, size - 1)
            mask[i, j] = max(leader - window + 1, 0) <= k <= q
        else:
            leader = min(q // stride * stride + stride // 2, size - 1)
            start = min(max(leader - window // 2, 0), size - window)
            mask[i, j] = start <= k < start + window
    return mask


def axis_tiles(length, tile, dilation):
    """Tile index of every token of an axis: tiles of each dilation group follow one another."""
    index = np.empty(length, dtype=int)
    begin = 0
    for group in range(dilation):
        members = np.arange(group, length, dilation)
        index[members] = begin + np.arange(members.size) // tile
        begin += -(-members.size // tile)
    return index


def neighborhood_mask(grid, window, stride, dilation, causal):
    """Mask over the row-major flattened grid, shape (tokens, tokens)."""
    mask = np.ones((1, 1), dtype=bool)
    for parameters in zip(grid, window, stride, dilation, causal, strict=True):
        mask = np.kron(mask, neighborhood_axis(*parameters))
    return mask


def grid_tiles(grid, tile, dilation):
    """Tile index of every token of a row-major flattened grid."""
    index = np.zeros(1, dtype=int)
    for length, t, d in zip(grid, tile, dilation, strict=True):
        axis = axis_tiles(length, t, d)
        index = (index[:, None] * (axis.max() + 1) + axis).ravel()
    return index


def band_mask(queries, keys, left, right):
    """Mask of a band, aligned at the end, shape (queries, keys)."""
    position = np.arange(queries)[:, None] + keys - queries
    key = np.arange(keys)[None, :]
    return (key >= position - left) & (key <= position + right)


def count_tiles(mask, q_index, kv_index):
    """Live and full KV tiles of each Q tile, from a mask and the tile of every query and key."""
    q_tiles, kv_tiles = q_index.max() + 1, kv_index.max() + 1
    kept = np.zeros((q_tiles, kv_tiles), dtype=int)
    size = np.zeros((q_tiles, kv_tiles), dtype=int)
    np.add.at(kept, (q_index[:, None], kv_index[None, :]), mask)
    np.add.at(size, (q_index[:, None], kv_index[None, :]), 1)
    return (kept > 0).sum(1), (kept == size).sum(1)


def first_tiles(mask, q_index, kv_index):
    """Live KV tiles that are the first one of some Q tile."""
    live = np.zeros((q_index.max() + 1, kv_index.max() + 1), dtype=bool)
    np.logical_or.at(live, (q_index[:, None], kv_index[None, :]), mask)
    return set(live[live.any(axis=1)].argmax(axis=1).tolist())
