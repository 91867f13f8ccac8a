"""Broken and hostile files: one clear sentence, and nothing written."""

from __future__ import annotations

import gzip
import json
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncast import InputError
from attncast.cli import main
from attncast.validation.importers import Given, Imported, import_runs, reading
from attncast.validation.importers.base import BadEntry, number

from .cases import CASES, DATA, STATED

TABLE = "context_attention_perf.txt"


def outcome(key, path, options) -> Imported | str:
    """What an import gives: its result, or its one sentence. Any other exception fails the test."""
    try:
        return import_runs(key, path, options)
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["flex_new.json", "_attn_fwd.autotune.json", "kernel_tuner.json", "natten.txt"])
def test_a_document_cut_anywhere_is_refused_or_read_right(tmp_path, name):
    key, options = CASES[name]
    whole_file = (DATA / name).read_bytes()
    complete = {run.id.partition("-")[2]: run.time_s for run in import_runs(key, DATA / name, options).runs}
    path = tmp_path / name
    for length in range(len(whole_file)):
        path.write_bytes(whole_file[:length])
        result = outcome(key, path, options)
        if isinstance(result, Imported):
            # Only Kernel Tuner's open cache, and what ends after the last thing that matters.
            for run in result.runs:
                assert complete[run.id.partition("-")[2]] == run.time_s
            assert name == "kernel_tuner.json" or len(result.runs) == len(complete)


def test_a_number_may_stand_between_spaces_of_any_kind():
    assert number(" 0.25\x1c\u2003", "latency") == 0.25
    with pytest.raises(BadEntry, match=r"latency '0\.2 5' is not a finite number"):
        number("0.2 5", "latency")


@pytest.mark.parametrize("name", CASES)
def test_changed_bytes_never_end_in_a_traceback(tmp_path, name):
    key, options = CASES[name]
    original = (DATA / name).read_bytes()

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, len(original) - 1), st.binary(min_size=0, max_size=4))
    def check(position, replacement):
        path = tmp_path / name
        path.write_bytes(original[:position] + replacement + original[position + 1 :])
        outcome(key, path, options)

    check()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",0.9\n", ",nan\n", ["line 2", "latency", "'nan'"]),
        (",0.9\n", ",-0.9\n", ["line 2", "'-0.9'", "positive"]),
        (",0.9\n", ",0\n", ["line 2", "'0'", "positive"]),
        (",0.9\n", ",inf\n", ["'inf'", "finite"]),
        (",0.9\n", ",1e400\n", ["'1e400'", "finite"]),
        (",0.9\n", ",0.9,1\n", ["line 2", "17 fields", "expected 16"]),
        (",0.9\n", ",\n", ["line 2", "latency"]),
        ("VLLM,0.24.0,NVIDIA H100 80GB HBM3", "VLLM,0.24.0,NVIDIA T4", ["'NVIDIA T4'", "--gpu"]),
        ("VLLM,0.24.0,NVIDIA H100 80GB HBM3", "VLLM,0.24.0,/etc/passwd.toml", ["'/etc/passwd.toml'", "--gpu"]),
        ("vllm_flash_attn_fa3,2", "vllm_rocm,2", ["'vllm_rocm'", "--kernel"]),
        ("VLLM", "VLM", ["'VLM'", "did you mean 'VLLM'?"]),
        ("4096,32,8", "4096,32,7", ["line 2", "32 query heads cannot share 7"]),
        ("4096,32,8", "4096.5,32,8", ["line 2", "isl", "'4096.5'", "whole"]),
        ("128,1,bfloat16", "128,1,bf17", ["line 2", "attn_dtype", "'bf17'"]),
        ("latency\n", "time\n", ["neither", "'latency'"]),
        ("num_heads", "heads", ["no column 'num_heads'"]),
        ("beam_width", "step", ["two columns 'step'"]),
    ],
)
def test_a_bad_row_is_named_and_nothing_is_imported(tmp_path, old, new, words):
    path = tmp_path / TABLE
    path.write_text((DATA / TABLE).read_text().replace(old, new, 1))
    result = outcome("aiconfigurator", path, Given())
    assert isinstance(result, str)
    for word in words:
        assert word in result


