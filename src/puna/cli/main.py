"""The `puna` command: its sub-commands, and how it ends.

A command's module is imported when it is used, so that `puna --help` stays quick: the table below says what
there is.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from puna import __version__
from puna.cli import terminal
from puna.errors import PunaError

_INTERRUPTED = 130
_BROKEN_PIPE = 141

# Name: module, and the line of help. Each module has a click command named `command`.
COMMANDS = {
    "serve": ("puna.cli.commands.serve", "Run the server"),
    "run": ("puna.cli.commands.run", "Run a model"),
    "pull": ("puna.cli.commands.pull", "Fetch a model from a registry or the package index"),
    "push": ("puna.cli.commands.push", "Send a model to a registry"),
    "create": ("puna.cli.commands.create", "Make a model from a Modelfile"),
    "imatrix": ("puna.cli.commands.imatrix", "Find out which weights matter, for quantizing"),
    "show": ("puna.cli.commands.show", "Show what there is to say of a model"),
    "list": ("puna.cli.commands.list", "List models"),
    "ps": ("puna.cli.commands.ps", "List models in memory"),
    "stop": ("puna.cli.commands.stop", "Unload a model"),
    "cp": ("puna.cli.commands.cp", "Copy a model"),
    "rm": ("puna.cli.commands.rm", "Remove models"),
    "export": ("puna.cli.commands.export", "Write models into one file"),
    "import": ("puna.cli.commands.import_", "Read models from one file"),
    "prune": ("puna.cli.commands.prune", "Delete files that no model needs"),
    "verify": ("puna.cli.commands.verify", "Check the files of all models"),
    "inspect": ("puna.cli.commands.inspect", "Show what a GGUF file holds"),
    "bench": ("puna.cli.commands.bench", "Measure how fast a model runs"),
    "plan": ("puna.cli.commands.plan", "Show what memory a model would take"),
    "login": ("puna.cli.commands.login", "Log in to a registry"),
    "logout": ("puna.cli.commands.logout", "Log out of a registry"),
    "config": ("puna.cli.commands.config", "Show all settings, and where each comes from"),
    "doctor": ("puna.cli.commands.doctor", "Show the compute library in use and what could be better"),
}

ALIASES = {"ls": "list", "start": "serve"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name or alias, imported now; None if there is none."""
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        command = import_module(COMMANDS[name][0]).command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in COMMANDS.items()])


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Print the version, and that of a server which answers and has another."""
    if not wanted or context.resilient_parsing:
        return
    from puna.cli.reach import other_version

    click.echo(f"puna version is {__version__}")
    if other := other_version():
        click.echo(f"Warning: server version is {other}")
    context.exit()


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "-v",
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Run language models on your own machine."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> None:
    """The entry point: run the command line and exit with its status."""
    terminal.prepare()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the command line; the exit status.

    An error a user can cause or meet is one line on standard error and status 1; an interrupt is status 130.
    """
    try:
        status = cli.main(list(arguments), "puna", standalone_mode=False)
        sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        terminal.restore()
        return _INTERRUPTED
    except BrokenPipeError:
        terminal.abandon_output()
        return _BROKEN_PIPE
    except click.ClickException as error:
        return _fail(error.format_message())
    except PunaError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    return status if isinstance(status, int) else 0


def _fail(message: str) -> int:
    terminal.restore()
    terminal.complain("Error", message)
    return 1
