"""`puna prune`: what nobody needs any more goes."""

from typing import Any

import click

from puna.cli.models import user_library
from puna.errors import InvalidOption, StoreError
from puna.humanize import bytes_text, duration_seconds
from puna.store.library import Removal


class Duration(click.ParamType[float]):
    """A duration in Go's form, as seconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Raises InvalidOption for anything else, and for a negative one."""
        try:
            seconds = duration_seconds(str(value))
        except ValueError as error:
            raise InvalidOption(str(error)) from error
        if seconds < 0:
            raise InvalidOption(f"{str(value)[:100]!r} is negative")
        return seconds


@click.command("prune", short_help="Delete files that no model needs")
@click.option(
    "--grace",
    type=Duration(),
    default="24h",
    show_default=True,
    help="Leave alone what was changed within this time, such as 90s or 1h30m.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(grace: float, as_json: bool) -> None:
    """Delete blobs that no model uses, and the remains of interrupted downloads."""
    done = user_library().prune(grace)
    click.echo(_document(done) if as_json else _sentence(done))
    if done.kept:
        raise StoreError(done.kept)


def _sentence(done: Removal) -> str:
    if not done.blobs + done.files:
        return "nothing deleted"
    parts = ((done.blobs, "blob"), (done.files, "unfinished file"))
    counts = [f"{count} {noun}{'s' * (count != 1)}" for count, noun in parts if count]
    return f"deleted {' and '.join(counts)}, {bytes_text(done.size)}"


def _document(done: Removal) -> str:
    import json

    return json.dumps({"blobs": done.blobs, "files": done.files, "size": done.size, "kept": done.kept})
