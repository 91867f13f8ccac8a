"""Block maps from files, and on other tiles than their own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncast import Workload
from attncast.errors import InputError
from attncast.simulator.masks import Mask, read_mask
from attncast.simulator.masks.blockmap import BlockMap, Runs, dense_runs, join
from attncast.simulator.masks.readers import from_arrays

BLOCKS = np.array([[2, 0, 1, 0], [1, 2, 2, 0], [0, 0, 0, 0]], dtype=np.int8)
ORDERED = {
    "kv_num_blocks": np.array([[[1, 1, 0]]]),
    "kv_indices": np.array([[[[2, 0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]]]]),
    "full_kv_num_blocks": np.array([[[1, 2, 0]]]),
    "full_kv_indices": np.array([[[[0, 1, 2, 3], [1, 2, 0, 3], [0, 1, 2, 3]]]]),
}


@given(st.integers(1, 9), st.integers(1, 12), st.data())
@settings(max_examples=60)
def test_runs_hold_what_they_were_made_of(rows, columns, data):
    cells = st.lists(st.integers(0, 2), min_size=rows * columns, max_size=rows * columns)
    blocks = np.array(data.draw(cells), dtype=np.int8).reshape(rows, columns)
    runs = dense_runs(blocks)
    np.testing.assert_array_equal(runs.dense(0, rows, columns), blocks)
    visited, full = runs.totals()
    np.testing.assert_array_equal(visited, (blocks > 0).sum(axis=1))
    np.testing.assert_array_equal(full, (blocks == 2).sum(axis=1))
    twice = join([runs, runs])
    np.testing.assert_array_equal(twice.dense(0, 2 * rows, columns), np.concatenate([blocks, blocks]))


@given(
    st.integers(1, 60), st.integers(1, 60), st.sampled_from([(2, 2), (4, 12), (16, 8), (8, 8), (8, 2), (2, 24)]), st.data()
)  # fmt: skip
@settings(max_examples=100)
def test_other_tiles_follow_the_stated_rule(q_len, kv_len, tile, data):
    """Larger tiles are exact, and smaller ones take after their block: against the array, by definition."""
    shape = (-(-q_len // 8), -(-kv_len // 8))
    cells = st.lists(st.integers(0, 2), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    given_blocks = np.array(data.draw(cells)).reshape(shape)
    stored = from_arrays(
        {"block_map": given_blocks, "block_size": np.array(8), "seq_lengths": np.array([q_len, kv_len])}
    )
    blocks = stored.to_dense()[0, 0]
    if any(t % 8 and 8 % t for t in tile):
        with pytest.raises(InputError, match="expected a divisor or a multiple"):
            stored.retile(*tile)
        return
    got = stored.retile(*tile).to_dense()[0, 0]
    assert got.shape == (-(-q_len // tile[0]), -(-kv_len // tile[1]))
    for (i, j), kind in np.ndenumerate(got):
        rows = slice(i * tile[0] // 8, max(i * tile[0] // 8 + 1, (i + 1) * tile[0] // 8))
        columns = slice(j * tile[1] // 8, max(j * tile[1] // 8 + 1, (j + 1) * tile[1] // 8))
        part = blocks[rows, columns]
        whole = (i + 1) * tile[0] <= 8 * shape[0] and (j + 1) * tile[1] <= 8 * shape[1]
        expected = 2 if whole and (part == 2).all() else 1 if part.any() else 0
        assert kind == expected


def test_larger_tiles_of_stored_blocks_equal_the_function_on_those_tiles():
    mask = Mask.from_function(lambda b, h, q, kv: (q >= kv) & (q - kv < 333), "window")
    workload = Workload((1000,), 1, 64)
    fine = mask.block_map(workload, 16, 16)
    coarse = mask.block_map(workload, 64, 48)
    np.testing.assert_array_equal(fine.retile(64, 48).to_dense(), coarse.to_dense())
    flex = Mask(mask.text, mask.graph, mask.counter, block=(128, 128))
    work = flex.tile_work(workload, (64,), (64,))
    assert work.visited_total == 4 * flex.tile_work(workload, (128,), (128,)).visited_total


def test_npz_in_both_forms(tmp_path):
    np.savez(tmp_path / "map.npz", block_map=BLOCKS, block_size=np.array([64, 32]))
    np.savez(tmp_path / "ordered.npz", **ORDERED, BLOCK_SIZE=np.array([64, 32]))
    plain, ordered = (read_mask(str(tmp_path / name)) for name in ("map.npz", "ordered.npz"))
    np.testing.assert_array_equal(plain.blocks.to_dense(), ordered.blocks.to_dense())
    workload = Workload((192,), 2, 64, kv_grid=(128,))
    plain.check(workload)
    work = plain.tile_work(workload, (64,), (32,))
    assert (work.visited_total, work.full_total, work.pairs) == (5, 3, 5 * 64 * 32)
    assert plain.notes
    written = ordered.blocks.to_block_mask()
    for name, array in ORDERED.items():
        np.testing.assert_array_equal(written[name], array)
    np.savez(tmp_path / "again.npz", **written, pairs=np.array(3 * 64 * 32 + 7))
    again = read_mask(str(tmp_path / "again.npz"))
    assert (again.blocks.pairs, again.blocks.exact) == (3 * 64 * 32 + 7, True)
    assert not again.notes


def test_a_block_that_reaches_past_the_end_is_never_full():
    stored = from_arrays({"block_map": np.full((2, 2), 2), "block_size": 128, "seq_lengths": [200, 256]})
    np.testing.assert_array_equal(stored.to_dense()[0, 0], [[2, 2], [1, 1]])
    assert (stored.pairs, stored.exact) == (200 * 256, True)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"block_map": BLOCKS.astype(float)}, "block_map of .* is float64: expected integers"),
        ({"block_map": np.full((2, 2), np.nan)}, "float64 with NaN"),
        ({"block_map": BLOCKS > 0}, "bool: expected integers"),
        ({"block_map": BLOCKS[0]}, r"shape \(4,\): expected"),
        ({"block_map": BLOCKS[None, None, None]}, "shape .* expected"),
        ({"block_map": BLOCKS * 2}, "holds 4: expected 0"),
        ({"block_map": -BLOCKS}, "holds -2: expected 0"),
        ({"block_map": np.zeros((0, 3), int)}, "shape"),
        ({"block_map": BLOCKS, "block_size": np.array([0, 128])}, r"block_size of .* is \[0, 128\]"),
        ({"block_map": BLOCKS, "block_size": np.array([1, 2, 3])}, "expected one or two"),
        ({"block_map": BLOCKS, "seq_lengths": np.array([4096, 512])}, "3 x 4 blocks but seq_lengths 4096 x 512"),
        ({"block_map": BLOCKS, "pairs": np.array(10**9)}, "pairs of .* is 1,000,000,000"),
        ({"blockmap": BLOCKS}, "unknown array 'blockmap'.*did you mean 'block_map'"),
        ({"kv_indices": ORDERED["kv_indices"]}, "has no block map"),
        ({**ORDERED, "kv_num_blocks": np.array([[[1, 1]]])}, "kv_indices of .* has shape"),
        ({**ORDERED, "kv_num_blocks": np.array([[[1, 5, 0]]])}, "kv_num_blocks of .* holds 5: expected 0 to 4"),
        ({**ORDERED, "kv_indices": ORDERED["kv_indices"] + 2}, "holds block 4: expected 0 to 3"),
        ({**ORDERED, "kv_indices": ORDERED["kv_indices"] - 1, "kv_num_blocks": np.array([[[2, 1, 0]]])}, "holds block -1"),
        ({**ORDERED, "kv_indices": ORDERED["kv_indices"] * 0, "kv_num_blocks": np.array([[[2, 1, 0]]])}, "twice"),
        ({**ORDERED, "full_kv_num_blocks": np.array([[[3, 2, 0]]])}, "both partial and full"),
        ({name: ORDERED[name] for name in list(ORDERED)[:3]}, "expected both or neither"),
        ({"block_map": np.array([[object()]])}, "holds Python objects"),
    ],
)  # fmt: skip
def test_a_wrong_npz_is_one_sentence(arrays, words, tmp_path):
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=words) as caught:
        read_mask(str(path))
    assert "wrong.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [0, 10, 200, -1, -30])
def test_truncated_files(size, tmp_path):
    np.savez(tmp_path / "whole.npz", block_map=BLOCKS)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:size])
    with pytest.raises(InputError, match=r"truncated or no .npz file"):
        read_mask(str(tmp_path / "cut.npz"))


def test_files_that_are_something_else(tmp_path):
    np.save(tmp_path / "array.npy", BLOCKS)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(InputError, match="single array"):
        read_mask(str(tmp_path / "array.npz"))
    with pytest.raises(InputError, match=r"does not exist; did you mean 'array.npz'"):
        read_mask(str(tmp_path / "arrays.npz"))
    pytest.importorskip("torch")
    (tmp_path / "mask.pt").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"truncated or was not written by torch.save"):
        read_mask(str(tmp_path / "mask.pt"))


def test_a_stored_map_fits_one_workload_only(tmp_path):
    blocks = np.stack([BLOCKS, BLOCKS])[None]
    np.savez(tmp_path / "map.npz", block_map=blocks)
    stored = read_mask(str(tmp_path / "map.npz"))
    stored.check(Workload((384,), 2, 64, kv_grid=(512,)))
    with pytest.raises(InputError, match=r"384 queries and 512 keys.*which has 384 and 384"):
        stored.check(Workload((384,), 2, 64))
    with pytest.raises(InputError, match="maps for heads 2: expected 1 or 4"):
        stored.check(Workload((384,), 4, 64, kv_grid=(512,)))
    with pytest.raises(InputError, match="kv tile 96 does not fit the block map's kv blocks of 128"):
        stored.tile_work(Workload((384,), 2, 64, kv_grid=(512,)), (128,), (96,))
    work = stored.tile_work(Workload((384,), 2, 64, kv_grid=(512,)), (128,), (128,))
    assert (work.count.sum(), work.visited_total) == (3, 10)


def test_a_map_too_large_to_write_says_so():
    runs = Runs(np.zeros(2**16 + 1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool))
    with pytest.raises(InputError, match="too large to write out"):
        BlockMap(2**16, 2**16, 1, 1, (runs,), (1, 1), 0).to_dense()
