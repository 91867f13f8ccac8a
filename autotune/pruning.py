"""A ``perf_model`` and an ``early_config_prune`` for ``@triton.autotune(prune_configs_by=...)``, from the simulator.

Triton asks the first for the time of a configuration before it runs any, and runs the ``top_k`` best; the second drops
configurations that cannot run. Both are given the arguments of the call, so they follow its sizes, not those that were
tuned. Modules that ``writers`` writes bind the problem that was tuned, for what the arguments do not say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from ..errors import InputError
from ..hwmodels import load_gpu
from ..kernels.attention_spec import padded
from ..kernels.neighborhood import choose_tiles
from ..kernels.neighborhood import parse_pattern as parse_axes
from ..kernels.static import estimate
from ..simulator import Workload, parse_pattern, predict
from ..simulator.patterns import Band, Pattern
from ..simulator.patterns.band import UNLIMITED
from ..simulator.workload import DTYPE_BYTES, Grid

#: What an argument of a kernel means: our attention kernel's names, and those of Triton's attention tutorial.
MEANINGS: Final = {
    "queries": ("q_len", "N_CTX"),
    "keys": ("kv_len", "N_CTX"),
    "heads": ("heads", "H"),
    "head_dim": ("HEAD_DIM",),
    "head_dim_v": ("V_HEAD_DIM", "HEAD_DIM"),
}


@dataclass(frozen=True)
class Problem:
    """What was tuned: ``gpu`` (key or file of its hardware model), workload and the pattern's text."""

    gpu: str
    workload: Workload
    pattern: str


def perf_model(problem: Problem, /, **arguments: Any) -> float:
    """Seconds that the simulator expects of a call; ``arguments`` are the kernel's, ``BLOCK_M`` and ``BLOCK_N`` among them.

    Configurations of equal tiles get equal times, and Triton keeps their order: best first, as they were written. Raises
    InputError when a tile is not among the arguments.
    """
    tiles = []
    for name in ("BLOCK_M", "BLOCK_N"):
        if name not in arguments:
            raise InputError(f"a call without {name}: expected a kernel whose tiles are BLOCK_M and BLOCK_N")
        tiles.append(int(arguments[name]))
    workload, pattern = call_of(problem, arguments)
    q_tile, kv_tile = _shapes(pattern, workload, *tiles)
    made = predict(workload, pattern, problem.gpu, "triton", q_tile=q_tile, kv_tile=kv_tile)
    return made.kernel_time_s


def early_config_prune(
    problem: Problem, /, configs: Sequence[Any], named_args: Mapping[str, Any], **arguments: Any
) -> list[Any]:
    """Return the configurations (``triton.Config``) that can run, in their order; the first one when none seems to.

    Left out are those whose shared or tensor memory exceeds the GPU's or whose registers spill past use, by the static
    estimate, and tiles that do not divide the blocks of a call over block lists.
    """
    given = {**named_args, **arguments}
    workload, _ = call_of(problem, given)
    knobs = [{**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages} for config in configs]

    def column(name: str) -> Any:
        return np.array([int(knob.get(name, 0)) for knob in knobs])

    asked = estimate(
        load_gpu(problem.gpu),
        head_dim=padded(max(workload.head_dim, workload.dim_v)),
        block_m=column("BLOCK_M"),
        block_n=column("BLOCK_N"),
        num_warps=column("num_warps"),
        num_stages=column("num_stages"),
        use_tma=column("USE_TMA"),
        warp_specialize=column("WARP_SPECIALIZE"),
        dtype_bytes=_element_bytes(given, workload),
        maxnreg=np.array([getattr(config, "maxnreg", None) or 0 for config in configs]),
    )
    runs = ~np.asarray(asked.hopeless)
    if given.get("LISTS"):
        for tile, block in (("BLOCK_M", "SPARSE_Q"), ("BLOCK_N", "SPARSE_KV")):
            if block in given:
                runs &= int(given[block]) % column(tile) == 0
    return [config for config, keep in zip(configs, runs, strict=True) if keep] or [configs[0]]


def call_of(problem: Problem, arguments: Mapping[str, Any]) -> tuple[Workload, Pattern]:
    """The call that ``arguments`` describe, with the tuned problem for what they leave out.

    A band follows the arguments. A pattern on a grid, or any other over block lists, is the tuned one on its own grid:
    block lists do not say what they were made from.
    """
    pattern = parse_pattern(problem.pattern)
    tuned = problem.workload
    found = {
        meaning: int(arguments[name])
        for meaning, names in MEANINGS.items()
        for name in reversed(names)
        if isinstance(arguments.get(name), int)
    }
    heads = found.get("heads", tuned.heads)
    batch = tuned.batch
    if isinstance(arguments.get("batch_heads"), int):
        batch = max(1, arguments["batch_heads"] // heads)
    elif isinstance(arguments.get("Z"), int):
        batch = arguments["Z"]
    group = int(arguments.get("GROUP", tuned.gqa_ratio if heads % tuned.gqa_ratio == 0 else 1))
    grid, keys = tuned.grid, tuned.keys
    if isinstance(pattern, Band) or arguments.get("LISTS") is False:
        pattern = _band(arguments, pattern)
        grid = (found.get("queries", tuned.tokens),)
        keys = (found.get("keys", tuned.kv_tokens),)
    workload = replace(
        tuned,
        grid=grid,
        kv_grid=keys,
        cached=0,
        batch=batch,
        heads=heads,
        heads_kv=max(1, heads // group),
        head_dim=found.get("head_dim", tuned.head_dim),
        head_dim_v=found.get("head_dim_v", tuned.dim_v),
    )
    return workload, pattern


def _band(arguments: Mapping[str, Any], tuned: Pattern) -> Pattern:
    """The band that our kernel's flags and sides describe; the tuned pattern when they are not among the arguments."""
    if "HAS_LEFT" not in arguments or "HAS_RIGHT" not in arguments:
        return tuned
    left = int(arguments.get("left", 0)) if arguments["HAS_LEFT"] else UNLIMITED
    right = int(arguments.get("right", 0)) if arguments["HAS_RIGHT"] else UNLIMITED
    return Band(left, right)


def _shapes(pattern: Pattern, workload: Workload, block_m: int, block_n: int) -> tuple[Grid, Grid]:
    """Tile shapes of so many tokens: on a grid, those that ``sparse_attention`` would choose."""
    if pattern.tile_axes == 1:
        return (block_m,), (block_n,)
    return choose_tiles(parse_axes(str(pattern), workload.grid), block_m, block_n)


def _element_bytes(arguments: Mapping[str, Any], workload: Workload) -> int:
    """Bytes of an element of Q: of the tensor itself when it is among the arguments."""
    tensor = arguments.get("q_ptr")
    if tensor is not None and hasattr(tensor, "element_size"):
        return int(tensor.element_size())
    return int(DTYPE_BYTES[workload.dtype])
