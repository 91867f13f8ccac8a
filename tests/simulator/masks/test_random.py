"""Random mask functions against every pair: intervals, signatures and dense evaluation must tell the same story."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncast.simulator.masks.blockmap import EMPTY, FULL, PARTIAL
from attncast.simulator.masks.capture import capture
from attncast.simulator.masks.classify import classify, domain
from attncast.simulator.masks.intervals import Intervals, Regions
from attncast.simulator.masks.tables import RangeTable

LENGTH = 96
_random = np.random.default_rng(3)
TABLES = [
    np.sort(_random.integers(0, 6, LENGTH)),
    _random.integers(-4, 9, LENGTH).astype(np.int32),
    np.repeat(np.arange(LENGTH // 8), 8)[::-1].copy(),
]
FLAGS = _random.random(LENGTH) < 0.2
GRID = _random.integers(0, 5, (8, LENGTH))

leaves = st.sampled_from(["q", "kv", "h"]) | st.integers(-20, 60)


def _grow(children):
    binary = st.tuples(st.sampled_from(["add", "sub", "mul", "min", "max"]), children, children)
    whole = st.tuples(st.sampled_from(["floordiv", "mod"]), children, st.sampled_from([1, 2, 3, 7, 8, 16, 33, -5]))
    unary = st.tuples(st.sampled_from(["neg", "abs", "square"]), children)
    gather = st.tuples(st.just("table"), st.integers(0, 2), children)
    grid = st.tuples(st.just("grid"), children, children)
    where = st.tuples(
        st.just("where"), st.tuples(st.sampled_from(["lt", "eq"]), children, children), children, children
    )
    return binary | whole | unary | gather | grid | where


numbers = st.recursive(leaves, _grow, max_leaves=6)
atoms = st.tuples(st.sampled_from(["lt", "le", "gt", "ge", "eq", "ne"]), numbers, numbers) | st.tuples(
    st.just("flag"), numbers
)
booleans = st.recursive(
    atoms,
    lambda children: (
        st.tuples(st.sampled_from(["and_", "or_", "xor"]), children, children)
        | st.tuples(st.just("invert"), children)
        | st.tuples(st.just("where"), children, children, children)
    ),
    max_leaves=4,
)


def build(tree, env):
    """The value of an expression tree, for stand-ins and for arrays alike."""
    if isinstance(tree, str):
        return env[tree]
    if isinstance(tree, int):
        return tree
    name, *rest = tree
    if name == "table":
        return env["tables"][rest[0]][build(rest[1], env) % LENGTH]
    if name == "grid":
        return env["grid"][build(rest[0], env) % 8, build(rest[1], env) % LENGTH]
    if name == "flag":
        return env["flags"][build(rest[0], env) % LENGTH]
    args = [build(item, env) for item in rest]
    if name == "square":
        return args[0] * args[0]
    if name == "invert":
        return np.logical_not(args[0])
    if name in ("min", "max", "where"):
        return {"min": np.minimum, "max": np.maximum, "where": np.where}[name](*args)
    if name in ("and_", "or_", "xor"):
        return getattr(np, f"logical_{name.strip('_')}")(*args)
    return getattr(operator, name)(*args)


def function_of(tree):
    env = {"tables": TABLES, "flags": FLAGS, "grid": GRID}
    from attncast.simulator.masks.capture import TracedArray

    wrapped = {
        "tables": [t.view(TracedArray) for t in TABLES],
        "flags": FLAGS.view(TracedArray),
        "grid": GRID.view(TracedArray),
    }

    def mask(b, h, q_idx, kv_idx):
        tables = env if isinstance(q_idx, np.ndarray) else wrapped
        return build(tree, {**tables, "q": q_idx, "kv": kv_idx, "h": h}) & (q_idx > -1)

    return mask


@given(
    booleans, st.integers(1, LENGTH), st.integers(1, LENGTH), st.sampled_from([4, 8, 16, 24]), st.sampled_from([4, 8, 12, 32])
)  # fmt: skip
@settings(max_examples=400, suppress_health_check=list(HealthCheck))
def test_random_masks_agree_with_every_pair(tree, q_len, kv_len, q_block, kv_block):
    function = function_of(tree)
    graph = capture(function)
    assert not graph.opaque
    got = classify(graph, q_len, kv_len, q_block, kv_block, heads=2)
    blocks = got.to_dense()
    pairs = 0
    for h in range(got.shape[1]):
        mask = np.asarray(function(0, np.full((1, 1), h), np.arange(q_len)[:, None], np.arange(kv_len)[None, :]))
        mask = np.broadcast_to(mask, (q_len, kv_len))
        pairs += int(mask.sum())
        padded = np.pad(mask, ((0, -q_len % q_block), (0, -kv_len % kv_block)))
        cut = padded.reshape(padded.shape[0] // q_block, q_block, -1, kv_block)
        expected = np.where(cut.all((1, 3)), FULL, np.where(cut.any((1, 3)), PARTIAL, EMPTY))
        np.testing.assert_array_equal(blocks[0, h], expected)
    assert got.pairs == pairs


@given(booleans, st.data())
@settings(max_examples=200, suppress_health_check=list(HealthCheck))
def test_intervals_are_never_narrower_than_the_truth(tree, data):
    function = function_of(tree)
    graph = capture(function)
    intervals = Intervals(graph, domain(LENGTH, LENGTH, 1, 2))
    q0, k0 = (data.draw(st.integers(0, LENGTH - 1)) for _ in range(2))
    q1, k1 = data.draw(st.integers(q0, LENGTH - 1)), data.draw(st.integers(k0, LENGTH - 1))
    every, some, _ = intervals.root(Regions(*(np.array([v]) for v in (0, 1, q0, q1, k0, k1))))
    q, kv = np.arange(q0, q1 + 1)[:, None], np.arange(k0, k1 + 1)[None, :]
    mask = np.broadcast_to(function(0, np.full((1, 1), 1), q, kv), (q.size, kv.size))
    assert every[0] <= mask.all()
    assert some[0] >= mask.any()


@given(st.lists(st.integers(-300, 300), min_size=1, max_size=80), st.sampled_from([1, 16]), st.data())
def test_range_tables_hold_the_least_and_greatest(values, grain, data):
    table = RangeTable(np.array(values))
    table.grain = grain
    first = data.draw(st.integers(0, len(values) - 1))
    last = data.draw(st.integers(first, len(values) - 1))
    low, high = table.range(np.array([first]), np.array([last]))
    part = values[first : last + 1]
    assert low[0] <= min(part) <= max(part) <= high[0]
    if grain == 1:
        assert (low[0], high[0]) == (min(part), max(part))


@given(booleans, st.integers(1, LENGTH), st.integers(1, LENGTH), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
def test_pieces_of_the_work_do_not_matter(tree, q_len, kv_len, chunk, strip):
    """Few rectangles at a time, narrow strips, a forgetful memory: the same map."""
    graph = capture(function_of(tree))
    whole = classify(graph, q_len, kv_len, 8, 4, heads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attncast.simulator.masks.classify.CHUNK", chunk)
        patch.setattr("attncast.simulator.masks.classify.STRIP_BLOCKS", strip)
        patch.setattr("attncast.simulator.masks.classify.MEMO", 3)
        patch.setattr("attncast.simulator.masks.blockmap.STRIP", strip)
        parts = classify(graph, q_len, kv_len, 8, 4, heads=2)
        coarse = parts.retile(16, 2)
    np.testing.assert_array_equal(parts.to_dense(), whole.to_dense())
    assert parts.pairs == whole.pairs
    np.testing.assert_array_equal(coarse.to_dense(), whole.retile(16, 2).to_dense())
