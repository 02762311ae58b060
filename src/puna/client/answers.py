"""What a server sent, read: replies, lines of streams, and errors as Puna's own."""

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from puna.client.calls import Call
from puna.errors import (
    ContextLengthExceeded,
    InvalidOption,
    MissingCapability,
    ModelNotFound,
    Overloaded,
    PunaError,
    ServerError,
    ServerUnreachable,
    Unauthorized,
)

MAX_LINE = 64 << 20
"""The longest line of a stream, in bytes."""

MAX_REPLY = 1 << 30
"""The longest reply, in bytes."""

_LONGEST_TEXT = 4000
_CONTEXT = re.compile(r"the prompt has (\d{1,18}) tokens, but the context holds (\d{1,18})\b", re.ASCII)
_CAPABILITY = re.compile(r"(?s)(.{0,500}?) ?does not support ([^.]{1,200})(?:\. (.{1,500}))?")
_MISSING = re.compile(r"(?s).{0,500}(not found|file does not exist).{0,500}")

Reply = TypeVar("Reply")


class _Failure(msgspec.Struct):
    """The body of an error, or its line in a stream."""

    error: str | None = None


class Body:
    """The bytes of a reply as they come, within their limit."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, part: bytes) -> None:
        """Take the next bytes. Raises: ServerUnreachable: there are too many."""
        self._size += len(part)
        if self._size > MAX_REPLY:
            raise ServerUnreachable(f"the server's reply is longer than {MAX_REPLY >> 20} MiB")
        self._parts.append(part)

    @property
    def content(self) -> bytes:
        """All of them."""
        return b"".join(self._parts)


class Lines:
    """The lines of a stream, from bytes that come in pieces of any length."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, part: bytes) -> Iterator[bytes]:
        """The lines that these bytes complete. Raises: ServerUnreachable: one is too long."""
        *whole, rest = part.split(b"\n")
        for end in whole:
            line, self._rest = self._rest + end, b""
            if line.strip():
                yield line
        self._rest += rest
        if len(self._rest) > MAX_LINE:
            raise ServerUnreachable(f"a line of the server's reply is longer than {MAX_LINE >> 20} MiB")

    def finish(self) -> Iterator[bytes]:
        """The last line, if it has no end."""
        if self._rest.strip():
            yield self._rest


def read_reply(call: Call[Reply], status: int, headers: Mapping[str, str], content: bytes) -> Reply:
    """The reply to a call. Raises: PunaError: what the server complained of, or what is wrong with it."""
    if status >= 300 or status < 200:
        raise failure(status, headers, content)
    if not content.strip():
        content = b"{}"
    return read_line(call, content)


def read_line(call: Call[Reply], line: bytes) -> Reply:
    """A line of a stream. Raises: PunaError: as `read_reply`."""
    try:
        # An error is looked for only where one may be: decoding twice would cost as much again.
        if b'"error"' in line[:200]:
            text = msgspec.json.decode(line, type=_Failure).error
            if text is not None:
                raise error_of(None, text)
        return msgspec.json.decode(line, type=call.reply)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ServerUnreachable(
            f"the server's reply to {call.path} cannot be understood ({str(error)[:100]}): {line[:100]!r}"
        ) from error


def failure(status: int, headers: Mapping[str, str], content: bytes) -> PunaError:
    """The error that a reply with this status tells of."""
    try:
        text = msgspec.json.decode(content, type=_Failure).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        text = None
    if text is None:
        shown = content.decode("utf-8", "replace").strip()[:100]
        text = f"the server answered with status {status}" + (f": {shown!r}" if shown else "")
    return error_of(status, text, headers.get("retry-after", ""))


def error_of(status: int | None, text: str, retry_after: str = "") -> PunaError:
    """The error of this text, in the class that the same has in process, as far as that can be told.

    Args:
        status: of HTTP; None for an error in the middle of an answer.
        retry_after: the header, in seconds.
    """
    text = text[:_LONGEST_TEXT]
    if match := _CONTEXT.match(text):
        return ContextLengthExceeded(int(match[1]), int(match[2]))
    if status == 503:
        seconds = retry_after if re.fullmatch(r"[0-9]{1,9}", retry_after) else "1"
        return Overloaded(text, int(seconds))
    if status in (401, 403):
        return Unauthorized(text)
    if match := _CAPABILITY.fullmatch(text):
        return MissingCapability(re.split(r"\n|, ", match[2]), match[3] or "", match[1])
    if status == 404 or _MISSING.fullmatch(text):
        return ModelNotFound(text)
    return InvalidOption(text) if status == 400 else ServerError(status, text)
