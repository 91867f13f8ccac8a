"""The shipped GPU files: they load, say where every figure is from, and make physical sense."""

from __future__ import annotations

import csv
import pickle
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

from attncast.hwmodels import GPU, gpu_names, load_gpu

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "hwmodels").glob("*.toml"))
EXPECTED = {
    "a100",
    "a100-pcie",
    "b200",
    "b300",
    "gb200",
    "h100",
    "h100-pcie",
    "h200",
    "l40s",
    "rtx-pro-6000",
    "rtx4090",
    "rtx5090",
}


def test_all_twelve_are_there() -> None:
    assert set(gpu_names()) == EXPECTED == {path.stem for path in FILES}
    assert gpu_names() == sorted(gpu_names())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_loads_and_every_figure_says_where_it_is_from(path: Path) -> None:
    gpu = load_gpu(path.stem)
    written = tomllib.loads(path.read_text())["figures"]
    assert set(gpu.figures) == set(written)
    assert len(written) >= 35
    for name, figure in gpu.figures.items():
        assert figure.kind in ("datasheet", "measured", "derived"), name
        assert len(figure.source) > 8, name  # a citation, not a key of somebody's table
        assert figure.unit, name
        assert figure.value == written[name]["value"]


def test_units_become_si() -> None:
    gpu = load_gpu("h100")
    assert gpu.sms == 132
    assert gpu.clock_hz == pytest.approx(1.83e9)
    assert gpu.smem_bytes_per_sm == 228 * 1024
    assert gpu.l2_bytes == 50 * 2**20
    assert gpu.dram_bytes == 80_000_000_000
    assert gpu.dram_bandwidth_bytes_s == pytest.approx(3.35e12)
    assert gpu.tensor_peak_flops == pytest.approx(989.4e12)
    assert gpu.launch_s == pytest.approx(2.1e-6)
    assert gpu.dram_latency_s == pytest.approx(354e-9)
    assert isinstance(gpu.l2_bytes, int)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_alias_finds_its_own_gpu(name: str) -> None:
    aliases = tomllib.loads((ROOT / "hwmodels" / f"{name}.toml").read_text())["aliases"]
    assert aliases
    for alias in [*aliases, name.upper(), f" {name} ", name.replace("-", "_")]:
        assert load_gpu(alias) is load_gpu(name), alias  # the same object, so caches keyed by GPU hit


def test_no_two_gpus_share_an_alias() -> None:
    names = [alias for path in FILES for alias in (*tomllib.loads(path.read_text())["aliases"], path.stem)]
    plain = [name.lower().replace(" ", "-") for name in names]
    assert len(plain) == len(set(plain))


def test_generations_are_ordered_by_tensor_peak() -> None:
    b200, h100, a100 = (load_gpu(name).peak_flops("fp16") for name in ("b200", "h100", "a100"))
    assert b200 > 2 * h100 > 4 * a100


def test_professional_gb202_has_twice_the_tensor_rate_of_the_geforce() -> None:
    pro, geforce = load_gpu("rtx-pro-6000"), load_gpu("rtx5090")
    for dtype in ("fp16", "bf16", "fp8"):
        assert pro.tensor_flops_per_clock_per_sm[dtype] == 2 * geforce.tensor_flops_per_clock_per_sm[dtype]


def test_only_datacenter_blackwell_has_tensor_memory_and_only_b300_doubles_exp() -> None:
    gpus = [load_gpu(name) for name in gpu_names()]
    assert {gpu.key for gpu in gpus if gpu.tmem_bytes_per_sm == 256 * 1024} == {"b200", "gb200", "b300"}
    assert {gpu.key for gpu in gpus if gpu.tmem_bytes_per_sm == 0} == EXPECTED - {"b200", "gb200", "b300"}
    assert {gpu.key for gpu in gpus if gpu.exp_per_clock_per_sm == 32} == {"b300"}


def test_ampere_has_no_fp8() -> None:
    assert {name for name in gpu_names() if "fp8" not in load_gpu(name).tensor_flops_per_clock_per_sm} == {
        "a100",
        "a100-pcie",
    }


def test_a_gpu_keys_a_cache_and_survives_pickling() -> None:
    calls = []

    @lru_cache
    def costly(gpu: GPU) -> int:
        calls.append(gpu.key)
        return gpu.sms

    h100 = load_gpu("h100")
    copy = pickle.loads(pickle.dumps(h100))  # as a spawned process receives it
    assert copy is not h100
    assert copy == h100
    assert costly(h100) == costly(copy) == 132
    assert costly(load_gpu("h200")) == 132
    assert calls == ["h100", "h200"]


SHARED = ROOT.parent / "shared" / "data" / "gpus.csv"
ROWS = {
    "a100": "A100-SXM4-80GB",
    "a100-pcie": "A100-PCIe-80GB",
    "h100": "H100-SXM5-80GB",
    "h100-pcie": "H100-PCIe-80GB",
    "h200": "H200-SXM-141GB",
    "b200": "B200-HGX",
    "gb200": "GB200",
    "b300": "B300-HGX",
    "rtx5090": "RTX5090",
    "rtx4090": "RTX4090",
    "l40s": "L40S",
}
# parameter of gpus.csv -> (field of GPU, factor to its unit)
COMPARED = {
    "num_sm": ("sms", 1),
    "clock_boost_tensor_peak": ("clock_hz", 1e6),
    "smem_per_sm": ("smem_bytes_per_sm", 1024),
    "smem_max_per_block": ("smem_bytes_per_cta", 1024),
    "max_blocks_per_sm": ("max_ctas_per_sm", 1),
    "max_threads_per_sm": ("max_threads_per_sm", 1),
    "regs_per_sm": ("registers_per_sm", 1),
    "tmem_per_sm": ("tmem_bytes_per_sm", 1024),
    "fp32_fma": ("fp32_fma_per_clock_per_sm", 1),
    "mufu_ex2": ("exp_per_clock_per_sm", 1),
    "tensor_dense_bf16_acc_fp32": ("tensor_peak_flops", 1e12),
    "dram_capacity": ("dram_bytes", 1e9),
    "l2_capacity": ("l2_bytes", 2**20),
    "tdp": ("tdp_w", 1),
}


@pytest.mark.skipif(not SHARED.exists(), reason="the collected figures (../shared/data/gpus.csv) are not here")
@pytest.mark.parametrize("name", sorted(ROWS))
def test_figures_agree_with_the_collected_ones(name: str) -> None:
    gpu = load_gpu(name)
    with SHARED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["gpu"] == ROWS[name] and row["parameter"] in COMPARED]
    seen = {row["parameter"] for row in rows}
    # Every parameter is compared; l2_capacity and the like may have several rows, all of which must agree.
    assert len(seen) >= len(COMPARED) - 1
    for row in rows:
        attribute, factor = COMPARED[row["parameter"]]
        expected = float(row["value"]) * factor
        assert getattr(gpu, attribute) == pytest.approx(expected, rel=1e-3), row["parameter"]
