"""From a case to something to call: each library on the same tensors. torch and triton are imported with this module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as functional

from ...errors import InputError
from ...kernels.attention_launch import attention, capability_of, default_config, fit_to_blocks
from ...kernels.blocks import BlockLists
from ...kernels.decode import decode
from ...kernels.flex import BLOCK, flex_blocks_call, flex_call
from ...kernels.masks import neighborhood_mask
from ...kernels.permute import permute_tokens, unpermute_tokens
from ...kernels.sparse import Plan, plan
from ...simulator import Workload, parse_pattern
from ...simulator.patterns.combine import rule_of
from ...simulator.patterns.engine import block_map
from ...simulator.workload import grid_text
from .case import Case, config_text, read_config

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SEED = 1


@dataclass(frozen=True)
class Prepared:
    """A call ready to be timed.

    Attributes:
        call: runs it once. restore: its result as [batch, heads, tokens, head_dim] in the tokens' own order.
        config, q_tile, kv_tile: what our kernels really use; empty for a library's own choice.
    """

    call: Callable[[], Any]
    restore: Callable[[Any], torch.Tensor]
    config: str = ""
    q_tile: str = ""
    kv_tile: str = ""


@dataclass(frozen=True)
class Tensors:
    """Queries [batch, heads, tokens, head_dim], keys and values [batch, heads_kv, tokens + cached, head_dim]."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def tensors(case: Case, device: str) -> Tensors:
    """Normally distributed inputs, the same for every library (zeros would run faster: they draw less power)."""
    workload = case.workload
    generator = torch.Generator(device).manual_seed(SEED)

    def draw(heads: int, tokens: int) -> torch.Tensor:
        shape = (case.batch, heads, tokens, case.head_dim)
        return torch.randn(shape, generator=generator, device=device).to(DTYPES[case.dtype])

    return Tensors(
        draw(case.heads, workload.tokens),
        draw(case.heads_kv, workload.kv_tokens),
        draw(case.heads_kv, workload.kv_tokens),
    )


def prepare(case: Case, given: Tensors) -> Prepared:
    """The call of a case. What is not to be timed (layouts, block lists, permuted tokens) happens here.

    Raises:
        InputError: the library cannot run the case. Whatever the library raises.
    """
    return _BUILDERS[case.kernel](case, given)


def _as_is(out: Any) -> torch.Tensor:
    result = out[0] if isinstance(out, tuple) else out
    assert isinstance(result, torch.Tensor)
    return result


def _heads_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(1, 2).contiguous()


def _from_heads_last(out: Any) -> torch.Tensor:
    return _as_is(out).transpose(1, 2)


def _window(case: Case) -> tuple[int | None, int | None]:
    """(left, right) of a band, None where there is no limit."""
    settings = dict(word.split("=") for word in case.pattern.split()[1:])
    if case.kind == "causal":
        return None, 0
    left, right = (int(settings[side]) if side in settings else None for side in ("left", "right"))
    return left, right


def _ours(case: Case, given: Tensors) -> Prepared:
    q, k, v = given.q, given.k, given.v
    # Where there is no GPU this only tries the call: with the tiles that a GPU would run, which interpret faster too.
    config = read_config(case.config) or default_config(case.head_dim, capability_of(q) or (9, 0), q.dtype)
    if case.kind == "na":
        # A configuration's tiles are those of its blocks; the default's are the plan's own 128 tokens.
        tokens = {"tokens": (config.block_m, config.block_n)} if case.config else {}
        made = plan(case.pattern, case.tokens, None, None, str(q.device), **tokens)
        config = fit_to_blocks(config, made.blocks)
        tiles = grid_text(made.queries.tile), grid_text(made.keys.tile)
        if case.measures == "kernel":
            inside, restore = _permuted(case, given, made)
            return Prepared(lambda: _on_lists(inside, made, config), restore, config_text(config), *tiles)

        def whole() -> torch.Tensor:
            inside, restore = _permuted(case, given, made)
            return restore(_on_lists(inside, made, config))

        return Prepared(whole, _as_is, config_text(config), *tiles)
    if case.kind == "blocks":
        live, full = block_maps(case.pattern, case.workload)
        lists = BlockLists.from_maps(live, full, (BLOCK, BLOCK), (q.shape[2], k.shape[2])).to(q.device)
        config = fit_to_blocks(config, lists)
        return Prepared(
            lambda: attention(q, k, v, blocks=lists, config=config), _as_is, config_text(config), str(BLOCK), str(BLOCK)
        )
    window = _window(case)
    return Prepared(
        lambda: attention(q, k, v, window=window, config=config),
        _as_is,
        config_text(config),
        str(config.block_m),
        str(config.block_n),
    )


