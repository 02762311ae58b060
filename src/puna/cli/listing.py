"""The list of models, as Ollama prints it."""

from collections.abc import Iterator

from puna.cli.table import table_lines
from puna.humanize import bytes_text, moment_text
from puna.store.library import ListedModel, Listing

_COLUMNS = ("NAME", "ID", "SIZE", "MODIFIED")


def matching(listing: Listing, prefix: str) -> Listing:
    """What of the listing has a name that begins with `prefix`, capital or small."""
    start = prefix.lower()
    return Listing(
        [model for model in listing.models if str(model.name).lower().startswith(start)],
        [(name, error) for name, error in listing.damaged if str(name).lower().startswith(start)],
    )


def listing_lines(listing: Listing, now: float) -> Iterator[str]:
    """The table's lines; `now` in seconds since 1970."""
    return table_lines(_COLUMNS, [_row(model, now) for model in listing.models])


def _row(model: ListedModel, now: float) -> tuple[str, str, str, str]:
    return str(model.name), model.digest[:12], bytes_text(model.size), moment_text(model.modified, now)
