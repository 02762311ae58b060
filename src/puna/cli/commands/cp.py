"""`puna cp SRC DST`: another name for a model."""

import click

from puna.cli import terminal
from puna.cli.place import managing_place
from puna.cli.reach import Where, where_options


@click.command("cp", short_help="Copy a model")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@where_options
def command(source: str, target: str, where: Where) -> None:
    """Make DST the same model as SRC. Their files are shared, so this takes no room."""
    with managing_place(where) as place:
        kept = place.copy(source, target)
    click.echo(f"copied '{source}' to '{target}'")
    if kept:
        terminal.complain("Warning", kept)
