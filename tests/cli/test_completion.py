"""What a shell is offered: through click's classes, and as the scripts ask for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import click
import pytest
from click.shell_completion import get_completion_class

from attncast.cli import COMMANDS, cli, completion
from attncast.hwmodels import gpu_names
from attncast.simulator import cascades
from attncast.simulator.conditions import engine_names
from attncast.simulator.patterns.library import PATTERNS
from attncast.simulator.profile import profile_names
from attncast.validation.importers import FORMATS
from attncast.validation.measure.suites import suite_names

from .test_help import TREE


def offered(*words):
    """The items that stand for the last of the words."""
    bash = get_completion_class("bash")(cli, {}, "attncast", "_ATTNCAST_COMPLETE")
    return bash.get_completions(list(words[:-1]), words[-1])


def values(*words):
    return [item.value for item in offered(*words)]


def kinds(*words):
    return {item.type for item in offered(*words)}


def test_commands_are_offered_with_their_lines():
    assert values("") == list(COMMANDS)
    assert values("ca") == ["cascade", "calibrate"]
    (found,) = offered("pred")
    assert found.help == COMMANDS["predict"][1]
    assert set(values("report", "")) == {"predict", "validation", "cascades", "tune"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["predict", "-g", ""], gpu_names()),
        (["predict", "-g", "h2"], ["h200"]),
        (["predict", "-g", "H2"], ["h200"]),
        (["predict", "-g", "h100,b2"], ["h100,b200"]),
        (["predict", "-g", "h200,h2"], []),  # none twice, and no file of that name either
        (["report", "predict", "--gpu", "l"], ["l40s"]),
        (["gpu", "show", "a100"], ["a100", "a100-pcie"]),
        (["predict", "-k", ""], ["auto", *profile_names()]),
        (["predict", "--baseline", "cu"], ["cudnn"]),
        (["predict", "--engine", ""], engine_names()),
        (["predict", "--dtype", ""], ["bf16", "fp16", "fp8"]),
        (["predict", "--cascade", ""], list(cascades.names())),
        (["cascade", "compare", "naive", "three_pass"], ["three_pass", "three_pass_deferred"]),
        (["report", "cascades", "--only", "naive,cog"], ["naive,cog"]),
        (["predict", "-p", ""], list(PATTERNS)),
        (["pattern", "show", "radi"], ["radial"]),
        (["measure", ""], list(suite_names())),
        (["import", ""], list(FORMATS)),
        (["tune", "--effort", ""], ["instant", "quick", "full"]),
        (["tune", "-k", ""], ["auto", "triton", "flex", "natten"]),
        (["tune", "-f", "t"], ["triton", "t4"]),
        (["check", "--pattern", "b"], ["bits", "blocks"]),
        (["check", "--dtype", "fp3"], ["fp32"]),
        (["check", "--kernel", ""], ["attention", "decode"]),
        (["accelerator", "-a", "f"], ["flat"]),
        (["accelerator", "-m", "b"], ["bert"]),
        (["calibrate", "--show", "p"], ["packaged"]),
        (["validate", "--by", "f"], ["family"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_names_are_offered(words, expected):
    plain = [item.value for item in offered(*words) if item.type == "plain"]
    assert plain == expected


def test_patterns_say_what_they_are():
    (found,) = offered("predict", "-p", "causa")
    assert found.help == PATTERNS["causal"].about


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "-g", "./mine.to"],
        ["gpu", "show", "./mi"],
        ["cascade", "show", "../mi"],
        ["validate", "--rows", "run"],
        ["predict", "--mask", ""],
        ["import", "cudnn", ""],
    ],
)
def test_files_are_left_to_the_shell(words):
    assert kinds(*words) == {"file"}


def test_every_option_that_takes_a_file_or_a_name_completes():
    """The shell completes nothing by itself once a command has a completion of its own."""
    context = click.Context(cli)
    free = (
        "GRID",
        "TILE",
        "FREQUENCY",
        "N",
        "S",
        "K/N",
        "TIME",
        "R=N,...",
        "tcp://HOST:8786",
    )  # words that nobody can foresee
    for path, command in TREE:
        for option in command.params:
            shown = option.metavar or ""
            if (
                isinstance(command, click.Group)
                or shown in free
                or not isinstance(option.type, click.types.StringParamType)
            ):
                continue
            if shown or option.name in ("gpu", "gpus", "kernel", "dtype", "pattern", "name", "path"):
                found = [
                    word
                    for word in ("", "a", "/", *"bcdefghijklmnopqrstuvwxyz")
                    if option.shell_complete(context, word)
                ]
                assert found or shown == "TEXT", (path, option.name)


def test_a_subprocess_answers_and_imports_nothing_heavy():
    code = (
        "import atexit, sys\n"
        "heavy = {'torch', 'triton', 'pandas', 'scipy', 'matplotlib', 'jinja2', 'networkx', 'distributed'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        "sys.argv = ['attncast']\n"
        "from attncast.cli import main\nmain()"
    )
    for words, expected in (
        ("attncast tu", "plain,tune"),
        ("attncast predict -g h100,b2", "plain,h100,b200"),
        ("attncast tune --effort qu", "plain,quick"),
        ("attncast measure sm", "plain,smoke"),
        ("attncast check --pattern bl", "plain,blocks"),
        ("attncast report validation -o o", "dir,o"),
    ):
        asked = {"_ATTNCAST_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked}
        )
        assert (done.stdout.strip(), done.stderr.strip()) == (expected, "[]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(attncast, shell):
    status, out, err = attncast("completion", shell)
    assert (status, err) == (0, "")
    assert f"_ATTNCAST_COMPLETE={shell}_complete" in out
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=out, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_with_the_script(attncast, tmp_path):
    """The script as bash runs it, with a command of that name on the path."""
    program = tmp_path / "attncast"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m attncast "$@"\n')
    program.chmod(0o755)
    _, script, _ = attncast("completion", "bash")
    (tmp_path / "script").write_text(script)
    line = (
        "source script && COMP_WORDS=(attncast predict -g rtx) COMP_CWORD=3 && _attncast_completion attncast"
        ' && printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path, env={**os.environ, "PATH": path}
    )
    assert done.stdout.split() == ["rtx-pro-6000", "rtx4090", "rtx5090"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_whether_it_is_installed_is_seen(tmp_path, monkeypatch, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    assert not completion.installed(shell)
    line = completion.install_line(shell)
    subprocess.run(["sh", "-c", line.replace("attncast completion", "echo completion")], check=True)
    assert completion.installed(shell)
    completion.SHELLS[shell].path().unlink()
    assert not completion.installed(shell)
    start = tmp_path / completion.SHELLS[shell].starts_with
    start.parent.mkdir(parents=True, exist_ok=True)
    start.write_text(f'eval "$(attncast completion {shell})"\n')
    assert completion.installed(shell)
