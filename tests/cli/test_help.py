"""The help: what a newcomer reads first, and the examples in it, which must run."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil

import click
import pytest

from attncast.cli import COMMANDS, SECTIONS, cli
from attncast.simulator import cascades
from attncast.simulator.calibration import calibration_text, packaged_calibration
from attncast.validation.measured import load_curated, save_runs

from ..paths import ROOT


def tree(command=cli, path=()):
    """Every command and group with its path, the whole first."""
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            yield from tree(command.get_command(click.Context(command), name), (*path, name))


def examples(command):
    """The lines under "Examples:" in a command's help, continued lines joined."""
    found = re.search(r"Examples:\n(.*?)(\n\s*\n|\Z)", command.help or "", flags=re.DOTALL)
    text = re.sub(r"\\\n\s*", "", found[1]) if found else ""
    return [line.strip() for line in text.splitlines() if line.strip()]


TREE = list(tree())
EXAMPLES = list(dict.fromkeys(line for _, command in TREE for line in examples(command)))


def words_of(line):
    """The arguments of an example: what a shell would hand over."""
    words = shlex.split(line)
    assert words[0] == "attncast", line
    return words[1 : words.index(">")] if ">" in words else words[1:]


def test_every_command_is_in_one_section_of_the_help(attncast):
    assert sum(map(len, SECTIONS.values())) == len(COMMANDS)
    status, out, _ = attncast("--help")
    assert status == 0
    for title, commands in SECTIONS.items():
        section = out[out.index(f"\n{title}:") + 1 :].split("\n\n")[0].splitlines()
        assert [line.split()[0] for line in section[1:]] == list(commands)
        assert [line.split(maxsplit=1)[1] for line in section[1:]] == [line for _, line in commands.values()]
        assert max(map(len, section)) <= 80  # one line each, on a terminal of 80 columns


@pytest.mark.parametrize(("path", "command"), TREE, ids=[" ".join(path) or "attncast" for path, _ in TREE])
def test_every_command_has_a_summary_and_examples_of_itself(path, command):
    summary = command.help.split("\n\n")[0].strip()
    assert summary[0].isupper()
    assert summary.endswith(".")
    found = examples(command)
    assert 2 <= len(found) <= 5
    assert any(words_of(line)[: len(path)] == list(path) for line in found)
    for line in found:
        assert len(line) <= 140, "an example is copied, and read on one or two lines"


@pytest.mark.parametrize("line", EXAMPLES)
def test_every_example_is_a_command_line_that_is_understood(line):
    context = cli.make_context("attncast", words_of(line))
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    assert context.command.callback is not None


SWEEP = """gpus = ["h100"]
patterns = ["causal", "window left={window} right=0"]
[workload]
grid = [4096, 8192]
heads = 8
head_dim = 64
[values]
window = [512]
"""
TUNING = """gpus = ["a100"]
patterns = ["causal"]
[[shape]]
grid = 2048
heads = 8
head_dim = 64
"""
GPU = """kind = "gpu"
name = "Mine"
base = "h100"
[figures]
dram_bandwidth = { value = 4.0, unit = "TB/s", kind = "derived", source = "a wish" }
"""
#: Words of examples that are not run here, and why. All others are.
NOT_RUN = {
    "attncast measure smoke": "needs a GPU",
    "attncast measure configs": "needs a GPU",
    "attncast measure sparse --dry-run": "compiles for minutes; tests/validation/measure has dry runs",
    "attncast check": "compiles for seconds; tests/kernels has it",
    "--effort quick": "compiles for seconds; tests/autotune has it",
    "attncast report predict": "draws for ten seconds; tests/reports has it",
    "attncast report validation -o": "takes half a minute; with rows of its own it runs here",
    "attncast report cascades -o": "draws forty graphs; a few are drawn here",
    "attncast validate": "takes half a minute; tests/validation has it",
}


def runs_here(line):
    return line == "attncast validate --rows rows.csv --above 50us --json" or not any(word in line for word in NOT_RUN)


@pytest.fixture(scope="module")
def named_files(tmp_path_factory):
    """A folder with the files that examples name; they are made once, and copied for each example."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "mine.cascade").write_text((cascades.folder() / "flash_attention_2.cascade").read_text(encoding="utf-8"))
    (folder / "my-gpu.toml").write_text(GPU)
    (folder / "windows.toml").write_text(SWEEP)
    (folder / "kernels.toml").write_text(SWEEP)
    (folder / "shapes.toml").write_text(TUNING)
    for name in ("context_attention_perf.txt", "_attn_fwd.autotune.json"):
        shutil.copy(ROOT / "tests" / "validation" / "importers" / "data" / name, folder)
    rows = [run for run in load_curated() if (run.gpu, run.kernel) == ("h100", "mmha")]
    save_runs(folder / "rows.csv", rows)
    # What the example before it in the help of calibrate would have written.
    (folder / "mine.toml").write_text(calibration_text(packaged_calibration().constants))
    return folder


PAGES = ("report", "sweep", "--png", "calibrate --rows", "validate")


@pytest.mark.parametrize("line", [line for line in EXAMPLES if runs_here(line)])
def test_every_cheap_example_runs(attncast, named_files, tmp_path, monkeypatch, line):
    if any(word in line for word in PAGES):
        for name in ("jinja2", "matplotlib", "networkx", "scipy"):
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"{name} is not installed")
    shutil.copytree(named_files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    words = words_of(line)
    written = [words[at + 1] for at, word in enumerate(words) if word in ("-o", "--png", "--trace")]
    for name in written:
        (tmp_path / name).unlink(missing_ok=True)
    status, out, err = attncast(*words)
    assert status == 0, err
    assert out or written
    for name in written:
        assert (tmp_path / name).exists()


def test_what_is_not_run_is_still_in_the_help():
    for word in NOT_RUN:
        assert any(word in line for line in EXAMPLES), word
