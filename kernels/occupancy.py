"""How many CTAs of a kernel one SM holds, and which resource says so.

Rules of NVIDIA's occupancy calculator (CUDA C++ Programming Guide, "Hardware implementation";
cuda_occupancy.h) for compute capability 8.0 to 12.x: registers are handed out to warps in units of 256, an
SM's register file is four quarters, each serving every fourth warp; shared memory comes in units of 128
bytes with a reserve for each CTA; tensor memory in powers of two of columns, at least 32 (PTX ISA,
tcgen05.alloc). Arrays are taken as well as numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU

REGISTER_UNIT = 256  # registers, per warp
SHARED_UNIT = 128  # bytes
WARP = 32
QUARTERS = 4  # sub-partitions of an SM, each with a register file of its own
TMEM_LANES = 128
TMEM_CELL_BYTES = 4
TMEM_LEAST_COLUMNS = 32

Count = NDArray[np.int64]


@dataclass(frozen=True)
class Occupancy:
    """CTAs that one SM holds at once by each limit, and by all of them; 0 means the kernel cannot run.

    Fields are integers, or integer arrays where arrays went in.
    """

    registers: Any
    shared: Any
    threads: Any
    tmem: Any
    slots: int

    @property
    def ctas(self) -> Any:
        """CTAs per SM: the least of the limits."""
        return _plain(
            np.minimum.reduce(np.broadcast_arrays(self.registers, self.shared, self.threads, self.tmem, self.slots))
        )

    @property
    def limiter(self) -> str:
        """The scarcest resource, for scalar inputs: "registers", "shared", "threads", "tmem" or "slots"."""
        limits = {
            "registers": self.registers,
            "shared": self.shared,
            "threads": self.threads,
            "slots": self.slots,  # before tmem, which says the same where a kernel uses none
            "tmem": self.tmem,
        }
        return min(limits, key=lambda name: int(limits[name]))


def tmem_columns_per_sm(gpu: GPU) -> int:
    """Columns of tensor memory on one SM (512 on sm_100, 0 where there is none)."""
    return int(gpu.tmem_bytes_per_sm // (TMEM_LANES * TMEM_CELL_BYTES))


def occupancy(gpu: GPU, *, registers: Any, shared_bytes: Any, warps: Any, tmem_columns: Any = 0) -> Occupancy:
    """Return the occupancy of a kernel.

    ``registers`` per thread as the compiler reports them, ``shared_bytes`` dynamic shared memory per CTA,
    ``warps`` and ``tmem_columns`` per CTA. Numbers or integer arrays that broadcast.
    """
    registers, shared_bytes, warps, tmem_columns = (
        np.asarray(value, dtype=np.int64) for value in (registers, shared_bytes, warps, tmem_columns)
    )
    return Occupancy(
        registers=_plain(_by_registers(gpu, registers, warps)),
        shared=_plain(_by_shared(gpu, shared_bytes)),
        threads=_plain(np.where(warps * WARP > gpu.max_threads_per_cta, 0, gpu.max_threads_per_sm // (warps * WARP))),
        tmem=_plain(_by_tmem(gpu, tmem_columns)),
        slots=int(gpu.max_ctas_per_sm),
    )


def _by_registers(gpu: GPU, registers: Count, warps: Count) -> Count:
    per_warp = _round_up(np.maximum(registers, 1) * WARP, REGISTER_UNIT)
    warps_per_quarter = (gpu.registers_per_sm // QUARTERS) // per_warp
    # Warps are dealt out four at a time, one to each quarter.
    ctas = warps_per_quarter * QUARTERS // _round_up(warps, QUARTERS)
    too_many = (registers > gpu.max_registers_per_thread) | (
        per_warp * _round_up(warps, QUARTERS) > gpu.registers_per_sm
    )
    return np.asarray(np.where(too_many, 0, ctas), dtype=np.int64)


def _by_shared(gpu: GPU, shared_bytes: Count) -> Count:
    taken = _round_up(shared_bytes + gpu.smem_reserved_bytes_per_cta, SHARED_UNIT)
    ctas = gpu.smem_bytes_per_sm // np.maximum(taken, 1)
    return np.asarray(np.where(shared_bytes > gpu.smem_bytes_per_cta, 0, ctas), dtype=np.int64)


def _by_tmem(gpu: GPU, columns: Count) -> Count:
    have = tmem_columns_per_sm(gpu)
    asked = np.maximum(columns, TMEM_LEAST_COLUMNS)
    allocated = 2 ** np.ceil(np.log2(asked)).astype(np.int64)
    return np.asarray(np.where(columns == 0, gpu.max_ctas_per_sm, have // allocated), dtype=np.int64)


def _round_up(value: Count, unit: int) -> Count:
    return -(-value // unit) * unit


def _plain(value: Any) -> Any:
    """Turn an array without dimensions into a plain int."""
    array = np.asarray(value)
    return int(array) if array.ndim == 0 else array
