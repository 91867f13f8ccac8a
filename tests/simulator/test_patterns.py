"""Every static pattern's tiles against brute force from its definition, published counts, orders and texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from attncast import Workload, parse_pattern
from attncast.simulator.patterns.combine import own_grid
from attncast.simulator.patterns.tokens import Segment, segment_coordinates

from . import definitions as by
from . import oracle

TILE = st.integers(1, 17)


def compare(text, workload, mask, tile_q, tile_kv):
    """Counts, pairs and the block map of a pattern equal those of its mask."""
    pattern = parse_pattern(text)
    assert parse_pattern(str(pattern)) == pattern
    pattern.check(workload)
    work = pattern.tile_work(workload, (tile_q,), (tile_kv,))
    visited, full = oracle.count_tiles(mask, np.arange(mask.shape[0]) // tile_q, np.arange(mask.shape[1]) // tile_kv)
    assert (work.visited_total, work.full_total) == (visited.sum(), full.sum())
    assert (work.visited_max, work.visited_min, work.q_tiles) == (visited.max(), visited.min(), visited.size)
    expected = sorted(zip(visited, full, strict=True))
    got = sorted((v, f) for v, f, n in zip(work.visited, work.full, work.count, strict=True) for _ in range(int(n)))
    assert got == expected
    assert work.pairs == mask.sum()


@st.composite
def local_cases(draw):
    name = draw(st.sampled_from(["swin", "blocked", "davit", "maxvit", "axial", "freeswim", "clear", "na"]))
    axes = {"maxvit": 2, "clear": 2, "freeswim": 3}.get(name) or draw(st.integers(2 if name == "axial" else 1, 3))
    longest = {1: 40, 2: 8, 3: 4}[axes]
    grid = tuple(draw(st.integers(1, longest)) for _ in range(axes))
    text, keep = "", None
    if name == "swin":
        window = tuple(draw(st.integers(1, longest)) for _ in range(axes))
        shift = draw(st.integers(0, min(window) - 1))
        text, keep = f"swin window={'x'.join(map(str, window))} shift={shift}", by.swin(grid, window, shift)
    elif name in ("blocked", "davit"):
        size = draw(st.integers(1, longest))
        text, keep = f"{name} block={size}", by.blocked((size,) * axes)
    elif name == "maxvit":
        size, step = draw(st.integers(1, 4)), draw(st.sampled_from(["block", "grid"]))
        grid = tuple(size * draw(st.integers(1, 8 // size)) for _ in range(2))
        keep = by.blocked((size, size)) if step == "block" else by.maxvit_grid(grid, size)
        text = f"maxvit step={step} size={size}"
    elif name == "axial":
        along = draw(st.sampled_from(["all", *map(str, range(axes))]))
        text, keep = f"axial along={along}", by.axial(range(axes) if along == "all" else [int(along)])
    elif name == "freeswim":
        high, wide = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        text, keep = f"freeswim high={high} wide={wide}", by.freeswim(grid, high, wide)
    elif name == "clear":
        radius = draw(st.sampled_from([0.5, 1, 1.5, 2, 3, 8]))
        text, keep = f"clear radius={radius}", by.clear(radius)
    else:
        dilation = tuple(draw(st.integers(1, min(3, n))) for n in grid)
        window = tuple(draw(st.integers(1, n // d)) for n, d in zip(grid, dilation, strict=True))
        stride = tuple(draw(st.integers(1, w)) for w in window)
        causal = tuple(draw(st.booleans()) for _ in grid)
        parts = [oracle.neighborhood_axis(*each) for each in zip(grid, window, stride, dilation, causal, strict=True)]
        words = zip(("window", "stride", "dilation"), (window, stride, dilation), strict=True)
        text = "na " + " ".join(f"{key}={'x'.join(map(str, value))}" for key, value in words)
        text += f" causal={'x'.join(str(int(c)) for c in causal)}"

        def keep(q, k):
            return all(part[a, b] for part, a, b in zip(parts, q, k, strict=True))

    order = draw(st.sampled_from(["row", "morton", "tile", "hilbert"]))
    tokens = by.row_major(grid)
    if order == "tile":
        tile = tuple(draw(st.integers(1, 4)) for _ in grid)
        order, tokens = f"tile:{'x'.join(map(str, tile))}", by.tiled(grid, tile)
    elif order == "morton":
        tokens = by.morton(grid)
    elif order == "hilbert":
        tokens = list(zip(*segment_coordinates(Segment(grid, "hilbert")), strict=True))
    return f"{text} order={order}", grid, by.mask_of(tokens, tokens, keep)


@given(local_cases(), TILE, TILE)
@settings(max_examples=400)
def test_local_patterns_equal_brute_force(case, tile_q, tile_kv):
    text, grid, mask = case
    compare(text, Workload(grid, 1, 64), mask, tile_q, tile_kv)


@st.composite
def sequence_cases(draw):
    name = draw(
        st.sampled_from(
            ["streaming", "dilated", "strided", "fixed", "longformer", "power", "prefix-lm", "documents",
             "shared-prefix", "parallel-context", "causal & streaming", "union", "intervals", "bigbird"]
        )
    )  # fmt: skip
    queries = draw(st.integers(1, 60))
    keys = queries + draw(st.integers(-min(queries - 1, 10), 20))
    few = st.integers(0, 20)
    seed = draw(st.integers(0, 99))
    if name in ("longformer", "power", "documents", "parallel-context", "bigbird", "intervals"):
        keys = queries
    if name == "streaming":
        sink, window = draw(few), draw(few) + 1
        text, keep = f"streaming sink={sink} window={window}", by.streaming(sink, window)
    elif name == "dilated":
        reach, step, causal = draw(few), draw(st.integers(1, 5)), draw(st.booleans())
        text, keep = f"dilated reach={reach} step={step} causal={int(causal)}", by.dilated(reach, step, causal)
    elif name == "strided":
        step = draw(few) + 1
        text, keep = f"strided stride={step}", by.strided(step)
    elif name == "fixed":
        step = draw(few) + 1
        summary = draw(st.integers(1, step))
        text, keep = f"strided mode=fixed stride={step} summary={summary}", by.fixed(step, summary)
    elif name == "longformer":
        window, tokens = draw(few) + 1, draw(few)
        text, keep = f"longformer window={window} tokens={tokens}", by.longformer(window, tokens)
    elif name == "power":
        block, window, sink = draw(st.integers(1, 7)), draw(st.integers(1, 4)), draw(st.integers(0, 2))
        text, keep = f"power block={block} window={window} sink={sink}", by.power(block, window, sink)
    elif name == "prefix-lm":
        prefix = draw(few)
        text, keep = f"prefix-lm prefix={prefix}", by.prefix_lm(prefix)
    elif name == "documents":
        sizes, causal = by.some_lengths(queries, seed), draw(st.booleans())
        text, keep = f"documents lengths={','.join(map(str, sizes))} causal={int(causal)}", by.documents(sizes, causal)
    elif name == "shared-prefix":
        sizes, prefix = by.some_lengths(queries, seed), draw(few) + 1
        text, keep = (
            f"shared-prefix prefix={prefix} lengths={','.join(map(str, sizes))}",
            by.shared_prefix(prefix, sizes),
        )
        keys = prefix + queries
        queries = draw(st.sampled_from([queries, keys]))
    elif name == "parallel-context":
        sink = draw(st.integers(0, queries - 1))
        body = draw(st.integers(1, queries - sink))
        sizes = by.some_lengths(body, seed)
        keep = by.parallel_context(sink, sizes, queries)
        text = f"parallel-context sink={sink} lengths={','.join(map(str, sizes))}"
    elif name == "causal & streaming":
        sink, window, reach = draw(few), draw(few) + 1, draw(few)
        first, second = by.streaming(sink, window), by.dilated(reach, 2, False)
        text = f"streaming sink={sink} window={window} & dilated reach={reach}"

        def keep(p, k):
            return first(p, k) and second(p, k)

    elif name == "intervals":
        sizes, sink, window, left = by.some_lengths(queries, seed), draw(few), draw(few) + 1, draw(few)
        first, second, third = by.documents(sizes, True), by.streaming(sink, window), by.longformer(window, sink)
        text = f"documents lengths={','.join(map(str, sizes))} | streaming sink={sink} window={window} & window left={left}"
        text += f" | longformer window={window} tokens={sink}"

        def keep(p, k):
            return first(p, k) or (second(p, k) and k >= p - left) or third(p, k)

    elif name == "union":
        prefix, left, step = draw(few), draw(few), draw(few) + 1
        first, second = by.prefix_lm(prefix), by.strided(step)
        text = f"prefix-lm prefix={prefix} & window left={left} right=3 | strided stride={step}"

        def keep(p, k):
            return (first(p, k) and p - left <= k <= p + 3) or second(p, k)

    else:
        block, window, ends, chosen = draw(st.integers(1, 7)), draw(st.sampled_from([1, 3])), draw(st.integers(0, 2)), 2
        text = f"bigbird block={block} window={window} ends={ends} random={chosen} seed={seed}"
        # The drawn blocks are the pattern's own; that they are as many as asked for is tested apart.
        table = parse_pattern(text).table(-(-queries // block))

        def keep(p, k):
            return table[p // block, k // block]

    positions = [by.causal_position(i, queries, keys) for i in range(queries)]
    return text, Workload((queries,), 1, 64, kv_grid=(keys,)), by.mask_of(positions, range(keys), keep)


@given(sequence_cases(), TILE, TILE)
@settings(max_examples=500)
def test_sequence_patterns_equal_brute_force(case, tile_q, tile_kv):
    compare(*case, tile_q, tile_kv)


@pytest.mark.parametrize(("tile_q", "tile_kv"), [(16, 8), (8, 16), (12, 5), (5, 12)])
def test_causal_with_unequal_tiles(tile_q, tile_kv):
    for text, keep in (
        ("causal", lambda p, k: k <= p),
        ("documents lengths=20,33,10", by.documents([20, 33, 10], True)),
    ):
        compare(text, Workload((63,), 1, 64), by.mask_of(range(63), range(63), keep), tile_q, tile_kv)


@given(
    st.integers(1, 6), st.integers(1, 20), st.sampled_from([0.2, 0.95, 1.0]), st.booleans(), st.integers(0, 9),
    st.sampled_from([2, 4, 5, 8]), st.booleans(), TILE, TILE,
)  # fmt: skip
@settings(max_examples=150)
@example(6, 20, 0.2, True, 3, 8, True, 8, 8)
def test_radial_equals_brute_force(frames, tokens, decay, sink, text, block, shrink, tile_q, tile_kv):
    words = f"radial frames={frames} tokens={tokens} decay={decay} sink={int(sink)} text={text} block={block}"
    video = frames * tokens
    if shrink:
        table = by.radial_blocks(frames, tokens, decay, sink, block)
        mask = by.mask_of(
            range(video + text), range(video + text),
            lambda p, k: p >= video or k >= video or table[p // block, k // block],
        )  # fmt: skip
    else:
        order = [*by.row_major((frames, tokens)), *[None] * text]
        mask = by.mask_of(order, order, by.radial_tokens(tokens, decay, sink, block))
    compare(f"{words} shrink={int(shrink)}", Workload((video + text,), 1, 64), mask, tile_q, tile_kv)


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 9), st.sampled_from([1, 2, 3, 5]), TILE, TILE)
@settings(max_examples=60)
def test_clear_with_text_equals_brute_force(rows, columns, text, radius, tile_q, tile_kv):
    order = [*by.row_major((rows, columns)), *[None] * text]
    words = f"clear radius={radius} grid={rows}x{columns} text={text}"
    compare(words, Workload((len(order),), 1, 64), by.mask_of(order, order, by.clear(radius)), tile_q, tile_kv)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 6), st.integers(0, 3), st.integers(0, 2), TILE, TILE)
@settings(max_examples=60)
def test_scale_dit_equals_brute_force(rows, columns, text, radius, near, tile_q, tile_kv):
    high, low = by.tiled((4 * rows, 4 * columns), (4, 4)), by.row_major((2 * rows, 2 * columns))
    order = [("t", 0, 0)] * text + [("h", *t) for t in high] + [("l", *t) for t in low]
    keep = by.scale_dit(radius, 4, 2, near, 1)
    words = f"scale-dit grid={4 * rows}x{4 * columns} order=tile:4x4 radius={radius} window=4 scale=2 near={near}"
    words += f" low_radius=1 text={text}"
    assert own_grid(parse_pattern(words)) == (len(order),)
    compare(words, Workload((len(order),), 1, 64), by.mask_of(order, order, keep), tile_q, tile_kv)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), TILE, TILE)
@settings(max_examples=80)
def test_mvar_equals_brute_force(q_rows, q_columns, k_rows, k_columns, window, tile_q, tile_kv):
    q_grid, k_grid = (q_rows, q_columns), (k_rows, k_columns)
    mask = by.mask_of(by.row_major(q_grid), by.row_major(k_grid), by.mvar(q_grid, k_grid, window))
    compare(f"mvar window={window}", Workload(q_grid, 1, 64, kv_grid=k_grid), mask, tile_q, tile_kv)
