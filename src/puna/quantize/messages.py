"""What the quantizing process says: one line of JSON each."""

from typing import TypeAlias

import msgspec

from puna.errors import BackendError, FormatError, GGUFError, InvalidOption, PunaError

_KINDS: dict[str, type[PunaError]] = {
    kind.__name__: kind for kind in (BackendError, FormatError, GGUFError, InvalidOption)
}


class Reached(msgspec.Struct, tag="reached", frozen=True):
    """So many bytes of the source are read."""

    bytes: int


class Failed(msgspec.Struct, tag="failed", frozen=True):
    """It cannot be done: the error's class and its text."""

    kind: str
    text: str


Message: TypeAlias = Reached | Failed

decoder = msgspec.json.Decoder(Message)


def line(message: Message) -> bytes:
    """The message as it is sent."""
    return msgspec.json.encode(message) + b"\n"


def failure_of(error: PunaError) -> Failed:
    """The message of an error."""
    return Failed(type(error).__name__, str(error))


def error_of(failed: Failed) -> PunaError:
    """The error of a message."""
    return _KINDS.get(failed.kind, BackendError)(failed.text)
