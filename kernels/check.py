"""Does a configuration fit a GPU, and what will it run as: the logic behind ``attncast check``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..hwmodels import GPU, load_gpu
from .compile import TIMEOUT_S, compile_many
from .facts import CompileFacts
from .occupancy import Occupancy, occupancy, tmem_columns_per_sm
from .space import KernelConfig, architecture_number, attention_space
from .static import estimate_configs

#: Pipes that a result always names, so that a reader need not guess whether a missing one means none.
LOOP_PIPES = ("tensor", "exp", "fp32", "integer", "shared", "global", "barrier")
#: mma.sync against the peak. Hopper: 62.9% on an H800 (Luo et al., arXiv 2501.12084v2). Blackwell: 1024
#: FMA per clock per SM on a B300 (QuickRunCUDA, ademeure), of 4096.
_MMA_SYNC_SHARE_SM90 = 0.63
_MMA_SYNC_SHARE_SM100 = 0.25
_WGMMA_LEAST_COLUMNS = 64  # narrower wgmma does not reach the peak rate
_MMA_MOST_COLUMNS = 256  # of one wgmma or tcgen05 instruction
_TCGEN05_ROWS = 128  # an instruction of 64 rows runs at half rate (SemiAnalysis, measured on a B200)


@dataclass(frozen=True)
class CheckResult:
    """One configuration on one GPU: what the compiler said, held against the GPU's limits.

    ``reason`` says why it does not fit ("" when it does). ``occupancy`` is None when it did not compile.
    """

    gpu: GPU
    facts: CompileFacts
    occupancy: Occupancy | None
    reason: str
    warnings: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether the kernel can be launched on this GPU."""
        return not self.reason

    @property
    def ctas_per_sm(self) -> int:
        """CTAs that one SM holds at once; 0 when it does not fit."""
        return int(self.occupancy.ctas) if self.occupancy is not None and self.fits else 0

    @property
    def loop(self) -> dict[str, float]:
        """Instructions per KV tile of the main loop by pipe, as one warp sees them; empty when unknown."""
        main = self.facts.main_loop
        if main is None:
            return {}
        counts = {**dict.fromkeys(LOOP_PIPES, 0.0), **main.instructions}
        return {pipe: int(count) if count == int(count) else count for pipe, count in counts.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON takes it; sizes in bytes, unknown figures null."""
        facts = self.facts
        return {
            "gpu": self.gpu.key,
            "arch": facts.arch,
            "config": facts.config.to_json(),
            "fits": self.fits,
            "registers": facts.registers,
            "spill_bytes": facts.spill_bytes,
            "shared_bytes": facts.shared_bytes,
            "tmem_columns": facts.tmem_columns,
            "ctas_per_sm": self.ctas_per_sm,
            "mma": facts.mma or None,
            "loop": self.loop,
            "reason": self.reason or None,
            "warnings": list(self.warnings),
        }


def check(
    configs: Iterable[KernelConfig],
    gpus: Sequence[str | GPU],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[CheckResult]:
    """Return a result for each GPU and configuration, GPUs in the order given, configurations within.

    ``gpus`` are names, TOML files or GPUs; those of one architecture share a compilation. The other
    arguments are those of ``compile_many``. Raises InputError for an unknown GPU or one that Triton does
    not compile for.
    """
    configs = list(configs)
    jobs = [(gpu, config) for gpu in load_gpus(gpus) for config in configs]
    return check_jobs(jobs, executor=executor, workers=workers, timeout_s=timeout_s)


def grid_jobs(
    gpus: Sequence[str | GPU], *, head_dim: int, dtype: str, pattern: str, prune: bool = False
) -> list[tuple[GPU, KernelConfig]]:
    """Return every (GPU, configuration) of the sweep of ``attention``; see ``space.attention_space``.

    ``prune`` leaves out what the static estimate calls hopeless (``static.estimate``): a quarter of the
    compilations, of which nine in ten do not fit or spill 256 bytes a thread, and the rest spill less.
    """
    jobs: list[tuple[GPU, KernelConfig]] = []
    for gpu in load_gpus(gpus):
        configs = list(attention_space(gpu.arch, (head_dim,), dtype, pattern))
        hopeless = estimate_configs(gpu, configs).hopeless if prune else [False] * len(configs)
        jobs += [(gpu, config) for config, bad in zip(configs, hopeless, strict=True) if not bad]
    return jobs


def check_jobs(
    jobs: Sequence[tuple[GPU, KernelConfig]],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    timeout_s: float = TIMEOUT_S,
    until_s: float | None = None,
    on_result: Callable[[CompileFacts], None] | None = None,
) -> list[CheckResult]:
    """Return a result for each (GPU, configuration), in that order; ``on_result`` sees each compilation
    come in. The other arguments are those of ``compile_many``.
    """
    compiled = compile_many(
        [(config, gpu.arch) for gpu, config in jobs],
        executor=executor,
        workers=workers,
        timeout_s=timeout_s,
        until_s=until_s,
        on_result=on_result,
    )
    return [judge(gpu, facts) for (gpu, _), facts in zip(jobs, compiled, strict=True)]


def to_json(results: Iterable[CheckResult]) -> dict[str, Any]:
    """Return results as the document that ``attncast check --json`` prints."""
    return {"schema": 1, "results": [result.to_json() for result in results]}


def load_gpus(gpus: Sequence[str | GPU]) -> list[GPU]:
    """Return the GPUs of those names or files. Raises InputError for one that Triton does not compile for."""
    found = [gpu if isinstance(gpu, GPU) else load_gpu(gpu) for gpu in gpus]
    for gpu in found:
        try:
            architecture_number(gpu.arch)
        except InputError as error:
            raise InputError(f"GPU {gpu.key!r}: {error}") from None
    return found


def judge(gpu: GPU, facts: CompileFacts) -> CheckResult:
    """Hold what the compiler said against the limits of ``gpu``."""
    if not facts.ok:
        return CheckResult(gpu, facts, None, facts.reason or facts.status, ())
    held = occupancy(
        gpu,
        registers=facts.registers or 0,
        shared_bytes=facts.shared_bytes or 0,
        warps=facts.warps or 1,
        tmem_columns=facts.tmem_columns or 0,
    )
    return CheckResult(gpu, facts, held, _misfit(gpu, facts, held), tuple(_warnings(facts)))


def _misfit(gpu: GPU, facts: CompileFacts, held: Occupancy) -> str:
    shared, columns = facts.shared_bytes or 0, facts.tmem_columns or 0
    if shared > gpu.smem_bytes_per_cta:
        return f"asks for {shared:,} bytes of shared memory, {gpu.key} gives a CTA {gpu.smem_bytes_per_cta:,}"
    if columns > tmem_columns_per_sm(gpu):
        return f"asks for {columns} columns of tensor memory, {gpu.key} has {tmem_columns_per_sm(gpu)}"
    if not held.threads:
        return f"asks for {(facts.warps or 0) * 32} threads, {gpu.key} gives a CTA {gpu.max_threads_per_cta}"
    if not held.registers:
        return f"asks for {facts.registers} registers in {facts.warps} warps, more than {gpu.key} has"
    return ""


def _warnings(facts: CompileFacts) -> Iterable[str]:
    """What a user should know before running it, most costly first."""
    loop = facts.main_loop
    if facts.spill_bytes:
        local = loop.instructions.get("local", 0) if loop else 0
        where = f", {local:g} loads and stores of them per KV tile" if local else ", none in the main loop"
        yield f"spills {facts.spill_bytes} bytes of registers per thread{where}"
    if loop is not None:
        yield from _mma_warnings(facts)
        if max(loop.copies) > 1:
            yield (
                f"the warps compute the scores {loop.copies[0]} and the output {loop.copies[1]} times over:"
                f" {facts.config.num_warps} warps are too many for {facts.config.block_m} rows"
            )
    if facts.config.use_tma and architecture_number(facts.arch) < 90:
        yield f"use_tma: {facts.arch} has no TMA, the loads become ordinary ones with more address arithmetic"
    yield from facts.notes


def _mma_warnings(facts: CompileFacts) -> Iterable[str]:
    loop = facts.main_loop
    assert loop is not None
    families = {mma.family for mma in loop.mma}
    config = facts.config
    if "mma.sync" in families and facts.arch == "sm_90":
        yield f"mma.sync on Hopper: no wgmma, at most {_MMA_SYNC_SHARE_SM90:.0%} of the tensor peak"
    if "mma.sync" in families and facts.arch in ("sm_100", "sm_103"):
        yield f"mma.sync on Blackwell: no tcgen05, at most {_MMA_SYNC_SHARE_SM100:.0%} of the tensor peak"
    wanted = min(config.block_n, config.padded_head_dim, _MMA_MOST_COLUMNS)
    for mma in sorted(loop.mma):
        if mma.family in ("wgmma", "tcgen05") and 0 < mma.n < wanted:
            yield f"MMA narrower than the tile: {mma} for a tile at least {wanted} wide"
        elif mma.family == "wgmma" and 0 < mma.n < _WGMMA_LEAST_COLUMNS:
            yield f"{mma}: fewer than {_WGMMA_LEAST_COLUMNS} columns do not reach the peak rate"
        if mma.family == "tcgen05" and 0 < mma.m < _TCGEN05_ROWS:
            yield f"{mma}: fewer than {_TCGEN05_ROWS} rows run at half rate"
