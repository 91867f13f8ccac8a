"""Lengths at which an N x N mask would not fit."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from attncast import Workload
from attncast.simulator.masks import Mask
from attncast.simulator.patterns import Band

LENGTH = 131_072
BLOCKS = LENGTH // 128
_cuts = np.sort(np.random.default_rng(0).choice(np.arange(1, LENGTH), 127, replace=False))
ENDS = np.concatenate([[0], _cuts, [LENGTH]])
DOCUMENT = np.searchsorted(_cuts, np.arange(LENGTH), side="right")


def causal_document(b, h, q_idx, kv_idx):
    return (DOCUMENT[q_idx] == DOCUMENT[kv_idx]) & (q_idx >= kv_idx)


def expected_counts():
    """Of each Q block: keys from the start of the first query's document to the last query; closed form."""
    q0 = np.arange(BLOCKS) * 128
    q1 = q0 + 127
    start0 = ENDS[DOCUMENT[q0]]  # where the first query's document begins
    start1 = ENDS[DOCUMENT[q1]]
    visited = np.arange(BLOCKS) - start0 // 128 + 1
    # Full: a single document, and blocks wholly inside it and before the diagonal.
    full = np.where(start0 == start1, np.maximum(np.arange(BLOCKS) + start0 // -128, 0), 0)
    return visited, full


def test_causal_documents_of_131072_tokens():
    block_map = Mask.from_function(causal_document).block_map(Workload((LENGTH,), 8, 128, batch=4))
    visited, full = block_map.maps[0].totals()
    expected_visited, expected_full = expected_counts()
    np.testing.assert_array_equal(visited, expected_visited)
    np.testing.assert_array_equal(full, expected_full)
    lengths = np.diff(ENDS)
    assert block_map.pairs == int((lengths * (lengths + 1) // 2).sum())
    assert len(block_map.maps) == 1
    assert sum(block_map.decided.values()) == BLOCKS**2
    assert block_map.decided["region"] > 0.99 * BLOCKS**2
    assert block_map.decided["pairs"] < 1000


def dilated(b, h, q_idx, kv_idx):
    return ((q_idx - kv_idx) % 3 == 0) & (abs(q_idx - kv_idx) <= 90_000)


@pytest.mark.parametrize("function", [causal_document, dilated])
def test_memory_is_bounded(function):
    mask = Mask.from_function(function)
    tracemalloc.start()
    mask.block_map(Workload((LENGTH,), 1, 128))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_dilated_pairs_have_a_closed_form():
    """All of a million blocks are partial, and a handful of them is looked at."""
    block_map = Mask.from_function(dilated).block_map(Workload((LENGTH,), 1, 128))
    distance = np.arange(3, 90_001, 3)
    assert block_map.pairs == LENGTH + 2 * int((LENGTH - distance).sum())
    assert block_map.decided["pairs"] < 100


@pytest.mark.parametrize("length", [10_000_000, 1_000_003])
def test_causal_masks_of_millions_of_tokens_equal_the_band(length):
    workload = Workload((length,), 1, 128)
    work = Mask.from_function(lambda b, h, q, kv: q >= kv, "causal").tile_work(workload, (4096,), (4096,))
    band = Band(right=0).tile_work(workload, (4096,), (4096,))
    assert (work.visited_total, work.pairs, work.visited_max) == (band.visited_total, band.pairs, band.visited_max)
    assert work.full_total == band.full_total - (0 if length % 4096 == 0 else length // 4096)


def test_decode_of_one_query():
    workload = Workload((1,), 8, 128, cached=LENGTH - 1)
    mask = Mask.from_function(lambda b, h, q, kv: q + LENGTH - 1 - kv < 1000, "window")
    work = mask.tile_work(workload, (64,), (128,))
    assert (work.visited_total, work.pairs) == (8, 1000)
