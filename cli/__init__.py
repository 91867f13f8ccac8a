"""The command line. Each command is a few lines over the API, in a module of its own that is imported when it is run."""

from __future__ import annotations

import importlib
import os
import sys

import click

from .. import __version__
from ..errors import InputError

# command -> module of this package that defines it, and the line that `attncast --help` shows
COMMANDS = {
    "predict": ("predict", "Forecast one attention call on one or more GPUs."),
    "tiles": ("tiles", "Count the tiles of a pattern exactly, and its speedup bounds."),
    "advise": ("advise", "Search the fastest neighborhood pattern that keeps a share of the pairs."),
    "tune": ("tune", "Rank the configurations of a kernel for a GPU, and write the best."),
    "pattern": ("pattern", "List the sparsity patterns, or show one as numbers and a picture."),
    "check": (
        "check",
        "Compile a kernel configuration for GPUs that are not there: does it fit, and what is in its loop?",
    ),
    "import": ("import_", "Turn measurements of another tool into a table of measured runs."),
    "calibrate": (
        "calibrate",
        "Fit the constants of kernels to measured runs, and check the fit on runs left out of it.",
    ),
    "validate": ("validate", "Errors on measured runs that nothing was fitted on, beside simple baselines."),
    "measure": ("measure", "Measure our kernels and the libraries at hand on this machine's GPU, suite by suite."),
    "sweep": ("sweep", "Forecast every combination of workloads, patterns, kernels and GPUs, and plot the speedups."),
    "report": ("report", "Pages to look at: a prediction, the validation, a tuning, the cascades."),
    "gpu": ("gpu", "List the hardware models, or show one with its sources."),
    "cascade": ("cascade", "What an attention algorithm costs in principle: passes, operations, footprint."),
    "accelerator": ("accelerator", "Forecast attention on a spatial accelerator: FLAT, FuseMax."),
}


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
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

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
    attncast predict -g b200,h100 -i 30x48x80 -n 24 -d 128 -p "na window=18x24x24 stride=16x8x8"
    attncast tiles -i 30x48x80 -p "na window=18x24x24" --q-tile 4x8x8 --kv-tile 2x8x8
    attncast gpu show h100
    """


def main() -> None:
    """Entry point: bad input ends with one sentence and status 2, never with a traceback."""
    try:
        # click gives back the status of a command that ends itself with one (Context.exit) instead of ending the program.
        status = cli.main(standalone_mode=False)
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
