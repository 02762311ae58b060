"""What every route works with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from starlette.responses import Response
from starlette.types import Scope

from puna.errors import PunaError
from puna.options import ServerSettings
from puna.runner.starter import Starter
from puna.scheduler.scheduler import Scheduler
from puna.server.dialects import dialect_path
from puna.server.errors import ErrorAnswer, error_answer
from puna.server.http import BodyLimits, error_response
from puna.server.metrics import Metrics
from puna.services.inference import Inference
from puna.services.operations import Operations
from puna.services.responses import Responses
from puna.store.library import Library

Envelope = Callable[[ErrorAnswer], Response]
"""How a dialect tells an error."""


@dataclass(slots=True)
class Lifecycle:
    """How far the server's life is.

    Attributes:
        stopping: it has been told to stop, and only finishes what it has begun.
    """

    stopping: bool = False


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts of a running server.

    Attributes:
        starter: starts the scheduler's runners.
        operations: pulls, pushes and creations under way.
        responses: answers that are kept for their clients.
        hidden: folders of this machine that no answer may name.
        envelopes: how errors are told under a path, for dialects other than the native one.
    """

    settings: ServerSettings
    library: Library
    scheduler: Scheduler
    starter: Starter
    inference: Inference
    metrics: Metrics = field(default_factory=Metrics)
    operations: Operations = field(default_factory=lambda: Operations(ServerSettings().max_transfers))
    responses: Responses = field(default_factory=Responses)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)
    hidden: tuple[str, ...] = ()
    envelopes: Mapping[str, Envelope] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The version of Ollama that clients are told."""
        return self.settings.api_version

    @property
    def limits(self) -> BodyLimits:
        """What a request's body may be."""
        return BodyLimits(self.settings.max_body, self.settings.body_timeout)

    def explain(self, error: PunaError) -> ErrorAnswer:
        """The answer to a request that failed so; it is counted."""
        answer = error_answer(error, self.hidden)
        self.metrics.error(answer.kind)
        return answer

    def envelope(self, scope: Scope) -> Envelope | None:
        """How the dialect that a request speaks tells errors; None for the native one."""
        path = dialect_path(scope)
        found = [prefix for prefix in self.envelopes if path.startswith(prefix)]
        return self.envelopes[max(found, key=len)] if found else None

    def error_response(self, scope: Scope, answer: ErrorAnswer) -> Response:
        """The error as the dialect that the request speaks tells it."""
        named = replace(answer, request_id=scope["state"].get("request_id", ""))
        return (self.envelope(scope) or error_response)(named)
