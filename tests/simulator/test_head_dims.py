"""Which head dims kernels take, and what they run between those that they are built for."""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncast.errors import InputError
from attncast.hwmodels import load_gpu
from attncast.simulator import Workload, parse_pattern, predict
from attncast.simulator.call import kernel_work, resolve_tiles, single_call
from attncast.simulator.conditions import DEFAULT_CONDITIONS, engine_conditions
from attncast.simulator.forecast import forecast, packed_heads
from attncast.simulator.head_dims import HeadDims, power_of_two
from attncast.simulator.kernel_choice import baseline_profile, choose_profile
from attncast.simulator.profile import KernelProfile, _document, load_profile, profile_names
from attncast.simulator.tile_choice import tile_choice

DECODE_ONLY = ("mmha", "trtllm-decode", "xqa")
GPU_OF = {"sm_80": "a100", "sm_89": "l40s", "sm_90": "h100", "sm_100": "b200", "sm_103": "b300", "sm_120": "rtx5090"}
PROFILES = sorted(
    {
        (name, GPU_OF[arch], engine)
        for name in profile_names()
        for variant in _document(name)["variant"]
        for arch in variant["archs"]
        for engine in variant.get("engines", [""])
    }
)


def profile_of(kernel: str, gpu: str, engine: str = "", kv_dtype: str = "") -> KernelProfile:
    profile = load_profile(kernel, load_gpu(gpu), engine, kv_dtype)
    return profile.of_phase(kernel in DECODE_ONLY)


@lru_cache(maxsize=4096)
def cost(kernel: str, gpu: str, dim: int, dim_v: int | None = None, engine: str = "", run_dim: int | None = None):
    """Forecast of a call; with ``run_dim`` as if that were its head dim to all but memory."""
    model, profile = load_gpu(gpu), profile_of(kernel, gpu, engine)
    pattern = parse_pattern("na window=16x16" if kernel == "natten" else "causal")
    grid, cached = ((64, 64), 0) if kernel == "natten" else ((1,), 8191) if kernel in DECODE_ONLY else ((4096,), 0)
    workload = Workload(grid, 32, dim, heads_kv=8, batch=4, cached=cached, head_dim_v=dim_v)
    tiles = resolve_tiles(profile, pattern, workload, None, None)
    calls = single_call(
        model, profile, workload, pattern, tiles, kernel_work(profile, pattern, workload, tiles), DEFAULT_CONDITIONS
    )
    return calls, forecast(model, profile, calls), tiles


def padded_dims(profile: KernelProfile) -> list[int]:
    dims = profile.head_dims
    return [
        dim for dim in range(8, 257, 8) if dims.takes(dim, dim, "bf16") and dims.run(dim, dim, "bf16") != (dim, dim)
    ]


@pytest.mark.parametrize(("kernel", "gpu", "engine"), PROFILES)
def test_a_kernel_has_tiles_for_what_it_takes_and_a_sentence_for_what_it_does_not(kernel, gpu, engine):
    model = load_gpu(gpu)
    for dtype in load_profile(kernel, model, engine).dtypes:
        if dtype not in model.tensor_flops_per_clock_per_sm:
            continue
        profile = profile_of(kernel, gpu, engine, dtype)
        family, pattern = profile.patterns[0], parse_pattern("na window=16" if kernel == "natten" else "causal")
        tokens = 1 if kernel in DECODE_ONLY else 4096
        pairs = [(dim, dim) for dim in (1, 5, 81, 1024, *range(8, 584, 8))] + [
            (192, 128),
            (128, 192),
            (64, 512),
            (576, 512),
            (96, 64),
        ]
        for dim, dim_v in pairs:
            workload = Workload(tokens, 8, dim, heads_kv=2, dtype=dtype, head_dim_v=dim_v, cached=64 * (tokens == 1))
            asked = (kernel, model, family, dtype, dim, None, 4, engine)
            if profile.head_dims.takes(dim, dim_v, dtype):
                chosen = choose_profile(*asked, value_dim=dim_v)
                assert tile_choice(chosen, pattern, workload)
                run, run_v = profile.head_dims.run(dim, dim_v, dtype)
                assert run >= dim
                assert run_v >= dim_v
            else:
                with pytest.raises(
                    InputError, match=rf"kernel '{kernel}' cannot run head dim {dim}\b.*: expected .*can$"
                ):
                    choose_profile(*asked, value_dim=dim_v)


