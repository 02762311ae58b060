"""Who a request comes from."""

from dataclasses import dataclass

from starlette.requests import Request

from puna.options import MANAGE, ApiKey
from puna.server.middleware.requests import request_id


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from.

    Attributes:
        id: the request's.
        key: the name of the key that it came with; empty where keys are not asked for.
        may_manage: it may end requests of others.
        owner: whose is what is kept for it: tells keys apart for good, which names need not; empty as `key`.
    """

    id: str
    key: str
    may_manage: bool
    owner: str = ""


def caller_of(request: Request) -> Caller:
    """Who the request comes from."""
    key: ApiKey | None = request.scope["state"].get("key")
    if key is None:
        return Caller(request_id(request), "", True)
    return Caller(request_id(request), key.name, MANAGE in key.scopes, key.digest.hex())
