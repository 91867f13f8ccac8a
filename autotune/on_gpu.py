"""Measure configurations of our attention kernel on the GPU at hand, each checked before it is timed.

The check is on the call that is timed: some of its query rows, spread over the sequence and the heads, against float64.
Times are of the kernel alone, tokens permuted before; one call each between CUDA events, the L2 overwritten before.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import InputError
from ..hwmodels import load_gpu
from ..simulator import Workload
from ..simulator.workload import parse_grid
from .isolate import Failed, Isolated, Unprepared
from .refine import Measurement, Step, refine
from .result import Knobs, Tuning

if TYPE_CHECKING:
    import torch

TIMEOUT_S: Final = 60.0  # to compile, check and time one configuration
_CHECKED_ROWS: Final = 64
_BUDGET_S: Final = 0.5  # of calls for one configuration
WRONG: Final = "returned wrong numbers"


@dataclass(frozen=True)
class Call:
    """What is measured. Picklable: it travels to the process that runs it.

    Attributes:
        workload: the shapes. pattern: its text, one of those that ``sparse_attention`` runs.
        gpu: key of the GPU that was tuned for; measuring on another is refused. None takes any.
        device: "cuda"; "cpu" runs the interpreted kernel (TRITON_INTERPRET=1) and tells nothing about speed.
    """

    workload: Workload
    pattern: str
    gpu: str | None = None
    device: str = "cuda"


def require_gpu() -> None:
    """Raise InputError where this machine has no PyTorch or no CUDA GPU."""
    try:
        import torch

        found = torch.cuda.is_available()
    except ImportError:
        found = False
    if not found:
        raise InputError(
            "--measure needs a CUDA GPU and PyTorch on this machine: expected both, or leave --measure out"
        )


def call_of(tuning: Tuning) -> Call:
    """What to run for a tuning. Raises InputError for a kernel that is not attncast's own."""
    if tuning.kernel != "triton":
        raise InputError(f"kernel {tuning.kernel!r} cannot be measured: expected 'triton', attncast's own")
    return Call(tuning.workload, tuning.pattern, tuning.gpu)


