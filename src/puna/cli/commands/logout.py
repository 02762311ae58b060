"""`puna logout HOST`: forget the name and password for a registry."""

import click

from puna import settings
from puna.registry.credentials import DockerConfig
from puna.registry.registries import registry_for


@click.command("logout")
@click.argument("host")
def command(host: str) -> None:
    """Log out of a registry: forget its name and password."""
    registry = registry_for(host, {})
    if DockerConfig(settings.docker_folder()).erase(registry.host):
        click.echo(f"Removed the login for {registry.host}")
    else:
        click.echo(f"Not logged in to {registry.host}")
