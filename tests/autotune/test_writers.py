"""Every form is read back the way its reader reads it: imported and run, or parsed and looked up."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attncast import Workload
from attncast.autotune import pruning, writers
from attncast.errors import InputError
from attncast.kernels import tuned
from attncast.kernels.attention_spec import ForwardConfig

from ..paths import ROOT
from .tunings import candidate, flex_config, triton_config, tuning

NA = "na window=4x6x8 stride=2x3x4"
GRID = Workload("6x9x8", 2, 16)


def module(text: str, path: Path) -> Any:
    """Import a module as a user would, from a file."""
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made  # torch.compile looks a function's module up
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def user_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The user's folder of tuned files; nothing is packaged."""
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tuned, "PACKAGED", tmp_path / "none")
    tuned.forget()
    yield tuned.user_dir()
    tuned.forget()


# Triton


def test_the_triton_module_imports_and_its_model_follows_the_call(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    configs = [triton_config(128, 64), triton_config(128, 64, 4), triton_config(64, 32), triton_config(256, 256, 4, 4)]
    made = module(writers.formatted([tuning(configs)], "triton"), tmp_path / "written_configs.py")
    assert [c.kwargs["BLOCK_M"] for c in made.CONFIGS] == [128, 128, 64, 256]
    assert [c.num_warps for c in made.CONFIGS] == [8, 4, 8, 4]
    assert [c.num_stages for c in made.CONFIGS] == [3, 3, 3, 4]
    assert made.CONFIGS[2].kwargs["SPARSE_Q"] == 64
    call = {"q_len": 8192, "kv_len": 8192, "heads": 8, "batch_heads": 8, "HEAD_DIM": 128}
    times = [made.perf_model(**call, **config.all_kwargs()) for config in made.CONFIGS]
    assert times[0] == times[1] < times[2]  # small tiles read K and V more often
    longer = [made.perf_model(**{**call, "q_len": 16384, "kv_len": 16384}, **c.all_kwargs()) for c in made.CONFIGS]
    assert all(3.5 < b / a < 4.5 for a, b in zip(times, longer, strict=True))  # pairs grow as the square
    # 256 x 256 at 4 stages wants four times the shared memory that there is.
    assert made.early_config_prune(made.CONFIGS, {"q_len": 8192}, heads=8) == made.CONFIGS[:3]
    assert made.early_config_prune(made.CONFIGS[3:], call) == made.CONFIGS[3:]


def test_the_model_reads_bands_from_our_kernels_arguments() -> None:
    problem = pruning.Problem("h100", Workload(4096, 8, 128, heads_kv=2), "causal")
    call = {"q_len": 4096, "kv_len": 4096, "heads": 8, "batch_heads": 16, "GROUP": 4, "HEAD_DIM": 128, "LISTS": False}
    workload, pattern = pruning.call_of(problem, {**call, "HAS_LEFT": True, "HAS_RIGHT": True, "left": 9, "right": 0})
    assert str(pattern) == "window left=9 right=0"
    assert workload == Workload(4096, 8, 128, batch=2, heads_kv=2)
    assert str(pruning.call_of(problem, {**call, "HAS_LEFT": False, "HAS_RIGHT": False})[1]) == "dense"
    # Triton's tutorial has no such flags: the tuned pattern at the call's sizes.
    workload, pattern = pruning.call_of(problem, {"Z": 4, "H": 32, "N_CTX": 1024, "HEAD_DIM": 64})
    assert str(pattern) == "causal"
    assert workload == Workload(1024, 32, 64, batch=4, heads_kv=8)
    with pytest.raises(InputError, match="BLOCK_N"):
        pruning.perf_model(problem, BLOCK_M=64)


def test_over_block_lists_tiles_divide_the_blocks() -> None:
    triton = pytest.importorskip("triton")
    problem = pruning.Problem("h100", Workload("6x16x16", 8, 64), "na window=4x8x8 stride=2x8x8")
    configs = [triton.Config({"BLOCK_M": m, "BLOCK_N": 64}, num_warps=4, num_stages=2) for m in (128, 64, 32)]
    call = {"LISTS": True, "SPARSE_Q": 64, "SPARSE_KV": 128, "q_len": 1536, "kv_len": 1536}
    assert pruning.early_config_prune(problem, configs, call) == configs[1:]
    times = [pruning.perf_model(problem, **call, **config.all_kwargs()) for config in configs[1:]]
    assert times[0] < times[1]


def test_the_triton_module_launches_our_kernel(tmp_path: Path) -> None:
    """In a process of its own: the interpreter is chosen when the kernel is first imported."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("runs the interpreted kernel: a GPU is here")
    configs = [triton_config(32, 32, 4, 1), triton_config(16, 16, 4, 1), triton_config(64, 16, 4, 1)]
    del configs[0]["USE_TMA"], configs[1]["WARP_SPECIALIZE"]  # where a GPU has no choice
    workload = Workload(80, 2, 16)
    (tmp_path / "configs.py").write_text(writers.formatted([tuning(configs, workload=workload)], "triton"))
    (tmp_path / "run.py").write_text(_LAUNCH)
    done = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env={
            "TRITON_INTERPRET": "1",
            "PATH": "",
            "PYTHONPATH": ":".join([*sys.path, str(ROOT)]),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    error, ran, asked = done.stdout.split()
    assert float(error) < 0.02
    assert int(ran) in (16, 32, 64)
    assert int(asked) == 3  # the model was asked for each, and only its first was run


_LAUNCH = """
import functools, torch, triton
import configs
from attncast.kernels.attention import attention_forward_kernel
from attncast.kernels.reference import attention_reference, band_mask
asked = []
def perf_model(**arguments):
    asked.append(configs.perf_model(**arguments))
    return asked[-1]
prune = {**configs.PRUNE_CONFIGS_BY, "perf_model": perf_model, "top_k": 1}
kernel = triton.autotune(configs.CONFIGS, configs.KEY, prune_configs_by=prune)(attention_forward_kernel)
torch.manual_seed(0)
q, k, v = (torch.randn(1, 2, 80, 16).half() for _ in range(3))
out = torch.zeros_like(q)
kernel[lambda knobs: (triton.cdiv(80, knobs["BLOCK_M"]) * 2,)](
    q, k, v, out, None, *(None,) * 7, None, *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
    0, 0, 0, 0, 2, 2, 80, 80, 0, 0, 0, 16**-0.5 * 1.4426950408889634, GROUP=1, HEAD_DIM=16, V_HEAD_DIM=16, BLOCK_D=16,
    BLOCK_DV=16, HEAD_GROUP=1, LISTS=False, HAS_FULL=True, HAS_PARTIAL=True, HAS_LEFT=False, HAS_RIGHT=True, BITS=False,
    MASK=None, MASK_ARGS=(), PRECISION="tf32",
)
expected, _ = attention_reference(q, k, v, band_mask(80, 80, None, 0))
print(float((out.double() - expected).abs().max()), kernel.best_config.kwargs["BLOCK_M"], len(asked))
"""


# FlexAttention


TILED = {"q_tile": "2x8x8", "kv_tile": "4x4x8"}


@pytest.mark.parametrize(
    ("pattern", "workload", "tiles"),
    [
        ("dense", Workload(160, 4, 16, heads_kv=2), {}),
        ("causal", Workload(100, 2, 16, cached=60), {}),
        ("window left=20 right=5", Workload(160, 2, 16), {}),
        ("window left=20 right=-1", Workload(160, 2, 16), {}),
        (NA, GRID, {}),
        (NA, GRID, {**TILED, "order": "row"}),
        (NA, GRID, TILED),
        (NA, GRID, {**TILED, "order": "tiles"}),
        ("na window=3x3 stride=2x1 dilation=2x3 causal=1x0", Workload("9x11", 2, 16), {}),
        (
            "na window=3x3 stride=2x1 dilation=2x3 causal=1x0",
            Workload("9x11", 2, 16),
            {"q_tile": "8x16", "kv_tile": "2x64"},
        ),
    ],
)
def test_the_flex_module_runs(pattern: str, workload: Workload, tiles: dict[str, str], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch.nn.attention.flex_attention")
    pytest.importorskip("triton")
    from attncast.kernels import neighborhood, reference

    text = writers.formatted(
        [tuning([{**flex_config(), **tiles}], kernel="flex", pattern=pattern, workload=workload)], "flex"
    )
    assert ("def tiled" in text) == (bool(tiles) and tiles.get("order") != "row")
    made = module(text, tmp_path / "written_flex.py")
    options = made.KERNEL_OPTIONS
    assert options == {f"fwd_{name}": value for name, value in flex_config().items()}
    torch.manual_seed(0)
    q = torch.randn(1, workload.heads, workload.tokens, 16)
    k, v = (torch.randn(1, workload.kv_heads, workload.kv_tokens, 16) for _ in range(2))
    asked = neighborhood.parse_pattern(pattern.replace("right=-1", ""), workload.grid)
    if asked.kind == "na":
        columns = zip(*((a.window, a.stride, a.dilation, a.causal) for a in asked.axes), strict=True)
        mask = reference.neighborhood_reference(workload.grid, *columns)
    else:
        mask = reference.band_mask(workload.tokens, workload.kv_tokens, asked.left, asked.right)
    expected, _ = reference.attention_reference(q, k, v, mask)
    torch.testing.assert_close(made.attention(q, k, v).double(), expected, rtol=1e-4, atol=1e-5)


def test_flex_tiles_divide_the_masks_blocks() -> None:
    flex = tuning([flex_config(256, 64), flex_config(128, 96), flex_config(64, 32)], kernel="flex")
    text = writers.formatted([flex], "flex")
    assert "'fwd_BLOCK_M': 64, 'fwd_BLOCK_N': 32" in text
    assert "1.20 ms predicted" in text
    with pytest.raises(InputError, match="tiles 256 x 64: expected divisors of BLOCK_SIZE 128"):
        writers.formatted([tuning([flex_config(256, 64)], kernel="flex")], "flex")


def test_flex_takes_a_mask_for_other_patterns(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn.attention.flex_attention import create_block_mask

    pattern = "causal | window left=3 right=3"
    workload = Workload(64, 1, 16)
    text = writers.formatted([tuning([flex_config()], kernel="flex", pattern=pattern, workload=workload)], "flex")
    made = module(text, tmp_path / "written_flex.py")
    q = torch.randn(1, 1, 64, 16)
    mask = create_block_mask(lambda b, h, i, j: j <= i + 3, None, None, 64, 64, device="cpu")
    out = made.attention(q, q, q, mask)
    keep = torch.arange(64) <= torch.arange(64)[:, None] + 3
    expected = torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=keep)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


# NATTEN


@pytest.mark.parametrize(
    ("gpu", "backend"), [("h100", "hopper-fna"), ("b200", "blackwell-fna"), ("a100", "cutlass-fna")]
)
def test_the_natten_module_asks_natten_for_the_tiles(
    gpu: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NATTEN cannot be installed without a GPU's toolchain: a module with the signatures of its 0.21 stands for it."""
    calls: list[dict[str, Any]] = []

    def na3d(query, key, value, kernel_size, stride=1, dilation=1, is_causal=False, scale=None, additional_keys=None,
             additional_values=None, attention_kwargs=None, backend=None, q_tile_shape=None, kv_tile_shape=None):  # fmt: skip
        calls.append(
            {
                "kernel_size": kernel_size,
                "stride": stride,
                "dilation": dilation,
                "is_causal": is_causal,
                "backend": backend,
                "tiles": (q_tile_shape, kv_tile_shape),
            }
        )
        return query

    fake = types.ModuleType("natten")
    fake.na3d = na3d  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "natten", fake)
    config = {"q_tile": "2x8x8", "kv_tile": "2x4x16"}
    text = writers.formatted([tuning([config], kernel="natten", pattern=NA, workload=GRID, gpu=gpu)], "natten")
    assert module(text, tmp_path / "written_na.py").attention("q", "k", "v") == "q"
    assert calls == [
        {
            "kernel_size": (4, 6, 8),
            "stride": (2, 3, 4),
            "dilation": (1, 1, 1),
            "is_causal": (False, False, False),
            "backend": backend,
            "tiles": ((2, 8, 8), (2, 4, 16)),
        }
    ]


