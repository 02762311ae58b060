"""`puna push`: a model from the store to a registry."""

import click

from puna.cli.place import managing_place
from puna.cli.progress import show_progress
from puna.cli.reach import Where, where_options


@click.command("push", short_help="Send a model to a registry")
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses.")
@click.option("--json", "as_json", is_flag=True, help="Report progress as lines of JSON.")
@where_options
def command(model: str, insecure: bool, as_json: bool, where: Where) -> None:
    """Send MODEL to the registry that its name says; `puna cp` gives a model another name."""
    with managing_place(where) as place, show_progress(as_json) as report:
        place.push(model, report, insecure=insecure)
