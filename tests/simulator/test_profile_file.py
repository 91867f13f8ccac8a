"""A kernel profile of the user's own: what it changes, where it goes, and one sentence for each mistake."""

from __future__ import annotations

import dataclasses
import os
import tomllib

import pytest

from attncast import Conditions, InputError, Workload, predict
from attncast.hwmodels import load_gpu
from attncast.simulator.advice import advice
from attncast.simulator.explain import explain
from attncast.simulator.patterns import parse_pattern
from attncast.simulator.predict import dense_baseline
from attncast.simulator.profile import load_profile, profile_names
from attncast.simulator.profile_file import check_fields
from attncast.simulator.sweep import load_sweep, run_group
from attncast.simulator.tile_choice import tile_choice

from ..paths import ROOT

H100 = load_gpu("h100")
CALL = Workload(8192, 32, 128)
OWN = 'base = "triton"\nsource = "a test"\n'
SOURCED = 'overlap_source = "a test"\n'


@pytest.fixture
def write(tmp_path):
    def to(text, name="mine.toml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return to


@pytest.mark.parametrize("name", profile_names())
def test_the_shipped_profiles_pass_the_check_and_load_as_files_of_their_own(name, write):
    path = ROOT / "simulator" / "profiles" / f"{name}.toml"
    document = tomllib.loads(path.read_text())
    variants = document.pop("variant")
    for table in (document, *variants):
        check_fields(table, name)
    for gpu in map(load_gpu, ("a100", "h100", "b200", "rtx5090")):
        if any(gpu.arch in variant["archs"] for variant in variants):
            shipped, own = load_profile(name, gpu), load_profile(str(path), gpu)
            assert _renamed(own, name) == shipped


def _renamed(profile, name):
    """The profile with another key, and its programs for decoding and of an older architecture."""
    decoding = profile.decoding and dataclasses.replace(profile.decoding, key=name)
    older = profile.older and dataclasses.replace(profile.older, profile=_renamed(profile.older.profile, name))
    return dataclasses.replace(profile, key=name, decoding=decoding, older=older)


OLDER = """
title = "mine"
source = "s"
dtypes = ["fp16"]
patterns = ["band"]
interval = 0.3
overlap = 0.5
overlap_source = "s"
products.operand_rows = 64
[[variant]]
archs = ["sm_80"]
tiles = [{ max_head_dim = 128, q = [64], kv = [64] }]
[[variant]]
archs = ["sm_90"]
older.arch = "sm_80"
older.calls = [{ most_tokens = 64 }]
older.overlap = 0.9
tiles = [{ max_head_dim = 128, q = [128], kv = [128] }]
"""


def test_a_file_may_leave_calls_to_its_older_program(write):
    profile = load_profile(write(OLDER), H100)
    older = profile.program_of(Workload(64, 8, 128, dtype="fp16"))
    assert (older.archs, older.overlap, older.tiles[0].q) == (("sm_80",), 0.9, (64,))
    assert profile.program_of(Workload(65, 8, 128, dtype="fp16")) is profile


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('older.arch = "sm_80"', 'older.arch = "sm_75"', "older names the program of 'sm_75': expected a variant"),
        ('older.arch = "sm_80"', "", "older is"),
        ("most_tokens = 64", "most_token = 64", "did you mean 'most_tokens'"),
        ("most_tokens = 64", "most_tokens = 0", "most_tokens is 0, expected a whole number from 1 on"),
        ("older.overlap = 0.9", "older.overlaps = 0.9", "unknown entry 'overlaps'"),
        ('title = "mine"', 'base = "fa2"', "has a base and older"),
        ("tiles = [{ max_head_dim = 128, q = [64], kv = [64] }]", "", "has no 'tiles'"),
    ],
)
def test_a_wrong_older_program_is_told(write, old, new, message):
    with pytest.raises(InputError, match=message):
        load_profile(write(OLDER.replace(old, new)), H100)


def test_only_what_is_stated_differs(write):
    path = write(f"{OWN}overlap = 0.1\n{SOURCED}")
    mine, base = load_profile(path, H100), load_profile("triton", H100)
    assert (mine.key, mine.title, mine.overlap, base.overlap) == (path, "mine", 0.1, 0.6)
    changed = {"key", "title", "source", "overlap", "overlap_source"}
    for field in dataclasses.fields(mine):
        assert (getattr(mine, field.name) != getattr(base, field.name)) == (field.name in changed), field.name


