"""`puna import FILE`: models from one file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import click

from puna.cli import terminal
from puna.cli.models import user_library
from puna.cli.progress import ProgressDisplay
from puna.errors import InvalidOption
from puna.store.archive import import_models
from puna.store.name import parse_name


@click.command("import", short_help="Read models from one file")
@click.argument("file")
@click.option("--name", metavar="MODEL", help="What to call the model, where the archive has one.")
def command(file: str, name: str | None) -> None:
    """Read models from FILE, an OCI image layout in a tar archive; - is the standard input.

    All of them are stored, or none where anything is wrong with one.
    """
    called = None if name is None else parse_name(name)
    with _open(file) as archive, ProgressDisplay() as display:
        names = import_models(user_library(), archive, display.update, called)
    for imported in names:
        click.echo(f"imported '{imported}'")


@contextmanager
def _open(file: str) -> Iterator[BinaryIO]:
    if file != "-":
        with open(file, "rb") as opened:
            yield opened
    elif terminal.is_terminal(sys.stdin):
        raise InvalidOption("an archive is not typed in: name a file, or send one through a pipe")
    else:
        yield sys.stdin.buffer
