"""`puna push`: a model from the store to a registry."""

import click

from puna.cli.models import user_library
from puna.cli.progress import show_progress
from puna.store.name import parse_name, scheme_of


@click.command("push", short_help="Send a model to a registry")
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses.")
@click.option("--json", "as_json", is_flag=True, help="Report progress as lines of JSON.")
def command(model: str, insecure: bool, as_json: bool) -> None:
    """Send MODEL to the registry that its name says; `puna cp` gives a model another name."""
    from puna.registry.sources import push

    with show_progress(as_json) as report:
        push(parse_name(model), user_library(), report, scheme=scheme_of(model), insecure=insecure)
