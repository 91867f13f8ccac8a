"""Accelerator files: they load, say where every figure is from, and leave the GPUs alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from attncast.errors import InputError
from attncast.hwmodels import gpu_names, load_gpu
from attncast.hwmodels.accelerator import OPERATORS, accelerator_names, load_accelerator


def test_gpus_and_accelerators_do_not_mix() -> None:
    assert accelerator_names() == ["flat", "flat-16mib", "fusemax"]
    assert not set(accelerator_names()) & set(gpu_names())
    with pytest.raises(InputError, match="unknown GPU 'fusemax'"):
        load_gpu("fusemax")
    with pytest.raises(InputError, match="unknown accelerator 'h100'"):
        load_accelerator("h100")


@pytest.mark.parametrize("name", ["flat", "flat-16mib", "fusemax"])
def test_every_figure_has_a_source(name: str) -> None:
    hardware = load_accelerator(name)
    for figure in hardware.figures.values():
        assert figure.kind in ("datasheet", "derived")
        assert len(figure.source) > 8
    assert hardware.clock_hz == 940e6
    assert hardware.dram_bandwidth_bytes_s == 400 * 2**30
    assert hardware.pes("2d") == 256 * 256
    assert hardware.pes("1d") == 256
    assert set(hardware.energy_j) == set(OPERATORS)


def test_what_sets_them_apart() -> None:
    flat, small, fusemax = (load_accelerator(name) for name in ("flat", "flat-16mib", "fusemax"))
    assert (flat.buffer_bytes, small.buffer_bytes, fusemax.buffer_bytes) == (32 * 2**20, 16 * 2**20, 16 * 2**20)
    assert small.cycles == flat.cycles
    assert flat.op_cycles("1d", "exp") == 1
    assert fusemax.op_cycles("2d", "exp") + fusemax.op_cycles("2d", "sub") == 7
    with pytest.raises(InputError, match="2d array of accelerator 'flat' has no 'exp': it has mul_add"):
        flat.op_cycles("2d", "exp")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('base = "fusemax"\nname = "mine"\n[figures]\nbufer = 1', "did you mean 'buffer'?"),
        ('base = "fusmax"', "did you mean 'fusemax'?"),
        ('kind = "gpu"', "kind is 'gpu'"),
        ('kind = "accelerator"\nname = "mine"', "missing figure 'array_2d_rows'"),
        ('base = "flat"\ncolour = 1', "unknown key 'colour'"),
        (
            'base = "flat"\n[figures]\nclock = { value = 1, unit = "MB", kind = "datasheet", source = "x" }',
            "unit 'MB' measures bytes, expected frequency",
        ),
        (
            'base = "flat"\n[figures]\nclock = { value = 0, unit = "MHz", kind = "datasheet", source = "x" }',
            "expected a finite number above 0",
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_accelerator(str(path))
    assert says in str(caught.value)


def test_a_file_may_state_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "fast.toml"
    path.write_text(
        'base = "fusemax"\n[figures]\nclock = { value = 1, unit = "GHz", kind = "datasheet", source = "mine" }'
    )
    mine = load_accelerator(str(path))
    assert mine.clock_hz == 1e9
    assert mine.cycles == load_accelerator("fusemax").cycles


def test_a_missing_file_is_said_so() -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_accelerator("nowhere/mine.toml")
