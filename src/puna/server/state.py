"""What every route works with."""

from dataclasses import dataclass

from puna.errors import PunaError
from puna.server.errors import ErrorAnswer, error_answer
from puna.server.http import BodyLimits
from puna.server.metrics import Metrics
from puna.settings import ServerSettings
from puna.store.library import Library


@dataclass(frozen=True, slots=True)
class AppState:
    """The parts of a running server.

    Attributes:
        version: of Ollama, as clients are told.
        hidden: folders of this machine that no answer may name.
    """

    settings: ServerSettings
    library: Library
    metrics: Metrics
    version: str
    hidden: tuple[str, ...] = ()

    @property
    def limits(self) -> BodyLimits:
        """What a request's body may be."""
        return BodyLimits(self.settings.max_body, self.settings.body_timeout)

    def explain(self, error: PunaError) -> ErrorAnswer:
        """The answer to a request that failed so; it is counted."""
        answer = error_answer(error, self.hidden)
        self.metrics.error(answer.kind)
        return answer