def test_natten_takes_neighborhoods_only() -> None:
    config = {"q_tile": "128", "kv_tile": "128"}
    with pytest.raises(InputError, match="pattern 'causal': expected a neighborhood"):
        writers.formatted([tuning([config], kernel="natten", pattern="causal")], "natten")


# Tuned files


def test_the_tuned_file_is_looked_up_by_the_kernels(user_files: Path) -> None:
    small, large = Workload(1024, 8, 128), Workload(32768, 8, 128)
    tunings = [
        tuning([triton_config(64, 64)], workload=small),
        tuning([triton_config(128, 128)], workload=large),
        tuning([triton_config(32, 32)], workload=large, gpu="b200"),
        tuning([triton_config(32, 64)], workload=GRID, pattern=NA),
    ]
    files = writers.write(tunings, "serving", user_files)
    assert [path.name for path in files] == [
        "kernel=triton,device_name=NVIDIA_H100_80GB_HBM3,dtype=bf16.json",
        "kernel=triton,device_name=NVIDIA_B200,dtype=bf16.json",
    ]
    assert re.fullmatch(r"\d+\.\d+.*|none", json.loads(files[0].read_text())["triton_version"])
    name = tuned.DEVICE_NAMES["h100"]
    assert tuned.lookup(name, "bf16", 128, "causal", 8 * 1024) == ForwardConfig(64, 64, 8, 3)
    assert tuned.lookup(name, "bf16", 128, "causal", 8 * 20_000) == ForwardConfig(128, 128, 8, 3)
    assert tuned.lookup(name, "bf16", 16, "blocks", 1) == ForwardConfig(32, 64, 8, 3)
    assert tuned.lookup("NVIDIA B200", "bf16", 128, "causal", 1) == ForwardConfig(32, 32, 8, 3)


