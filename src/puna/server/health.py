"""Whether the server is alive, ready, and what it counts."""

import asyncio
import os
from typing import TypedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.server.errors import Refused
from puna.server.http import json_response
from puna.server.routing import route
from puna.server.state import AppState


class Health(TypedDict):
    """The answer of `/healthz` and `/readyz`."""

    status: str


def routes(state: AppState) -> list[Route]:
    """`/healthz`, `/readyz`, and `/metrics` where it is wanted."""

    async def alive(request: Request) -> Response:
        """Whether the process is alive."""
        return json_response(Health(status="ok"))

    async def ready(request: Request) -> Response:
        """Whether requests can be answered."""
        if state.lifecycle.stopping:
            raise Refused(503, "the server is shutting down")
        if not await asyncio.to_thread(_readable, state):
            raise Refused(503, "the model store cannot be read")
        return json_response(Health(status="ok"))

    async def metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        found = state.metrics.exposition()
        if found is None:
            raise Refused(404, "metrics are off")
        return Response(found[0], headers={"content-type": found[1]})

    scrape = [route("/metrics", metrics, "GET", opens="", answer=str)] if state.settings.metrics else []
    return [
        route("/healthz", alive, "GET", opens="", answer=Health),
        route("/readyz", ready, "GET", opens="", answer=Health),
        *scrape,
    ]


def _readable(state: AppState) -> bool:
    """Whether models can be found; a store that has not been made yet is an empty one."""
    try:
        os.listdir(state.library.manifests.folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
