"""`puna rm MODEL…`: models go, and what only they used."""

import click

from puna import settings
from puna.cli import terminal
from puna.errors import ModelNotFound, PunaError
from puna.store.library import Library
from puna.store.name import parse_name


@click.command("rm", short_help="Remove models")
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
def command(models: tuple[str, ...]) -> int:
    """Remove models, and the files that no other model uses."""
    library = Library(settings.models_path())
    return max([_remove(library, model) for model in models])


def _remove(library: Library, model: str) -> int:
    """Remove one model; the exit status."""
    try:
        done = library.delete(parse_name(model))
    except ModelNotFound:
        terminal.complain("Error", f"model '{model[:100]}' not found")
        return 1
    except PunaError as error:
        terminal.complain("Error", str(error))
        return 1
    click.echo(f"deleted '{model}'")
    if done.kept:
        terminal.complain("Warning", done.kept)
    return 0
