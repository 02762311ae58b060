"""Who a request comes from."""

from dataclasses import dataclass

from starlette.requests import Request

_PLACE = "puna.caller"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a request comes from.

    Attributes:
        id: the request's.
        key: the name of the key that it came with; empty where keys are not asked for.
        may_manage: it may end requests of others.
    """

    id: str = ""
    key: str = ""
    may_manage: bool = True


def caller_of(request: Request) -> Caller:
    """Who the request comes from."""
    found = request.scope.get(_PLACE)
    return found if isinstance(found, Caller) else Caller()