def _permuted(case: Case, given: Tensors, made: Plan) -> tuple[Tensors, Callable[[Any], torch.Tensor]]:
    """Tensors in the order of the plan's tiles, and the way back for the output."""
    grid = case.tokens

    def there(tensor: torch.Tensor, layout: Any) -> torch.Tensor:
        return tensor if layout.is_identity else permute_tokens(tensor, grid, layout.tile, layout.dilation)

    def back(out: Any) -> torch.Tensor:
        layout = made.queries
        return _as_is(out) if layout.is_identity else unpermute_tokens(_as_is(out), grid, layout.tile, layout.dilation)

    return Tensors(there(given.q, made.queries), there(given.k, made.keys), there(given.v, made.keys)), back


def _on_lists(inside: Tensors, made: Plan, config: Any) -> Any:
    masked = made.blocks.has_partial
    mask, arguments = (neighborhood_mask, made.mask_args) if masked else (None, ())
    return attention(
        inside.q, inside.k, inside.v, blocks=made.blocks, mask=mask, mask_args=arguments, config=config
    )  # fmt: skip


@lru_cache(maxsize=8)
def block_maps(pattern: str, workload: Workload) -> tuple[torch.Tensor, torch.Tensor]:
    """Live and full, bool [Q blocks, KV blocks] of 128 tokens, of a pattern made of whole blocks.

    Raises:
        InputError: some block is kept in part.
    """
    parsed = parse_pattern(pattern)
    parsed.check(workload)
    cells = torch.from_numpy(block_map(rule_of(parsed, workload), BLOCK, BLOCK))
    if bool((cells == 1).any()):
        raise InputError(f"pattern {pattern!r} keeps parts of blocks of {BLOCK}: expected whole blocks only")
    return cells > 0, cells == 2


def _ours_decode(case: Case, given: Tensors) -> Prepared:
    left, _ = _window(case)
    return Prepared(lambda: decode(given.q, given.k, given.v, causal=True, window=left), _as_is)


def _sdpa(backend: str) -> Callable[[Case, Tensors], Prepared]:
    def build(case: Case, given: Tensors) -> Prepared:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = given.q, given.k, given.v
        if case.cached and q.shape[2] > 1:
            raise InputError(f"{case.kernel} aligns causal masks at the first key: expected one query over a cache")
        causal = case.kind == "causal" and q.shape[2] > 1
        grouped = case.heads != case.heads_kv
        # On the CPU only to try the plumbing: it has no cuDNN.
        which = getattr(SDPBackend, backend) if q.is_cuda else SDPBackend.MATH

        def run() -> torch.Tensor:
            with sdpa_kernel(which):
                return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

        return Prepared(run, _as_is)

    return build


