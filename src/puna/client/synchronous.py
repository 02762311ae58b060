"""The client for programs that wait."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Generic, Literal, Self, TypeVar, Unpack, overload

import httpx2

from puna.client import calls
from puna.client.answers import Body, Lines, failure, read_line, read_reply
from puna.client.arguments import (
    ChatArguments,
    CreateArguments,
    EmbedArguments,
    GenerateArguments,
    GivenMessage,
)
from puna.client.calls import Call
from puna.client.connection import Connection, Verify, headers_of
from puna.client.files import digest_of, file_size, pieces_of
from puna.client.replies import (
    ChatReply,
    DetokenizeReply,
    EmbedReply,
    GenerateReply,
    ListReply,
    ProgressReply,
    RunningReply,
    ShowReply,
    TokenizeReply,
)
from puna.errors import ModelNotFound

Reply = TypeVar("Reply")


class Stream(Generic[Reply]):
    """The pieces of an answer as they come: an iterator. Closing it, or leaving its `with`, ends the request.

    Attributes:
        request_id: the server's name for the request, for `Client.cancel`; empty where it gives none.
    """

    def __init__(self, call: Call[Reply], response: httpx2.Response, connection: Connection) -> None:
        self.request_id: str = response.headers.get("x-request-id", "")
        self._response = response
        self._pieces = self._read(call, connection)

    def _read(self, call: Call[Reply], connection: Connection) -> Iterator[Reply]:
        lines = Lines()
        with closing(self._response), connection.errors():
            for part in self._response.iter_bytes():
                for line in lines.feed(part):
                    yield read_line(call, line)
            for line in lines.finish():
                yield read_line(call, line)

    def close(self) -> None:
        """End the request, whether its answer is complete or not. Closing twice is harmless."""
        self._response.close()

    def __iter__(self) -> Iterator[Reply]:
        return self

    def __next__(self) -> Reply:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Client:
    """A client of one server; a context manager. Several threads may use it.

    Methods that take `stream` give a whole reply without it, and with it an iterator over pieces of one.
    All raise `puna.errors`: `ServerUnreachable`, what the server complains of in the class that it has
    in process (`InvalidOption`, `ModelNotFound`, `ContextLengthExceeded`, `MissingCapability`, `Overloaded`,
    `Unauthorized`), or else `ServerError`.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        api_key: str | None = None,
        verify: Verify = True,
        timeout: float | None = None,
    ) -> None:
        """
        Args:
            host: `[scheme://]host[:port][/path]`; None takes `PUNA_HOST`, else `OLLAMA_HOST`, else
                127.0.0.1:11434.
            api_key: is sent as a bearer token; None takes `PUNA_API_KEY`.
            verify: whether the server's certificate is checked, or the file of authorities to check it by.
            timeout: seconds without any byte before the server counts as gone; None waits for ever.

        Raises:
            InvalidOption: the host is no address, or the file no certificates.
        """
        self._connection = Connection.of(host, api_key, verify, timeout)
        self._http = httpx2.Client(**self._connection.arguments())

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.address.url

    @overload
    def generate(
        self,
        model: str,
        prompt: str = "",
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[GenerateArguments],
    ) -> GenerateReply: ...
    @overload
    def generate(
        self, model: str, prompt: str = "", *, stream: Literal[True], **arguments: Unpack[GenerateArguments]
    ) -> Stream[GenerateReply]: ...
    def generate(
        self, model: str, prompt: str = "", *, stream: bool = False, **arguments: Unpack[GenerateArguments]
    ) -> GenerateReply | Stream[GenerateReply]:
        """The model's answer to a prompt. An empty prompt loads it, or with `keep_alive=0` unloads it."""
        return self._answer(calls.generate(model, prompt, arguments), stream)

    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[ChatArguments],
    ) -> ChatReply: ...
    @overload
    def chat(
        self,
        model: str,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: Literal[True],
        **arguments: Unpack[ChatArguments],
    ) -> Stream[ChatReply]: ...
    def chat(
        self,
        model: str,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> ChatReply | Stream[ChatReply]:
        """The model's next message. No messages load it, or with `keep_alive=0` unload it."""
        return self._answer(calls.chat(model, messages, arguments), stream)

    def unload(self, model: str, *, force: bool = False) -> None:
        """Have the server unload a model once nobody uses it.

        Args:
            force: at once, which ends the requests that use it; Ollama's own server passes it over.
        """
        self._answer(calls.unload(model, force=force), stream=False)

    def embed(
        self, model: str, input: str | Sequence[str] = (), **arguments: Unpack[EmbedArguments]
    ) -> EmbedReply:
        """A vector for each text."""
        return self._call(calls.embed(model, input, arguments))

    def tokenize(self, model: str, text: str) -> TokenizeReply:
        """The ids of a text's tokens."""
        return self._call(calls.tokenize(model, text))

    def detokenize(self, model: str, tokens: Sequence[int]) -> DetokenizeReply:
        """The text of tokens."""
        return self._call(calls.detokenize(model, tokens))

    def list(self) -> ListReply:
        """The models that the server has."""
        return self._call(calls.list_models())

    def ps(self) -> RunningReply:
        """The models in its memory."""
        return self._call(calls.running())

    def show(self, model: str, *, verbose: bool = False) -> ShowReply:
        """What there is to say of a model; with `verbose` the arrays of its metadata too."""
        return self._call(calls.show(model, verbose=verbose))

    @overload
    def create(
        self, model: str, *, stream: Literal[False] = False, **arguments: Unpack[CreateArguments]
    ) -> ProgressReply: ...
    @overload
    def create(
        self, model: str, *, stream: Literal[True], **arguments: Unpack[CreateArguments]
    ) -> Stream[ProgressReply]: ...
    def create(
        self, model: str, *, stream: bool = False, **arguments: Unpack[CreateArguments]
    ) -> ProgressReply | Stream[ProgressReply]:
        """Make a model of others, and of blobs that `create_blob` has sent."""
        return self._answer(calls.create(model, arguments), stream)

    def copy(self, source: str, destination: str) -> None:
        """Make `destination` the same model as `source`."""
        self._call(calls.copy(source, destination))

    def delete(self, model: str) -> None:
        """Remove a model."""
        self._call(calls.delete(model))

    @overload
    def pull(
        self, model: str, *, insecure: bool = False, stream: Literal[False] = False
    ) -> ProgressReply: ...
    @overload
    def pull(self, model: str, *, insecure: bool = False, stream: Literal[True]) -> Stream[ProgressReply]: ...
    def pull(
        self, model: str, *, insecure: bool = False, stream: bool = False
    ) -> ProgressReply | Stream[ProgressReply]:
        """Have the server fetch a model.

        Args:
            insecure: allow plain http and private addresses for its registry.
        """
        return self._answer(calls.pull(model, insecure=insecure), stream)

    @overload
    def push(
        self, model: str, *, insecure: bool = False, stream: Literal[False] = False
    ) -> ProgressReply: ...
    @overload
    def push(self, model: str, *, insecure: bool = False, stream: Literal[True]) -> Stream[ProgressReply]: ...
    def push(
        self, model: str, *, insecure: bool = False, stream: bool = False
    ) -> ProgressReply | Stream[ProgressReply]:
        """Have the server send a model to the registry that its name says; `insecure` as in `pull`."""
        return self._answer(calls.push(model, insecure=insecure), stream)

    def create_blob(self, path: Path | str, *, sent: Callable[[int], None] = lambda count: None) -> str:
        """Send a file, unless the server has it already; its digest, for `create`.

        Args:
            sent: told how many bytes were sent since it was told last.

        Raises:
            InvalidOption: the file cannot be read.
        """
        digest = digest_of(Path(path))
        try:
            self._call(calls.blob("HEAD", digest))
        except ModelNotFound:
            size = file_size(Path(path))
            self._send(calls.blob("POST", digest), pieces_of(Path(path), sent), size)
        return digest

    def version(self) -> str:
        """The server's version."""
        return self._call(calls.version()).version

    def cancel(self, request_id: str) -> None:
        """End a request that is being answered; see `Stream.request_id`."""
        self._call(calls.cancel(request_id))

    def _answer(self, call: Call[Reply], stream: bool) -> Reply | Stream[Reply]:
        if stream:
            return self._open(call)
        return self._send(call, call.content(stream=False))

    def _call(self, call: Call[Reply]) -> Reply:
        return self._send(call, call.content())

    def _send(
        self,
        call: Call[Reply],
        content: bytes | Iterator[bytes],
        length: int | None = None,
    ) -> Reply:
        request = self._http.build_request(
            call.method, call.path, content=content, headers=headers_of(call, length)
        )
        with self._connection.errors(), closing(self._http.send(request, stream=True)) as response:
            reply = _whole(response)
        return read_reply(call, response.status_code, response.headers, reply)

    def _open(self, call: Call[Reply]) -> Stream[Reply]:
        request = self._http.build_request(
            call.method, call.path, content=call.content(stream=True), headers=headers_of(call)
        )
        with self._connection.errors():
            response = self._http.send(request, stream=True)
            if response.status_code == 200:
                return Stream(call, response, self._connection)
            with closing(response):
                content = _whole(response)
        raise failure(response.status_code, response.headers, content)

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _whole(response: httpx2.Response) -> bytes:
    """The content of a reply. Raises: ServerUnreachable: it is too long."""
    body = Body()
    for part in response.iter_bytes():
        body.feed(part)
    return body.content
