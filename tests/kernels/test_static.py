"""The static estimate: Triton's own figures, monotony, speed; and the order of configurations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast.hwmodels import load_gpu
from attncast.kernels.static import estimate


# What Triton 3.9 reported for these configurations: (GPU, dim, M, N, warps, stages, TMA, specialised,
# shared, tmem).
@pytest.mark.parametrize(
    ("gpu", "dim", "m", "n", "warps", "stages", "tma", "special", "shared", "tmem"),
    [
        ("a100", 128, 128, 64, 8, 3, False, False, 98304, 0),
        ("a100", 64, 32, 32, 4, 4, False, False, 30720, 0),
        ("a100", 128, 64, 128, 4, 2, False, False, 98304, 0),
        ("a100", 128, 32, 128, 8, 4, False, False, 212992, 0),
        ("h100", 128, 128, 64, 8, 3, False, False, 131072, 0),
        ("h100", 128, 128, 128, 8, 4, False, False, 294912, 0),
        ("h100", 64, 32, 64, 4, 4, False, False, 57344, 0),
        ("h100", 128, 128, 64, 8, 3, True, False, 132096, 0),
        ("b200", 128, 128, 64, 8, 3, False, False, 132096, 256),
        ("b200", 128, 256, 128, 8, 3, False, False, 263168, 640),
        ("b200", 64, 64, 128, 8, 3, True, False, 107616, 128),
        ("b200", 128, 64, 32, 4, 2, False, False, 49184, 256),
        ("b200", 128, 128, 64, 4, 2, True, True, 100144, 512),
        ("b200", 64, 64, 128, 4, 3, True, True, 108096, 256),
        ("rtx5090", 128, 128, 64, 8, 3, False, False, 98304, 0),
        ("rtx5090", 128, 64, 128, 4, 2, True, True, 163972, 0),
        ("rtx5090", 128, 128, 64, 4, 3, True, True, 131468, 0),
    ],
)
def test_memory_is_what_triton_asks_for(
    gpu: str,
    dim: int,
    m: int,
    n: int,
    warps: int,
    stages: int,
    tma: bool,
    special: bool,
    shared: int,
    tmem: int,
) -> None:
    guess = estimate(
        load_gpu(gpu), head_dim=dim, block_m=m, block_n=n, num_warps=warps, num_stages=stages, use_tma=tma,
        warp_specialize=special,
    )  # fmt: skip
    assert abs(guess.shared_bytes - shared) <= 2048
    assert guess.tmem_columns == tmem


def test_what_the_issue_says_of_a_specialised_tile_on_sm_120() -> None:
    guess = estimate(
        load_gpu("rtx5090"), head_dim=128, block_m=128, block_n=64, num_warps=4, num_stages=3, use_tma=True,
        warp_specialize=True,
    )  # fmt: skip
    assert guess.hopeless
    assert 130_000 < guess.shared_bytes < 133_000


def test_a_register_cap_far_below_the_need_is_hopeless() -> None:
    knobs = {"head_dim": 128, "block_m": 128, "block_n": 64, "num_warps": 8, "num_stages": 2}
    free = estimate(load_gpu("a100"), **knobs)  # type: ignore[arg-type]
    assert (free.hopeless, round(free.registers) > 200) == (False, True)
    capped = [estimate(load_gpu("a100"), **knobs, maxnreg=cap) for cap in (0, 255, 168, 64)]  # type: ignore[arg-type]
    assert [one.hopeless for one in capped] == [False, False, False, True]
    assert all(one.registers == free.registers for one in capped)  # what a thread would like


sizes = st.sampled_from([16, 32, 64, 128, 256])


@given(sizes, sizes, st.sampled_from([16, 64, 128, 256]), st.sampled_from([1, 4, 8]), st.integers(1, 5))
def test_more_of_anything_asks_for_no_less(m: int, n: int, dim: int, warps: int, stages: int) -> None:
    for name in ("a100", "h100", "b200", "rtx5090"):
        gpu = load_gpu(name)

        def shared(m: int, n: int, dim: int, stages: int, warps: int = warps, gpu=gpu) -> int:  # type: ignore[no-untyped-def]
            guess = estimate(gpu, head_dim=dim, block_m=m, block_n=n, num_warps=warps, num_stages=stages)
            return int(guess.shared_bytes)

        least = shared(m, n, dim, stages)
        assert shared(m, 2 * n, dim, stages) >= least
        assert shared(m, n, dim, stages + 1) >= least
        assert shared(m, n, 2 * dim, stages) >= least


def test_a_hundred_thousand_configurations_take_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    count = 100_000
    knobs = {
        "head_dim": rng.choice([64, 128], count),
        "block_m": rng.choice([32, 64, 128, 256], count),
        "block_n": rng.choice([32, 64, 128], count),
        "num_warps": rng.choice([4, 8], count),
        "num_stages": rng.integers(1, 5, count),
        "use_tma": rng.integers(0, 2, count),
        "warp_specialize": rng.integers(0, 2, count),
    }
    gpu = load_gpu("b200")
    many = estimate(gpu, **knobs)
    # Arrays and numbers agree.
    for at in range(0, count, 9973):
        one = estimate(gpu, **{name: values[at].item() for name, values in knobs.items()})
        assert one.shared_bytes == many.shared_bytes[at]
        assert one.tmem_columns == many.tmem_columns[at]
        assert one.hopeless == many.hopeless[at]
