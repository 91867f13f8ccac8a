"""``attncast completion``: click's own completion scripts, and where shells look for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click


@dataclass(frozen=True)
class Shell:
    """Where a shell looks for a completion: a file of its own, or a line of the file it reads when it starts.

    ``home`` is an environment variable for the first part of ``file``, "" for none; the other part is in ``file``.
    """

    home: str
    default: str
    file: str
    starts_with: str

    def path(self) -> Path:
        """The file that ``attncast completion`` may be redirected to."""
        return Path(os.environ.get(self.home) or Path.home() / self.default) / self.file


SHELLS: Final = {
    "bash": Shell("XDG_DATA_HOME", ".local/share", "bash-completion/completions/attncast", ".bashrc"),
    "zsh": Shell("ZDOTDIR", "", ".zfunc/_attncast", ".zshrc"),
    "fish": Shell("XDG_CONFIG_HOME", ".config", "fish/completions/attncast.fish", ".config/fish/config.fish"),
}


def user_shell() -> str:
    """The user's shell, as $SHELL has it; "" for one without a script here."""
    name = Path(os.environ.get("SHELL", "")).name
    return name if name in SHELLS else ""


def installed(shell: str) -> bool:
    """Whether the completion's file is there, or the shell's start file asks for it."""
    place = SHELLS[shell]
    if place.path().is_file():
        return True
    try:
        text = (Path.home() / place.starts_with).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "attncast completion" in text or "_ATTNCAST_COMPLETE" in text


def install_line(shell: str) -> str:
    """The line that installs it."""
    path = SHELLS[shell].path()
    return f"mkdir -p {path.parent} && attncast completion {shell} > {path}"


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script by which bash, zsh or fish completes commands, options, GPUs, patterns, kernels and files.

    Where each looks for it, in a new terminal (zsh needs "fpath=(~/.zfunc $fpath)" before compinit in ~/.zshrc):

    \b
    Examples:
      attncast completion bash > ~/.local/share/bash-completion/completions/attncast
      attncast completion zsh > ~/.zfunc/_attncast
      attncast completion fish > ~/.config/fish/completions/attncast.fish
    """
    from click.shell_completion import get_completion_class

    from . import COMPLETE_VAR, cli

    made = get_completion_class(shell)
    assert made is not None  # the three that click has
    click.echo(made(cli, {}, "attncast", COMPLETE_VAR).source(), nl=False)
