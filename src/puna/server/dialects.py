"""Which dialect a request speaks, where two have the same path."""

from starlette.routing import Match
from starlette.types import Scope

from puna.server.middleware.headers import values
from puna.server.routing import DescribedRoute

ANTHROPIC = "/v1/messages"
_SHARED = "/v1/"


def speaks_anthropic(scope: Scope) -> bool:
    """Whether a request is one of Anthropic's clients: all of them say which version they know."""
    return bool(values(scope, b"anthropic-version"))


def dialect_path(scope: Scope) -> str:
    """The path that tells the dialect: the request's own, or Anthropic's where its headers say so."""
    path: str = scope["path"]
    return ANTHROPIC if path.startswith(_SHARED) and speaks_anthropic(scope) else path


class SpokenRoute(DescribedRoute):
    """A route for Anthropic's clients only; others go to the next one."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether it is for a request."""
        if scope["type"] == "http" and not speaks_anthropic(scope):
            return Match.NONE, {}
        return super().matches(scope)
