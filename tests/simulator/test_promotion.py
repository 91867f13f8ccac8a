"""Promoted fp8 products: registers that do not fit, against what the compiler reports for vLLM's kernels."""

from __future__ import annotations

import numpy as np
import pytest

from attncast.hwmodels import load_gpu
from attncast.simulator.pipes import HIDDEN_BY_OTHERS, TileShape, tile_cycles
from attncast.simulator.profile import load_profile
from attncast.simulator.promotion import promotion_cycles, spilled_registers, waiting_cycles

H100 = load_gpu("h100")
VLLM = load_profile("fa3", H100, "vllm")

# Head dim, Q and KV tile, stack bytes of a thread: cuobjdump -res-usage of vllm/vllm_flash_attn/_vllm_fa3_C.abi3.so in vLLM
# 0.24.0's wheel, e4m3, paged, packed heads, no split, no softcap (windows: the last row).
COMPILED = [
    (64, 64, 128, 0),
    (64, 192, 128, 48),
    (96, 128, 128, 0),
    (128, 64, 96, 0),
    (128, 128, 192, 136),
    (192, 128, 96, 144),
    (256, 128, 128, 216),
    (256, 128, 64, 232),
]


def shape(dim: int, rows: int, keys: int, query_bytes: float = 1.0) -> TileShape:
    one = [np.array([float(size)]) for size in (rows, rows, keys, dim, dim, query_bytes, query_bytes, 1)]
    return TileShape(*one)


def one_by_one(dim: int) -> np.ndarray:
    return np.array([float(dim >= VLLM.products.serial_fp8_dim)])


@pytest.mark.parametrize(("dim", "rows", "keys", "stack_bytes"), COMPILED)
def test_spills_are_those_that_the_compiler_reports(dim: int, rows: int, keys: int, stack_bytes: int) -> None:
    spilled_bytes = 4.0 * spilled_registers(shape(dim, rows, keys), one_by_one(dim))[0]
    assert (spilled_bytes > 0) == (stack_bytes > 0)
    assert spilled_bytes == pytest.approx(stack_bytes, abs=40)  # P and addresses, which are not counted one by one


@pytest.mark.parametrize(("dim", "rows", "keys"), [row[:3] for row in COMPILED])
def test_the_profile_has_the_compiled_tiles(dim: int, rows: int, keys: int) -> None:
    tiles = (*VLLM.tiles, *VLLM.decode_tiles)
    assert any(
        c.max_head_dim == dim and (*c.q, *c.kv) == (rows, keys) and "fp8" in (c.dtypes or ["fp8"]) for c in tiles
    )


def test_sixteen_bits_are_not_promoted() -> None:
    assert [float(part[0]) for part in promotion_cycles(H100, shape(256, 128, 80, 2.0), 256)] == [0.0, 0.0, 0.0]


def test_registers_go_to_the_l2_where_shared_memory_fills_the_l1() -> None:
    # 128 x 128 at head dim 256 holds 224 KiB of Q, K, V and V transposed; with 64 keys 128 KiB.
    _, near, far = promotion_cycles(H100, shape(256, 128, 128), 256)
    assert near[0] == 0.0
    assert far[0] > 0.0
    _, near, far = promotion_cycles(H100, shape(256, 128, 64), 256)
    # 56 registers of 256 threads, saved and restored at 128 bytes a cycle.
    assert near[0] == pytest.approx(2 * 56 * 4 * 256 / 128)
    assert far[0] == 0.0


def test_instructions_that_wait_are_counted_by_warpgroup() -> None:
    # 4 for the scores and 6 for the values of each of two warpgroups (QGMMA in the inner loop).
    assert waiting_cycles(shape(128, 128, 192))[0] == pytest.approx(20 * 75.0)
    assert waiting_cycles(shape(64, 192, 128))[0] == 0.0


def test_the_first_tile_saves_only_where_products_do_not_overlap() -> None:
    rate = np.array([8192.0])
    found = tile_cycles(H100, VLLM, VLLM.operations, shape(256, 128, 128), rate)
    assert found.first_saves is not None
    assert 0.0 < float(found.first_saves[0]) < float(found.full[0])
    found = tile_cycles(H100, VLLM, VLLM.operations, shape(128, 128, 192), rate)
    assert found.first_saves is None


def test_products_that_do_not_overlap_hide_less_and_only_in_fp8() -> None:
    def cycles(engine: str, dim: int, query_bytes: float) -> float:
        profile = load_profile("fa3", H100, engine)
        tile = shape(dim, 128, 128, query_bytes)
        return float(tile_cycles(H100, profile, profile.operations, tile, np.array([8192.0])).full[0])

    assert cycles("sglang", 256, 1.0) > cycles("", 256, 1.0)
    assert cycles("sglang", 256, 2.0) == cycles("", 256, 2.0)
    assert cycles("sglang", 128, 1.0) == cycles("", 128, 1.0)


def test_what_other_warpgroups_hide_is_the_ablations_of_the_paper() -> None:
    # arXiv 2407.08608: 4.02 ms without overlap inside a warpgroup, TensorRT-LLM's kernel here, and 3.54 ms with it.
    without, overlapped = load_profile("trtllm", H100).overlap, load_profile("fa3", H100).overlap
    assert 1.0 - (1.0 - overlapped) * HIDDEN_BY_OTHERS == pytest.approx(without)