def test_a_folder_keeps_what_was_tuned_before(user_files: Path) -> None:
    writers.write([tuning([triton_config(64, 64)], workload=Workload(1024, 8, 128))], "serving", user_files)
    writers.write([tuning([triton_config(16, 16)], pattern="dense")], "serving", user_files)
    writers.write([tuning([triton_config(32, 32)], workload=Workload(99, 8, 128))], "serving", user_files)
    (path,) = writers.write([tuning([triton_config(128, 32)])], "serving", user_files)
    document = json.loads(path.read_text())
    assert list(document[tuned.group_name(128, "causal")]) == ["792", "8192", "32768"]
    assert document[tuned.group_name(128, "dense")] == {"32768": triton_config(16, 16)}
    path.write_text("[]")
    with pytest.raises(InputError, match="expected a tuned file"):
        writers.write([tuning([triton_config()])], "serving", user_files)


def test_of_two_tunings_of_one_size_the_longer_call_is_kept() -> None:
    short = tuning([candidate(triton_config(16, 16), 1e-4)], pattern="window left=64 right=0")
    long = tuning([candidate(triton_config(64, 64), 1e-3)], pattern="window left=512 right=0")
    for order in ([short, long], [long, short]):
        document = json.loads(writers.formatted(order, "serving"))
        assert document[tuned.group_name(128, "window")] == {"32768": triton_config(64, 64)}


