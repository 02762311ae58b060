"""`puna cp SRC DST`: another name for a model."""

import click

from puna import settings
from puna.cli import terminal
from puna.errors import ModelNotFound
from puna.store.library import Library
from puna.store.name import parse_name


@click.command("cp", short_help="Copy a model")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
def command(source: str, target: str) -> None:
    """Make DST the same model as SRC. Their files are shared, so this takes no room."""
    try:
        done = Library(settings.models_path()).copy(parse_name(source), parse_name(target))
    except ModelNotFound as error:
        raise ModelNotFound(f'model "{source[:100]}" not found') from error
    click.echo(f"copied '{source}' to '{target}'")
    if done.kept:
        terminal.complain("Warning", done.kept)
