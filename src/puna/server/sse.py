"""Answers as server-sent events, for dialects that stream so (WHATWG HTML, section 9.2)."""

from collections.abc import AsyncGenerator, Callable

import msgspec
from starlette.responses import Response

from puna.server.errors import ErrorAnswer
from puna.server.http import Explain, Framing, Item, StreamedAnswer

EVENT_STREAM = "text/event-stream; charset=utf-8"

_encode = msgspec.json.Encoder().encode


def sse_event(data: object, name: str = "") -> bytes:
    """One event. JSON has no line breaks, so its data is one line; bytes are taken as they are.

    Args:
        name: the event's type; without one it is a plain message.
    """
    content = data if isinstance(data, bytes) else _encode(data)
    head = f"event: {name}\n".encode() if name else b""
    return b"%sdata: %s\n\n" % (head, content)


def stream_sse(
    events: AsyncGenerator[bytes, None],
    explain: Explain,
    *,
    refusal: Callable[[ErrorAnswer], Response],
    failure: Callable[[ErrorAnswer], bytes],
) -> Response:
    """A stream of events, each sent when it comes; see `puna.server.http.stream_ndjson`.

    Args:
        events: as `sse_event` makes them.
        refusal: the answer where an error comes before the first event.
        failure: the events that tell of a later error, the stream's last.
    """
    response = StreamedAnswer(events, explain, Framing(EVENT_STREAM, _whole, refusal, failure))
    # Proxies are not to collect what is meant to come piece by piece.
    response.headers.update({"cache-control": "no-cache", "x-accel-buffering": "no"})
    return response


def _whole(item: Item) -> bytes:
    return item if isinstance(item, bytes) else sse_event(item)
