"""`puna list [PREFIX]`: the models of the store, or of a server."""

import time
from datetime import UTC, datetime

import click

from puna.cli import terminal
from puna.cli.listing import listing_lines, matching
from puna.cli.place import managing_place
from puna.cli.reach import Where, where_options
from puna.store.library import Listing


@click.command("list", short_help="List models")
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@where_options
def command(prefix: str, as_json: bool, where: Where) -> None:
    """List the models, the last changed first; with PREFIX, those whose names begin so."""
    with managing_place(where) as place:
        listing = matching(place.listing(), prefix)
    click.echo(_document(listing) if as_json else "\n".join(listing_lines(listing, time.time())))
    for name, error in listing.damaged:
        terminal.complain("Warning", f"model '{name}' is damaged: {error}")


def _document(listing: Listing) -> str:
    import json

    models = [
        {
            "name": str(model.name),
            "digest": model.digest,
            "size": model.size,
            "modified_at": datetime.fromtimestamp(model.modified, UTC).isoformat(),
        }
        for model in listing.models
    ]
    damaged = [{"name": str(name), "error": error} for name, error in listing.damaged]
    return json.dumps({"models": models, "damaged": damaged}, indent=2)