@pytest.mark.parametrize(("kernel", "gpu", "engine"), PROFILES)
def test_what_a_head_dim_runs_as_is_no_less_and_runs_as_itself(kernel, gpu, engine):
    dims = profile_of(kernel, gpu, engine).head_dims
    for dtype in ("bf16", "fp8"):
        taken = [dim for dim in range(1, 513) if dims.takes(dim, dim, dtype)]
        runs = [dims.run(dim, dim, dtype, 64) for dim in taken]
        assert [dims.run(*run, dtype, 64) if run[0] == run[1] else run for run in runs] == runs
        whole = [(run, dim) for run, dim in zip(runs, taken, strict=True) if dim not in dims.split]
        assert all(a[0] <= b[0] and a[1] <= b[1] for (a, _), (b, _) in pairwise(whole))


# Tiles of unlike shapes, or made by a compiler for a head dim, are not compared with their neighbours.
@pytest.mark.parametrize(
    ("kernel", "gpu"),
    [
        *((kernel, gpu) for kernel in ("fa2", "fa3", "cudnn", "flex", "triton", "trtllm") for gpu in ("a100", "h100")),
        ("fa4", "b200"), ("cudnn", "b200"), ("natten", "a100"), ("natten", "b200"), ("xqa", "h100"), ("mmha", "b200"),
    ],
)  # fmt: skip
def test_a_padded_head_dim_takes_the_products_of_the_next_and_its_own_bytes(kernel, gpu):
    profile = profile_of(kernel, gpu)
    for dim in padded_dims(profile):
        calls, found, tiles = cost(kernel, gpu, dim)
        run = profile.head_dims.run(dim, dim, "bf16", int(np.prod(tiles[1])))
        assert (calls.run_dim[0], calls.run_dim_v[0] * calls.value_parts[0]) == run
        if run[0] != run[1] or not profile.head_dims.takes(*run, "bf16"):
            continue
        built_calls, built, built_tiles = cost(kernel, gpu, run[0])
        if built_tiles != tiles or built_calls.in_flight[0] != calls.in_flight[0]:
            continue
        for pipe in ("tensor", "smem"):
            cycles = [one.limits[pipe] * one.clock_hz for one in (found, built)]
            np.testing.assert_allclose(*cycles, rtol=1e-9)
        assert found.traffic.unique_bytes < built.traffic.unique_bytes
        assert found.traffic.issued_bytes < built.traffic.issued_bytes
        assert found.time_s <= built.time_s


@pytest.mark.parametrize(("kernel", "gpu"), [("fa2", "a100"), ("fa2", "h100"), ("fa3", "h100"), ("fa4", "b200")])
def test_forecasts_rise_with_the_head_dim(kernel, gpu):
    profile = profile_of(kernel, gpu)
    dims = [dim for dim in range(8, 257, 8) if profile.head_dims.takes(dim, dim, "bf16")]
    times_s = [float(cost(kernel, gpu, dim)[1].time_s[0]) for dim in dims]
    assert times_s == sorted(times_s)
    steps = [b / a for a, b in pairwise(times_s)]
    runs = [profile.head_dims.run(dim, dim, "bf16")[0] for dim in dims]
    for step, (before, after) in zip(steps, pairwise(runs), strict=True):
        assert before != after or step < 1.02  # between built sizes only bytes grow
        assert before == after or step > 1.02