def test_better_overlap_is_faster_and_the_whole_forecast_knows_the_file(write):
    path = write(f"{OWN}overlap = 0.1\n{SOURCED}")
    mine, base = predict(CALL, "causal", "h100", path), predict(CALL, "causal", "h100", "triton")
    assert mine.kernel == path
    assert mine.time_s < base.time_s
    assert advice(mine, CALL, parse_pattern("causal"), H100)
    assert predict(CALL, "causal", "h100", baseline=path).baseline.kernel == path


def test_a_file_with_variants_runs_on_these_alone(write):
    path = write(f'{OWN}[[variant]]\narchs = ["sm_90"]\nin_flight = 3\n')
    assert load_profile(path, H100).in_flight == 3
    with pytest.raises(InputError, match=r"does not run on b200 \(sm_100\): its architectures are sm_90"):
        load_profile(path, load_gpu("b200"))
    everywhere = write(OWN, "everywhere.toml")
    assert load_profile(everywhere, load_gpu("b200")).tiles == load_profile("triton", load_gpu("b200")).tiles


def test_a_variant_may_be_for_an_engine(write):
    path = write(
        f'{OWN}[[variant]]\narchs = ["sm_90"]\n[[variant]]\narchs = ["sm_90"]\nengines = ["vllm"]\nin_flight = 3\n'
    )
    assert [load_profile(path, H100, engine).in_flight for engine in ("", "sglang", "vllm")] == [1, 1, 3]


def test_a_decode_tile_may_be_for_few_key_heads(write):
    one, more = (
        "{ max_head_dim = 512, q = [16], kv = [32], max_key_heads = 1 }",
        "{ max_head_dim = 512, q = [16], kv = [64] }",
    )
    profile = load_profile(write(f"{OWN}decode_tiles = [{one}, {more}]\n"), H100)
    tokens = [Workload(1, 4 * heads, 128, heads_kv=heads, cached=512) for heads in (1, 2)]
    assert [tile_choice(profile, parse_pattern("causal"), token).kv for token in tokens] == [(32,), (64,)]
    none = write(f"{OWN}decode_tiles = [{one.replace('heads = 1', 'heads = 0')}]\n", "none.toml")
    with pytest.raises(InputError, match="max_key_heads in decode_tiles is 0, expected 1"):
        load_profile(none, H100)


def test_an_edited_file_is_read_again_as_kernel_and_as_baseline(write):
    path = write(f"{OWN}overlap = 0.1\n{SOURCED}")
    fast, fast_baseline = predict(CALL, "dense", "h100", path), dense_baseline(CALL, H100, path, Conditions())
    write(f"{OWN}overlap = 1.0\n{SOURCED}")
    os.utime(path, ns=(1, 1))
    assert predict(CALL, "dense", "h100", path).time_s > fast.time_s
    assert dense_baseline(CALL, H100, path, Conditions()).time_s > fast_baseline.time_s


def test_other_kernels_stand_beside_the_own_one(write):
    path = write(f"{OWN}overlap = 0.1\n{SOURCED}")

    def again(gpu, **changes):
        return predict(CALL, "causal", gpu, **{"kernel": path, **changes})

    found = explain(again, again(H100), CALL, parse_pattern("causal"), H100, Conditions())
    kernels = {other.what: other.chosen for other in found.others if other.kind == "kernel"}
    assert [name for name, chosen in kernels.items() if chosen] == [path]
    assert {"fa3", "triton"} < set(kernels)


def test_a_sweep_takes_the_file_and_knows_when_it_was_edited(write, tmp_path):
    path = write(f"{OWN}overlap = 0.1\n{SOURCED}")
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(f'gpus = "h100"\nkernels = {path!r}\n[workload]\ngrid = 8192\nheads = 32\nhead_dim = 128\n')
    (group,) = load_sweep(sweep)
    (row,) = run_group(group)
    assert row.kernel == path
    assert row.time_s == predict(CALL, "dense", "h100", path).time_s
    before = group.key
    os.utime(path, ns=(1, 1))
    assert group.key != before


