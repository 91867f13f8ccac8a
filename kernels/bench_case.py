"""One benchmark case, in the process that bench.py starts for it: correct on a small size first, then timed.

Prints one JSON object per line on standard output. A number measured here is the median of single calls, each
timed by a pair of CUDA events after the L2 was overwritten (``method`` says so); p20 and p80 are its spread.
"""

from __future__ import annotations

import datetime
import functools
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as functional
import triton

from . import reference
from .attention_launch import attention, capability_of, default_config
from .attention_spec import ForwardConfig
from .flex import BLOCK, band_maps, flex_call
from .masks import neighborhood_mask
from .neighborhood import choose_tiles, parse_pattern
from .permute import permute_tokens, unpermute_tokens
from .sparse import TILE_TOKENS, plan, sparse_attention
from .timing import flush_buffer, time_calls


@dataclass(frozen=True)
class Case:
    """A workload: ``grid`` of tokens, ``batch``, ``heads``, head dim and the pattern's text."""

    grid: tuple[int, ...]
    pattern: str
    batch: int = 1
    heads: int = 24
    dim: int = 128
    small_grid: tuple[int, ...] = (384,)
    small_pattern: str = ""

    def small(self) -> Case:
        return Case(self.small_grid, self.small_pattern or self.pattern, 1, 2, self.dim)

    @property
    def tokens(self) -> int:
        return math.prod(self.grid)


HUNYUAN = (30, 48, 80)
CASES = {
    "dense": Case((8192,), "dense", 2),
    "causal": Case((8192,), "causal", 2),
    "causal-32k": Case((32768,), "causal"),
    "window": Case((32768,), "window left=2048 right=0", small_pattern="window left=200 right=0"),
    "hunyuan-na": Case(
        HUNYUAN, "na window=18x24x24 stride=16x8x8",
        small_grid=(6, 16, 16), small_pattern="na window=4x8x8 stride=4x8x8",
    ),
    "hunyuan-na-masked": Case(
        HUNYUAN, "na window=18x24x24", small_grid=(4, 8, 9), small_pattern="na window=3x5x6"
    ),
    "permute": Case(HUNYUAN, "na window=18x24x24 stride=16x8x8", small_grid=(5, 12, 14)),
}  # fmt: skip


def candidates(capability: tuple[int, int] | None) -> list[ForwardConfig]:
    """Return what is tried besides the default; each costs a compilation of a few seconds, the fastest is
    reported.
    """
    if capability is None:
        return []
    found = [ForwardConfig(128, 64, 8, 3), ForwardConfig(128, 64, 4, 3), ForwardConfig(64, 64, 4, 3)]
    if capability[0] >= 9:
        found += [ForwardConfig(128, 128, 8, 3), ForwardConfig(128, 128, 8, 2, use_tma=True)]
    if capability[0] >= 10:
        # On sm_90 Triton 3.6 and 3.9 fail to compile this loop warp-specialised with 4 warps and ignore it
        # with 8.
        found += [ForwardConfig(128, 64, 4, 3, use_tma=True, warp_specialize=True)]
    return found


class Clock:
    """Times calls on a GPU, or with ``dry`` on the CPU (once: only to see that everything runs)."""

    def __init__(self, device: str, dry: bool) -> None:
        self.dry = dry
        self.flush = None if dry else flush_buffer(device)
        self.method = "dry run: one call on the CPU" if dry else "cuda events, one call each, L2 overwritten before"

    def samples(self, call: Callable[[], Any], budget_s: float, most: int = 50) -> list[float]:
        """Return seconds of single calls, as many as fit the budget, 3 to ``most``, after a warm-up call."""
        call()
        if self.flush is None:
            start = time.perf_counter()
            call()
            return [time.perf_counter() - start]
        first = time_calls(call, 1, self.flush)[0]
        return time_calls(call, max(3, min(most, int(budget_s / max(first, 1e-6)))), self.flush)


def machine(device: str) -> dict[str, Any]:
    """Return what every row carries: GPU, versions and time."""
    facts: dict[str, Any] = {"gpu": "none", "torch": torch.__version__, "triton": triton.__version__}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "sms": properties.multi_processor_count, "cuda": torch.version.cuda}
    return facts | {"utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}


def spread(samples: list[float]) -> dict[str, Any]:
    """Return the median and the spread of samples, in seconds."""
    ordered = sorted(samples)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * part))] for part in (0.2, 0.8)]
    return {
        "median_s": statistics.median(ordered), "p20_s": at[0], "p80_s": at[1], "samples": len(ordered),
    }  # fmt: skip