def _flex(case: Case, given: Tensors) -> Prepared:
    q, k, v = given.q, given.k, given.v
    compiled = q.is_cuda
    if case.cached:
        if q.shape[2] > 1 or case.kind != "causal":
            raise InputError("flex over a cache: expected one query that sees all keys")
        return Prepared(flex_blocks_call(q, k, v, None, None, None, compiled), _as_is)
    if case.kind == "blocks":
        live, full = block_maps(case.pattern, case.workload)
        table = live.to(q.device)

        def listed(b: Any, h: Any, i: Any, j: Any) -> Any:
            # Full blocks are not masked; only where it runs eagerly is this asked.
            return table[i // BLOCK, j // BLOCK]

        return Prepared(flex_blocks_call(q, k, v, live, full, listed, compiled), _as_is)
    call = flex_call(case.pattern, case.tokens, q, k, v, compiled)
    if case.kind != "na":
        return Prepared(call, _as_is)
    made = plan(case.pattern, case.tokens, None, None, "cpu")
    tiles = grid_text(made.queries.tile), grid_text(made.keys.tile)
    return Prepared(call, lambda out: unpermute_tokens(_as_is(out), case.tokens, made.queries.tile), "", *tiles)


def _flash_attn(case: Case, given: Tensors) -> Prepared:
    flash_attn = import_module("flash_attn")

    q, k, v = (_heads_last(tensor) for tensor in (given.q, given.k, given.v))
    window = tuple(-1 if side is None else side for side in _window(case))
    run = flash_attn.flash_attn_with_kvcache if case.cached else flash_attn.flash_attn_func
    return Prepared(lambda: run(q, k, v, causal=case.kind == "causal", window_size=window), _from_heads_last)


def _flash_attn_3(case: Case, given: Tensors) -> Prepared:
    flash_attn_interface = import_module("flash_attn_interface")

    q, k, v = (_heads_last(tensor) for tensor in (given.q, given.k, given.v))
    window = tuple(-1 if side is None else side for side in _window(case))
    run = flash_attn_interface.flash_attn_func
    return Prepared(lambda: run(q, k, v, causal=case.kind == "causal", window_size=window), _from_heads_last)


def _natten(case: Case, given: Tensors) -> Prepared:
    natten = import_module("natten")

    grid = case.tokens
    q, k, v = (
        tensor.reshape(*tensor.shape[:2], *grid, case.head_dim).movedim(1, -2).contiguous()
        for tensor in (given.q, given.k, given.v)
    )  # [batch, *grid, heads, head_dim]
    settings = dict(word.split("=") for word in case.pattern.split()[1:])
    numbers = {name: tuple(map(int, text.split("x"))) for name, text in settings.items()}
    ones = (1,) * len(grid)
    options = {
        "kernel_size": numbers["window"],
        "stride": numbers.get("stride", ones),
        "dilation": numbers.get("dilation", ones),
        "is_causal": tuple(bool(flag) for flag in numbers.get("causal", (0,) * len(grid))),
    }
    run = (natten.na1d, natten.na2d, natten.na3d)[len(grid) - 1]
    return Prepared(
        lambda: run(q, k, v, **options), lambda out: _as_is(out).movedim(-2, 1).flatten(2, 1 + len(grid))
    )  # fmt: skip


def _flashinfer(case: Case, given: Tensors) -> Prepared:
    flashinfer = import_module("flashinfer")

    q, k, v = (_heads_last(tensor)[0] for tensor in (given.q, given.k, given.v))
    left, right = _window(case)
    if case.kind == "window" and right != 0:
        raise InputError(f"flashinfer runs causal windows only, not {case.pattern!r}")
    options = {"window_left": -1 if left is None else left}
    if case.cached:
        run = flashinfer.single_decode_with_kv_cache
        return Prepared(lambda: run(q[0], k, v, **options), lambda out: out[None, :, None])
    causal = case.kind != "dense"
    run = flashinfer.single_prefill_with_kv_cache
    return Prepared(lambda: run(q, k, v, causal=causal, **options), lambda out: out.transpose(0, 1)[None])


_BUILDERS: dict[str, Callable[[Case, Tensors], Prepared]] = {
    "attncast": _ours,
    "attncast-decode": _ours_decode,
    "sdpa-flash": _sdpa("FLASH_ATTENTION"),
    "sdpa-cudnn": _sdpa("CUDNN_ATTENTION"),
    "flex": _flex,
    "flash-attn": _flash_attn,
    "flash-attn-3": _flash_attn_3,
    "natten": _natten,
    "flashinfer": _flashinfer,
}
