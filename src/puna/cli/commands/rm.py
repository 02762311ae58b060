"""`puna rm MODEL…`: models go, and what only they used."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from puna.cli import terminal
from puna.cli.place import Place, managing_place
from puna.cli.reach import Where, neighbouring_server, where_options
from puna.errors import InvalidOption, PunaError, ServerUnreachable
from puna.store.name import parse_name

if TYPE_CHECKING:
    from puna.client import Client


@click.command("rm", short_help="Remove models")
@click.argument("models", metavar="MODEL…", nargs=-1, required=True)
@where_options
def command(models: tuple[str, ...], where: Where) -> int:
    """Remove models, and the files that no other model uses."""
    server = neighbouring_server(where)
    with managing_place(where) as place, server or nullcontext():
        return max([_remove(place, server, model) for model in models])


def _remove(place: Place, server: "Client | None", model: str) -> int:
    """Remove one model, which leaves the memory of a server on this machine first; the exit status."""
    if server is not None:
        _unload(server, model)
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


def _unload(server: "Client", model: str) -> None:
    """Have a server unload a model that it has loaded; whatever it answers, the removal goes on."""
    try:
        name = parse_name(model)
        if any(parse_name(loaded.name) == name for loaded in server.ps().models):
            server.unload(model)
    except (InvalidOption, ServerUnreachable):
        return  # the removal tells of a bad name, and what listens there may be no server at all
    except PunaError as error:
        terminal.complain("Warning", f"unable to stop model '{model[:100]}': {error}")
