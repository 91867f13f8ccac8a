"""What a configuration makes of an SM: how many CTAs it holds, which pipes a tile keeps busy and what it waits for.

Everything here follows from the configuration and from facts with a source; nothing is fitted to measured times.
Arrays of configurations throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..hwmodels import GPU
from ..kernels import rank as sass_rank
from ..kernels.check import CheckResult
from ..kernels.occupancy import occupancy
from ..kernels.static import PATHS, estimate, mma_path
from ..simulator import pipes
from ..simulator.instructions import ACCESS_BYTES, SCHEDULERS, WARP
from ..simulator.profile import KernelProfile
from ..simulator.tile_shape import TileShape
from ..simulator.tiles import Floats

Bools = NDArray[np.bool_]

MMA_SYNC, WGMMA, TCGEN05, SPECIALISED = range(len(PATHS))
SHUFFLED_BYTES = 4  # of a thread: a shuffle takes the crossbar's time as a load does
REGISTERS_MOST = 255
#: Registers that do not fit are spilled to local memory; beyond so many a thread does little else
#: (256 bytes a thread, what kernels.static_report calls hopeless).
SPILLED_MOST = 64
#: The same by the static estimate, whose registers are off by 15 in the median (kernels/static_report.md).
SPILLED_ESTIMATED = SPILLED_MOST - 15

#: A specialised thread that holds more accumulators spills: 344 bytes at 128, none at 64 (compiled for sm_100, Triton 3.9).
SPECIALISED_ACCUMULATORS = 64

# Latencies in cycles, measured; sources as in the collection of GPU facts: L25 = Luo et al., arXiv 2501.12084 (A100, H800);
# GB = RRZE gpu-benches; MD = M. Dewing, AI_kernels latency/README; SA = SemiAnalysis (B200).
#: One matrix instruction beyond its own issue: mma.sync m16n8k16 24.7 (L25); wgmma m64n128k16 64 (L25); tcgen05 M128 N128
#: 200 (SA), 64 of them at the peak rate.
MMA_LATENCY = np.array([24.7, 64.0, 136.0, 136.0])
#: Most bytes per clock from the L2 into one SM: as remembered of Volta (Jia et al., arXiv 1804.06826), not looked up again;
#: later parts are taken to have kept the port.
L2_PORT_BYTES = 64.0
SMEM_LATENCY = 29.0  # L25, SA; a shuffle goes through the same crossbar
ARITHMETIC_LATENCY = (
    40.0  # scale, subtract, ex2, convert in a row: three of 4 cycles (B300, QuickRunCUDA) and one of about 28
)
#: Instructions for one 16-byte load through pointers: 64-bit address, predicate, buffer offset. Counted in the SASS of
#: kernels.attention on sm_80, sm_90 and sm_100 (128 x 64 and 128 x 128 tiles, 8 warps: 29 to 58 for 8 to 16 loads).
POINTER_ALU = 3.5
#: Row statistics (maximum, sum, rescaling factor) are kept by every thread that holds part of the row. Instructions for one
#: row, thread and KV tile: exp, fp32, alu, shuffle. Counted in the SASS of kernels.attention (sm_80, head dim 128, tiles of
#: 128 x 32 with 4 warps; 64 x 64 with 8, whose warps exchange their results).
ROW_INSTRUCTIONS = (1.0, 4.0, 2.0, 4.0)
ROW_INSTRUCTIONS_EXCHANGED = (1.0, 7.0, 5.0, 10.0)
LANES_PER_ROW = 4  # threads that hold a row of an mma.sync or wgmma result
#: Barriers of a KV tile: two of the pipeline; four more where columns are dealt to the warps, which then exchange maxima,
#: sums and weights (same count).
BARRIERS, EXCHANGE_BARRIERS = 2.0, 4.0


@dataclass(frozen=True)
class Knobs:
    """Configurations of a fused Triton kernel as arrays, shape (configurations,); head dims as the kernel pads them.

    ``cap`` is the most registers of a thread that the compiler may use; 0 where that is left to it.
    """

    rows: Any
    keys: Any
    warps: Any
    stages: Any
    tma: Any
    specialised: Any
    dim: int
    dim_v: int
    dtype_bytes: int
    cap: Any = 0


@dataclass(frozen=True)
class Held:
    """What an SM holds of each configuration, shape (configurations,) each.

    Attributes:
        registers, shared_bytes, tmem_columns: of a thread and of a CTA. spilled: registers of a thread that do not fit.
        ctas: CTAs of an SM at once. fits: it runs, and does not spill badly.
    """

    registers: Floats
    spilled: Floats
    shared_bytes: Floats
    tmem_columns: Floats
    ctas: Floats
    fits: Bools


def held_by_estimate(gpu: GPU, knobs: Knobs) -> Held:
    """What the static estimate says (see kernels.static)."""
    found = estimate(
        gpu,
        head_dim=max(knobs.dim, knobs.dim_v),
        block_m=knobs.rows,
        block_n=knobs.keys,
        num_warps=knobs.warps,
        num_stages=knobs.stages,
        use_tma=knobs.tma,
        warp_specialize=knobs.specialised,
        dtype_bytes=knobs.dtype_bytes,
        maxnreg=knobs.cap,
    )
    special = paths(gpu, knobs) == SPECIALISED
    warps = np.where(special, launched_warps(knobs.warps), knobs.warps)
    # The registers of an SM bound what a thread of a large CTA gets; the compiler hands out multiples of 8.
    most = np.minimum(REGISTERS_MOST, gpu.registers_per_sm // (warps * WARP) // 8 * 8)
    most = np.where(knobs.cap, np.minimum(most, knobs.cap), most)
    accumulators = knobs.rows * knobs.dim_v / (knobs.warps * WARP)
    too_many = np.where(accumulators > SPECIALISED_ACCUMULATORS, SPILLED_MOST + 1.0, 0.0)
    spilled = np.where(special, too_many, np.maximum(0.0, found.registers - most))
    # Specialised warps share all that there is.
    registers = np.where(special, most, np.minimum(np.ceil(found.registers), most))
    ctas = occupancy(
        gpu, registers=registers, shared_bytes=found.shared_bytes, warps=warps, tmem_columns=found.tmem_columns
    ).ctas
    fits = ~np.asarray(found.hopeless) & (ctas > 0) & (spilled <= SPILLED_ESTIMATED)
    return Held(registers, spilled, found.shared_bytes, found.tmem_columns, np.asarray(ctas, dtype=float), fits)


def launched_warps(warps: Any) -> Any:
    """Warps of a specialised CTA: Triton 3.9 adds as many again for the correction, and four that load and multiply."""
    return 2 * warps + 4


def held_by_compiler(results: Sequence[CheckResult]) -> Held:
    """What the compiler said; 0 of what it could not compile."""

    def column(name: str) -> Floats:
        return np.array([getattr(result.facts, name) or 0 for result in results], dtype=float)

    spilled = column("spill_bytes") / 4
    ctas = np.array([result.ctas_per_sm for result in results], dtype=float)
    fits = (ctas > 0) & (spilled < SPILLED_MOST)
    return Held(column("registers"), spilled, column("shared_bytes"), column("tmem_columns"), ctas, fits)


def paths(gpu: GPU, knobs: Knobs) -> NDArray[np.int64]:
    """Which matrix instructions each configuration runs on (index in kernels.static.PATHS)."""
    return np.asarray(mma_path(gpu.arch, np.asarray(knobs.rows), np.asarray(knobs.specialised).astype(np.int64)))


def dealt_by_columns(knobs: Knobs, path: NDArray[np.int64]) -> Bools:
    """mma.sync on fewer rows than the output has columns: Triton deals the columns, not the rows, out to the warps."""
    return np.asarray((path == MMA_SYNC) & (knobs.rows < knobs.dim_v))


def score_copies(knobs: Knobs, path: NDArray[np.int64]) -> Floats:
    """How many times the warps of a CTA compute the same scores (checked against compiled loops; see kernels.loops).

    Rows dealt: warps beyond one for every 16 rows (a warpgroup for every 64). Columns dealt: warps beyond one for every 8
    keys. tcgen05 works for the CTA as a whole.
    """
    by_rows = knobs.warps * 16 / knobs.rows
    by_columns = knobs.warps * 8 / knobs.keys
    copies = np.where(dealt_by_columns(knobs, path), by_columns, by_rows)
    return np.asarray(np.where(path >= TCGEN05, 1.0, np.maximum(1.0, copies)))


def streams(knobs: Knobs, path: NDArray[np.int64], ctas: Floats) -> Floats:
    """Independent instruction streams that share each scheduler, below 1 where schedulers idle.

    With mma.sync each warp goes its own way between two barriers, and the compiler mixes exponentials with matrix
    instructions: one stream in each scheduler for every four warps. With wgmma and tcgen05 all warps of a CTA meet at a
    barrier after either product (SASS of kernels.attention: HGMMA, WARPGROUP.DEPBAR, BAR, softmax, HGMMA, DEPBAR, BAR), so
    that they are in one phase: a CTA is one stream. Specialised, it has two tiles of scores under way.
    """
    per_cta = np.where(path == MMA_SYNC, knobs.warps / SCHEDULERS, np.where(path == SPECIALISED, 2.0, 1.0))
    return np.asarray(per_cta * ctas)


def overlap(count: Floats) -> Floats:
    """a in  max(pipes) + a (sum(pipes) - max(pipes))  for n streams: 1 / n.

    n jobs that take turns on the pipes, S in all and M on the busiest, need at most (S + (n - 1) M) / n each, and a wait of Z,
    in which a job uses no pipe, at most Z / n more: the balanced job bound of queueing networks (Zahorjan et al., CACM 25(2),
    1982). FlashAttention-3's ablation agrees: two warpgroups without ping-pong have a = .44, with each of them overlapping
    two tiles .24.
    """
    return np.asarray(1.0 / np.maximum(1.0, count))


def mma_fraction(gpu: GPU, knobs: Knobs, path: NDArray[np.int64], copies: Floats) -> Floats:
    """Share of the tensor peak, both products together and repeated scores included."""
    narrow = np.minimum(1.0, knobs.keys / sass_rank.WGMMA_FULL_COLUMNS)
    narrow_v = np.minimum(1.0, knobs.dim_v / sass_rank.WGMMA_FULL_COLUMNS)
    half = np.where(knobs.rows < 128, sass_rank.TCGEN05_M64_SHARE, 1.0)
    sync = np.full_like(half, sass_rank.MMA_SYNC_SHARE.get(gpu.generation, 1.0))
    scores = np.choose(np.minimum(path, TCGEN05), [sync, narrow, half])
    output = np.choose(np.minimum(path, TCGEN05), [sync, narrow_v * np.ones_like(half), half])
    dim, dim_v = knobs.dim, knobs.dim_v
    return np.asarray((dim + dim_v) / (dim * copies / scores + dim_v / output))


def tile_wait_cycles(
    gpu: GPU, knobs: Knobs, path: NDArray[np.int64], tile: Floats, l2: Floats, in_flight: Floats
) -> Floats:
    """Cycles of a KV tile in which a CTA waits: for data, at barriers, on chains of dependent instructions.

    A pipeline of s stages asks for K and V s - 1 tiles ahead, for their latency and their ``l2`` cycles of transfer. With one
    stage K is waited for in full; V is asked for once K is there and has half the tile's time to come, unless columns are
    dealt (SASS: its loads stand among the first product's instructions, there behind the exchange). A stream's chain of
    instructions (scores, maximum, exponential, output) is hidden by the others of its CTA.
    """
    columns = dealt_by_columns(knobs, path)
    loads = load_wait_cycles(gpu, knobs, path, tile, l2, in_flight)
    barrier = gpu.barrier_cycles + gpu.barrier_cycles_per_warp * knobs.warps
    exchange = np.where(columns, EXCHANGE_BARRIERS, 0.0)
    chain = 2 * (SMEM_LATENCY + MMA_LATENCY[path]) + 2 * SMEM_LATENCY + ARITHMETIC_LATENCY
    beside = np.maximum(1.0, streams(knobs, path, np.ones_like(tile)))
    return np.asarray(loads + chain / beside + (BARRIERS + exchange) * barrier + exchange * 2 * SMEM_LATENCY)


def l2_latency_cycles(gpu: GPU) -> float:
    """Cycles of a load that hits the L2: as many as at the clock that it was measured at, since the L2 follows the SMs'."""
    return gpu.l2_latency_s * gpu.clock_max_hz


def load_wait_cycles(
    gpu: GPU, knobs: Knobs, path: NDArray[np.int64], tile: Floats, l2: Floats, in_flight: Floats
) -> Floats:
    """Those of a tile's cycles in which it waits for K and V."""
    latency = l2_latency_cycles(gpu)
    ahead = (knobs.stages - 1) * tile * in_flight
    one = latency + l2 / 2  # K, or V
    unpipelined = one + np.where(dealt_by_columns(knobs, path), one, np.maximum(0.0, one - tile / 2))
    return np.asarray(np.where(knobs.stages == 1, unpipelined, np.maximum(0.0, latency + l2 - ahead)))


def fill_cycles(gpu: GPU, knobs: Knobs, l2: Floats, both: Bools, loads: Floats, ctas: Floats) -> Floats:
    """Cycles that a CTA waits for its loops to start, beyond the latency of the first loads of its life.

    Before a pipeline's first product Q and one K come from the L2, and nothing is there to hide behind: ``l2`` cycles are
    those of a K and a V at an SM's share of its bandwidth, less where fewer ``ctas`` than SMs share it, down to what the
    SM's port takes. A tile that is too short to hide the next one has waited for its ``loads``.
    Full and partial tiles are two loops, and each fills its own pipeline: one more load where a CTA has both. Without a
    pipeline every tile waits, the first too, whose latency the profile has counted already.
    """
    latency = l2_latency_cycles(gpu)
    share = gpu.l2_bandwidth_bytes_s / gpu.sms
    alone = np.minimum(L2_PORT_BYTES * gpu.clock_hz, gpu.l2_bandwidth_bytes_s / np.minimum(ctas, gpu.sms))
    kv = l2 * share / np.maximum(alone, share)
    q = kv * knobs.rows * knobs.dim / (knobs.keys * (knobs.dim + knobs.dim_v))
    first = np.maximum(0.0, kv / 2 - loads)
    return np.asarray(q + np.where(knobs.stages == 1, -latency, first + np.where(both, latency + l2, 0.0)))


def profile_of(gpu: GPU, base: KernelProfile, knobs: Knobs, path: NDArray[np.int64], ctas: Floats) -> KernelProfile:
    """The kernel's profile with a value for each configuration where it depends on it."""
    copies = score_copies(knobs, path)
    varied: dict[str, Any] = {
        "operand_rows": np.where(path >= TCGEN05, 128, 64),
        "mma_fraction": mma_fraction(gpu, knobs, path, copies),
    }
    # Not only wgmma and tcgen05 fetch operands while they compute: ptxas moves the loads of mma.sync's next operands between
    # the instructions of this one, so that the two pipes work at once even in a single warp.
    products = replace(base.products, operands="async", **varied)
    waits: dict[str, Any] = {"overlap": overlap(streams(knobs, path, ctas)), "in_flight": ctas}
    return replace(base, products=products, **waits)


def modelled_pipes(
    gpu: GPU, profile: KernelProfile, knobs: Knobs, path: NDArray[np.int64], held: Held, tile: TileShape, rate: Floats
) -> dict[str, Floats]:
    """Cycles of each pipe for a full KV tile: the simulator's, with what the configuration adds."""
    found = pipes.tile_pipes(gpu, profile, profile.operations, tile, rate)
    copies = score_copies(knobs, path)
    kv_bytes = knobs.keys * (knobs.dim + knobs.dim_v) * knobs.dtype_bytes
    accesses = np.where(knobs.tma, 0.0, kv_bytes / ACCESS_BYTES)
    exp, fp32, alu, shuffle = _row_instructions(knobs, path)
    found["exp"] = found["exp"] * copies + exp / gpu.exp_per_clock_per_sm
    found["fp32"] = found["fp32"] + fp32 / gpu.fp32_fma_per_clock_per_sm
    found["alu"] = found["alu"] * copies + (alu + accesses * POINTER_ALU) / gpu.alu_per_clock_per_sm
    smem = np.where(path == MMA_SYNC, _sync_bytes(knobs, path), found["smem"] * gpu.smem_bytes_per_clock_per_sm)
    spilling = held.spilled * 4 * knobs.warps * WARP  # through the L1, which is the same memory
    found["smem"] = (smem + spilling + shuffle * SHUFFLED_BYTES) / gpu.smem_bytes_per_clock_per_sm
    return found


def _row_instructions(knobs: Knobs, path: NDArray[np.int64]) -> tuple[Floats, ...]:
    """Thread-instructions of a KV tile that keep the statistics of its rows: exp, fp32, alu, shuffle."""
    columns = dealt_by_columns(knobs, path)
    lanes = np.where(path >= TCGEN05, knobs.warps * WARP / np.maximum(knobs.rows, 128), float(LANES_PER_ROW))
    threads = knobs.rows * lanes * np.where(columns, knobs.warps, 1)
    return tuple(
        threads * np.where(columns, exchanged, alone)
        for alone, exchanged in zip(ROW_INSTRUCTIONS, ROW_INSTRUCTIONS_EXCHANGED, strict=True)
    )


def _sync_bytes(knobs: Knobs, path: NDArray[np.int64]) -> Floats:
    """Bytes through shared memory for a KV tile where warps load their own operands.

    Rows dealt: every warp reads all of K and V, and its rows of Q. Columns dealt: K and V are read once, Q and the weights
    (which are written too) by every warp. Within 5% and 25% of the SASS of kernels.attention, without bank conflicts.
    """
    size = knobs.dtype_bytes
    kv = knobs.keys * (knobs.dim + knobs.dim_v) * size
    q = knobs.rows * knobs.dim * size
    weights = knobs.rows * knobs.keys * size
    by_rows = kv * (1 + np.minimum(knobs.warps, np.maximum(1, knobs.rows / 16))) + q
    by_columns = 2 * kv + knobs.warps * q + (knobs.warps + 1) * weights
    return np.asarray(np.where(dealt_by_columns(knobs, path), by_columns, by_rows), dtype=float)


def compiled_pipes(
    gpu: GPU, results: Sequence[CheckResult], which: int, modelled: dict[str, Floats]
) -> dict[str, Floats]:
    """Cycles of each pipe from the instructions of the compiled loop: 0 the full, 1 the partial one where there are two.

    Operands that the tensor cores read from shared memory on their own are in no instruction of a warp: for these the
    model's bytes stand.
    """
    cycles = []
    for result in results:
        loops = result.facts.loops
        found = sass_rank.tile_cycles(gpu, loops[min(which, len(loops) - 1)], result.facts.config.dtype).units
        issued = loops[min(which, len(loops) - 1)].warp_instructions
        local = issued.get("local", 0.0) + issued.get("shuffle", 0.0)
        cycles.append(
            (*(found[name] for name in ("tensor", "exp", "fp32", "alu")), found["shared"], local, found["issue"])
        )
    tensor, exp, fp32, alu, shared, local, issue = np.array(cycles).T
    local_cycles = local * WARP * 4 / gpu.smem_bytes_per_clock_per_sm
    smem = np.maximum(shared + local_cycles, modelled["smem"])
    return {"tensor": tensor, "exp": exp, "fp32": fp32, "alu": alu, "smem": smem, "issue": issue}
