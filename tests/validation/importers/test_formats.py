"""Each format turns its fixture into exactly these runs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncast import InputError
from attncast.validation.importers import FORMATS, Given, import_runs
from attncast.validation.measured import MeasuredRun, load_runs, save_runs

from .cases import CASES, DATA

AIC = "NVIDIA aiconfigurator attention tables (Apache-2.0)"


def engine(id, gpu, kernel, software, batch, heads, heads_kv, grid, cached, head_dim, dtype, pattern, ms, **rest):
    """A run of aiconfigurator, with what all of them share."""
    values = {"measures": "call+append", "method": "CUDA graph replay, warm L2, prefill", **rest}
    return MeasuredRun(
        id, gpu, kernel, software, batch, heads, heads_kv, str(grid), cached, head_dim, dtype, pattern, "", "",
        warm=True, graph=True, time_s=ms * 1e-3, source=AIC, **values,
    )  # fmt: skip


VLLM, SGLANG, TRTLLM = "VLLM 0.24.0 vllm_flash_attn_fa3", "SGLang 0.5.14", "TRTLLM 1.3.0rc20 torch_flow"
ROPE = "call+append+rope"
QUANTISED = ", queries quantised from bf16"


def test_upstream_aiconfigurator_table():
    result = import_runs("aiconfigurator", DATA / "context_attention_perf.txt")
    name = "context_attention_perf"
    assert result.runs == [
        engine(f"{name}-2", "h100", "fa3", VLLM, 2, 32, 8, 4096, 0, 128, "bf16", "causal", 0.9),
        # vLLM: W keys, the query's own among them; FA3 takes no mixed operands, so an fp8 cache means fp8 products,
        # of queries that the collector casts before the timed call.
        engine(f"{name}-3", "h100", "fa3", VLLM, 2, 32, 8, 4096, 0, 128, "fp8", "window left=127 right=0", 0.4,
               method="CUDA graph replay, warm L2, prefill, queries in fp8"),
        # SGLang: W keys besides the query's own.
        engine(f"{name}-4", "h100", "fa3", f"{SGLANG} fa3", 2, 32, 8, 4096, 0, 128, "bf16", "window left=128 right=0", 0.4),
        engine(f"{name}-5", "b200", "flashinfer", f"{SGLANG} flashinfer", 1, 8, 1, 512, 1024, 64, "bf16", "causal", 0.05,
               kv_dtype="fp8"),
        engine(f"{name}-6", "a100", "trtllm", "TRTLLM 1.0.0 torch_flow", 1, 8, 8, 1024, 0, 128, "bf16", "causal", 0.25,
               measures=ROPE, rotary_dim=128),  # its collector rotates 128 dims of any head
    ]  # fmt: skip


def test_joined_aiconfigurator_table():
    result = import_runs("aiconfigurator", DATA / "joined.csv")
    assert result.runs == [
        engine("joined-2", "h100", "xqa", TRTLLM, 8, 16, 2, 1, 1023, 128, "bf16", "causal", 0.021, kv_dtype="fp8",
               measures=ROPE, rotary_dim=128, method="CUDA graph replay, warm L2, decode"),
        engine("joined-3", "h100", "trtllm", TRTLLM, 8, 16, 2, 1024, 0, 128, "fp8", "causal", 0.3, measures=ROPE + "+quantise",
               rotary_dim=128, method="CUDA graph replay, warm L2, prefill" + QUANTISED),
        # vLLM's collector casts for FlashInfer's backend too, which asserts that queries come in fp8.
        engine("joined-5", "b200", "trtllm", "VLLM 0.24.0 vllm_flashinfer_trtllmprefill", 8, 16, 2, 1024, 0, 128, "fp8",
               "causal", 0.1, method="CUDA graph replay, warm L2, prefill, queries in fp8"),
    ]  # fmt: skip
    ((run, reason),) = result.implausible
    assert run.id == "joined-4"
    assert reason.startswith("above the DRAM bandwidth: 3.38 TB/s")


def test_both_conventions_of_cudnn():
    result = import_runs("cudnn", DATA / "cudnn_training.csv")
    assert [run.id for run in result.runs] == ["cudnn_training-2", "cudnn_training-3", "cudnn_training-4"]
    forward, backward, window = result.runs
    assert (forward.gpu, forward.kernel, forward.head_dim, forward.head_dim_v) == ("h200", "cudnn", 192, 128)
    assert (forward.pattern, forward.direction, forward.time_s) == ("causal", "fwd", pytest.approx(0.172e-3))
    assert (forward.warm, forward.graph, forward.measures, forward.samples) == (False, False, "kernel", 10)
    assert forward.software == "cudnn frontend 1.30.0 cuDNN 92700"
    assert (backward.pattern, backward.direction, backward.config) == ("dense", "bwd", "deterministic=1")
    assert (window.kernel, window.dtype, window.pattern) == ("fa3", "fp16", "window left=511 right=0")
    assert dict(result.no_run) == {
        "no kernel profile describes 'cudnn_oss'": 1,
        "block-scaled mxfp8": 1,
        "the benchmark failed or was not supported": 1,
    }
    ((run, reason),) = result.implausible
    assert run.id == "cudnn_training-8"
    assert reason == "contradicts its own operation count: it states 900 TFLOP/s, but its shape and time make 687.2"


def test_older_layouts_of_cudnn():
    both = import_runs("cudnn", DATA / "cudnn_both.csv").runs
    assert [(run.id, run.direction, run.time_s) for run in both] == [
        ("cudnn_both-2-fwd", "fwd", pytest.approx(0.05e-3)),
        ("cudnn_both-2-bwd", "bwd", pytest.approx(0.15e-3)),
    ]
    assert {(run.gpu, run.grid, run.kv_grid, run.pattern) for run in both} == {("gb200", "1024", "4096", "causal")}
    artifact = import_runs("cudnn", *case_of("cudnn_artifact.csv")).runs
    assert [(run.id, run.kernel, run.pattern, run.direction) for run in artifact] == [
        ("cudnn_artifact-2-fwd", "cudnn", "causal", "fwd"),
        ("cudnn_artifact-2-bwd", "cudnn", "causal", "bwd"),
        ("cudnn_artifact-3", "fa2", "dense", "fwd"),
    ]
    assert {(run.warm, run.measures) for run in artifact} == {(True, "call")}


def test_inference_layout_of_cudnn():
    result = import_runs("cudnn", DATA / "cudnn_inference.csv")
    assert [(r.gpu, r.grid, r.cached, r.kv_grid, r.dtype, r.pattern) for r in result.runs] == [
        ("a100-pcie", "1", 4095, "", "bf16", "causal"),
        ("h200", "2", 4094, "", "fp8", "window left=127 right=0"),
        ("h200", "4096", 0, "", "bf16", "causal"),  # its own count is half the square
        ("h200", "4096", 0, "", "bf16", "dense"),
    ]
    assert dict(result.no_run) == {"keys and values share their storage (absorbed MLA)": 1}


def test_flex_logs():
    forward, decode = import_runs("flex", *case_of("flex_new.json")).runs
    assert forward == MeasuredRun(
        "flex_new-1.1", "h100", "flex", "PyTorch FlexAttention", 2, 8, 2, "4096", 0, 64, "fp16", "dense", "128", "64",
        "kernel", False, False, 0.5e-3, "Inductor autotuner, L2 flushed, no block mask",
        "FlexAttention tuning log (TORCHINDUCTOR_FLEX_ATTENTION_LOGGING_FILE)",
        config="num_warps=4 num_stages=3 BLOCK_M=128 BLOCK_N=64",
    )  # fmt: skip
    # [B, Hkv, queries per key head, Lq, D]: eight query heads, whatever Hq and seq_len_q say.
    assert (decode.heads, decode.heads_kv, decode.grid, decode.kv_grid, decode.q_tile) == (8, 2, "1", "4096", "")
    (backward,) = import_runs("flex", *case_of("flex_old.json")).runs
    assert (backward.batch, backward.heads, backward.heads_kv, backward.grid) == (2, 8, 2, "4096")
    assert (backward.direction, backward.time_s) == ("bwd", pytest.approx(1.5e-3))
    with pytest.raises(InputError, match="without a block mask"):
        import_runs("flex", DATA / "flex_new.json", Given(gpu="h100", dtype="fp16", pattern="causal"))


def test_triton_cache():
    result = import_runs("triton-cache", *case_of("_attn_fwd.autotune.json"))
    (run,) = result.runs
    assert run == MeasuredRun(
        "_attn_fwd-1", "h100", "triton", "Triton kernel _attn_fwd", 4, 32, 32, "4096", 0, 128, "fp16", "causal", "128",
        "64", "kernel", False, False, 1e-3, "triton.testing.do_bench, L2 flushed, median", "Triton autotune cache",
        config="BLOCK_M=128 BLOCK_N=64 num_warps=8 num_ctas=1 num_stages=3",
        spread_s=pytest.approx(0.025e-3 * 0.6745 / 0.8416),
    )  # fmt: skip
    assert dict(result.no_run) == {"the configuration did not compile or fit": 1}


def test_tritonbench():
    result = import_runs("tritonbench", *case_of("tritonbench.csv"))
    assert [(run.id, run.kernel, run.grid, run.time_s) for run in result.runs] == [
        ("tritonbench-2-sdpa", "fa2", "2048", pytest.approx(0.175e-3)),
        ("tritonbench-2-flash_v3", "fa3", "2048", pytest.approx(0.1e-3)),
    ]
    assert sum(result.no_run.values()) == 6
    dense = Given(gpu="h100", dtype="bf16", pattern="dense", direction="fwd")
    # Imported as dense, its speeds are half of what its shapes and times make.
    with pytest.raises(InputError, match="none of its 4 runs can be true: tritonbench-2-sdpa contradicts its own"):
        import_runs("tritonbench", DATA / "tritonbench.csv", dense)


def test_kernel_tuner():
    first, second = import_runs("kernel-tuner", *case_of("kernel_tuner.json")).runs
    assert (first.time_s, first.spread_s, first.samples) == (pytest.approx(1.52e-3), pytest.approx(0.02e-3), 4)
    assert (first.q_tile, first.kv_tile, first.config, first.warm) == ("64", "64", "BLOCK_M=64 BLOCK_N=64", True)
    assert (second.time_s, second.samples, second.id) == (pytest.approx(1.25e-3), None, "kernel_tuner-3")


@pytest.mark.parametrize("ending", ["", ",", "\n", ",\n"])
def test_a_kernel_tuner_session_that_was_cut_off_is_read(tmp_path, ending):
    text = (DATA / "kernel_tuner.json").read_text().rstrip().removesuffix("}").rstrip().removesuffix("}")
    path = tmp_path / "open.json"
    path.write_text(text + ending)
    assert len(import_runs("kernel-tuner", path, CASES["kernel_tuner.json"][1]).runs) == 2


def test_natten():
    forward, backward = import_runs("natten", *case_of("natten.txt")).runs
    assert (forward.id, forward.time_s, forward.direction) == ("natten-1-fwd", pytest.approx(2.4e-3), "fwd")
    assert (forward.kernel, forward.grid, forward.pattern) == ("natten", "128x128", "na window=32x32")
    assert (forward.q_tile, forward.kv_tile) == ("8x8", "8x16")
    assert (backward.id, backward.time_s, backward.direction) == ("natten-1-bwd", pytest.approx(7e-3), "bwd")
    assert (backward.q_tile, backward.kv_tile) == ("", "")


@pytest.mark.parametrize(("heads", "warm"), [(1, True), (24, False)])
def test_natten_clones_eight_tensors_before_a_call(heads, warm):
    path, given = case_of("natten.txt")
    runs = import_runs("natten", path, replace(given, heads=heads)).runs
    assert {run.warm for run in runs} == {warm}


def test_natten_rests_before_its_own_kernels_and_queues_torch_s(tmp_path):
    assert {run.calls_before for run in import_runs("natten", *case_of("natten.txt")).runs} == {0}
    path = tmp_path / "dense.txt"
    path.write_text((DATA / "natten.txt").read_text().replace("  CUTLASS  │    attention", "   cuDNN   │    attention"))
    given = replace(CASES["natten.txt"][1], heads=1, pattern="dense")
    dense = import_runs("natten", path, given).runs
    assert {(run.kernel, run.calls_before) for run in dense} == {("cudnn", 10)}


@pytest.mark.parametrize("name", CASES)
def test_what_is_imported_is_written_and_read_again(tmp_path, name):
    key, given = CASES[name]
    result = import_runs(key, DATA / name, given, keep_implausible=True)
    assert len({run.id for run in result.runs}) == len(result.runs)
    save_runs(tmp_path / "rows.csv", result.runs)
    again = load_runs(tmp_path / "rows.csv")
    assert [run.workload for run in again] == [run.workload for run in result.runs]
    assert [run.time_s for run in again] == pytest.approx([run.time_s for run in result.runs])


def test_every_format_has_a_fixture():
    assert {key for key, _ in CASES.values()} == set(FORMATS)


def case_of(name):
    """Path and options of a fixture."""
    return DATA / name, CASES[name][1]


def test_chunks_of_llama_4_in_sglang_are_no_windows(tmp_path):
    header = "framework,version,device,op_name,kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,"
    header += "kv_cache_dtype,step,latency,window_size"
    shapes = [
        ("NVIDIA H100 80GB HBM3", "context", "fa3", 4096, 0),  # inside of its chunk
        ("NVIDIA H100 80GB HBM3", "context", "fa3", 12288, 0),  # two chunks: no causal call
        ("NVIDIA H100 80GB HBM3", "generation", "fa3", 1, 20479),  # key 20,479 is the last of 4,096 in its chunk
        ("NVIDIA B200", "context", "trtllm_mha", 12288, 0),  # does not look at chunks
    ]
    lines = [
        f"SGLang,0.5.14,{gpu},{kind},{kernel},1,{new},40,8,128,bfloat16,bfloat16,{cached},9.0,8192"
        for gpu, kind, kernel, new, cached in shapes
    ]
    path = tmp_path / "chunks.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    result = import_runs("aiconfigurator", path)
    assert [(run.gpu, run.grid, run.cached, run.pattern) for run in result.runs] == [
        ("h100", "4096", 0, "causal"),
        ("h100", "1", 4095, "causal"),
        ("b200", "12288", 0, "causal"),
    ]
    assert result.no_run == {"attention over several chunks": 1}


def test_values_of_mimo_are_narrower_than_its_keys(tmp_path):
    header = "framework,version,device,op_name,kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,"
    header += "kv_cache_dtype,step,latency,window_size"
    lines = [
        f"{framework},1,NVIDIA H100 80GB HBM3,context,{kernel},1,4096,64,4,{head_dim},bfloat16,bfloat16,0,9.0,0"
        for framework, kernel, head_dim in (
            ("SGLang", "fa3", 192),
            ("SGLang", "fa3", 128),
            ("VLLM", "vllm_flash_attn", 192),
        )
    ]
    path = tmp_path / "dims.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    assert [run.workload.dim_v for run in import_runs("aiconfigurator", path).runs] == [128, 128, 192]


def test_vllms_triton_kernel_is_handed_queries_in_the_caches_fp8(tmp_path):
    header = "framework,version,device,op_name,kernel_source,batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,"
    header += "kv_cache_dtype,step,latency,window_size"
    lines = [
        f"VLLM,0.24.0,NVIDIA B200,generation,vllm_triton_attn,1,1,16,1,192,bfloat16,{cache},4095,0.02,0"
        for cache in ("bfloat16", "fp8")
    ]
    path = tmp_path / "queries.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    runs = import_runs("aiconfigurator", path).runs
    assert [(run.workload.dtype, run.measures) for run in runs] == [("bf16", "call+append"), ("fp8", "call+append")]