def refine_here(
    tuning: Tuning,
    *,
    runs: int | None = None,
    seconds: float | None = None,
    log: str | Path | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Tuning:
    """``refine`` with the GPU of this machine; the arguments are its. What ``attncast tune --measure`` does.

    Raises InputError for a tuning of a kernel that is not ours, and when no configuration ran: there is no GPU, or another.
    """
    with measurer(call_of(tuning)) as worker:
        measure = functools.partial(measured, worker)
        return refine(tuning, measure, runs=runs, seconds=seconds, log=log, on_step=on_step)


def measurer(call: Call, timeout_s: float = TIMEOUT_S) -> Isolated[Measurement]:
    """A ``measure`` for ``refine`` in a worker process; close it, or use it with ``with``. See ``measured``."""
    return Isolated(functools.partial(prepare, call), timeout_s=timeout_s, environment=_environment(call))


def measured(worker: Isolated[Measurement], config: Knobs) -> Measurement:
    """Measure one configuration. A crash, a hang or an error is a Measurement with its problem, not an exception.

    Raises InputError when nothing can be measured: there is no GPU, or the pattern is none that the kernel runs.
    """
    try:
        return worker(dict(config))
    except Unprepared as failed:
        raise InputError(f"nothing can be measured: {failed}") from None
    except Failed as failed:
        return Measurement(None, None, False, str(failed))


def measure_far(call: Call, config: Knobs, timeout_s: float = TIMEOUT_S) -> Measurement:
    """Measure one configuration in a process that this one keeps: the task for machines of a fleet (see work.py)."""
    return measured(_kept(call, timeout_s), config)


@functools.lru_cache(maxsize=1)
def _kept(call: Call, timeout_s: float) -> Isolated[Measurement]:
    return measurer(call, timeout_s)


def _environment(call: Call) -> dict[str, str | None]:
    return {"TRITON_INTERPRET": "1" if call.device == "cpu" else None}


def prepare(call: Call) -> Callable[[Knobs], Measurement]:
    """Draw the tensors and the expected rows; return the function that measures a configuration of them.

    Runs in the worker process. Raises InputError for a pattern or dtype that the kernel does not run.
    """
    import torch

    from ..kernels.bench_case import Clock

    if call.device == "cuda" and not torch.cuda.is_available():
        raise InputError("measuring needs a CUDA GPU and torch sees none")
    if call.device == "cuda" and call.gpu is not None:
        name = torch.cuda.get_device_name()
        if load_gpu(name).key != load_gpu(call.gpu).key:
            raise InputError(f"this machine's GPU is {name!r}: expected {call.gpu}, which was tuned for")
    q, k, v = _tensors(call)
    run = _runner(call, q, k, v)
    rows = torch.tensor(sorted({*np.linspace(0, call.workload.tokens - 1, _CHECKED_ROWS).astype(int).tolist()}))
    heads = torch.tensor(sorted({0, call.workload.heads - 1}))
    expected, weighted = _expected(call, q, k, v, heads, rows)
    clock = Clock(call.device, dry=call.device == "cpu")

    def measure(config: Knobs) -> Measurement:
        launch = run(config)
        if not agrees(launch(whole=True)[:, heads][:, :, rows], expected, weighted, q.dtype):
            return Measurement(None, None, False, WRONG)
        samples = sorted(clock.samples(launch, _BUDGET_S))
        low, high = (samples[int(part * (len(samples) - 1))] for part in (0.25, 0.75))
        return Measurement(statistics.median(samples), (high - low) / 2, True)

    return measure


def _tensors(call: Call) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v, normally distributed (zeros would run faster: they draw less power)."""
    import torch

    from ..kernels.attention_launch import DTYPE_NAMES

    dtypes = {name: dtype for dtype, name in DTYPE_NAMES.items()}
    w = call.workload
    if w.dtype not in dtypes or w.kv_dtype != w.dtype:
        raise InputError(f"dtype {w.dtype!r} with keys in {w.kv_dtype!r}: expected one of {', '.join(dtypes)} for all")
    generator = torch.Generator(call.device).manual_seed(0)
    shapes = [
        (w.heads, w.tokens, w.head_dim),
        (w.kv_heads, w.kv_tokens, w.head_dim),
        (w.kv_heads, w.kv_tokens, w.dim_v),
    ]
    made = [torch.randn((w.batch, *shape), generator=generator, device=call.device) for shape in shapes]
    q, k, v = (tensor.to(dtypes[w.dtype]) for tensor in made)
    return q, k, v


def _runner(call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Callable[[Knobs], Callable[..., Any]]:
    """A function of a configuration that returns the launch; with ``whole`` that gives the output in token order."""
    from ..kernels import attention, decode, tuned
    from ..kernels.masks import neighborhood_mask
    from ..kernels.neighborhood import parse_pattern
    from ..kernels.permute import permute_tokens, unpermute_tokens
    from ..kernels.sparse import plan

    grid = call.workload.grid
    pattern = parse_pattern(_text(call), grid)
    if pattern.kind != "na":
        band = (pattern.left, pattern.right)

        def flat(config: Knobs) -> Callable[..., Any]:
            if "splits" in config:
                splits, causal = int(config["splits"]), pattern.right == 0
                return lambda whole=False: decode(q, k, v, splits=splits, causal=causal, window=pattern.left)
            launched = tuned.forward_config(config)
            return lambda whole=False: attention(q, k, v, window=band, config=launched)

        return flat

    def tiled(config: Knobs) -> Callable[..., Any]:
        if config.get("order") == "row":
            raise InputError("order 'row': expected 'tiles', attncast's kernel runs neighborhoods on permuted tokens")
        launched = tuned.forward_config({name: value for name, value in config.items() if name in tuned.KNOBS})
        shapes = [parse_grid(str(config[name])) if name in config else None for name in ("q_tile", "kv_tile")]
        made = plan(_text(call), grid, shapes[0], shapes[1], str(q.device), (launched.block_m, launched.block_n))
        inputs = [q if made.queries.is_identity else permute_tokens(q, grid, made.queries.tile, made.queries.dilation)]
        for tensor in (k, v):
            same = made.keys.is_identity
            inputs.append(tensor if same else permute_tokens(tensor, grid, made.keys.tile, made.keys.dilation))
        masked = made.blocks.has_partial
        mask = {"mask": neighborhood_mask, "mask_args": made.mask_args} if masked else {}

        def launch(whole: bool = False) -> Any:
            out = attention(*inputs, blocks=made.blocks, config=launched, **mask)
            assert not isinstance(out, tuple)
            if whole and not made.queries.is_identity:
                return unpermute_tokens(out, grid, made.queries.tile, made.queries.dilation)
            return out

        return launch

    return tiled


def _expected(
    call: Call, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: torch.Tensor, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output of some heads and query rows in float64, and the same for |v|, which says how far rounding may go."""
    from ..kernels.reference import attention_reference

    mask = allowed(call, rows).to(q.device)
    shared = heads // call.workload.gqa_ratio
    q, k, v = q[:, heads][:, :, rows], k[:, shared], v[:, shared].double()
    expected, _ = attention_reference(q, k, v, mask)
    weighted, _ = attention_reference(q, k, v.abs(), mask)
    return expected, weighted


def allowed(call: Call, rows: torch.Tensor) -> torch.Tensor:
    """Which keys some query rows attend to, bool (rows, keys), pair by pair from the pattern's definition."""
    import torch

    from ..kernels.neighborhood import parse_pattern

    w = call.workload
    pattern = parse_pattern(_text(call), w.grid)
    if pattern.kind != "na":
        distance = torch.arange(w.kv_tokens) - rows[:, None] - (w.kv_tokens - w.tokens)
        keep = torch.ones_like(distance, dtype=torch.bool)
        if pattern.left is not None:
            keep &= distance >= -pattern.left
        if pattern.right is not None:
            keep &= distance <= pattern.right
        return keep
    keep = torch.ones((rows.numel(), 1), dtype=torch.bool)
    for number, axis in enumerate(pattern.axes):
        at = rows // math.prod(w.grid[number + 1 :]) % axis.length
        table = torch.zeros((rows.numel(), axis.length), dtype=torch.bool)
        for row, token in enumerate(at.tolist()):
            start, end = axis.windows(token % axis.dilation)
            inside = token // axis.dilation
            table[row, token % axis.dilation :: axis.dilation][start[inside] : end[inside]] = True
        keep = (keep[:, :, None] & table[:, None, :]).flatten(1)
    return keep


def _text(call: Call) -> str:
    """The pattern as the kernels read it: a side of a window without a limit is left out, not -1."""
    return " ".join(word for word in call.pattern.split() if not word.endswith("=-1"))


def agrees(out: torch.Tensor, expected: torch.Tensor, weighted: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether rounding to ``dtype`` explains the difference: of each softmax weight and of the output, by an eps each.

    It is half an eps on a GPU, a whole one under the interpreter, which truncates; 5% more are for sums in float32. In fp8
    small weights are subnormal: up to 5% of the largest output more. Float32 keeps the weights: a few dozen eps.
    """
    import torch

    eps = torch.finfo(dtype).eps
    bound = 1.05 * eps * (weighted + expected.abs()) + 1e-6
    if dtype == torch.float32:
        bound = 64 * eps * (weighted + 1)
    if dtype == torch.float8_e4m3fn:
        bound = bound + 0.05 * weighted.amax()
    return bool(((out.double() - expected).abs() <= bound).all())  # NaN is never within
