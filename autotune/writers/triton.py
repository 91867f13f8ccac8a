"""A Python module: the best configurations as ``triton.Config``, and what ``@triton.autotune`` prunes them by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ...errors import InputError
from ...kernels import tuned
from ..result import Candidate, Tuning
from .serving import family_of
from .words import problem_text, time_text, workload_code

MOST: Final = 32  # configurations in a module; Triton runs TOP_K of them
_OPTIONS: Final = ("num_warps", "num_stages", "maxnreg")  # arguments of triton.Config itself
#: Arguments of the kernel that a space leaves out where a GPU has no choice.
_SWITCHES: Final = {"USE_TMA": False, "WARP_SPECIALIZE": False}

_MODULE: Final = '''"""Triton configurations of attncast's attention kernel, best first.

{problem}

    kernel = triton.autotune(CONFIGS, KEY, prune_configs_by=PRUNE_CONFIGS_BY)(attention_forward_kernel)

runs the TOP_K of them that the simulator expects to be fastest at a call's own sizes. The configurations are the kernel's
own{sparse}; the two functions also take kernels of yours whose tiles are BLOCK_M and BLOCK_N.
"""

import functools

import triton

from attncast.autotune import pruning
from attncast.simulator import Workload

PROBLEM = pruning.Problem(
    gpu={gpu!r},
    workload={workload},
    pattern={pattern!r},
)
CONFIGS = [
{configs}
]
KEY = ["q_len", "kv_len", "batch_heads"]
TOP_K = 8
perf_model = functools.partial(pruning.perf_model, PROBLEM)
early_config_prune = functools.partial(pruning.early_config_prune, PROBLEM)
PRUNE_CONFIGS_BY = {{"perf_model": perf_model, "top_k": TOP_K, "early_config_prune": early_config_prune}}
'''


def text(tunings: Sequence[Tuning]) -> str:
    """The module's text. Raises InputError for a tuning of few queries (decode)."""
    (tuning,) = tunings
    if "BLOCK_M" not in tuning.best.config:
        raise InputError(
            f"format 'triton' cannot hold {dict(tuning.best.config)!r}: expected a tuning of the attention kernel, not of "
            "decode, whose tile is fixed"
        )
    # Without lists the kernel's blocks are its tiles; with lists they are the lists' and come with the call.
    band = family_of(tuning.pattern) != "blocks"
    return _MODULE.format(
        problem=problem_text(tuning),
        sparse=", its blocks (SPARSE_Q, SPARSE_KV) set to the tiles" if band else "",
        gpu=tuning.gpu,
        workload=workload_code(tuning.workload),
        pattern=tuning.pattern,
        configs="\n".join(_configs(tuning, band)),
    )


def _configs(tuning: Tuning, band: bool) -> list[str]:
    """The best configurations as code, each with its time. Tile shapes on a grid are not the kernel's, but the lists'."""
    found: dict[str, Candidate] = {}
    for candidate in tuning.ranking:
        found.setdefault(_config(candidate, band), candidate)
    return [f"    {code},  # {time_text(candidate)}" for code, candidate in list(found.items())[:MOST]]


def _config(candidate: Candidate, band: bool) -> str:
    known = {**_SWITCHES, **candidate.config}
    own = {name: value for name, value in known.items() if name in tuned.KNOBS and name not in _OPTIONS}
    if band:
        own |= {"SPARSE_Q": own["BLOCK_M"], "SPARSE_KV": own["BLOCK_N"]}
    # A cap of 0 registers is none.
    options = "".join(f", {name}={candidate.config[name]!r}" for name in _OPTIONS if candidate.config.get(name))
    return f"triton.Config({own!r}{options})"