def test_a_head_dim_that_a_kernel_is_built_for_runs_as_itself():
    for kernel, gpu, engine in PROFILES:
        dims = profile_of(kernel, gpu, engine).head_dims
        for dim in (64, 128, 256):
            if dims.takes(dim, dim, "bf16"):
                assert dims.run(dim, dim, "bf16", 64) == (dim, dim), (kernel, gpu, engine)
        if dims.takes(192, 128, "bf16") and dims.rounds != "power-of-two":
            assert dims.run(192, 128, "bf16", 64) == (192, 128)


@pytest.mark.parametrize(
    ("kernel", "gpu", "dims", "dtype", "run"),
    [
        ("fa2", "a100", (80, 80), "bf16", (96, 96)),
        ("fa2", "a100", (136, 136), "bf16", (192, 192)),
        ("fa2", "a100", (8, 8), "bf16", (32, 32)),
        ("fa3", "h100", (8, 8), "bf16", (64, 64)),
        ("fa3", "h100", (176, 112), "fp8", (192, 128)),
        ("fa4", "b200", (72, 72), "bf16", (80, 80)),
        ("fa4", "b200", (192, 128), "bf16", (192, 128)),
        ("cudnn", "h100", (192, 192), "bf16", (256, 256)),
        ("cudnn", "h100", (192, 128), "bf16", (192, 128)),
        ("flex", "h100", (80, 48), "bf16", (128, 64)),
        ("triton", "h100", (5, 5), "bf16", (16, 16)),
        ("trtllm", "a100", (80, 80), "bf16", (128, 128)),
        ("trtllm", "h100", (160, 160), "bf16", (192, 192)),
        ("trtllm", "h100", (160, 160), "fp8", (256, 256)),
        ("mmha", "h100", (192, 192), "bf16", (256, 256)),
        ("xqa", "h100", (192, 192), "bf16", (256, 256)),
        ("sglang-triton", "h100", (192, 128), "bf16", (192, 128)),
        ("sglang-triton", "h100", (160, 160), "bf16", (256, 256)),
        ("natten", "b200", (80, 80), "bf16", (128, 128)),
    ],
)
def test_what_head_dims_run_as(kernel, gpu, dims, dtype, run):
    taken = profile_of(kernel, gpu).head_dims
    assert taken.takes(*dims, dtype)
    assert taken.run(*dims, dtype) == run


def test_natten_makes_as_many_columns_of_values_as_a_kv_tile_has_keys():
    dims = profile_of("natten", "a100").head_dims
    assert dims.run(80, 80, "fp16", 64) == (96, 128)
    assert dims.run(64, 64, "fp16", 128) == (64, 128)


def test_sglang_splits_keys_of_192_in_prompts_alone():
    prompt, decoding = (load_profile("sglang-triton", load_gpu("b200"), "sglang").of_phase(d) for d in (False, True))
    assert prompt.head_dims.run(192, 128, "bf16") == (192, 128)
    assert decoding.head_dims.run(192, 128, "bf16") == (256, 128)
    assert prompt.head_dims.tile_dim(192, 128, "bf16") == decoding.head_dims.tile_dim(192, 128, "bf16") == 192
    assert (prompt.head_dims.tile_dim(160, 128, "bf16"), decoding.head_dims.tile_dim(160, 128, "bf16")) == (256, 160)


@given(
    built=st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True).map(sorted),
    step=st.sampled_from([1, 8, 16, 32]),
    rounds=st.sampled_from(["no", "power-of-two", "rows"]),
    dim=st.integers(1, 512),
    dtype=st.sampled_from(["bf16", "fp8"]),
)
def test_rounding_holds_the_head_dim_and_no_more_than_it_must(built, step, rounds, dim, dtype):
    dims = HeadDims(built=tuple(built), step=step, rounds=rounds)
    run, run_v = dims.run(dim, dim, dtype)
    assert run == run_v >= dim
    kernel = min((size for size in built if size >= dim), default=dim)
    most = {"no": kernel + step, "power-of-two": 2 * (kernel + step) + 16, "rows": kernel + step + 128}[rounds]
    assert kernel <= run < max(most, 17)
    if rounds == "power-of-two":
        assert run == power_of_two(run)


