"""Requests and answers on the wire: bodies within limits, JSON by Go's rules, streams of JSON lines.

Ollama's clients were written against Go's `encoding/json`: keys match in any case, unknown ones are passed
over, null leaves a field as it is, and the content type says nothing.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from puna import gojson
from puna.errors import PunaError
from puna.server.errors import INTERNAL, STOPPING, ClientGone, ErrorAnswer, Refused

logger = logging.getLogger("puna.server")

JSON = "application/json; charset=utf-8"
NDJSON = "application/x-ndjson"
MAX_DEPTH = 256
"""How deep arrays and objects of a body may lie in each other."""
MAX_VALUES = 2_000_000
"""Most commas and opening brackets of a body, so that a small body does not become a large heap."""

_LAST_WORDS_SECONDS = 1.0
# Where msgspec says that a wrong value is: the field of the whole document that it is in.
_PLACE = re.compile(r"at `\$\.(\w{1,100})", re.ASCII)

T = TypeVar("T")

Item: TypeAlias = bytes | msgspec.Struct | Mapping[str, Any]
"""A document of a stream; bytes are one that is encoded already, without its newline."""

Explain: TypeAlias = Callable[[PunaError], ErrorAnswer]
"""What to answer to an error; see `AppState.explain`."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a request's body may be.

    Attributes:
        size: bytes.
        seconds: for the whole of it to come.
    """

    size: int = 100 << 20
    seconds: float = 300.0


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """The request's body, of which no more is taken in than may be.

    Raises:
        Refused: 413 for a longer one, 408 for one that does not end in time, 415 for a compressed one.
        ClientGone: the client closed the connection.
    """
    if request.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise Refused(415, "compressed request bodies are not supported", {"Connection": "close"})
    length = request.headers.get("content-length", "0")
    too_long = Refused(
        413, f"request body too large: the limit is {limits.size} bytes", {"Connection": "close"}
    )
    if len(length) > 19 or int(length) > limits.size:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.size:
                    raise too_long
    except TimeoutError as error:
        raise Refused(408, "the request body did not come in time", {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise ClientGone from error
    return bytes(body)


async def read_json(request: Request, kind: type[T], limits: BodyLimits) -> T:
    """The request's body as a `kind`; see `read_body` and `decode_json`. Raises: Refused, ClientGone."""
    return decode_json(await read_body(request, limits), kind)


def decode_json(content: bytes, kind: type[T]) -> T:
    """The one JSON document in `content`, by Go's rules for the keys that the Structs in `kind` declare.

    Free-form values (`Any`, `dict[str, Any]`, unions of several Structs) stay as they are sent.

    Raises:
        Refused: 400; it is empty, no JSON, too deep, or a value has the wrong type.
    """
    if not content.strip():
        raise Refused(400, "missing request body")
    if content.count(b",") + content.count(b"[") + content.count(b"{") > MAX_VALUES:
        raise Refused(400, f"the request body has more than {MAX_VALUES} values")
    try:
        value = msgspec.json.decode(content)
        check_depth(value)
    except RecursionError as error:
        raise _too_deep() from error
    except UnicodeDecodeError as error:
        raise Refused(400, "invalid JSON: it is not UTF-8") from error
    except msgspec.DecodeError as error:
        raise Refused(400, f"invalid JSON: {str(error).removeprefix('JSON is malformed: ')[:200]}") from error
    return convert_json(value, kind)


def convert_json(value: object, kind: type[T]) -> T:
    """The value of a JSON document as a `kind`; see `decode_json`. Raises: Refused, 400."""
    try:
        return gojson.convert(value, kind)
    except msgspec.ValidationError as error:
        found = _PLACE.search(str(error))
        text = f"invalid request: {str(error).replace('`', '')[:200]}"
        raise Refused(400, text, param=found[1] if found else "") from error


def check_depth(value: object, limit: int = MAX_DEPTH) -> None:
    """Raises Refused when lists and dicts lie more than `limit` deep in each other."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise _too_deep()


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None, *, content_type: str = JSON
) -> Response:
    """The value as a JSON document."""
    return Response(msgspec.json.encode(value), status, headers, content_type)


def error_response(answer: ErrorAnswer) -> Response:
    """The error as the native routes tell it."""
    return json_response({"error": answer.text}, answer.status, answer.headers)


def stream_ndjson(events: AsyncGenerator[Item, None], explain: Explain) -> Response:
    """A stream of JSON lines, each sent when it comes; the next is asked for when the client takes them.

    An error before the first item makes the answer's status; a later one is the stream's last line. The
    generator is closed as soon as the client is gone: by cancellation while it waits, else by `aclose`, so
    one that iterates over another should hold that by `contextlib.aclosing`.
    """
    return StreamedAnswer(events, explain, Framing(NDJSON, _line, error_response, _error_line))


async def last_item(request: Request, events: AsyncGenerator[Item, None]) -> Item:
    """The last item of a stream, for a client that wants no stream.

    Raises:
        ClientGone: the client did not wait for it.
        Exception: what `events` raises.
    """

    async def drained() -> Item:
        last: Item = {}
        async with aclosing(events):
            async for item in events:
                last = item
        return last

    return await while_connected(request.receive, drained())


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; it is cancelled as soon as the client is gone. The body must have been read.

    Raises:
        ClientGone: the client closed the connection before `work` was done.
    """
    task, gone = asyncio.create_task(work), asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@dataclass(frozen=True, slots=True)
class Framing:
    """How a dialect writes a stream.

    Attributes:
        media_type: the content type.
        item: the bytes of one document.
        refusal: the answer where an error comes before the first item.
        failure: the bytes of an error that comes later: the stream's last.
    """

    media_type: str
    item: Callable[[Item], bytes]
    refusal: Callable[[ErrorAnswer], Response]
    failure: Callable[[ErrorAnswer], bytes]


class StreamedAnswer(Response):
    """A stream, each item sent when it comes; see `stream_ndjson`."""

    def __init__(self, events: AsyncGenerator[Item, None], explain: Explain, framing: Framing) -> None:
        super().__init__(media_type=framing.media_type)
        del self.headers["content-length"]
        self._events = events
        self._explain = explain
        self._framing = framing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            await while_connected(receive, self._answer(scope, receive, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            try:
                first = await anext(self._events, None)
            except PunaError as error:
                await self._framing.refusal(self._explain(error))(scope, receive, send)
                return
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            last = await self._items(first, send)
        await _send_body(send, last, more=False)

    async def _items(self, item: Item | None, send: Send) -> bytes:
        """Send the items; what is to be said at the end."""
        framing = self._framing
        try:
            while item is not None:
                await _send_body(send, framing.item(item))
                # Where many are ready, others get their turn between two, and a client's leaving is heard.
                await asyncio.sleep(0)
                item = await anext(self._events, None)
        except PunaError as error:
            return framing.failure(self._explain(error))
        except asyncio.CancelledError:
            # Either nobody listens any more, or the server is about to stop.
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    await _send_body(send, framing.failure(STOPPING), more=False)
            raise
        except Exception:  # the status has been sent: this is the last place to tell of a fault
            logger.exception("a stream failed")
            return framing.failure(ErrorAnswer(500, INTERNAL, "internal"))
        return b""


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def _line(item: Item) -> bytes:
    return (item if isinstance(item, bytes) else msgspec.json.encode(item)) + b"\n"


def _error_line(answer: ErrorAnswer) -> bytes:
    return _line({"error": answer.text})


def _too_deep() -> Refused:
    return Refused(400, f"the request body is nested more than {MAX_DEPTH} levels deep")
