"""Shared memory, tensor memory and registers of ``attention`` from the configuration alone, before compiling.

Good enough to leave hopeless configurations uncompiled; ``compile.py`` has the truth. Numpy only, no
Triton: every argument may be an array, and a hundred thousand configurations take milliseconds.

Shared and tensor memory follow Triton's own layout (3.6 to 3.9), in three paths that the tile and the
architecture choose: tcgen05 (sm_100) and wgmma (sm_90) from 64 query rows up, mma.sync for the rest.
Registers are a linear model of what a thread keeps, with constants fitted to the compiler's output; see
``FITTED_ON``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU
from .occupancy import TMEM_LEAST_COLUMNS, occupancy, tmem_columns_per_sm
from .space import KernelConfig, architecture_number

#: How the register constants came about: command, data, date.
FITTED_ON = "python -m attncast.kernels.static_report --fit: Triton 3.9.0, head dim 64, November 2026"
DTYPE_BYTES = {"fp8": 1, "fp16": 2, "bf16": 2, "fp32": 4}
PATHS = ("mma.sync", "wgmma", "tcgen05", "specialised")
#: Registers per thread = constants . (1, output, scores, addresses), by path; see ``register_terms``.
REGISTER_CONSTANTS: dict[str, tuple[float, float, float, float]] = {
    "mma.sync": (70.1, 1.11, 1.63, 3.34),
    "wgmma": (50.03, 1.02, 0.99, 4.28),
    "tcgen05": (0.9, 1.13, 2.46, 1.85),
    "specialised": (124.42, 0.71, 0.0, 0.0),
}
_REGISTERS_MOST = 255
#: A thread that wants 64 registers more than there are spills 256 bytes: what static_report.py
#: calls hopeless.
_HOPELESS_EXCESS = 64
_MMA_ROWS = 64  # fewer query rows than this go to mma.sync on every architecture
_BARRIERS_BYTES = 32  # of a plain pipeline; buffers of 1 KiB alignment bring up to the next

Array = NDArray[Any]


@dataclass(frozen=True)
class StaticEstimate:
    """What a configuration is likely to ask of an SM; arrays where arrays went in.

    ``registers`` is what a thread would like (above 255 it spills), ``hopeless`` whether it cannot run or
    would spend its time on spills: see ``estimate``.
    """

    shared_bytes: Any
    tmem_columns: Any
    registers: Any
    hopeless: Any


def estimate(
    gpu: GPU,
    *,
    head_dim: Any,
    block_m: Any,
    block_n: Any,
    num_warps: Any,
    num_stages: Any,
    use_tma: Any = False,
    warp_specialize: Any = False,
    dtype_bytes: Any = 2,
    maxnreg: Any = 0,
) -> StaticEstimate:
    """Return the estimate for configurations of ``attention`` on ``gpu``; arguments broadcast.

    ``head_dim`` as padded by the kernel (a power of two); ``dtype_bytes`` of Q, K and V. A configuration is
    hopeless when shared or tensor memory exceeds the GPU's, or a thread wants 64 registers more than the
    255 it can have, or than the ``maxnreg`` it is left (0: no cap).
    """
    knobs = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.int64) for value in (head_dim, block_m, block_n, num_warps, num_stages)),
        np.asarray(use_tma, dtype=np.int64),
        np.asarray(warp_specialize, dtype=np.int64),
        np.asarray(dtype_bytes, dtype=np.int64),
        np.asarray(maxnreg, dtype=np.int64),
    )
    dim, rows, keys, warps, stages, tma, special, size, cap = knobs
    path = mma_path(gpu.arch, rows, special)
    shared = _shared(path, dim, rows, keys, stages, tma, special, size)
    columns = _tmem(path, dim, rows, keys, special)
    registers = _registers(path, dim, rows, keys, warps, tma, special)
    held = occupancy(gpu, registers=1, shared_bytes=shared, warps=warps, tmem_columns=columns)
    too_large = (np.asarray(held.shared) == 0) | (columns > tmem_columns_per_sm(gpu))
    most = np.where(cap > 0, np.minimum(cap, _REGISTERS_MOST), _REGISTERS_MOST)
    hopeless = too_large | (registers > most + _HOPELESS_EXCESS)
    if shared.ndim == 0:
        return StaticEstimate(int(shared), int(columns), float(registers), bool(hopeless))
    return StaticEstimate(shared, columns, registers, hopeless)


def estimate_configs(gpu: GPU, configs: Sequence[KernelConfig]) -> StaticEstimate:
    """Return the estimate for a list of configurations, as arrays in its order."""
    knobs = ("block_m", "block_n", "num_warps", "num_stages", "use_tma", "warp_specialize", "maxnreg")
    return estimate(
        gpu,
        head_dim=np.array([config.padded_head_dim for config in configs]),
        dtype_bytes=np.array([DTYPE_BYTES[config.dtype] for config in configs]),
        **{knob: np.array([int(getattr(config, knob)) for config in configs]) for knob in knobs},
    )


def mma_path(arch: str, rows: Array, special: Array) -> Array:
    """Return the index in PATHS of the code that Triton emits: by matrix instruction, or specialised on
    sm_100.

    Warp specialisation leaves sm_90 as it is and on sm_120 changes the buffers, not the loop.
    """
    number = architecture_number(arch)
    if number in (100, 103):
        large = np.where(special > 0, PATHS.index("specialised"), PATHS.index("tcgen05"))
    elif number == 90:
        large = np.full_like(rows, PATHS.index("wgmma"))
    else:
        large = np.full_like(rows, PATHS.index("mma.sync"))
    return np.asarray(np.where(rows >= _MMA_ROWS, large, PATHS.index("mma.sync")))


def _shared(
    path: Array, dim: Array, rows: Array, keys: Array, stages: Array, tma: Array, special: Array, size: Array
) -> Array:
    """Shared memory in bytes: Q, the K and V pipeline, and P where warps have to exchange it."""
    q = rows * dim * size
    kv = 2 * keys * dim * size
    old = path == PATHS.index("mma.sync")
    # cp.async fills a buffer while the last is in registers; TMA and wgmma read shared memory throughout.
    buffers = np.where(old & (special == 0), stages - 1, stages)
    # mma.sync: with fewer rows than columns of output, Triton deals the columns out to the warps, and P
    # goes round.
    exchanged = np.where(old & (rows < dim), rows * keys * size, 0)
    modern = path >= PATHS.index("tcgen05")
    aligned = np.where(modern | ((path == PATHS.index("wgmma")) & (tma > 0)), 1024, 0)
    # Without a pipeline V takes the place of K.
    pipeline = np.where(stages == 1, kv // 2, buffers * kv)
    return np.asarray(q + pipeline + exchanged + aligned + _BARRIERS_BYTES * ((tma > 0) | modern))


def _tmem(path: Array, dim: Array, rows: Array, keys: Array, special: Array) -> Array:
    """Tensor memory columns: scores S, output O and weights P (16 bit: half the columns), 128 rows to a
    column.

    With 64 rows, S lies beside O and P in the other half of the lanes. Specialised code keeps two S.
    """
    s = np.where(special > 0, 2, 1) * keys
    output_and_weights = dim + keys // 2
    tall = (s + output_and_weights) * np.maximum(rows // 128, 1)
    wanted = np.where(rows >= 128, tall, np.maximum(s, output_and_weights))
    power = 2 ** np.ceil(np.log2(np.maximum(wanted, TMEM_LEAST_COLUMNS))).astype(np.int64)
    columns = np.where(power <= 512, power, wanted)
    return np.asarray(np.where(path >= PATHS.index("tcgen05"), columns, 0))


def register_terms(path: Array, dim: Array, rows: Array, keys: Array, warps: Array, tma: Array) -> Array:
    """What one thread keeps, in 32-bit registers, along a new last axis: 1, output, scores, load addresses.

    Warps beyond one for every 16 rows compute the same rows again and relieve nobody (wgmma and mma.sync).
    """
    useful = np.where(
        path >= PATHS.index("tcgen05"), warps, np.where(rows >= dim, np.minimum(warps, rows // 16), warps)
    )
    output = rows * dim / (32 * useful)
    scores = rows * keys / (32 * useful)
    addresses = np.where(tma > 0, 0, 2 * keys * dim * 2 / (16 * 32 * warps))
    return np.stack([np.ones_like(output), output, scores, addresses], axis=-1)


def _registers(path: Array, dim: Array, rows: Array, keys: Array, warps: Array, tma: Array, special: Array) -> Array:
    terms = register_terms(path, dim, rows, keys, warps, tma)
    constants = np.array([REGISTER_CONSTANTS[name] for name in PATHS])
    return np.asarray(np.einsum("...t,...t->...", constants[path], terms))
