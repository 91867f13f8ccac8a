"""Spaces: what is in them, and that the tiles kept are the best of all."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from attncast.autotune.rank import feasible
from attncast.autotune.space import register_caps
from attncast.autotune.space_build import build, choose_kernel
from attncast.autotune.space_tiles import MASKED_COST, grid_tilings
from attncast.errors import InputError
from attncast.hwmodels import load_gpu
from attncast.simulator import Workload, parse_pattern

from ..paths import SHARED

GPUS = ("a100", "h100", "b200", "rtx5090")
NA = parse_pattern("na window=18x24x24 stride=16x8x8")
VIDEO = Workload((30, 48, 80), 24, 128, dtype="fp16")
CAUSAL = parse_pattern("causal")
LONG = Workload((4096,), 32, 128)
SHAPES = SHARED / "data" / "natten_tile_shapes.json"


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize(("workload", "pattern"), [(LONG, CAUSAL), (VIDEO, NA)], ids=["causal", "na"])
@pytest.mark.parametrize("kernel", ["triton", "flex"])
def test_every_configuration_is_one_the_gpu_can_hold(gpu, workload, pattern, kernel):
    model = load_gpu(gpu)
    space = build(kernel, model, workload, pattern)
    index, held = feasible(space, model, workload)
    assert 0 < index.size <= space.size <= space.total
    assert (held.shared_bytes <= model.smem_bytes_per_cta).all()
    assert (held.ctas >= 1).all()
    assert (space.columns["num_warps"] * 32 <= model.max_threads_per_cta).all()
    configs = {json.dumps(space.config(i)) for i in range(space.size)}
    assert len(configs) == space.size
    if kernel == "flex":
        assert all(128 % space.columns[name].max() == 0 for name in ("BLOCK_M", "BLOCK_N"))
    assert ("USE_TMA" in space.columns) == (gpu != "a100")
    assert ("WARP_SPECIALIZE" in space.columns) == (gpu == "b200" and kernel == "triton")
    if gpu == "rtx5090":
        assert held.shared_bytes.max() <= 99 * 1024


@pytest.mark.parametrize("gpu", GPUS)
def test_a_register_cap_lets_an_sm_hold_more(gpu):
    model = load_gpu(gpu)
    space = build("triton", model, LONG, CAUSAL)
    index, held = feasible(space, model, LONG)
    knobs = [name for name in space.columns if name != "maxnreg"]
    rows = list(zip(*(space.columns[name][index].tolist() for name in (*knobs, "maxnreg")), strict=True))
    ctas = {(row[:-1], row[-1]): count for row, count in zip(rows, held.ctas, strict=True)}
    spilled = {(row[:-1], row[-1]): count for row, count in zip(rows, held.spilled, strict=True)}
    capped = [key for key in ctas if key[1]]
    assert 0 < len(capped) < 2 * len([key for key in ctas if not key[1]])
    for key in capped:
        assert ctas[key] > ctas[key[0], 0]
        assert spilled[key] >= spilled[key[0], 0]
    assert not any(dict(zip(knobs, key[0], strict=True)).get("WARP_SPECIALIZE") for key in capped)
    # Of one tile no two caps give the same number of CTAs.
    assert len({(key[0], ctas[key]) for key in ctas}) == len(ctas)


def test_lists_and_other_peoples_kernels_have_no_register_cap():
    h100 = load_gpu("h100")
    assert "maxnreg" not in build("triton", h100, VIDEO, NA).columns  # a list's mask takes registers of its own
    assert "maxnreg" not in build("flex", h100, LONG, CAUSAL).columns


def test_register_caps_by_hand():
    # 65,536 registers, 256 at a time: 3 CTAs of 4 warps get 168 a thread, 4 get 128; of 8 warps 2 get 128 and 3 get 80.
    assert register_caps(load_gpu("a100"))[:6] == (168, 128, 96, 80, 72, 64)


def test_tile_sizes_go_as_far_as_an_sm_does():
    knobs = {knob.name: knob for knob in build("triton", load_gpu("a100"), LONG, CAUSAL).knobs}
    # 256 rows of fp32 accumulator at head dim 128 are half of the registers; 512 keys of K and V are 256 KiB.
    assert knobs["BLOCK_M"].values == (16, 32, 64, 128, 256)
    assert knobs["BLOCK_N"].values == (16, 32, 64, 128, 256)
    narrow = build("triton", load_gpu("rtx5090"), Workload((4096,), 32, 256), CAUSAL)
    assert max(narrow.columns["BLOCK_M"]) == 128
    assert max(narrow.columns["BLOCK_N"]) == 64


@pytest.mark.parametrize(
    "text", ["na window=5x6", "na window=6x7 stride=2x3", "na window=4x4 dilation=2x2", "na window=5x5 causal=1x0"]
)
def test_kept_tile_shapes_are_the_best_of_all(text):
    pattern, workload = parse_pattern(text), Workload((12, 17), 2, 64)
    tilings, counted = grid_tilings(pattern, workload, [(16, 32)])
    powers = [1, 2, 4, 8, 16, 32]
    shapes = {
        tokens: [s for s in itertools.product(powers, powers) if math.prod(s) == tokens and s[0] <= 16 and s[1] <= 32]
        for tokens in (16, 32)
    }
    works = [pattern.tile_work(workload, q, kv) for q in shapes[16] for kv in shapes[32]]
    assert counted == len(works)
    kept = [tiling.work for tiling in tilings]
    assert min(w.visited_total for w in kept) == min(w.visited_total for w in works)

    def cost(work):
        return work.full_total + MASKED_COST * (work.visited_total - work.full_total)

    assert min(map(cost, kept)) == min(map(cost, works))


def test_blocks_of_a_mask_are_visited_whole_whatever_the_tile():
    pattern = parse_pattern("longformer window=256")
    space = build("flex", load_gpu("h100"), LONG, pattern)
    blocks = pattern.tile_work(LONG, (128,), (128,))
    for tiling in space.tilings:
        rows, keys = tiling.size
        pairs = float((tiling.work.visited * tiling.work.count).sum()) * rows * keys
        assert pairs == blocks.visited_total * 128 * 128
        assert tiling.work.visited_total * rows * keys == pairs


def test_a_few_queries_are_decoded_with_splits_alone():
    space = build("triton", load_gpu("h100"), Workload((1,), 32, 128, heads_kv=8, cached=8191), CAUSAL)
    assert [knob.name for knob in space.knobs] == ["splits"]
    assert space.columns["splits"].tolist() == list(range(1, 129))
    few = build("triton", load_gpu("h100"), Workload((1,), 32, 128, heads_kv=8, cached=127), CAUSAL)
    assert few.columns["splits"].tolist() == [1, 2]  # no more than there are KV tiles of 64


def test_natten_on_rtx5090_has_no_tile_of_more_shared_memory_than_sm_89_has():
    sizes = {
        (m, n) for m, n in zip(*(getattr(_natten("rtx5090"), name) for name in ("block_m", "block_n")), strict=True)
    }
    assert sizes == {(64, 64), (32, 128)}
    assert {(64, 128)} < {(m, n) for m, n in zip(_natten("a100").block_m, _natten("a100").block_n, strict=True)}


def _natten(gpu, workload=VIDEO, pattern=NA):
    return build("natten", load_gpu(gpu), workload, pattern)


@pytest.mark.skipif(not SHAPES.is_file(), reason="needs ../shared/data/natten_tile_shapes.json")
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_cutlass_shapes_are_those_of_the_library(axes):
    lists = json.loads(SHAPES.read_text())["cutlass_fwd"]
    library = {
        ("x".join(map(str, q)), "x".join(map(str, kv))) for group in lists.values() for q, kv in group[str(axes)]
    }
    grid, window = ((4096,), (64, 64), (16, 16, 16))[axes - 1], "x".join(["8"] * axes)
    space = _natten("a100", Workload(grid, 2, 128, dtype="fp16"), parse_pattern(f"na window={window}"))
    assert set(zip(space.columns["q_tile"], space.columns["kv_tile"], strict=True)) == library


@pytest.mark.parametrize("kernel", ["triton", "flex"])
@pytest.mark.parametrize("grid", [(4,), (3, 5), (2, 2, 3)])
@pytest.mark.parametrize("dim", [16, 256])
def test_grids_smaller_than_a_tile_have_a_space(kernel, grid, dim):
    window = "x".join(["2"] * len(grid))
    model = load_gpu("rtx5090")
    space = build(kernel, model, Workload(grid, 2, dim), parse_pattern(f"na window={window}"))
    assert 0 < space.size <= space.total
    assert feasible(space, model, Workload(grid, 2, dim))[0].size
    assert max(space.block_m) <= 1024


def test_row_order_is_offered_beside_tiles_on_the_grid():
    space = build("flex", load_gpu("h100"), Workload((16, 32), 4, 64), parse_pattern("na window=5x5"), row_order=True)
    assert set(space.columns["order"]) == {"tiles", "row"}
    assert space.codes(np.arange(space.size)).shape[0] == space.size


def test_auto_takes_what_users_run_where_it_can_be_tuned():
    h100 = load_gpu("h100")
    assert choose_kernel("auto", h100, NA, VIDEO) == "natten"
    assert choose_kernel("auto", h100, parse_pattern("longformer window=256"), LONG) == "flex"
    assert choose_kernel("auto", h100, CAUSAL, LONG) == "triton"  # fa3 has no knobs here


@pytest.mark.parametrize(
    ("kernel", "workload", "pattern", "message"),
    [
        ("natten", LONG, CAUSAL, "'natten' cannot run this pattern"),
        ("triton", Workload((64,), 2, 320), CAUSAL, "head dim 320: expected at most 256"),
        ("triton", Workload((64,), 2, 128, kv_dtype="fp8"), CAUSAL, "cannot run 'fp8' keys with 'bf16' queries"),
    ],
)
def test_what_a_kernel_cannot_run_is_said(kernel, workload, pattern, message):
    with pytest.raises(InputError, match=message):
        build(kernel, load_gpu("h100"), workload, pattern)


def test_an_unknown_kernel_is_named():
    with pytest.raises(InputError, match="unknown kernel to tune 'fa3'"):
        choose_kernel("fa3", load_gpu("h100"), CAUSAL, LONG)
