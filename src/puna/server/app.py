"""The composition root: which parts make the server."""

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from puna import settings as environment
from puna.errors import PunaError
from puna.options import FILE, ServerSettings
from puna.runner.protocol import Stepped
from puna.runner.starter import Starter
from puna.scheduler.scheduler import RunningModel, Scheduler
from puna.scheduler.state import ModelSource, SchedulerOptions
from puna.server import anthropic, health, openai, openapi
from puna.server.anthropic import routes as anthropic_routes
from puna.server.errors import ErrorAnswer
from puna.server.http import ErrorDocument
from puna.server.logs import facts
from puna.server.metrics import Load, Metrics, ModelMemory
from puna.server.middleware.hosts import Hosts, host_rules, machine_names
from puna.server.middleware.keys import Keys
from puna.server.middleware.origins import Origins, origin_rules
from puna.server.middleware.requests import Requests, request_id
from puna.server.native import inference, models
from puna.server.state import AppState
from puna.services.inference import Inference
from puna.services.limits import Limits
from puna.services.operations import Operations
from puna.services.responses import Responses
from puna.store.library import Library

logger = logging.getLogger("puna.server")

_DIALECTS = {
    "": openapi.Dialect("native", ErrorDocument),
    openai.PREFIX: openapi.Dialect("openai", openai.ErrorDocument, openai.StrictQuery, openai.END),
    anthropic.PREFIX: openapi.Dialect("anthropic", anthropic.ErrorDocument),
}


def build_state(settings: ServerSettings, library: Library) -> AppState:
    """The parts that routes work with."""
    metrics = _metrics(settings)
    starter = Starter(
        memory=settings.runner_memory or None,
        step_timeout=_finite(settings.step_timeout),
        plan_timeout=_finite(settings.load_timeout),
    )
    scheduler = Scheduler(
        _scheduling(settings),
        start=starter.start,
        plan=starter.plan,
        expect=starter.expect,
        ready=partial(_count_model, metrics),
    )
    metrics.watch(partial(_load_of, scheduler))
    return AppState(
        settings=settings,
        library=library,
        scheduler=scheduler,
        starter=starter,
        inference=Inference(library, scheduler, limits_of(settings), metrics),
        metrics=metrics,
        operations=Operations(settings.max_transfers),
        responses=Responses(library.responses if settings.responses == FILE else None),
        hidden=(str(library.root), *environment.private_folders()),
        envelopes={openai.PREFIX: openai.error_response, anthropic.PREFIX: anthropic.error_response},
    )


def build_app(state: AppState) -> Starlette:
    """The application: every route, behind what each request goes through."""
    settings = state.settings
    app = Starlette(
        routes=[
            openapi.description_route(_DIALECTS, keys=bool(settings.api_keys)),
            *models.routes(state),
            *health.routes(state),
            *inference.routes(state),
            *anthropic_routes.routes(state),
            *openai.routes(state),
        ],
        middleware=[
            Middleware(Requests, state),
            Middleware(Hosts, state, host_rules(settings, machine_names())),
            Middleware(Origins, state, origin_rules(settings.origins)),
            Middleware(Keys, state),
        ],
        exception_handlers={PunaError: _puna_error, HTTPException: _http_error},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.puna = state
    return app


def _scheduling(settings: ServerSettings) -> SchedulerOptions:
    """What the settings say of models in memory."""
    return SchedulerOptions(
        max_loaded=settings.max_loaded_models,
        max_queue=settings.max_queue,
        keep_alive=settings.keep_alive,
        load_timeout=_finite(settings.load_timeout),
        num_parallel=settings.num_parallel,
        context_length=settings.context_length or None,
        kv_cache_type=settings.kv_cache_type,
        gpu_overhead=settings.gpu_overhead,
        spread=settings.sched_spread,
        max_keep_alive=_finite(settings.max_keep_alive),
        max_ctx=settings.max_ctx or None,
    )


def limits_of(settings: ServerSettings) -> Limits:
    """What the settings say of a request."""
    return Limits(
        messages=settings.max_messages,
        images=settings.max_images,
        stops=settings.max_stops,
        stop_length=settings.max_stop_length,
        inputs=settings.max_inputs,
        opened=settings.max_opened_models,
        opened_bytes=settings.max_opened_bytes,
        threads=settings.prompt_threads,
    )


def _finite(seconds: float) -> float | None:
    """The time, or None for ever."""
    return None if math.isinf(seconds) else seconds


def _count_model(metrics: Metrics, source: ModelSource, runner: RunningModel, seconds: float) -> None:
    """From now on the model's steps count, until its process ends."""
    metrics.loaded(source.name, seconds)
    runner.on_step = partial(_count_step, metrics, source.name)
    runner.died.add_done_callback(lambda _: metrics.unloaded(source.name))


def _count_step(metrics: Metrics, model: str, step: Stepped) -> None:
    if step.seconds:  # else it only tells of a request that was refused
        metrics.step(
            model,
            sequences=step.sequences,
            waiting=step.waiting,
            tokens=step.tokens,
            cells=step.cells,
            seconds=step.seconds,
        )


def _load_of(scheduler: Scheduler) -> Load:
    models = (ModelMemory(model.name, model.size, model.gpu_size) for model in scheduler.loaded())
    return Load(scheduler.queued, tuple(models))


def _metrics(settings: ServerSettings) -> Metrics:
    if not settings.metrics:
        return Metrics()
    from puna.server.prometheus import PrometheusMetrics

    return PrometheusMetrics()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    state: AppState = app.state.puna
    yield
    state.operations.close()
    await state.scheduler.close(0.0)
    await state.starter.close()
    await state.inference.close()
    await asyncio.to_thread(state.responses.close)


async def _puna_error(request: Request, error: Exception) -> Response:
    state: AppState = request.app.state.puna
    answer = state.explain(cast(PunaError, error))
    if answer.status >= 500:
        logger.warning("a request failed", extra=facts(request_id=request_id(request), error=error))
    return state.error_response(request.scope, answer)


async def _http_error(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses, in Ollama's words."""
    refusal = cast(HTTPException, error)
    status, headers = refusal.status_code, refusal.headers or {}
    texts = {404: "404 page not found", 405: "405 method not allowed"}
    text = texts.get(status, refusal.detail)
    state: AppState = request.app.state.puna
    if state.envelope(request.scope) is None:
        return PlainTextResponse(text, status, headers)
    return state.error_response(request.scope, ErrorAnswer(status, text, "NoRoute", headers))
