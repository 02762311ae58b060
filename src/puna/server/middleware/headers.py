"""Headers of an ASGI message."""

from starlette.types import Message, Scope, Send


def values(scope: Scope, name: bytes) -> list[str]:
    """The values of a request's header, in order; `name` in lower case."""
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def adding(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    """A `send` that puts these headers into the answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return sending