@pytest.mark.parametrize(
    ("kernel", "gpu", "workload", "parts"),
    [
        ("fa2", "a100", {"head_dim": 264}, ["head dim 264", "multiples of 8 from 8 to 256", "triton can"]),
        ("fa2", "a100", {"head_dim": 81}, ["head dim 81", "multiples of 8 from 8 to 256", "triton can"]),
        ("fa2", "a100", {"head_dim": 192, "head_dim_v": 128}, ["head dim 192 with values of 128", "triton can"]),
        ("fa3", "h100", {"head_dim": 72, "dtype": "fp8"}, ["multiples of 16 from 16 to 256", "triton can"]),
        ("fa3", "a100", {"head_dim": 192, "head_dim_v": 128}, ["expected multiples of 8 from 8 to 256;"]),
        ("fa4", "b200", {"head_dim": 192}, ["8 to 128, 256, 512, 192 with values of 128 or", "cudnn, fa2, "]),
        ("cudnn", "b200", {"head_dim": 144, "dtype": "fp8"}, ["multiples of 16 from 16 to 128, 256, 512 or 192 with"]),
        ("flashinfer", "h100", {"head_dim": 96}, ["expected 64, 128, 192, 256 or 192 with values of 128"]),
        ("trtllm", "b200", {"head_dim": 96}, ["expected 64, 128, 256, 512 or 192 with values of 128", "fa4"]),
        ("natten", "h100", {"head_dim": 80}, ["natten' cannot run head dim 80 on h100: expected 32, 64, 128 or 256", "flex, "]),
        ("mmha", "h100", {"head_dim": 72, "grid": 1, "cached": 99}, ["32, 48, 64, 80, 96", "fa3"]),
        ("xqa", "a100", {"head_dim": 40, "grid": 1, "cached": 99}, ["multiples of 16 from 16 to 256", "fa2"]),
    ],
)  # fmt: skip
def test_a_head_dim_that_a_kernel_does_not_take_is_quoted_with_those_that_it_does(kernel, gpu, workload, parts):
    call = Workload(**{"grid": 1024, "heads": 8, "heads_kv": 2, **workload})
    with pytest.raises(InputError) as raised:
        predict(call, "na window=64" if kernel == "natten" else "causal", gpu, kernel)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("gpu", "dims", "dtype", "prompt", "baseline"),
    [
        ("h100", (512, 512), "bf16", "triton", "triton"),
        ("h100", (80, 80), "bf16", "fa3", "cudnn"),
        ("h100", (81, 81), "bf16", "triton", "triton"),
        ("h100", (192, 128), "bf16", "fa3", "cudnn"),
        ("b200", (96, 96), "bf16", "fa4", "cudnn"),
        ("b200", (192, 192), "bf16", "cudnn", "cudnn"),
        ("b200", (288, 288), "bf16", "triton", "triton"),
        ("a100", (512, 512), "bf16", "triton", "triton"),
        ("rtx5090", (96, 96), "bf16", "triton", "cudnn"),
    ],
)
def test_what_users_would_run_takes_the_head_dim(gpu, dims, dtype, prompt, baseline):
    workload = Workload(2048, 8, dims[0], heads_kv=2, dtype=dtype, head_dim_v=dims[1])
    estimate = predict(workload, "causal", gpu)
    assert (estimate.kernel, estimate.baseline.kernel) == (prompt, baseline)
    assert baseline_profile(load_gpu(gpu), dtype, dims[0], value_dim=dims[1]).key == baseline
    assert predict(Workload(2048, 8, 40, dtype=dtype), "na window=64", gpu).kernel in ("natten", "triton")


