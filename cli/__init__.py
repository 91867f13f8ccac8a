"""The command line. Each command is a few lines over the API, in a module of its own that is imported when it is run."""

from __future__ import annotations

import importlib
import os
import sys

import click
from click.shell_completion import CompletionItem

from .. import __version__
from ..errors import InputError

# what is asked -> command -> module of this package that defines it, and the line that `attncast --help` shows
SECTIONS = {
    "Predict how fast it runs": {
        "predict": ("predict", "The time of one attention call, its speedup, what bounds it."),
        "tiles": ("tiles", "The tiles a pattern touches, exactly, and its speedup bounds."),
        "accelerator": ("accelerator", "Attention on a spatial accelerator: FLAT, FuseMax."),
    },
    "Choose a pattern and a configuration": {
        "advise": ("advise", "The fastest neighborhood that keeps a share of the pairs."),
        "tune": ("tune", "The best configurations of a kernel, in your framework's form."),
    },
    "Describe patterns, algorithms and GPUs": {
        "pattern": ("pattern", "The sparsity patterns; one as numbers and a picture."),
        "cascade": ("cascade", "What an algorithm costs in principle: passes, operations."),
        "gpu": ("gpu", "The hardware models; one with its sources."),
    },
    "Look at what the compiler makes of kernels": {
        "check": ("check", "Does a configuration fit GPUs that are not there?"),
    },
    "Measure, and see how far off forecasts are": {
        "measure": ("measure", "Time our kernels and other libraries on this machine's GPU."),
        "import": ("import_", "Turn another tool's measurements into a table of runs."),
        "calibrate": ("calibrate", "Fit a kernel's constants to measured runs."),
        "validate": ("validate", "Errors on runs that nothing was fitted on."),
    },
    "See it": {
        "report": ("report", "Pages: a prediction, the validation, a tuning, the cascades."),
        "sweep": ("sweep", "Workloads x patterns x kernels x GPUs: tables and a page."),
    },
    "Set up": {
        "doctor": ("doctor", "What works here, and the line that makes the rest work."),
        "completion": ("completion", "The script by which your shell completes commands."),
    },
}
# The environment variable by which a shell's completion script asks, whatever the program is started as.
COMPLETE_VAR = "_ATTNCAST_COMPLETE"
COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Commands(click.Group):
    """Imports a command's module only when that command is run, so that each starts as fast as it can."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[name][0]}", __package__)
        command: click.Command = getattr(module, COMMANDS[name][0])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), line) for name, (_, line) in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click would import every command to ask for its help.
        found = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from ..errors import unknown

            raise click.UsageError(str(unknown("command", args[0], COMMANDS))) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="attncast")
def cli() -> None:
    """Forecast how fast attention runs on a GPU that need not be at hand.

    \b
    Examples:
      attncast predict -g b200,h100 -i 30x48x80 -n 24 -d 128 -p "na window=18x24x24 stride=16x8x8"
      attncast advise -i 30x48x80 -n 24 -d 128 -g h100 --coverage 0.09
      attncast gpu show h100
      attncast doctor
    """


def main() -> None:
    """Entry point: bad input ends with one sentence and status 2, never with a traceback."""
    try:
        # click gives back the status of a command that ends itself with one (Context.exit) instead of ending the program.
        status = cli.main(standalone_mode=False, complete_var=COMPLETE_VAR)
        if status:
            sys.exit(status)
    except InputError as error:
        _end(str(error), 2)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.UsageError as error:
        hint = f" (see: {error.ctx.command_path} --help)" if error.ctx else ""
        _end(error.format_message() + hint, error.exit_code)
    except click.ClickException as error:
        _end(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _end("interrupted", 130)
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is wrong. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if os.environ.get("ATTNCAST_DEBUG"):
            raise
        _end(f"internal error, please report it (ATTNCAST_DEBUG=1 shows where): {type(error).__name__}: {error}", 1)


def _end(message: str, status: int) -> None:
    click.echo(f"attncast: {message}", err=True)
    sys.exit(status)
