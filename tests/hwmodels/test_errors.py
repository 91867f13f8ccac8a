"""Every mistake in a GPU name or file gives one sentence that quotes it and says what was expected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from attncast.errors import InputError
from attncast.hwmodels import load_gpu

DERIVED = 'kind = "derived", source = "a test"'


def message(text: str) -> str:
    """The error that loading ``text`` gives, checked to be one line."""
    with pytest.raises(InputError) as caught:
        load_gpu(text)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def over_h100(folder: Path, figures: str) -> str:
    return write(folder, f'base = "h100"\n[figures]\n{figures}\n')


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("h10", "h100"), ("b20", "b200"), ("rtx509", "rtx5090"), ("A100-PCI", "a100-pcie"), ("l40", "l40s")],
)
def test_unknown_gpu_quotes_lists_and_suggests(wrong: str, meant: str) -> None:
    sentence = message(wrong)
    assert f"unknown GPU {wrong!r}" in sentence
    assert "a100, a100-pcie, b200" in sentence
    assert f"did you mean {meant!r}" in sentence


@pytest.mark.parametrize("text", ["", "  ", "..", "h100\0", "?", "ünïcode", "-", "__init__"])
def test_odd_names_are_unknown_gpus(text: str) -> None:
    assert f"unknown GPU {text.strip()!r}: expected one of a100" in message(text)


def test_a_very_long_name_is_shortened() -> None:
    assert len(message("x" * 100_000)) < 500
    assert len(message("/" + "x" * 100_000)) < 500


@pytest.mark.parametrize("text", ["nowhere/h100.toml", "h100.toml", "/no/such/H100.TOML"])
def test_missing_file_suggests_the_shipped_gpu(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = message(text)
    assert f"no GPU file {text!r}" in sentence
    assert "did you mean 'h100'" in sentence


def test_directory(tmp_path: Path) -> None:
    folder = tmp_path / "gpu.toml"
    folder.mkdir()
    assert f"{str(folder)!r} is a directory, expected a .toml file" in message(str(folder))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")  # reading it would hang
    assert "not a regular file" in message(str(tmp_path / "pipe.toml"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads every file")
def test_unreadable_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'kind = "gpu"')
    Path(path).chmod(0)
    assert f"cannot read {path}: Permission denied" in message(path)


def test_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(bytes(range(256)))
    assert f"{path} is not UTF-8 text, expected a TOML file" in message(str(path))


def test_huge_file(tmp_path: Path) -> None:
    assert "expected at most 1000000" in message(write(tmp_path, "#" * 1_000_001))


def test_empty_file(tmp_path: Path) -> None:
    assert 'kind is missing, expected kind = "gpu"' in message(write(tmp_path, ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('kind = "gpu"\nname = \n', "line 2"),
        ("x = [" + "[" * 5000, "is not valid TOML"),
        ("x = " + "9" * 5000, "is not valid TOML"),
    ],
)
def test_invalid_toml_says_where(text: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    sentence = message(path)
    assert path in sentence
    assert expected in sentence


@pytest.mark.parametrize("kind", ['"accelerator"', "3", "[]"])
def test_another_kind_of_hardware(kind: str, tmp_path: Path) -> None:
    sentence = message(write(tmp_path, f'kind = {kind}\nname = "x"\npe_rows = 256\n'))
    assert f'kind is {kind.replace(chr(34), chr(39))}, expected kind = "gpu"' in sentence


def test_missing_figures_are_counted(tmp_path: Path) -> None:
    sentence = message(write(tmp_path, 'kind = "gpu"\nname = "x"\narch = "sm_90"\ngeneration = "hopper"\n'))
    assert "missing figure 'sms' (and 33 more)" in sentence


@pytest.mark.parametrize("line", ['name = ""', "name = 3", "arch = []", 'generation = ""'])
def test_words_must_be_text(line: str, tmp_path: Path) -> None:
    assert f"{line.split()[0]} is " in message(write(tmp_path, f'base = "h100"\n{line}\n'))


def test_unknown_generation_and_arch(tmp_path: Path) -> None:
    assert "unknown generation 'hoper'" in (sentence := message(write(tmp_path, 'base="h100"\ngeneration="hoper"')))
    assert "did you mean 'hopper'" in sentence
    assert "arch is 'hopper', expected" in message(write(tmp_path, 'base="h100"\narch="hopper"', "other.toml"))


def test_unknown_top_level_key_suggests(tmp_path: Path) -> None:
    sentence = message(write(tmp_path, 'base = "h100"\n[figure.sms]\nvalue = 1\n'))
    assert "unknown key 'figure'" in sentence
    assert "did you mean 'figures'" in sentence


def test_unknown_base_suggests(tmp_path: Path) -> None:
    path = write(tmp_path, 'base = "h10"\n')
    sentence = message(path)
    assert f"{path}: base: unknown GPU 'h10'" in sentence
    assert "did you mean 'h100'" in sentence
    assert "base is 5, expected the name" in message(write(tmp_path, "base = 5\n", "five.toml"))


def test_unknown_figure_suggests(tmp_path: Path) -> None:
    sentence = message(over_h100(tmp_path, f'smss = {{ value = 132, unit = "1", {DERIVED} }}'))
    assert "unknown figure 'smss'" in sentence
    assert "did you mean 'sms'" in sentence


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ("sms = 132", "figure 'sms' is 132, expected { value = "),
        (f'sms = {{ unit = "1", {DERIVED} }}', "figure 'sms': value is None, expected a number"),
        (f'sms = {{ value = "132", unit = "1", {DERIVED} }}', "value is '132', expected a number"),
        (f'sms = {{ value = true, unit = "1", {DERIVED} }}', "value is True, expected a number"),
        (
            f'sms = {{ value = -132, unit = "1", {DERIVED} }}',
            "value is -132 1, expected a finite number above 0",
        ),
        (f'sms = {{ value = 0, unit = "1", {DERIVED} }}', "value is 0 1, expected a finite number above 0"),
        (f'sms = {{ value = 131.5, unit = "1", {DERIVED} }}', "value is 131.5 1, expected a whole number"),
        (f'clock = {{ value = nan, unit = "GHz", {DERIVED} }}', "value is nan GHz, expected a finite number"),
        (f'clock = {{ value = inf, unit = "GHz", {DERIVED} }}', "value is inf GHz, expected a finite number"),
        (
            f'clock = {{ value = 1e305, unit = "GHz", {DERIVED} }}',
            "value is 1e+305 GHz, expected a finite number",
        ),
        (f'sms = {{ value = 1{"0" * 400}, unit = "1", {DERIVED} }}', "expected a finite number above 0"),
        (
            f'tmem_per_sm = {{ value = -1, unit = "KiB", {DERIVED} }}',
            "expected a finite number of at least 0",
        ),
        (f"clock = {{ value = 1830, {DERIVED} }}", "figure 'clock': unit is None, expected text"),
        ('clock = { value = 1830, unit = "MHz", kind = "derived" }', "source is None, expected text"),
        (
            'clock = { value = 1830, unit = "MHz", kind = "derived", source = " " }',
            "source is ' ', expected text",
        ),
        (f'clock = {{ value = 1830, unit = "MHz", {DERIVED}, note = 3 }}', "note is 3, expected text"),
        (
            f'clock = {{ value = 1.8, unit = "GB/s", {DERIVED} }}',
            "unit 'GB/s' measures bandwidth, expected frequency",
        ),
        (
            f'l2_size = {{ value = 50, unit = "MHz", {DERIVED} }}',
            "measures frequency, expected bytes (B, KiB, MiB",
        ),
        (
            f'dram_efficiency = {{ value = 1.01, unit = "1", {DERIVED} }}',
            "dram_efficiency is 1.01, expected a fraction",
        ),
    ],
)
def test_wrong_figure(figures: str, expected: str, tmp_path: Path) -> None:
    path = over_h100(tmp_path, figures)
    sentence = message(path)
    assert path in sentence
    assert expected in sentence


@pytest.mark.parametrize(
    ("figure", "wrong", "meant"),
    [
        (f'clock = {{ value = 1.8, unit = "Ghz", {DERIVED} }}', "unknown unit 'Ghz'", "GHz"),
        (f'l2_size = {{ value = 50, unit = "Mib", {DERIVED} }}', "unknown unit 'Mib'", "MiB"),
        (
            'sms = { value = 132, unit = "1", kind = "datashet", source = "x" }',
            "unknown kind 'datashet'",
            "datasheet",
        ),
        (f'sms = {{ value = 132, unit = "1", {DERIVED}, notes = "x" }}', "unknown key 'notes'", "note"),
    ],
)
def test_misspelt_word_in_a_figure_is_suggested(figure: str, wrong: str, meant: str, tmp_path: Path) -> None:
    sentence = message(over_h100(tmp_path, figure))
    assert wrong in sentence
    assert f"did you mean {meant!r}" in sentence


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (f'smem_per_cta = {{ value = 229, unit = "KiB", {DERIVED} }}', "smem_bytes_per_cta is 234496 but"),
        (
            f'l2_effective_size = {{ value = 51, unit = "MiB", {DERIVED} }}',
            "the effective L2 cannot exceed the L2",
        ),
        (f'clock_max = {{ value = 1.8, unit = "GHz", {DERIVED} }}', "clock_max_hz is 1.8e+09"),
        (
            f'dram_bandwidth = {{ value = 20, unit = "TB/s", {DERIVED} }}',
            "the DRAM cannot be faster than the L2",
        ),
        (
            f'graph_launch = {{ value = 1, unit = "ms", {DERIVED} }}',
            "graph_launch_s is 0.001 but launch_s is 2.1e-06",
        ),
    ],
)
def test_figures_that_contradict_each_other(figures: str, expected: str, tmp_path: Path) -> None:
    path = over_h100(tmp_path, figures)
    sentence = message(path)
    assert path in sentence
    assert "'mine'" in sentence
    assert expected in sentence
