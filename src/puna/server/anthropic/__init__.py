"""Anthropic's API, as a presentation of the services; see docs/anthropic.md."""

from puna.server.anthropic.errors import ErrorDocument, error_response

PREFIX = "/v1/messages"

__all__ = ["PREFIX", "ErrorDocument", "error_response"]
