"""The traffic of a matrix product that starts and ends in DRAM, in blocks that fit a buffer."""

from __future__ import annotations

from math import ceil


def matmul_traffic(rows: int, inner: int, columns: int, buffer_bytes: int, element_bytes: int, tile: int) -> int:
    """The least bytes that ``[rows, inner] x [inner, columns]`` moves when one operand stays in blocks.

    A block of rows stays (its operand, or its sums where those are smaller) while the other operand goes by,
    once for each block; or a block of columns does. A tile of what goes by must fit beside the block.
    """
    room = (buffer_bytes - tile * tile * element_bytes) // element_bytes
    best: int | None = None
    for stay, go in ((rows, columns), (columns, rows)):
        block = largest_divisor(stay, room // max(1, min(inner, go)))
        moved = stay * inner + ceil(stay / block) * inner * go + rows * columns
        best = moved if best is None else min(best, moved)
    assert best is not None
    return best * element_bytes


def largest_divisor(n: int, limit: int) -> int:
    """The largest divisor of ``n`` not above ``limit``; 1 at least."""
    return max((d for k in range(1, int(n**0.5) + 1) if n % k == 0 for d in (k, n // k) if d <= limit), default=1)