def test_absorbed_latent_attention_decodes_on_blackwell():
    token = Workload(1, 128, 576, heads_kv=1, batch=32, cached=8191, head_dim_v=512)
    for kernel in ("trtllm", "trtllm-decode"):
        assert predict(token, "causal", "b200", kernel, baseline="trtllm").kernel == "trtllm-decode"
    conditions = engine_conditions("vllm", token)
    assert predict(token, "causal", "b200", baseline="trtllm", conditions=conditions).kernel == "trtllm-decode"
    with pytest.raises(InputError, match="'trtllm' cannot run head dim 576 with values of 512 on b200"):
        predict(Workload(4096, 128, 576, heads_kv=1, head_dim_v=512), "causal", "b200", "trtllm")


def test_a_decoding_kernel_leaves_head_dims_to_the_other():
    for dim, kernel in ((96, "xqa"), (104, "mmha")):
        token = Workload(1, 32, dim, heads_kv=4, batch=64, cached=8191)
        assert predict(token, "causal", "h100", "trtllm", baseline="fa3").kernel == kernel
    with pytest.raises(InputError, match="kernel 'mmha' cannot run head dim 72 on h100: expected 32, 48, 64"):
        predict(Workload(1, 32, 72, heads_kv=4, batch=64, cached=8191), "causal", "h100", "trtllm")


def test_several_new_tokens_run_where_one_alone_would_not():
    """XQA takes the tokens of a speculative step whatever its parts; MMHA takes one, so that others run as prompts."""
    for tokens, heads_kv, kernel in ((1, 8, "mmha"), (4, 8, "xqa"), (1, 32, "mmha"), (4, 32, "trtllm")):
        token = Workload(tokens, 32, 128, heads_kv=heads_kv, cached=512)
        assert predict(token, "causal", "h100", "trtllm").kernel == kernel
    with pytest.raises(InputError, match="kernel 'mmha' only decodes: expected at most 1 new token, not 2"):
        predict(Workload(2, 32, 128, cached=512), "causal", "h100", "mmha")


def test_flash_attention_2_packs_the_heads_of_one_token_alone():
    profile = profile_of("fa2", "a100")
    tokens = np.array([1, 2, 8, 4096])
    assert packed_heads(profile, tokens, 512, 4, 0).tolist() == [4, 1, 1, 1]
    calls = [predict(Workload(n, 32, 128, heads_kv=8, batch=8, cached=4096), "causal", "a100", "fa2") for n in (1, 2)]
    assert calls[0].splits > 1 == calls[1].splits


def test_a_padded_head_dim_is_told():
    def notes(kernel, gpu, workload):
        return [
            note for note in predict(workload, "causal", gpu, kernel).notes if " run" in note and "products" in note
        ]

    one = Workload(1024, 8, 80)
    assert notes("fa2", "a100", one) == ["Head dim 80 runs as 96: 17% of the products are of zeros."]
    two = Workload(1024, 8, 80, head_dim_v=64)
    assert notes("flex", "a100", two) == [
        "Head dims 80 (keys) and 64 (values) run as 128 and 64: 25% of the products are of zeros."
    ]
    assert not notes("fa3", "h100", Workload(1024, 8, 96))
    assert not notes("triton", "h100", Workload(1024, 8, 128))


def test_the_command_line_says_both(attncast):
    call = ("predict", "-g", "h100", "-i", "4096", "-n", "32", "-p", "causal")
    status, _, said = attncast(*call, "-d", "512", "-k", "fa3")
    assert status == 2
    assert "kernel 'fa3' cannot run head dim 512 on h100: expected multiples of 8 from 8 to 256" in said
    status, said, _ = attncast(*call, "-d", "80", "--json")
    assert status == 0
    assert "Head dim 80 runs as 96: 17% of the products are of zeros." in json.dumps(json.loads(said))
