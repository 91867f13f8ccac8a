"""Blocked matrix products against every block size tried by hand."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast.simulator.accelerator.matmul import largest_divisor, matmul_traffic


def test_what_fits_is_moved_once() -> None:
    assert matmul_traffic(1024, 64, 1024, 32 * 2**20, 2, 256) == 2 * (2 * 1024 * 64 + 1024 * 1024)


def test_what_does_not_fit_is_moved_again() -> None:
    # 2^20 keys of 64 elements are 128 MiB: half the 32 MiB buffer holds an eighth, so the other operand goes by 8 times.
    n = 2**20
    assert matmul_traffic(n, 64, n, 32 * 2**20, 2, 256) == 2 * (9 * n * 64 + n * n)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(300, 5000))
def test_least_over_all_blocks(rows: int, inner: int, columns: int, room: int) -> None:
    tile = 4
    best = min(
        stay * inner + ceil(stay / block) * inner * go + rows * columns
        for stay, go in ((rows, columns), (columns, rows))
        for block in range(1, stay + 1)
        if stay % block == 0 and (block == 1 or block * min(inner, go) <= room - tile * tile)
    )
    assert matmul_traffic(rows, inner, columns, room, 1, tile) == best


@pytest.mark.parametrize(
    ("n", "limit", "want"), [(256, 251, 128), (1024, 126, 64), (7, 3, 1), (12, 100, 12), (12, 0, 1)]
)
def test_largest_divisor(n: int, limit: int, want: int) -> None:
    assert largest_divisor(n, limit) == want
