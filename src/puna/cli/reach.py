"""Which server the command line works with, if any."""

import socket
from typing import TYPE_CHECKING, Literal

import click

from puna import __version__
from puna.cli import terminal
from puna.client.address import configured_address, is_this_machine
from puna.errors import InvalidOption, PunaError, ServerUnreachable
from puna.options import OLLAMA_VERSION
from puna.variables import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from puna.client import Client

# On this machine a port that nobody listens at refuses at once.
_LOOPBACK_SECONDS = 0.1
_ANSWER_SECONDS = 2.0

Where = Literal["auto", "server", "local"]
"""Whether a server is used if it answers, must be used, or must not be."""


def where_options(command: "Callable[..., Any]") -> "Callable[..., Any]":
    """Adds `--server` and `--local` to a command, which gets them as `where`."""
    server = click.option(
        "--server", "where", flag_value="server", help="Only through the server at PUNA_HOST."
    )
    local = click.option(
        "--local", "where", flag_value="local", default="auto", help="Only on this machine, without a server."
    )
    return server(local(command))


def managing_server(where: Where) -> "Client | None":
    """The server to manage models through: one on another machine, or the one asked for; None for the store.

    Nothing is asked of the network: a server on this machine and its command line may share a store.

    Raises:
        InvalidOption: the configured address is none.
    """
    if where == "local" or (where == "auto" and is_this_machine(configured_address())):
        return None
    return _client()


def running_server(where: Where) -> "Client | None":
    """The server to run models on; None to run them in this process.

    Raises:
        InvalidOption: the configured address is none.
        ServerUnreachable: a server is asked for, or configured on another machine, and does not answer.
    """
    if where == "local":
        return None
    address = configured_address()
    if where == "auto" and is_this_machine(address) and not is_listening(address):
        return None
    try:
        with _client(_ANSWER_SECONDS) as asked:
            asked.version()
    except ServerUnreachable as error:
        if where == "server" or not is_this_machine(address):
            raise
        terminal.complain("Warning", f"{error}; the model runs without a server")
        return None
    return _client()


def neighbouring_server(where: Where) -> "Client | None":
    """A server on this machine that listens, and so may have models of the store in memory; else None.

    Raises:
        InvalidOption: the configured address is none.
    """
    address = configured_address()
    if where != "auto" or not is_this_machine(address) or not is_listening(address):
        return None
    return _client(_ANSWER_SECONDS)


def required_server() -> "Client":
    """The server, for commands that are about it. Raises: InvalidOption: its address is none."""
    return _client()


def other_version() -> str:
    """The version of the server that answers, if it is no Puna of this version; empty if none does."""
    try:
        address = configured_address()
        if is_this_machine(address) and not is_listening(address):
            return ""
        with _client(_ANSWER_SECONDS) as client:
            version = client.version()
    except PunaError:
        return ""
    return "" if version in (__version__, OLLAMA_VERSION) else version


def is_listening(address: Endpoint) -> bool:
    """Whether something on this machine takes connections there."""
    # By number, for looking a name up imports what takes longer than the connection.
    host = "127.0.0.1" if address.host.lower() == "localhost" else address.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.settimeout(_LOOPBACK_SECONDS)
            probe.connect((host, address.port))
            return True
    except OSError:
        return False


def without_server(client: "Client", where: Where, why: str) -> None:
    """Close the client: no server can do what is wanted. Raises: InvalidOption: but one is asked for."""
    client.close()
    if where == "server" or not is_this_machine(configured_address()):
        raise InvalidOption(f"{why}; say --local to run without one")


def _client(timeout: float | None = None) -> "Client":
    from puna.client import Client

    return Client(timeout=timeout)
