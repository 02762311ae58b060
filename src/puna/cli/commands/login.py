"""`puna login HOST`: keep a name and password for a registry."""

import sys

import click

from puna import settings
from puna.cli import terminal
from puna.errors import InvalidOption
from puna.registry.auth import verify_login
from puna.registry.credentials import Credentials, DockerConfig
from puna.registry.http import HttpClient
from puna.registry.network import Network
from puna.registry.registries import read_registries, registry_for


@click.command("login")
@click.argument("host")
@click.option("-u", "--username", help="User name; asked for if not given.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option("--insecure", is_flag=True, help="Allow plain http and private addresses.")
def command(host: str, username: str | None, password_stdin: bool, insecure: bool) -> None:
    """Log in to a registry.

    The registry is asked whether it takes the name and password; then they are kept where docker keeps them.
    """
    registry = registry_for(host, read_registries(settings.configuration()), insecure=insecure)
    credentials = _credentials(username, password_stdin)
    with HttpClient(Network()) as client:
        verify_login(client, registry, credentials)
    DockerConfig(settings.docker_folder()).store(registry.host, credentials)
    click.echo("Login Succeeded")


def _credentials(username: str | None, password_stdin: bool) -> Credentials:
    if password_stdin:
        if username is None:
            raise InvalidOption("--password-stdin needs the user name: -u USER")
        secret = (terminal.piped_input() or "").removesuffix("\n").removesuffix("\r")
    elif not terminal.is_terminal(sys.stdin):
        raise InvalidOption("there is no terminal to ask for the password; use -u USER --password-stdin")
    else:
        username = username or click.prompt("Username", err=True)
        secret = click.prompt("Password", hide_input=True, err=True)
    if not username or ":" in username or not username.isprintable():
        raise InvalidOption("the user name must not be empty or have colons or control characters in it")
    if not secret or not secret.isprintable():
        raise InvalidOption("the password must not be empty or have control characters in it")
    return Credentials(username, secret)
