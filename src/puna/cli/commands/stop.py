"""`puna stop MODEL`: a model leaves a server's memory."""

import click

from puna.cli.reach import required_server
from puna.errors import ModelNotFound


@click.command("stop", short_help="Unload a model")
@click.argument("model")
@click.option("--force", is_flag=True, help="At once: requests that use it end with an error.")
def command(model: str, force: bool) -> None:
    """Have the server unload MODEL as soon as nobody uses it."""
    with required_server() as client:
        try:
            client.unload(model, force=force)
        except ModelNotFound as error:
            raise ModelNotFound(f'couldn\'t find model "{model[:100]}" to stop') from error