TILE = "{ max_head_dim = 128, q = [128], kv = [64] }"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("overlap = ", "is not valid TOML"),
        ('base = "triton"\n', "has no source"),
        ('base = "tritn"\nsource = "x"', "base: unknown kernel 'tritn'"),
        ('base = 3\nsource = "x"', "base is 3, expected the name of a kernel"),
        ('base = "fa4"\nsource = "x"', r"does not run on h100 \(sm_90\): its architectures are those of 'fa4'"),
        ('source = "x"', r"neither a base nor a \[\[variant\]\]"),
        ('source = "x"\n[[variant]]\narchs = ["sm_90"]', "has no 'dtypes': expected it stated, or base"),
        (OWN + "masking = 1", r"masking is 1, expected a table such as \[masking\]"),
        (OWN + "masking.alu_by_axes = [5.0, 99.0]", "masking.alu_by_axes is 99.0, expected a number from 0 to 64"),
        (OWN + "masking.alu_by_axes = 5.0", "masking.alu_by_axes is 5.0, expected a list of numbers"),
        (OWN + "masking.wait = true", "unknown entry 'masking.wait'; did you mean 'masking.waits'?"),
        (OWN + "operand_rows = 64", "unknown entry 'operand_rows'; did you mean 'products.operand_rows'?"),
        (OWN + "products.mma_fraction = 2", "products.mma_fraction is 2, expected a number from 0.01 to 1"),
        (OWN + 'packing.heads = "alway"', "unknown packing.heads .*did you mean 'always'"),
        (OWN + "overlap = 0.3", r"overlap = 0.3 without overlap_source"),
        (OWN + "overlp = 0.3", "unknown entry 'overlp'; did you mean 'overlap'?"),
        (OWN + 'key = "x"', "unknown entry 'key'"),
        (OWN + "overlap = 7\n" + SOURCED, "overlap is 7, expected a number from 0 to 5"),
        (OWN + "overlap = nan\n" + SOURCED, "overlap is nan, expected a number"),
        (OWN + 'overlap = "0.3"\n' + SOURCED, "overlap is '0.3', expected a number"),
        (OWN + "in_flight = 1.5", "in_flight is 1.5, expected a whole number from 1 to 64"),
        (OWN + "in_flight = true", "in_flight is True, expected a whole number"),
        (OWN + "permute = 1", "permute is 1, expected true or false"),
        (OWN + "title = 1", "title is 1, expected text in quotes"),
        (
            OWN + 'order = "longest"',
            "unknown order in kernel file .*'longest': expected one of by-tile, dealt, launch, longest-first, sections",
        ),
        (OWN + 'splitting.rule = "wave"', "did you mean 'waves'"),
        (OWN + 'cascade = "flash_attention2"', "unknown cascade .*did you mean 'flash_attention_2'"),
        (OWN + 'serving.decode_kernel = "xqb"', "unknown serving.decode_kernel .*did you mean 'xqa'"),
        (OWN + "packing.box_heads = [0]", "packing.box_heads is .0., expected a list of whole numbers from 1 on"),
        (OWN + 'dtypes = "bf16"', "dtypes is 'bf16', expected a list of names"),
        (OWN + 'engines = ["vlm"]', "unknown entry of engines .*did you mean 'vllm'"),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], windowed = 1 }]",
            "windowed in tiles is 1, expected",
        ),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], tile_stall = -1 }]",
            "tile_stall in tiles is -1, expected 0 to 100,000",
        ),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], quantised_only = 1 }]",
            "quantised_only in tiles is 1, expected",
        ),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], mask_stall = true }]",
            "mask_stall in tiles is True, expected 0 to 100,000",
        ),
        (OWN + 'tiles = [{ max_head_dim = 64, q = [64], kv = [64], kv_dtypes = ["fp9"] }]', "entry of kv_dtypes"),
        (
            OWN + 'tiles = [{ max_head_dim = 64, q = [64], kv = [64], compiled = { threads = "4 warps" } }]',
            "compiled in tiles: threads is '4 warps', expected a number from 1 to 1,024",
        ),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], compiled = { threads = 128, waits = -1 } }]",
            "waits is -1",
        ),
        (OWN + "decoding = 3", "decoding is 3, expected a table"),
        (OWN + "decoding.chain = 'rings'", "unknown chain in .*decoding 'rings'"),
        (OWN + "decoding.products.operandz = 'async'", "decoding: unknown entry 'products.operandz'"),
        (OWN + "serving.fused = { within_heads = true }", "fused is {'within_heads': True}, expected e.g."),
        (OWN + "serving.fused = { heads_at_once = 0 }", "heads_at_once is 0, expected 1 to"),
        (OWN + "serving.fused = { heads_at_once = 2, within_heads = 1 }", "within_heads is 1, expected true or false"),
        (OWN + "serving.fused = { heads_at_once = 2, from_dim = 128 }", "unknown entry of .*'from_dim'"),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], compiled = { registers = 64 } }]",
            "{'registers': 64}",
        ),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], compiled = { threads = 128, spills = 2 } }]",
            "'spills'",
        ),
        (
            OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], max_value_dim = 0 }]",
            "max_value_dim in tiles is 0",
        ),
        (OWN + "tiles = [{ max_head_dim = 64, q = [64], kv = [64], in_flight = 99 }]", "in_flight in tiles is 99"),
        (OWN + 'dtypes = ["bf61"]', "unknown entry of dtypes .*did you mean 'bf16'"),
        (OWN + 'patterns = ["bands"]', "did you mean 'band'"),
        (OWN + 'archs = ["sm_90"]', "archs outside of a variant"),
        (OWN + "variant = 1", r"variant is 1, expected tables \[\[variant\]\]"),
        (OWN + "[[variant]]\nin_flight = 2", "variant 1 has no archs"),
        (OWN + '[[variant]]\narchs = ["hopper"]', "'hopper' in archs is no architecture"),
        (OWN + "tiles = 128", "tiles is 128, expected a list of tables"),
        (OWN + "tiles = [{ q = [128], kv = [64] }]", "has no max_head_dim"),
        (OWN + "head_dims.built = [64, 0]", "expected a list of whole numbers from 1 on"),
        (
            OWN + "head_dims.pairs = [192, 128]",
            "expected a list of pairs such as",
        ),
        (OWN + "head_dims.most = 5000", "head_dims.most is 5000, expected a whole number from 0 to 1024"),
        (OWN + 'head_dims.rounds = "up"', "head_dims.rounds"),
        (OWN + 'padded = "rows"', "unknown entry 'padded'"),
        (OWN + f"tiles = [{TILE.replace('kv', 'k')}]", "unknown entry of tiles .*did you mean 'kv'"),
        (OWN + f"tiles = [{TILE.replace('[64]', '64')}]", "kv in tiles is 64, expected tokens"),
        (OWN + f"tiles = [{TILE.replace('[64]', '[8, 8]')}]", "different numbers of axes"),
        (OWN + f"tiles = [{TILE.replace('[128]', '[128, 128]')}]", "16,384 tokens: expected at most 4,096"),
        (OWN + f"tiles = [{TILE.replace('= 128', '= 0')}]", "max_head_dim in tiles is 0"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_file(text, said, write):
    path = write(text)
    with pytest.raises(InputError, match=said) as caught:
        load_profile(path, H100)
    assert "\n" not in str(caught.value)
    assert path in str(caught.value)


@pytest.mark.parametrize("text", ["fa3.toml", "nowhere/fa3.toml"])
def test_a_file_that_is_not_there_suggests_the_name(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"no kernel file '{text}'.*did you mean 'fa3'"):
        predict(CALL, "dense", "h100", text)


def test_an_unknown_name_says_that_a_file_would_do():
    with pytest.raises(
        InputError, match=r"unknown kernel 'fa9': .*, or the path of a .toml file; did you mean 'fa4'\?"
    ):
        predict(CALL, "dense", "h100", "fa9")


def test_the_command_line_takes_it(attncast, write):
    path = write(f'{OWN}title = "mine"\noverlap = 0.1\n{SOURCED}')
    status, out, _ = attncast("predict", "-g", "h100", "-i", "8192", "-n", "32", "-d", "128", "-k", path)
    assert status == 0
    assert "h100: mine, tiles 128 | 128" in out
    status, out, err = attncast("predict", "-g", "h100", "-i", "8192", "-n", "32", "-d", "128", "-k", f"{path}x.toml")
    assert (status, out) == (2, "")
    assert err.startswith("attncast: no kernel file")
