"""NATTEN's profile offers the tiles that the library offers."""

from __future__ import annotations

import json

import pytest

from attncast.hwmodels import load_gpu
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
