"""Whether the server is alive, ready, and what it counts."""

import asyncio
import os

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.server.errors import Refused
from puna.server.http import json_response
from puna.server.routing import route
from puna.server.state import AppState


def routes(state: AppState) -> list[Route]:
    """`/healthz`, `/readyz`, and `/metrics` where it is wanted."""

    async def alive(request: Request) -> Response:
        return json_response({"status": "ok"})

    async def ready(request: Request) -> Response:
        if state.lifecycle.stopping:
            raise Refused(503, "the server is shutting down")
        if not await asyncio.to_thread(_readable, state):
            raise Refused(503, "the model store cannot be read")
        return json_response({"status": "ok"})

    async def metrics(request: Request) -> Response:
        found = state.metrics.exposition()
        if found is None:
            raise Refused(404, "metrics are off")
        return Response(found[0], headers={"content-type": found[1]})

    scrape = [route("/metrics", metrics, "GET", opens="")] if state.settings.metrics else []
    return [route("/healthz", alive, "GET", opens=""), route("/readyz", ready, "GET", opens=""), *scrape]


def _readable(state: AppState) -> bool:
    """Whether models can be found; a store that has not been made yet is an empty one."""
    try:
        os.listdir(state.library.manifests.folder)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
