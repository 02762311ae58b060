"""Starting the server for a user: log, checks, socket, a clean store, and a line that says where it is."""

import logging
import threading
from collections.abc import Callable

from puna.errors import PunaError
from puna.humanize import bytes_text
from puna.options import ServerSettings
from puna.server.app import build_app, build_state
from puna.server.logs import configure, facts
from puna.server.run import address_of, bind, check_exposure, make_server, serve
from puna.store.library import Library

logger = logging.getLogger("puna.server")

_PRUNE_GRACE = 3600.0


def run(settings: ServerSettings, library: Library, say: Callable[[str], None]) -> None:
    """Serve `library` until the process is told to stop.

    Args:
        say: told the line with the address, when the server answers.

    Raises:
        InvalidOption: the settings do not go together.
        PunaError: the address cannot be had.
    """
    configure(settings.log_level, settings.log_format)
    for warning in settings.warnings:
        logger.warning(warning)
    check_exposure(settings)
    listener = bind(settings)
    address = address_of(listener, settings)
    state = build_state(settings, library)

    def ready() -> None:
        say(f"Puna is listening on {address}")
        if not library.keep_unused:
            threading.Thread(target=_prune, args=(library,), name="prune", daemon=True).start()

    def stopping() -> None:
        state.lifecycle.stopping = True

    serve(make_server(build_app(state), settings, stopping, ready, state.error_response), listener)


def _prune(library: Library) -> None:
    """Delete what nobody needs and nobody has touched for an hour, as Ollama does when it starts."""
    try:
        removal = library.prune(_PRUNE_GRACE)
    except PunaError as error:
        logger.warning("unused files are kept", extra=facts(error=error))
        return
    if removal.blobs or removal.files:
        logger.info(
            "unused files deleted",
            extra=facts(blobs=removal.blobs, files=removal.files, size=bytes_text(removal.size)),
        )
    if removal.kept:
        logger.warning("unused files are kept", extra=facts(error=removal.kept))
