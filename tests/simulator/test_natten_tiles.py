"""NATTEN's profile offers the tiles that the library offers."""

from __future__ import annotations

import json

import numpy as np
import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator.pipes import TileShape, tile_cycles
from attncast.simulator.profile import load_profile

from ..paths import SHARED

SHAPES = SHARED / "data" / "natten_tile_shapes.json"


def offered(gpu):
    """(Q, KV) tile shapes that NATTEN has on a GPU, by head dimension where it depends on it."""
    tables = json.loads(SHAPES.read_text(encoding="utf-8"))
    if gpu == "h100":
        return {
            int(dim): {(tuple(q), tuple(kv)) for axes in "123" for (q, kv), _ in tables["hopper_fwd"][axes][dim]}
            for dim in ("64", "128", "256")
        }
    if gpu == "b200":
        return {128: {(tuple(q), tuple(kv)) for pairs in tables["blackwell_fwd"].values() for q, kv in pairs}}
    kept = [pairs for name, pairs in tables["cutlass_fwd"].items() if gpu != "l40s" or "not on sm86/89" not in name]
    return {256: {(tuple(q), tuple(kv)) for pairs in kept for choices in pairs.values() for q, kv in choices}}


@pytest.mark.skipif(not SHAPES.is_file(), reason="needs the collected data beside the checkout")
@pytest.mark.parametrize("gpu", ["a100", "rtx5090", "l40s", "h100", "b200"])
def test_every_tile_is_one_that_the_library_offers(gpu):
    known = offered(gpu)
    tiles = load_profile("natten", load_gpu(gpu)).tiles
    assert {len(tile.q) for tile in tiles} == {1, 2, 3}
    for tile in tiles:
        assert (tile.q, tile.kv) in known[tile.max_head_dim], tile


@pytest.mark.parametrize(("gpu", "per_score"), [("h100", (5.0, 5.9, 8.3)), ("b200", (4.9, 4.9, 4.9))])
def test_a_mask_costs_what_the_compiled_kernels_ask_for_and_on_hopper_nothing_hides_it(gpu, per_score):
    model = load_gpu(gpu)
    profile = load_profile("natten", model)
    axes, sizes = np.array([1.0, 2.0, 3.0]), (128.0, 128.0, 128.0, 128.0, 128.0, 2.0, 2.0)
    shape = TileShape(*(np.full(3, size) for size in sizes), axes)
    tile = tile_cycles(model, profile, profile.operations, shape, np.full(3, 4096.0))
    assert tile.mask == pytest.approx(128 * 128 * np.array(per_score) / model.alu_per_clock_per_sm)
    if gpu == "h100":
        assert tile.partial - tile.full == pytest.approx(tile.mask)
    else:
        assert (tile.partial - tile.full < 0.5 * tile.mask).all()
