"""A user's own file: from a base or from nothing; the stated peak must agree with what makes it up."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from attncast.errors import InputError
from attncast.hwmodels import Figure, gpu_names, load_gpu

ROOT = Path(__file__).resolve().parents[2]


def figure(name: str, value: float, unit: str) -> str:
    return f'{name} = {{ value = {value}, unit = "{unit}", kind = "measured", source = "my bench" }}\n'


def test_base_gives_what_the_file_does_not_state(tmp_path: Path) -> None:
    path = tmp_path / "Slow-Memory.toml"
    path.write_text('base = "H100-SXM"\nname = "mine"\n[figures]\n' + figure("dram_bandwidth", 1.5, "TB/s"))
    mine, h100 = load_gpu(str(path)), load_gpu("h100")
    assert mine.key == "slow-memory"
    assert mine.name == "mine"
    assert mine.dram_bandwidth_bytes_s == pytest.approx(1.5e12)
    assert mine.figures["dram_bandwidth"] == Figure(1.5, "TB/s", "measured", "my bench")
    assert mine.figures["sms"] == h100.figures["sms"]
    changed = {"key", "name", "path", "figures", "dram_bandwidth_bytes_s"}
    for field in dataclasses.fields(mine):
        assert (getattr(mine, field.name) != getattr(h100, field.name)) == (field.name in changed), field.name
    assert h100.dram_bandwidth_bytes_s == pytest.approx(3.35e12)  # the base is untouched
    assert "slow-memory" not in gpu_names()


def test_a_whole_file_needs_no_base(tmp_path: Path) -> None:
    path = tmp_path / "copy.toml"
    path.write_text((ROOT / "hwmodels" / "b200.toml").read_text())
    b200 = load_gpu("b200")
    assert dataclasses.replace(load_gpu(str(path)), key=b200.key, path=b200.path) == b200


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_bytes(b'\xef\xbb\xbfbase = "a100"\r\nname = "mine"\r\n')
    assert load_gpu(str(path)).name == "mine"


def test_file_is_found_by_relative_path_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('base = "l40s"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for text in ("mine.toml", "./mine.toml", "~/mine.toml"):
        assert load_gpu(text).sms == 142


def test_load_is_cached_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "h100"\nname = "one"\n')
    first = load_gpu(str(path))
    assert load_gpu(str(path)) is first
    path.write_text('base = "h100"\nname = "two"\n')
    os.utime(path, ns=(1, 1))
    assert load_gpu(str(path)).name == "two"


def test_twins_with_one_key_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "h100.toml"
    path.write_text('base = "h100"\n[figures]\n' + figure("tdp", 500, "W"))
    mine = load_gpu(str(path))
    assert hash(mine) == hash(load_gpu("h100"))
    assert mine != load_gpu("h100")


@pytest.mark.parametrize("factor", [0.96, 1.04])
def test_stated_peak_4_percent_off_is_rejected_with_both_numbers(factor: float, tmp_path: Path) -> None:
    path = tmp_path / "off.toml"
    path.write_text('base = "h100"\n[figures]\n' + figure("tensor_peak", 989.4 * factor, "TFLOP/s"))
    with pytest.raises(InputError) as caught:
        load_gpu(str(path))
    sentence = str(caught.value)
    assert f"{path} ('off')" in sentence
    assert "132 SMs x 4096 FLOP/clk/SM (fp16) x 1830 MHz make 989.4 TFLOP/s" in sentence
    assert f"tensor_peak states {989.4 * factor:.1f} TFLOP/s" in sentence


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_stated_peak_2_percent_off_is_accepted(factor: float, tmp_path: Path) -> None:
    path = tmp_path / "near.toml"
    path.write_text('base = "h100"\n[figures]\n' + figure("tensor_peak", 989.4 * factor, "TFLOP/s"))
    assert load_gpu(str(path)).tensor_peak_flops == pytest.approx(989.4e12 * factor)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_each_16_bit_rate_is_checked_against_the_peak(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "half.toml"
    path.write_text('base = "rtx-pro-6000"\n[figures]\n' + figure(f"tensor_rate_{dtype}", 512, "FLOP/clk/SM"))
    with pytest.raises(InputError, match=rf"512 FLOP/clk/SM \({dtype}\) x 2617 MHz make 251.9 TFLOP/s"):
        load_gpu(str(path))


def test_a_gpu_built_in_python_is_checked_too() -> None:
    with pytest.raises(InputError, match=r"\('h100'\): sms is -1, expected a finite number above 0"):
        dataclasses.replace(load_gpu("h100"), sms=-1)
    with pytest.raises(InputError, match=r"tensor_flops_per_clock_per_sm\['fp8'\] is nan"):
        dataclasses.replace(
            load_gpu("h100"), tensor_flops_per_clock_per_sm={"fp16": 4096, "bf16": 4096, "fp8": float("nan")}
        )
    with pytest.raises(InputError, match="it has no bf16 tensor rate"):
        dataclasses.replace(load_gpu("h100"), tensor_flops_per_clock_per_sm={"fp16": 4096})


def test_peak_flops_of_an_absent_dtype_says_what_there_is() -> None:
    h100 = load_gpu("h100")
    assert h100.peak_flops("fp8") == pytest.approx(1978.9e12, rel=1e-3)
    with pytest.raises(InputError, match="unknown dtype 'fp8': expected one of bf16, fp16, int8") as caught:
        load_gpu("a100").peak_flops("fp8")
    assert "'a100'" in str(caught.value)