def tensors(case: Case, device: str, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return q, k, v, bf16, normally distributed (zeros would run faster: they draw less power)."""
    generator = torch.Generator(device).manual_seed(seed)
    shape = (case.batch, case.heads, case.tokens, case.dim)
    return tuple(torch.randn(shape, generator=generator, device=device).bfloat16() for _ in range(3))


def work(case: Case) -> tuple[float, float]:
    """Return (FLOPs of the pairs that count, FLOPs of the visited 128 x 128 tiles): 4 x dim per pair."""
    pattern = parse_pattern(case.pattern, case.grid)
    per_pair = 4.0 * case.batch * case.heads * case.dim
    if pattern.kind == "na":
        pairs = 1.0
        for axis in pattern.axes:
            windows = [axis.windows(group) for group in range(axis.dilation)]
            pairs *= float(sum((end - start).sum() for start, end in windows))
        live, _ = pattern.tile_maps(*choose_tiles(pattern, TILE_TOKENS, TILE_TOKENS))
        return per_pair * pairs, per_pair * float(live.sum()) * TILE_TOKENS**2
    row = torch.arange(case.tokens)
    low = 0 if pattern.left is None else (row - pattern.left).clamp(min=0)
    high = case.tokens if pattern.right is None else (row + pattern.right + 1).clamp(max=case.tokens)
    pairs = float((torch.as_tensor(high) - low).expand(case.tokens).sum())
    return per_pair * pairs, per_pair * float(band_maps(case.tokens, pattern)[0].sum()) * BLOCK**2


def run_pattern(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, config: ForwardConfig | None
) -> torch.Tensor:
    out = sparse_attention(q, k, v, case.pattern, case.grid, config=config)
    assert isinstance(out, torch.Tensor)
    return out


def check(case: Case, device: str, config: ForwardConfig | None) -> float:
    """Return the largest error against float64; raise if bf16 rounding does not explain it."""
    q, k, v = tensors(case, device, seed=1)
    pattern = parse_pattern(case.pattern, case.grid)
    if pattern.kind == "na":
        columns = zip(*((a.window, a.stride, a.dilation, a.causal) for a in pattern.axes), strict=True)
        mask = reference.neighborhood_reference(case.grid, *columns)
    else:
        mask = reference.band_mask(case.tokens, case.tokens, pattern.left, pattern.right)
    expected, _ = reference.attention_reference(q, k, v, mask.to(device))
    weighted, _ = reference.attention_reference(q, k, v.double().abs(), mask.to(device))
    difference = (run_pattern(case, q, k, v, config).double() - expected).abs()
    if not bool((difference <= reference.rounding_bound(expected, weighted, q.dtype)).all()):
        raise ArithmeticError(f"wrong result: off by {float(difference.max()):.3g} on {case}")
    return float(difference.max())


def run_case(name: str, dry: bool, budget_s: float, emit: Callable[[dict[str, Any]], None]) -> None:
    """Run one case and hand every row to ``emit``; what fails becomes a row with its reason."""
    device = "cpu" if dry else "cuda"
    case, small = CASES[name], CASES[name].small()
    if dry:
        case = small = replace(small, heads=1, dim=64)
    clock = Clock(device, dry)
    common = {
        "schema": 1,
        "case": name,
        **asdict(case),
        "dtype": "bf16",
        "method": clock.method,
        **machine(device),
    }
    common = {key: value for key, value in common.items() if not key.startswith("small_")}

    def attempt(implementation: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        row = common | {"implementation": implementation, "status": "ok"}
        try:
            row |= measure()
        except Exception as error:
            row |= {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}
        emit(row)
        return row

    if name == "permute":
        bench_permute(case, device, clock, budget_s, attempt)
        return
    flops, tile_flops = work(case)
    q, k, v = tensors(case, device)

    def rates(samples: list[float]) -> dict[str, Any]:
        row = spread(samples)
        return row | {
            "tflops": flops / row["median_s"] / 1e12, "tile_tflops": tile_flops / row["median_s"] / 1e12,
        }  # fmt: skip

    causal = parse_pattern(case.pattern, case.grid).right == 0
    baselines: dict[str, Callable[[], Any] | None] = {
        "sdpa": lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=causal),
        "flex": None,
    }
    seconds: dict[str, float] = {}

    def baseline_rates(call: Callable[[], Any] | None) -> dict[str, Any]:
        return rates(clock.samples(call or flex_call(case.pattern, case.grid, q, k, v, not dry), budget_s))

    for implementation, call in baselines.items():
        measured = functools.partial(baseline_rates, call)
        row = attempt(implementation, measured)
        seconds[implementation] = row.get("median_s", math.nan)

    def ours() -> dict[str, Any]:
        # Correct first: a fast wrong kernel is not a result.
        default = default_config(case.dim, capability_of(q), q.dtype)
        error = check(small, device, default)
        call = kernel_call(case, q, k, v)
        tried: dict[ForwardConfig, float] = {}
        for config in (default, *candidates(capability_of(q))):
            try:
                samples = clock.samples(functools.partial(call, config), budget_s / 10, 10)
                tried[config] = statistics.median(samples)
            except Exception as reason:
                print(f"{name}: {config} left out: {type(reason).__name__}", file=sys.stderr)
        best = min(tried, key=lambda config: tried[config])
        if best != default:
            error = check(small, device, best)
        row = rates(clock.samples(lambda: call(best), budget_s)) | {
            "config": asdict(best),
            "max_error": error,
        }
        row |= {"configs_tried": len(tried)}
        return row | {f"times_faster_than_{k}": s / row["median_s"] for k, s in seconds.items() if s == s}

    row = attempt("attncast", ours)
    if case.pattern.startswith("na") and row["status"] == "ok":
        config = ForwardConfig(**row["config"])

        def whole() -> dict[str, Any]:
            timed = rates(clock.samples(lambda: run_pattern(case, q, k, v, config), budget_s))
            factors = {f"times_faster_than_{k}": s / timed["median_s"] for k, s in seconds.items() if s == s}
            return timed | {"config": asdict(config)} | factors

        attempt("attncast with permutation", whole)


def kernel_call(
    case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> Callable[[ForwardConfig], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
    """Return the attention kernel alone, on tokens permuted before."""
    if not case.pattern.startswith("na"):
        return lambda config: run_pattern(case, q, k, v, config)
    made = plan(case.pattern, case.grid, None, None, str(q.device))
    q = permute_tokens(q, case.grid, made.queries.tile)
    k, v = (permute_tokens(t, case.grid, made.keys.tile) for t in (k, v))
    masked = made.blocks.has_partial
    mask, arguments = (neighborhood_mask, made.mask_args) if masked else (None, ())
    return lambda c: attention(q, k, v, blocks=made.blocks, mask=mask, mask_args=arguments, config=c)


def bench_permute(
    case: Case, device: str, clock: Clock, budget_s: float, attempt: Callable[..., dict[str, Any]]
) -> None:
    """Time permutation, its inverse and a plain copy of the same bytes; rates count each byte read and
    written.
    """
    x = tensors(case, device)[0]
    tile = (2, 8, 8)
    tiled = permute_tokens(x, case.grid, tile)
    moved = 2.0 * x.numel() * x.element_size()

    def rates(call: Callable[[], Any]) -> dict[str, Any]:
        row = spread(clock.samples(call, budget_s / 4))
        return row | {"bytes_per_s": moved / row["median_s"]}

    other = torch.empty_like(x)
    copy = attempt("copy", lambda: rates(lambda: other.copy_(x)))
    for name, call, back in (
        ("permute", lambda: permute_tokens(x, case.grid, tile), False),
        ("unpermute", lambda: unpermute_tokens(tiled, case.grid, tile), True),
    ):

        def measure(call: Callable[[], torch.Tensor] = call, back: bool = back) -> dict[str, Any]:
            if back and not torch.equal(call(), x):
                raise ArithmeticError("wrong result: permuting and back changes the tensor")
            row = rates(call)
            return row | {"part_of_copy_rate": row["bytes_per_s"] / copy.get("bytes_per_s", math.nan)}

        attempt(name, measure)
