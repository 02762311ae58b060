"""`puna rm MODEL…`: models go, and what only they used."""

import click

from puna.cli import terminal
from puna.cli.place import Place, managing_place
from puna.cli.reach import Where, where_options
from puna.errors import PunaError, ServerUnreachable


@click.command("rm", short_help="Remove models")
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
@where_options
def command(models: tuple[str, ...], where: Where) -> int:
    """Remove models, and the files that no other model uses."""
    with managing_place(where) as place:
        return max([_remove(place, model) for model in models])


def _remove(place: Place, model: str) -> int:
    """Remove one model; the exit status."""
    try:
        kept = place.delete(model)
    except ServerUnreachable:
        raise
    except PunaError as error:
        terminal.complain("Error", str(error))
        return 1
    click.echo(f"deleted '{model}'")
    if kept:
        terminal.complain("Warning", kept)
    return 0
