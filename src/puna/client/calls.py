"""Requests as plain data: what is sent for each method of the clients."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from puna.client.arguments import (
    ChatArguments,
    CreateArguments,
    EmbedArguments,
    GenerateArguments,
    GivenAdapter,
    GivenMessage,
    Image,
)
from puna.client.replies import (
    ChatReply,
    DetokenizeReply,
    EmbedReply,
    GenerateReply,
    ListReply,
    Message,
    Nothing,
    ProgressReply,
    RunningReply,
    ShowReply,
    TokenizeReply,
    VersionReply,
)
from puna.errors import InvalidOption

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Call(Generic[Reply]):
    """A request.

    Attributes:
        path: below the server's address.
        reply: the type of the answer, or of each line of a stream.
        body: the document that is sent; None sends none.
    """

    method: str
    path: str
    reply: type[Reply]
    body: Mapping[str, Any] | None = None

    def content(self, stream: bool | None = None) -> bytes:
        """The body in JSON.

        Args:
            stream: whether the answer is wanted piece by piece; None where there is no choice.

        Raises:
            InvalidOption: something in it cannot be written in JSON.
        """
        if self.body is None:
            return b""
        extra = {} if stream is None else {"stream": stream}
        try:
            return msgspec.json.encode({**self.body, **extra})
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidOption(f"the request cannot be written in JSON: {str(error)[:200]}") from error


def generate(model: str, prompt: str, arguments: GenerateArguments) -> Call[GenerateReply]:
    """A prompt to go on with, or with an empty one a model to load. Raises: TypeError, InvalidOption."""
    given = _given_for_answer(arguments, GenerateArguments)
    if "images" in given:
        given["images"] = [encoded_image(image) for image in given["images"]]
    return Call("POST", "/api/generate", GenerateReply, {"model": model, "prompt": prompt, **given})


def unload(model: str, *, force: bool) -> Call[GenerateReply]:
    """A model to take out of memory."""
    body = {"model": model, "keep_alive": 0, **({"force": True} if force else {})}
    return Call("POST", "/api/generate", GenerateReply, body)


def chat(model: str, messages: Sequence[GivenMessage], arguments: ChatArguments) -> Call[ChatReply]:
    """A conversation to go on with. Raises: TypeError, InvalidOption."""
    given = _given_for_answer(arguments, ChatArguments)
    document = [message_document(message) for message in messages]
    return Call("POST", "/api/chat", ChatReply, {"model": model, "messages": document, **given})


def embed(model: str, input: str | Sequence[str], arguments: EmbedArguments) -> Call[EmbedReply]:
    """Texts to make vectors of. Raises: TypeError."""
    given = _given(arguments, EmbedArguments)
    texts = input if isinstance(input, str) else list(input)
    return Call("POST", "/api/embed", EmbedReply, {"model": model, "input": texts, **given})


def tokenize(model: str, text: str) -> Call[TokenizeReply]:
    """A text to make tokens of."""
    return Call("POST", "/api/tokenize", TokenizeReply, {"model": model, "content": text})


def detokenize(model: str, tokens: Sequence[int]) -> Call[DetokenizeReply]:
    """Tokens to make a text of."""
    return Call("POST", "/api/detokenize", DetokenizeReply, {"model": model, "tokens": list(tokens)})


def list_models() -> Call[ListReply]:
    """The models there are."""
    return Call("GET", "/api/tags", ListReply)


def running() -> Call[RunningReply]:
    """The models in memory."""
    return Call("GET", "/api/ps", RunningReply)


def show(model: str, *, verbose: bool) -> Call[ShowReply]:
    """What there is to say of a model."""
    return Call("POST", "/api/show", ShowReply, {"model": model, "verbose": verbose})


def create(model: str, arguments: CreateArguments) -> Call[ProgressReply]:
    """A model to make. Raises: TypeError, InvalidOption."""
    given = _given(arguments, CreateArguments)
    if "from_" in given:
        given["from"] = given.pop("from_")
    if "messages" in given:
        given["messages"] = [message_document(message) for message in given["messages"]]
    return Call("POST", "/api/create", ProgressReply, {"model": model, **given})


def copy(source: str, destination: str) -> Call[Nothing]:
    """A model to give another name."""
    return Call("POST", "/api/copy", Nothing, {"source": source, "destination": destination})


def delete(model: str) -> Call[Nothing]:
    """A model to remove."""
    return Call("DELETE", "/api/delete", Nothing, {"model": model})


def pull(model: str, *, insecure: bool) -> Call[ProgressReply]:
    """A model to fetch."""
    return Call("POST", "/api/pull", ProgressReply, {"model": model, "insecure": insecure})


def push(model: str, *, insecure: bool) -> Call[ProgressReply]:
    """A model to send to its registry."""
    return Call("POST", "/api/push", ProgressReply, {"model": model, "insecure": insecure})


def blob(method: str, digest: str) -> Call[Nothing]:
    """A blob, to ask for or to send."""
    return Call(method, f"/api/blobs/{quote(digest, safe=':')}", Nothing)


def version() -> Call[VersionReply]:
    """The server's version."""
    return Call("GET", "/api/version", VersionReply)


