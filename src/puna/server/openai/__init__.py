"""OpenAI's API, as a presentation of the services; see docs/openai.md."""

from puna.server.openai.errors import error_response

PREFIX = "/v1/"

__all__ = ["PREFIX", "error_response"]