def test_bad_rows_are_left_out_and_counted_when_asked(tmp_path):
    path = tmp_path / TABLE
    path.write_text((DATA / TABLE).read_text().replace(",0.9\n", ",nan\n").replace("NVIDIA B200", "NVIDIA T4"))
    result = import_runs("aiconfigurator", path, skip_bad=True)
    assert len(result.runs) == 3
    assert dict(result.bad) == {"latency is not a finite number": 1, "no hardware model of GPU 'NVIDIA T4'": 1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b"\n\n", ["empty"]),
        (b"\x00\x01\x02\x03", ["binary"]),
        (bytes(range(128, 256)), ["UTF-8"]),
        ("framework,\xe9".encode("latin-1"), ["UTF-8"]),
        ("framework,version".encode("utf-16"), ["UTF-8"]),
        (b"PAR1" + bytes(100), ["Parquet", "to_csv"]),
        (b"PK\x03\x04" + bytes(100), ["zip"]),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", ["Git LFS", "git lfs pull"]),
        (b"a" * 1_500_000, ["line 1", "longer than 1,000,000"]),
        (b'"' + b"a,\n" * 100_000, ["CSV"]),
        (gzip.compress(b"framework," + b"a" * 50_000_000), ["line 1", "longer"]),
        (gzip.compress((DATA / TABLE).read_bytes())[:-20], ["gzip"]),
        (b"\x1f\x8b" + b"garbage" * 10, ["gzip"]),
    ],
)
def test_what_is_no_table_is_said_to_be_none(tmp_path, content, words):
    path = tmp_path / "file"
    path.write_bytes(content)
    result = outcome("aiconfigurator", path, Given())
    assert isinstance(result, str)
    for word in words:
        assert word in result


def test_gzip_is_read_whatever_the_name(tmp_path):
    path = tmp_path / "table.txt"
    path.write_bytes(gzip.compress((DATA / TABLE).read_bytes()))
    assert len(import_runs("aiconfigurator", path).runs) == 5


def test_files_and_documents_have_limits(tmp_path, monkeypatch):
    path = tmp_path / "many.csv"
    path.write_bytes(gzip.compress((DATA / TABLE).read_bytes() * 50))
    monkeypatch.setattr(reading, "MAX_FILE_BYTES", 20_000)
    result = outcome("aiconfigurator", path, Given())
    assert isinstance(result, str)
    assert "unpacks to more than 20,000" in result or "line" in result
    path.write_bytes(b"x\n" * 20_000)
    assert "has 40,000 bytes" in str(outcome("aiconfigurator", path, Given()))
    monkeypatch.setattr(reading, "MAX_DOCUMENT_BYTES", 100)
    assert "too large" in str(outcome("natten", DATA / "natten.txt", CASES["natten.txt"][1]))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, ["nested"]),
        ('{"a":' * 100_000, ["nested"]),
        ("1" * 10_000, ["digits"]),
        ("null", ["configs_timings"]),
        ('{"configs_timings": 3}', ["configs_timings"]),
        ('{"configs_timings": []}', ["no run"]),
        ('{"configs_timings": [3]}', ["configuration 1", "pair"]),
        ('{"configs_timings": [[{}, [1, 2]]]}', ["2 times"]),
        ('{"configs_timings": [[{}, [1, 2, 3]]]}', ["quantiles"]),
        ('{"configs_timings": [[{}, [NaN, 1, 2]]]}', ["nan"]),
        ('{"configs_timings": [[{}, [true]]]}', ["True"]),
        ('{"configs_timings": [[{}, ["1"]]], "x": 1', ["cut short"]),
        ('{"configs_timings": [[{"kwargs": [1]}, [1]]]}', ["kwargs"]),
        ('{"configs_timings": [[{}, []]]}', ["0 times"]),
        ('{"configs_timings": [[{"kwargs": {"BLOCK_M": -4, "BLOCK_N": 8}}, [1]]]}', ["BLOCK_M -4"]),
    ],
)
def test_json_that_is_no_cache(tmp_path, content, words):
    path = tmp_path / "x.autotune.json"
    path.write_text(content)
    result = outcome("triton-cache", path, STATED)
    assert isinstance(result, str)
    for word in words:
        assert word in result


