"""Running the server: the socket, its limits, signals and the end."""

import asyncio
import errno
import logging
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from puna.errors import InvalidOption, PunaError
from puna.options import ServerSettings
from puna.server.middleware.hosts import is_loopback
from puna.server.protocol import ConnectionLimits, LimitedConfig, Refusal

logger = logging.getLogger("puna.server")

_BACKLOG = 2048


def check_exposure(settings: ServerSettings) -> None:
    """Raises InvalidOption where a network could reach a server that asks nobody for a key."""
    host = settings.listen.host
    if settings.api_keys or settings.insecure_no_keys or is_loopback(host):
        return
    raise InvalidOption(
        f"listening on {host or 'every address'} would let anyone who reaches it use and change the models:"
        " set API keys (PUNA_API_KEYS, or --api-key-file), or allow it with --insecure-no-keys"
    )


def bind(settings: ServerSettings) -> socket.socket:
    """The socket that the server listens on.

    Raises:
        InvalidOption: the address cannot be resolved.
        PunaError: it is taken, or not this machine's.
    """
    host, port = settings.listen.host, settings.listen.port
    where = f"{host or '*'}:{port}"
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InvalidOption(f"cannot listen on {where}: there is no such address") from error
    family, kind, protocol, _, address = _preferred(found, every=not host)
    # With its protocol: asyncio has small pieces sent at once (TCP_NODELAY) only where it sees TCP.
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `::` and every address mean those of IPv4 too.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PunaError(f"cannot listen on {where}: {_reason(error)}") from error
    return listener


def address_of(listener: socket.socket, settings: ServerSettings) -> str:
    """The URL at which the server can be reached."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def serve(server: "Server", listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM comes and running requests have ended, or their time is over.

    A second signal ends the process at once.
    """
    _raise_open_files(server.connections)
    asyncio.run(server.serve([listener]))


def make_server(
    app: ASGIApp,
    settings: ServerSettings,
    stopping: Callable[[], None],
    ready: Callable[[], None],
    refusal: Refusal,
) -> "Server":
    """A server that is not running yet.

    Args:
        stopping: called when it is told to stop.
        ready: called when it answers.
        refusal: the answer to a head that never gets to the application.

    Raises:
        InvalidOption: the certificate or its key cannot be used.
    """
    config = LimitedConfig(
        app,
        ConnectionLimits(
            head_seconds=settings.header_timeout,
            idle_seconds=settings.idle_timeout,
            write_seconds=settings.write_timeout,
            connections=settings.max_connections,
        ),
        refusal,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InvalidOption(
            f"the TLS certificate {settings.tls_cert} and key {settings.tls_key} cannot be used:"
            f" {error.strerror or error}"
        ) from error
    return Server(config, stopping, ready)


class Server(uvicorn.Server):
    """uvicorn's server with Puna's manners at the end."""

    def __init__(
        self, config: LimitedConfig, stopping: Callable[[], None], ready: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.connections = config.limits.connections
        self._stopping = stopping
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop at the first signal, end at the second; the program's exit status is its own affair."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `capture_signals`."""
        if self.should_exit:
            sys.stderr.flush()
            os._exit(128 + sig)
        self.stop()

    def stop(self) -> None:
        """Answer nothing new, and end when what runs has ended."""
        self._stopping()
        self.should_exit = True


def _preferred(found: list[Any], *, every: bool) -> Any:
    """IPv6 for every address, as it takes IPv4's calls too; else what the system names first."""
    if every and socket.has_dualstack_ipv6():
        return next((entry for entry in found if entry[0] == socket.AF_INET6), found[0])
    return found[0]


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use; is another server running? choose another with --host or PUNA_HOST"
    if error.errno == errno.EADDRNOTAVAIL:
        return "it is no address of this machine"
    if error.errno == errno.EACCES:
        return "ports below 1024 need privileges"
    return error.strerror or str(error)


def _raise_open_files(connections: int) -> None:
    """Allow the process as many open files as the connections and models need, if the system lets it."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + 1024
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
