"""`puna export MODEL… -o FILE`: models into one file."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from puna.cli import terminal
from puna.cli.models import user_library
from puna.cli.progress import ProgressDisplay
from puna.errors import InvalidOption, ModelNotFound
from puna.store.archive import export_models
from puna.store.files import new_file
from puna.store.library import Library
from puna.store.name import ModelName, parse_name


@click.command("export", short_help="Write models into one file")
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", required=True, help="Where to; - is the standard output.")
def command(models: tuple[str, ...], output: str) -> None:
    """Write models into one file, an OCI image layout in a tar archive; `puna import` reads it."""
    library = user_library()
    names = [_existing(library, model) for model in models]
    with _open(output) as file, ProgressDisplay() as display:
        export_models(library, names, file, display.update)
    if output != "-":
        click.echo(f"exported {', '.join(repr(model) for model in models)} to {output!r}")


def _existing(library: Library, model: str) -> ModelName:
    name = parse_name(model)
    if library.manifests.find(name) is None:
        raise ModelNotFound(f"model '{model}' not found")
    return name


@contextmanager
def _open(output: str) -> Iterator[BinaryIO]:
    if output == "-":
        if terminal.is_terminal(sys.stdout):
            raise InvalidOption("an archive is not for a terminal: send it to a pipe, or name a file with -o")
        yield sys.stdout.buffer
    elif Path(output).exists() and not Path(output).is_file():
        with open(output, "wb") as file:  # a pipe or a device cannot be replaced by a finished file
            yield file
    else:
        with new_file(Path(output)) as file:
            yield file