def test_contradictions_inside_a_file(tmp_path):
    log = json.loads((DATA / "flex_new.json").read_text())
    log[0]["choices"][0]["Hq"] = 4
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    assert "Hq is 4 but the shapes say 8" in str(outcome("flex", path, CASES["flex_new.json"][1]))
    path.write_text((DATA / "flex_old.json").read_text().replace("'backward', 2,", "'backward', s0,"))
    assert "symbolic size" in str(outcome("flex", path, CASES["flex_old.json"][1]))
    text = (DATA / "natten.txt").read_text()
    path.write_text(text.replace("9.941ms", "8.941ms"))
    assert "sum to" in str(outcome("natten", path, CASES["natten.txt"][1]))
    path.write_text(text.replace("Sm80", "Sm90"))
    assert "does not run on a100" in str(outcome("natten", path, CASES["natten.txt"][1]))
    path.write_text(text + text)
    assert "2 tables" in str(outcome("natten", path, CASES["natten.txt"][1]))
    path.write_text((DATA / "kernel_tuner.json").read_text().replace('"time": 1.52', '"time": 1.72'))
    assert "between" in str(outcome("kernel-tuner", path, CASES["kernel_tuner.json"][1]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch", "x"], ["unknown format 'nosuch'", "aiconfigurator"]),
        (["aiconfigurator", "nosuch.csv"], ["'nosuch.csv'", "does not exist"]),
        (["aiconfigurator", str(DATA)], ["is a folder"]),
        (["aiconfigurator", str(DATA / TABLE), "-n", "4"], ["-n", "records it itself"]),
        (["aiconfigurator", str(DATA / TABLE), "-g", "t4"], ["unknown GPU 't4'"]),
        (["aiconfigurator", str(DATA / TABLE), "-k", "fa9"], ["unknown kernel 'fa9'"]),
        (["triton-cache", str(DATA / "_attn_fwd.autotune.json"), "-g", "h100"], ["-b, -n, -i, -d, --dtype, -p"]),
        (["kernel-tuner", str(DATA / "kernel_tuner.json"), "-b", "0", "-n", "8", "-i", "64", "-d", "64", "--dtype",
          "bf16", "-p", "causal", "--direction", "fwd"], ["batch 0"]),
        (["flex", str(DATA / "flex_new.json"), "-g", "h100", "--dtype", "x", "-p", "dense"], ["unknown dtype 'x'"]),
        (["cudnn", str(DATA / "cudnn_artifact.csv")], ["--gpu and --dtype"]),
        (["cudnn", str(DATA / "cudnn_training.csv"), "--dtype", "bf16"], ["--dtype", "records it itself"]),
    ],
)  # fmt: skip
def test_the_command_ends_with_one_sentence_and_writes_nothing(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.setattr(sys, "argv", ["attncast", "import", *arguments, "-o", str(tmp_path / "rows.csv")])
    with pytest.raises(SystemExit) as end:
        main()
    err = capsys.readouterr().err
    assert end.value.code == 2
    assert err.count("\n") == 1
    for word in words:
        assert word in err
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_table_and_says_what_it_left_out(tmp_path, capsys, monkeypatch):
    table = tmp_path / "rows.csv"
    joined = str(DATA / "joined.csv")
    monkeypatch.setattr(sys, "argv", ["attncast", "import", "aiconfigurator", joined, "-o", str(table), "--json"])
    main()
    (summary,) = json.loads(capsys.readouterr().out)["results"]
    assert summary["rows"] == 3
    assert summary["implausible"] == {"above the DRAM bandwidth": 1}
    assert summary["first_implausible"][0]["id"] == "joined-4"
    assert len(table.read_text().splitlines()) == 4
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-1], "--keep-implausible"])
    main()
    assert len(table.read_text().splitlines()) == 5
    assert "1 implausible" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["attncast", "import", "aiconfigurator", str(table), "-o", str(table)])
    with pytest.raises(SystemExit):
        main()
    assert "is the file to import" in capsys.readouterr().err
