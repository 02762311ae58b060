"""`puna list [PREFIX]`: the models of the store."""

import time
from datetime import UTC, datetime

import click

from puna import settings
from puna.cli import terminal
from puna.cli.table import table_lines
from puna.humanize import bytes_text, moment_text
from puna.store.library import Library, ListedModel, Listing

_COLUMNS = ("NAME", "ID", "SIZE", "MODIFIED")


@click.command("list", short_help="List models")
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(prefix: str, as_json: bool) -> None:
    """List the models on this machine, the last changed first; with PREFIX, those whose names begin so."""
    listing = matching(Library(settings.models_path()).listing(), prefix)
    if as_json:
        click.echo(_document(listing))
    else:
        now = time.time()
        click.echo("\n".join(table_lines(_COLUMNS, [_row(model, now) for model in listing.models])))
    for name, error in listing.damaged:
        terminal.complain("Warning", f"model '{name}' is damaged: {error}")


def matching(listing: Listing, prefix: str) -> Listing:
    """What of the listing has a name that begins with `prefix`, capital or small."""
    start = prefix.lower()
    return Listing(
        [model for model in listing.models if str(model.name).lower().startswith(start)],
        [(name, error) for name, error in listing.damaged if str(name).lower().startswith(start)],
    )


def _row(model: ListedModel, now: float) -> tuple[str, str, str, str]:
    return str(model.name), model.digest[:12], bytes_text(model.size), moment_text(model.modified, now)


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
