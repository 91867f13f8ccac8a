"""A binding is data: another cascade or another place gives another result, and mistakes are named."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from attncast.errors import InputError
from attncast.simulator import cascades
from attncast.simulator.accelerator import Stage, attention, forecast, load_binding
from attncast.simulator.einsum import parse, show

ROOT = Path(__file__).resolve().parents[3]
BINDINGS = ROOT / "simulator" / "accelerator" / "bindings"
CLOCK = 940e6
SIZES = {"E": 64, "F": 64, "M": 4096, "P": 4096}
TILES = 16 * 16


def per_tile(binding, sizes=SIZES) -> float:
    return forecast(binding, sizes).latency_s * CLOCK / TILES


def test_deferring_the_division_saves_a_pass_over_the_scores() -> None:
    flat = load_binding("flat")
    stage = Stage({"2d": ("QK", "SNV"), "1d": ("GM", "SN", "SD", "AV")})
    deferred = replace(flat, cascade=cascades.load("three_pass_deferred"), stages=(stage,))
    assert per_tile(flat) == pytest.approx(4 * 256)
    assert per_tile(deferred) == pytest.approx(3 * 256 + 64 / 16)


def test_an_einsum_more_costs_its_own_cycles() -> None:
    text = show(cascades.load("fusemax"))
    capped = text.replace(
        "LM[m1, p] = max(m0) QK[m1, m0, p]",
        "CAP[m1, m0, p] = max(QK[m1, m0, p], 0)\nLM[m1, p] = max(m0) CAP[m1, m0, p]",
    )
    base = load_binding("cascade")
    (stage,) = base.stages
    wide = Stage({"2d": stage.arrays["2d"], "1d": (*stage.arrays["1d"], "CAP")})
    changed = replace(base, cascade=parse(capped, "capped"), stages=(wide,), as_made=frozenset())
    assert per_tile(changed) == pytest.approx(per_tile(base) + 256)


def test_chaining_sub_and_exp_is_what_makes_cascade_slower_than_flat() -> None:
    chained = replace(load_binding("cascade"), chained=frozenset({"SLN", "PRM"}))
    assert per_tile(load_binding("cascade")) > per_tile(load_binding("flat")) > per_tile(chained)
    assert per_tile(load_binding("cascade")) - per_tile(chained) == pytest.approx(257)


def test_the_drain_is_what_interleaving_saves() -> None:
    arch = load_binding("arch")
    no_wait = replace(arch, stages=tuple(replace(stage, drain=()) for stage in arch.stages))
    assert per_tile(arch) - per_tile(no_wait) == pytest.approx(256)


def test_flash_attention_2_runs_under_the_same_binding() -> None:
    # Its corrections are part of RD and RNV: the same work, all of it beside the next tile's scores.
    fusemax = load_binding("binding")
    stages = [replace(s, arrays={a: tuple(t for t in ts if t not in ("SPD", "SPNV")) for a, ts in s.arrays.items()})
              for s in fusemax.stages]  # fmt: skip
    bound = replace(fusemax, cascade=cascades.load("flash_attention_2"), stages=tuple(stages))
    assert per_tile(bound) == pytest.approx((2 + 2 * 64 + 64 / 16) + 1 + 8 + 64)


@pytest.mark.parametrize("name", ["flat", "unfused", "cascade", "arch", "binding"])
def test_more_work_never_costs_less(name: str) -> None:
    lengths = [1, 100, 256, 257, 1024, 3000, 4096, 20000, 65536, 200000, 2**20]
    found = [attention(name, "bert", n) for n in lengths]
    for less, more in pairwise(found):
        assert less.latency_s <= more.latency_s
        assert less.energy_pj <= more.energy_pj
    for each in found:
        assert 0 < each.util_2d <= 1 + 1e-12
        assert 0 < each.util_1d <= 1 + 1e-12


def changed(tmp_path: Path, name: str, old: str, new: str) -> str:
    text = (BINDINGS / f"{name}.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"1d" = ["RM"]', '"1d" = ["RN"]', "unknown Einsum of cascade 'fusemax' 'RN'"),
        ('"1d" = ["RM"]', '"1d" = ["RM", "SPD"]', "'SPD' is bound twice"),
        ('"1d" = ["RM"]', '"1d" = []', "'RM' of cascade 'fusemax' is on no array"),
        ('"1d" = ["RM"]', '"3d" = ["RM"]', "unknown key of a stage '3d'"),
        ('"1d" = ["RM"]', '"1d" = "RM"', "1d is 'RM', expected a list of names"),
        ('"stream"', '"strem"', "did you mean 'stream'?"),
        ("tile = 256", "tile = 0", "tile is 0"),
        ("tile = 256", 'tiles = "x"', "unknown key 'tiles'"),
        ("tile = 256", 'tile = "x"', "tile is 'x'"),
        ('cascade = "fusemax"', 'cascade = "fusemx"', "did you mean 'fusemax'?"),
        ('accelerator = "fusemax"', 'accelerator = "fusmax"', "did you mean 'fusemax'?"),
        ('keys = "M"', "", "keys is None"),
        ('keys = "M"', 'keys = "X"', "unknown rank 'X'"),
        ("[[stage]]", "[[stage]", "not valid TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_binding(changed(tmp_path, "binding", old, new))
    assert says in str(caught.value)


def test_an_operator_an_array_lacks_is_named(tmp_path: Path) -> None:
    path = changed(tmp_path, "binding", 'accelerator = "fusemax"', 'accelerator = "flat"')
    with pytest.raises(InputError, match=r"2d array of accelerator 'flat' has no '(max|sub|exp)': it has mul_add"):
        attention(path, "bert", 4096)


def test_a_buffer_too_small_is_said_so(tmp_path: Path) -> None:
    small = replace(load_binding("binding").accelerator, buffer_bytes=2**16)
    with pytest.raises(InputError, match="buffer of accelerator 'fusemax' has 65,536"):
        attention(replace(load_binding("binding"), accelerator=small), "bert", 4096)


def test_missing_files_and_lengths() -> None:
    for wrong in ("bindng", "./nowhere.toml"):
        with pytest.raises(InputError):
            load_binding(wrong)
    with pytest.raises(InputError, match="sequence length 0"):
        attention("binding", "bert", 0)
