"""What of a ranking to compile, in which order, and what the compiler's word rules out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..kernels.check import CheckResult
from ..kernels.decode_spec import NUM_STAGES, NUM_WARPS
from ..kernels.space import KernelConfig
from ..kernels.static_report import HOPELESS_SPILL_BYTES
from ..simulator.patterns import Pattern
from ..simulator.tiles import Floats
from ..simulator.workload import Workload
from .knobs import Value

#: By how much compiling moves a forecast: standard deviation of the logarithm over configurations whose forecast is within
#: 1.5 times the best. Whole space of A100, causal, head dim 128: 5.6% of 35 (python benchmarks/compiled.py --full a100);
#: the nearest 24 to 28 of H100 and of A100 at head dim 64: 4.5% and 4.7%.
COMPILED_SPREAD = 0.05
#: Logarithm of how much slower a forecast may be for a configuration to be the best once both are compiled: three standard
#: deviations of the difference.
REACH = 3 * math.sqrt(2) * COMPILED_SPREAD


def promising(configs: Sequence[KernelConfig], time_s: Floats) -> list[KernelConfig]:
    """Configurations, fastest forecast first, in the order in which compiling them is most likely to find a faster one.

    Those in reach of the first come before the others. Three or more pipeline stages compile into the same loop (half of
    96 pairs of that A100 space to the very same time): of configurations that differ in nothing else the first speaks for all.
    """
    reach = time_s[0] * math.exp(REACH)
    seen: set[KernelConfig] = set()
    turns = []
    for config, forecast_s in zip(configs, time_s, strict=True):
        loop = replace(config, num_stages=min(3, config.num_stages))
        turns.append((forecast_s > reach, loop in seen))
        seen.add(loop)
    return [configs[place] for place in sorted(range(len(configs)), key=lambda place: turns[place])]


def problem(result: CheckResult) -> str:
    """Why a compiled configuration is not proposed; "" when it is."""
    facts = result.facts
    if not result.fits:
        return result.reason
    if (facts.spill_bytes or 0) >= HOPELESS_SPILL_BYTES:
        return f"spills {facts.spill_bytes} bytes of registers per thread"
    loop = facts.main_loop
    if loop is None or not loop.mma or any(not part.warps for part in loop.parts):
        return "its inner loop was not found in the machine code"
    if facts.config.warp_specialize and facts.warps == facts.config.num_warps:
        return "Triton left its loop whole: warp specialisation has no effect"
    return ""


def kernel_config(
    program: str, config: Mapping[str, Value], tile: tuple[int, int], workload: Workload, pattern: Pattern
) -> KernelConfig:
    """What to compile for a configuration of a space: attncast's kernel, FlexAttention's stand-in too.

    ``program`` is the space's, ``tile`` the query rows and keys of the configuration.
    """
    dim = max(workload.head_dim, workload.dim_v)
    rows, keys = tile
    compiled_in = compiled_pattern(pattern)
    if program == "decode":  # masks its ends whatever the pattern; splits are no part of its code
        limited = "window" if compiled_in == "window" else "causal"
        return KernelConfig("decode", dim, workload.dtype, limited, rows, keys, NUM_WARPS, NUM_STAGES)
    return KernelConfig(
        head_dim=dim,
        dtype=workload.dtype,
        pattern=compiled_in,
        block_m=rows,
        block_n=keys,
        num_warps=int(config["num_warps"]),
        num_stages=int(config["num_stages"]),
        use_tma=bool(config.get("USE_TMA", False)),
        warp_specialize=bool(config.get("WARP_SPECIALIZE", False)),
        maxnreg=int(config.get("maxnreg", 0)),
    )


def compiled_pattern(pattern: Pattern) -> str:
    """How the kernel has a pattern compiled in (see kernels.space.PATTERNS)."""
    if pattern.family != "band":
        return "blocks"
    text = str(pattern)
    return text if text in ("dense", "causal") else "window"
