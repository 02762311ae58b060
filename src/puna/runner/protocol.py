"""What a server and a runner say to each other, over a pair of sockets.

A message is its length, four bytes, least significant first, and a MessagePack array whose first element
names the kind of message. Each side decodes into the types below, so nothing else than these gets through.
"""

import struct
from typing import Annotated, TypeAlias, TypeGuard

import msgspec

from puna import errors
from puna.engine.events import Event
from puna.engine.options import LoadOptions
from puna.engine.request import AdapterUse, GenerateRequest
from puna.errors import PunaError

LENGTH = struct.Struct("<I")
MAX_MESSAGE = 256 << 20
"""The longest message, in bytes. A prompt of ten million tokens is a fifth of it."""


# What an error carries besides its text is bounded too.
_MAX_VALUES = 16
_LONGEST_VALUE = 4096


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages."""


class Load(_Message, frozen=True):
    """The first message: open this file. With `plan`, only find out what it needs.

    Attributes:
        path: of the GGUF file.
    """

    path: str
    options: LoadOptions
    plan: bool = False


class Resize(_Message, frozen=True):
    """Make the cache anew for other options, the weights stay; only while no request runs."""

    options: LoadOptions


class Generate(_Message, frozen=True):
    """Answer a prompt. `id` is the sender's, and was not used before."""

    id: int
    request: GenerateRequest


class Embed(_Message, frozen=True):
    """Make vectors of texts.

    Attributes:
        inputs: each text's token ids, at least one.
        adapters: what they are made with; None for those that the model was loaded with.
    """

    id: int
    inputs: list[list[int]]
    adapters: tuple[AdapterUse, ...] | None = None


class Cancel(_Message, frozen=True):
    """Nothing more is wanted of this request; it ends within one step. Unknown ids are passed over."""

    id: int


class Stop(_Message, frozen=True):
    """Free everything and end."""


class Device(_Message, frozen=True):
    """What a model takes of one device, in bytes.

    Attributes:
        name: as the compute library calls it.
        gpu: it is not the machine's own memory.
        weights, cache, graph: bytes.
        layers: how many of the model's layers lie there.
        free, total: bytes of the device when the model was loaded; 0 where unknown.
    """

    name: str
    gpu: bool
    weights: int
    cache: int
    graph: int
    layers: int = 0
    free: int = 0
    total: int = 0

    @property
    def size(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.graph


class Loading(_Message, frozen=True):
    """How much of a load is done, 0 to 1."""

    done: float


class Loaded(_Message, frozen=True):
    """The answer to `Load` and `Resize`: the model is ready, or, after a plan, what it would take.

    Attributes:
        num_ctx: tokens of context that one request may have.
        num_parallel: requests that are computed at once.
        devices: what it takes.
        layers: how many layers the model has; the output counts as one, as it does in num_gpu_layers.
    """

    num_ctx: int
    num_parallel: int
    devices: list[Device]
    layers: int = 0

    @property
    def size(self) -> int:
        """Bytes on all devices."""
        return sum(device.size for device in self.devices)

    @property
    def gpu_size(self) -> int:
        """Bytes on other devices than the machine's own memory."""
        return sum(device.size for device in self.devices if device.gpu)


_Value: TypeAlias = bool | int | float | str | tuple[str, ...] | None


class Failure(_Message, frozen=True):
    """Why something failed.

    Attributes:
        kind: the name of a class of `puna.errors`.
        text: its text.
        values: its attributes that are plain values.
    """

    kind: str
    text: str
    values: Annotated[dict[str, _Value], msgspec.Meta(max_length=_MAX_VALUES)] = {}


class LoadFailed(_Message, frozen=True):
    """The answer to `Load` and `Resize`: it is not possible; after `Load` the runner ends."""

    failure: Failure


class Stepped(_Message, frozen=True):
    """What one step of the engine brought.

    Attributes:
        events: pieces and ends of answers, by request; a request that failed ends with a `Failure`.
        tokens: how many the step evaluated.
        sequences: how many requests took part in it.
        waiting: how many wait for room.
        cells: how many cells of the cache are taken.
        seconds: how long the step took.
    """

    events: list[tuple[int, Event | Failure]]
    tokens: int = 0
    sequences: int = 0
    waiting: int = 0
    cells: int = 0
    seconds: float = 0.0


class Embedded(_Message, frozen=True):
    """The answer to `Embed`.

    Attributes:
        vectors: F32 values of each text, least significant byte first; not normalised.
    """

    id: int
    vectors: list[bytes]


ToRunner: TypeAlias = Load | Resize | Generate | Embed | Cancel | Stop
FromRunner: TypeAlias = Loading | Loaded | LoadFailed | Stepped | Embedded

_encoder = msgspec.msgpack.Encoder()
to_runner = msgspec.msgpack.Decoder(ToRunner)
from_runner = msgspec.msgpack.Decoder(FromRunner)


def encode(message: ToRunner | FromRunner) -> bytes:
    """The message with its length before it."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


class Frames:
    """Cuts what comes from a socket, in whatever pieces, into the bodies of messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The bodies that `data` completes, in order.

        Raises:
            PunaError: a message is longer than `MAX_MESSAGE`; nothing after it can be understood.
        """
        self._buffer += data
        bodies, start = [], 0
        while len(self._buffer) >= start + LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer, start)
            if length > MAX_MESSAGE:
                raise PunaError(f"a message of {length} bytes is longer than the {MAX_MESSAGE} it may have")
            end = start + LENGTH.size + length
            if len(self._buffer) < end:
                break
            bodies.append(bytes(self._buffer[start + LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return bodies


def failure_of(error: PunaError) -> Failure:
    """The error as a message."""
    # What only the compute half knows counts as the nearest kind that the other side knows too.
    kind = next(cls.__name__ for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls)
    values = [(name, _cut(value)) for name, value in vars(error).items() if _is_plain(value)]
    return Failure(kind, str(error), dict(values[:_MAX_VALUES]))


def _is_plain(value: object) -> TypeGuard[_Value]:
    if isinstance(value, tuple):
        return all(isinstance(one, str) for one in value)
    if isinstance(value, int):
        return abs(value) < 1 << 63
    return value is None or isinstance(value, float | str)


def _cut(value: _Value) -> _Value:
    if isinstance(value, tuple):
        return tuple(one[:_LONGEST_VALUE] for one in value[:_MAX_VALUES])
    return value[:_LONGEST_VALUE] if isinstance(value, str) else value


def error_of(failure: Failure) -> PunaError:
    """The error that a message tells of."""
    cls = getattr(errors, failure.kind, PunaError)
    known = cls if isinstance(cls, type) and issubclass(cls, PunaError) else PunaError
    # Not through its constructor: some classes take more than a text.
    error = known.__new__(known, failure.text)
    vars(error).update(failure.values)
    return error