def cancel(request_id: str) -> Call[Nothing]:
    """A request to end."""
    return Call("DELETE", f"/api/requests/{quote(request_id, safe='')}", Nothing)


def encoded_image(image: Image) -> str:
    """The picture in base64. Raises: InvalidOption: its file cannot be read, or it is no picture at all."""
    if isinstance(image, bytes):
        return base64.b64encode(image).decode()
    if not isinstance(image, str | Path):
        raise InvalidOption(f"a picture is bytes, a path or base64, not {type(image).__name__}")
    if is_path(image):
        return base64.b64encode(_content(image)).decode()
    try:
        base64.b64decode(str(image), validate=True)
    except ValueError as error:
        raise InvalidOption("a picture is neither the path of a file nor base64") from error
    return str(image)


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidOption(f"cannot read the picture {str(path)[:100]!r}: {error.strerror}") from error


def is_path(image: Path | str) -> bool:
    """Whether a picture is given by its path. Base64 is longer than paths can be, or no file's name."""
    if isinstance(image, Path):
        return True
    return len(image) < 4096 and "\0" not in image and Path(image).is_file()


def message_document(message: GivenMessage) -> dict[str, Any]:
    """The message as it is sent. Raises: InvalidOption: a picture's file cannot be read."""
    document = message_fields(message)
    if document.get("images"):
        document["images"] = [encoded_image(image) for image in document["images"]]
    return document


def message_fields(message: GivenMessage) -> dict[str, Any]:
    """The message's fields by name. Raises: InvalidOption: it is neither a message nor a mapping."""
    if isinstance(message, Message):
        fields: dict[str, Any] = msgspec.to_builtins(message)
        return fields
    if not isinstance(message, Mapping):
        raise InvalidOption(f"a message must be a Message or a mapping, not {type(message).__name__}")
    return dict(message)


def _given(arguments: Any, known: Any) -> dict[str, Any]:
    """Those of the arguments that say something. Raises: TypeError for one that there is not."""
    check_names(arguments, known)
    return {name: value for name, value in arguments.items() if value is not None}


def _given_for_answer(arguments: Any, known: Any) -> dict[str, Any]:
    given = _given(arguments, known)
    if "grammar" in given and not isinstance(given["grammar"], Mapping):
        given["grammar"] = given["grammar"].document
    if "adapters" in given:
        given["adapters"] = adapter_documents(given["adapters"])
    return given


def adapter_documents(adapters: Sequence[GivenAdapter]) -> list[dict[str, Any]]:
    """The adapters as they are sent. Raises: InvalidOption: one is neither a name nor a mapping."""
    wrong = next((one for one in adapters if not isinstance(one, str | Mapping)), None)
    if isinstance(adapters, str) or wrong is not None:
        raise InvalidOption("adapters must be a list of names, or of mappings with a name and a scale")
    return [{"name": one} if isinstance(one, str) else dict(one) for one in adapters]


def check_names(arguments: Mapping[str, Any], known: Any) -> None:
    """Raises TypeError for an argument that its TypedDict does not know."""
    unknown = next((name for name in arguments if name not in known.__optional_keys__), None)
    if unknown is not None:
        raise TypeError(f"unexpected argument {unknown!r}")
