"""Tuned files at run time: whose file counts, which size, what the launcher makes of it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attncast.errors import InputError
from attncast.hwmodels import gpu_names, load_gpu
from attncast.kernels import tuned
from attncast.kernels.attention_spec import ForwardConfig

H100 = "NVIDIA H100 80GB HBM3"


def entry(block_m: int, **knobs: Any) -> dict[str, Any]:
    return {"BLOCK_M": block_m, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2, **knobs}


def put(folder: Path, gpu: str, dtype: str, groups: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / tuned.file_name("triton", load_gpu(gpu), dtype)
    path.write_text(json.dumps({"triton_version": "3.9.0", **groups}))
    return path


@pytest.fixture(autouse=True)
def folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """(the user's folder, the packaged one), both empty."""
    monkeypatch.setenv("ATTNCAST_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tuned, "PACKAGED", tmp_path / "packaged")
    tuned.forget()
    yield tuned.user_dir(), tmp_path / "packaged"
    tuned.forget()


def test_names_are_those_of_serving_engines_and_read_back() -> None:
    assert (
        tuned.file_name("triton", load_gpu("h100"), "bf16")
        == "kernel=triton,device_name=NVIDIA_H100_80GB_HBM3,dtype=bf16.json"
    )
    assert set(tuned.DEVICE_NAMES) == set(gpu_names())
    for key, name in tuned.DEVICE_NAMES.items():
        assert load_gpu(name.replace(" ", "_")).key == key


def test_the_nearest_size_by_ratio(folders: tuple[Path, Path]) -> None:
    sizes = {"1000": entry(16), "100000": entry(128), "10": entry(32)}
    put(folders[0], "h100", "bf16", {tuned.group_name(128, "causal"): sizes})
    for rows, block_m in ((1, 32), (99, 32), (101, 16), (9_900, 16), (10_100, 128), (10**9, 128)):
        config = tuned.lookup(H100, "bf16", 128, "causal", rows)
        assert config is not None
        assert config.block_m == block_m, rows
    assert tuned.lookup(H100, "bf16", 128, "dense", 1000) is None
    assert tuned.lookup(H100, "fp8", 128, "causal", 1000) is None
    assert tuned.lookup("NVIDIA H200", "bf16", 128, "causal", 1000) is None
    assert tuned.lookup("Some other GPU", "bf16", 128, "causal", 1000) is None
    assert tuned.nearest({"100": 1, "400": 1}, 200) == "100"


def test_the_users_file_goes_before_the_packaged_one(folders: tuple[Path, Path]) -> None:
    user, packaged = folders
    group = tuned.group_name(64, "dense")
    put(packaged, "h100", "bf16", {group: {"1": entry(16)}, tuned.group_name(64, "blocks"): {"1": entry(32)}})
    put(user, "h100", "bf16", {group: {"1": entry(64)}})
    assert _block_m("bf16", 64, "dense") == 64
    assert _block_m("bf16", 64, "blocks") == 32


def test_what_stands_in(folders: tuple[Path, Path]) -> None:
    packaged = folders[1]
    groups = {tuned.group_name(128, "dense"): {"1": entry(128)}, tuned.group_name(96, "dense"): {"1": entry(64)}}
    put(packaged, "h100", "bf16", groups)
    assert _block_m("bf16", 96, "dense") == 64  # its own
    assert _block_m("bf16", 80, "dense") == 128  # the kernel pads 80 to 128
    assert _block_m("fp16", 128, "dense") == 128  # the 16-bit twin
    assert _block_m("fp32", 128, "dense") is None
    assert _block_m("bf16", 128, "dense", "NVIDIA H200") == 128  # the same architecture, sm_90
    assert _block_m("bf16", 128, "dense", "NVIDIA B200") is None


def test_a_file_that_cannot_be_used_is_left_out_with_a_warning(folders: tuple[Path, Path]) -> None:
    user, packaged = folders
    group = tuned.group_name(128, "dense")
    put(packaged, "h100", "bf16", {group: {"1": entry(128)}})
    path = put(user, "h100", "bf16", {})
    bad = [
        "{",
        "[]",
        json.dumps({group: {"1": entry(100)}}),
        json.dumps({group: {"1": entry(64, num_warps=True)}}),
        json.dumps({group: {"1": entry(64, USE_TMA=1)}}),
        json.dumps({group: {"1": entry(64, KV_SPLITS=2)}}),
        json.dumps({group: {"-1": entry(64)}}),
        json.dumps({group: {}}),
        json.dumps({group: {"1": 3}}),
    ]
    for text in bad:
        path.write_text(text)
        tuned.forget()
        with pytest.warns(RuntimeWarning, match="device_name=NVIDIA_H100"):
            assert _block_m("bf16", 128, "dense") == 128, text
    path.write_text(json.dumps({group: {"1": entry(64)}}))
    tuned.forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _block_m("bf16", 128, "dense") == 64


def test_an_entry_is_a_whole_configuration() -> None:
    knobs = entry(128, USE_TMA=True, WARP_SPECIALIZE=False)
    assert tuned.forward_config(knobs) == ForwardConfig(128, 64, 4, 2, use_tma=True)
    assert tuned.forward_config({**knobs, "maxnreg": 168}).maxnreg == 168
    with pytest.raises(InputError, match="maxnreg=8: expected 24 to 255, or 0 for no cap"):
        tuned.forward_config({**knobs, "maxnreg": 8})
    with pytest.raises(InputError, match="knob 'BLOCK'"):
        tuned.forward_config({"BLOCK": 64})


@pytest.mark.parametrize(
    ("left", "right", "lists", "family"),
    [
        (None, None, False, "dense"),
        (None, 0, False, "causal"),
        (None, 3, False, "window"),
        (5, None, False, "window"),
        (5, 0, False, "window"),
        (None, None, True, "blocks"),
        (5, 0, True, "blocks"),
    ],
)
def test_families(left: int | None, right: int | None, lists: bool, family: str) -> None:
    assert tuned.family_of(left, right, lists) == family


def _block_m(dtype: str, head_dim: int, family: str, device: str = H100) -> int | None:
    config = tuned.lookup(device, dtype, head_dim, family, 4096)
    return None if config is None else config.block_m


def test_packaged_files_hold_configurations_that_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    tuned.forget()
    from attncast.kernels import static

    paths = sorted(tuned.PACKAGED.glob("*.json"))
    assert paths, "no packaged files: run python -m attncast.autotune.defaults"
    for gpu in ("a100", "h100", "b200", "rtx5090"):
        for dim in (64, 128):
            for family in tuned.FAMILIES:
                config = tuned.lookup(tuned.DEVICE_NAMES[gpu], "bf16", dim, family, 8 * 4096)
                assert config is not None, (gpu, dim, family)
                assert not config.warp_specialize
                asked = static.estimate(
                    load_gpu(gpu),
                    head_dim=dim,
                    block_m=config.block_m,
                    block_n=config.block_n,
                    num_warps=config.num_warps,
                    num_stages=config.num_stages,
                    use_tma=config.use_tma,
                    warp_specialize=config.warp_specialize,
                    maxnreg=config.maxnreg,
                )
                assert not asked.hopeless, (gpu, dim, family, config)


def test_the_launcher_runs_what_the_file_says(monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("tests the interpreted kernel: a GPU is here")
    from attncast.kernels import BlockLists, attention_launch, sparse_attention
    from attncast.kernels.reference import attention_reference, band_mask

    from .helpers import assert_attention_close, draw

    groups = {
        tuned.group_name(32, "causal"): {"1": entry(16, USE_TMA=True)},
        tuned.group_name(32, "blocks"): {"1": entry(64)},
    }
    put(folders[0], "h100", "bf16", groups)
    kernel, seen = attention_launch.attention_forward_kernel, []

    class Spy:
        def __getitem__(self, grid: Any) -> Any:
            def launch(*args: Any, **knobs: Any) -> Any:
                seen.append((knobs["BLOCK_M"], knobs["BLOCK_N"], knobs["USE_TMA"]))
                return kernel[grid](*args, **knobs)

            return launch

        fn = kernel.fn

    monkeypatch.setattr(attention_launch, "attention_forward_kernel", Spy())
    monkeypatch.setattr(attention_launch, "need_device", lambda *_: None)
    monkeypatch.setattr(attention_launch, "device_name", lambda _: H100)
    q, k, v = (draw((1, 2, 96, 32), torch.bfloat16, "cpu", seed) for seed in range(3))
    expected, _ = attention_reference(q, k, v, band_mask(96, 96, None, 0))
    weighted, _ = attention_reference(q, k, v.abs(), band_mask(96, 96, None, 0))
    out = attention_launch.attention(q, k, v, causal=True)
    assert_attention_close(out, expected, weighted, torch.bfloat16)
    # Rows of k off 16 bytes: no tensor descriptors, though the file asks for them.
    wide = draw((1, 2, 96, 36), torch.bfloat16, "cpu", 1)
    wide[..., :32] = k
    out = attention_launch.attention(q, wide[..., :32], v, causal=True)
    assert_attention_close(out, expected, weighted, torch.bfloat16)
    sparse_attention(q, k, v, "na window=32 stride=32")
    packed = BlockLists.from_mask(band_mask(96, 96, None, 0), (64, 64))
    attention_launch.attention(q, k, v, blocks=packed)  # packed masks want shared memory of their own: the default
    attention_launch.attention(q, k, v, causal=True, config=ForwardConfig(32, 32, 4, 1))
    attention_launch.attention(q, k, v)  # dense: the file is silent, so the default
    monkeypatch.setattr(attention_launch, "device_name", lambda _: None)
    attention_launch.attention(q, k, v, causal=True)
    assert seen == [
        (16, 64, True), (16, 64, False), (64, 64, False), (32, 32, False), (32, 32, False), (32, 32, False),
        (32, 32, False),
    ]  # fmt: skip