def test_one_tuned_file_is_of_one_gpu() -> None:
    pair = [tuning([triton_config()]), tuning([triton_config()], gpu="a100")]
    with pytest.raises(InputError, match=r"device_name=NVIDIA_A100-SXM4-80GB.*expected a folder"):
        writers.formatted(pair, "serving")


def test_what_a_launch_does_not_take_stays_out(user_files: Path) -> None:
    """Tile shapes and the order of tokens belong to the block lists, splits to decode."""
    row = {**triton_config(32, 64), **TILED, "order": "row"}
    best = {**triton_config(64, 64), **TILED, "order": "tiles"}
    grid = tuning([row, best], workload=GRID, pattern=NA)
    decode = tuning([{"splits": 16}], workload=Workload(1, 8, 128, cached=4095))
    (path,) = writers.write([grid, decode], "serving", user_files)
    document = json.loads(path.read_text())
    assert document[tuned.group_name(16, "blocks")] == {"864": triton_config(64, 64)}
    assert document[tuned.group_name(128, "decode")] == {"8": {"splits": 16}}
    assert tuned.lookup(tuned.DEVICE_NAMES["h100"], "bf16", 16, "blocks", 864) == ForwardConfig(64, 64, 8, 3)
    other = {**best, "q_tile": "4x4x8"}
    assert writers.formatted([tuning([best, other], workload=GRID, pattern=NA)], "triton").count("triton.Config({") == 1
    with pytest.raises(InputError, match="expected a tuning of the attention kernel, not of decode"):
        writers.formatted([decode], "triton")
