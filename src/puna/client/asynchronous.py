"""The client for programs that do other things meanwhile (asyncio)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
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


class AsyncStream(Generic[Reply]):
    """The pieces of an answer as they come: an async iterator.

    Closing it, or leaving its `async with`, ends the request.

    Attributes:
        request_id: the server's name for the request, for `AsyncClient.cancel`; empty where it gives none.
    """

    def __init__(self, call: Call[Reply], response: httpx2.Response, connection: Connection) -> None:
        self.request_id: str = response.headers.get("x-request-id", "")
        self._response = response
        self._pieces = self._read(call, connection)

    async def _read(self, call: Call[Reply], connection: Connection) -> AsyncIterator[Reply]:
        lines = Lines()
        with connection.errors():
            async with aclosing(self._response):
                async for part in self._response.aiter_bytes():
                    for line in lines.feed(part):
                        yield read_line(call, line)
        for line in lines.finish():
            yield read_line(call, line)

    async def close(self) -> None:
        """End the request, whether its answer is complete or not. Closing twice is harmless."""
        await self._response.aclose()

    def __aiter__(self) -> AsyncIterator[Reply]:
        return self

    async def __anext__(self) -> Reply:
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class AsyncClient:
    """A client of one server for asyncio; an async context manager. Any number of tasks may use it at once.

    It has the methods of `Client`, each to be awaited. Those that take `stream` give a whole reply without
    it, and with it an async iterator over pieces of one. It belongs to the event loop that first uses it.
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
        self._http = httpx2.AsyncClient(**self._connection.arguments())

    @property
    def url(self) -> str:
        """The server's address."""
        return self._connection.address.url

    @overload
    async def generate(
        self,
        model: str,
        prompt: str = "",
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[GenerateArguments],
    ) -> GenerateReply: ...
    @overload
    async def generate(
        self, model: str, prompt: str = "", *, stream: Literal[True], **arguments: Unpack[GenerateArguments]
    ) -> AsyncStream[GenerateReply]: ...
    async def generate(
        self, model: str, prompt: str = "", *, stream: bool = False, **arguments: Unpack[GenerateArguments]
    ) -> GenerateReply | AsyncStream[GenerateReply]:
        """The model's answer to a prompt. An empty prompt loads it, or with `keep_alive=0` unloads it."""
        return await self._answer(calls.generate(model, prompt, arguments), stream)

    @overload
    async def chat(
        self,
        model: str,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[ChatArguments],
    ) -> ChatReply: ...
    @overload
    async def chat(
        self,
        model: str,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: Literal[True],
        **arguments: Unpack[ChatArguments],
    ) -> AsyncStream[ChatReply]: ...
    async def chat(
        self,
        model: str,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> ChatReply | AsyncStream[ChatReply]:
        """The model's next message. No messages load it, or with `keep_alive=0` unload it."""
        return await self._answer(calls.chat(model, messages, arguments), stream)

    async def unload(self, model: str, *, force: bool = False) -> None:
        """Have the server unload a model once nobody uses it.

        Args:
            force: at once, which ends the requests that use it; Ollama's own server passes it over.
        """
        await self._answer(calls.unload(model, force=force), stream=False)

    async def embed(
        self, model: str, input: str | Sequence[str] = (), **arguments: Unpack[EmbedArguments]
    ) -> EmbedReply:
        """A vector for each text."""
        return await self._call(calls.embed(model, input, arguments))

    async def tokenize(self, model: str, text: str) -> TokenizeReply:
        """The ids of a text's tokens."""
        return await self._call(calls.tokenize(model, text))

    async def detokenize(self, model: str, tokens: Sequence[int]) -> DetokenizeReply:
        """The text of tokens."""
        return await self._call(calls.detokenize(model, tokens))

    async def list(self) -> ListReply:
        """The models that the server has."""
        return await self._call(calls.list_models())

    async def ps(self) -> RunningReply:
        """The models in its memory."""
        return await self._call(calls.running())

    async def show(self, model: str, *, verbose: bool = False) -> ShowReply:
        """What there is to say of a model; with `verbose` the arrays of its metadata too."""
        return await self._call(calls.show(model, verbose=verbose))

    @overload
    async def create(
        self, model: str, *, stream: Literal[False] = False, **arguments: Unpack[CreateArguments]
    ) -> ProgressReply: ...
    @overload
    async def create(
        self, model: str, *, stream: Literal[True], **arguments: Unpack[CreateArguments]
    ) -> AsyncStream[ProgressReply]: ...
    async def create(
        self, model: str, *, stream: bool = False, **arguments: Unpack[CreateArguments]
    ) -> ProgressReply | AsyncStream[ProgressReply]:
        """Make a model of others, and of blobs that `create_blob` has sent."""
        return await self._answer(calls.create(model, arguments), stream)

    async def copy(self, source: str, destination: str) -> None:
        """Make `destination` the same model as `source`."""
        await self._call(calls.copy(source, destination))

    async def delete(self, model: str) -> None:
        """Remove a model."""
        await self._call(calls.delete(model))

    @overload
    async def pull(
        self, model: str, *, insecure: bool = False, stream: Literal[False] = False
    ) -> ProgressReply: ...
    @overload
    async def pull(
        self, model: str, *, insecure: bool = False, stream: Literal[True]
    ) -> AsyncStream[ProgressReply]: ...
    async def pull(
        self, model: str, *, insecure: bool = False, stream: bool = False
    ) -> ProgressReply | AsyncStream[ProgressReply]:
        """Have the server fetch a model.

        Args:
            insecure: allow plain http and private addresses for its registry.
        """
        return await self._answer(calls.pull(model, insecure=insecure), stream)

    @overload
    async def push(
        self, model: str, *, insecure: bool = False, stream: Literal[False] = False
    ) -> ProgressReply: ...
    @overload
    async def push(
        self, model: str, *, insecure: bool = False, stream: Literal[True]
    ) -> AsyncStream[ProgressReply]: ...
    async def push(
        self, model: str, *, insecure: bool = False, stream: bool = False
    ) -> ProgressReply | AsyncStream[ProgressReply]:
        """Have the server send a model to the registry that its name says; `insecure` as in `pull`."""
        return await self._answer(calls.push(model, insecure=insecure), stream)

    async def create_blob(self, path: Path | str, *, sent: Callable[[int], None] = lambda count: None) -> str:
        """Send a file, unless the server has it already; its digest, for `create`.

        Args:
            sent: told how many bytes were sent since it was told last.

        Raises:
            InvalidOption: the file cannot be read.
        """
        digest = await asyncio.to_thread(digest_of, Path(path))
        try:
            await self._call(calls.blob("HEAD", digest))
        except ModelNotFound:
            size = file_size(Path(path))
            await self._send(calls.blob("POST", digest), _from_thread(pieces_of(Path(path), sent)), size)
        return digest

    async def version(self) -> str:
        """The server's version."""
        return (await self._call(calls.version())).version

    async def cancel(self, request_id: str) -> None:
        """End a request that is being answered; see `AsyncStream.request_id`."""
        await self._call(calls.cancel(request_id))

    async def _answer(self, call: Call[Reply], stream: bool) -> Reply | AsyncStream[Reply]:
        if stream:
            return await self._open(call)
        return await self._send(call, call.content(stream=False))

    async def _call(self, call: Call[Reply]) -> Reply:
        return await self._send(call, call.content())

    async def _send(
        self,
        call: Call[Reply],
        content: bytes | AsyncIterator[bytes],
        length: int | None = None,
    ) -> Reply:
        request = self._http.build_request(
            call.method, call.path, content=content, headers=headers_of(call, length)
        )
        with self._connection.errors():
            response = await self._http.send(request, stream=True)
            async with aclosing(response):
                reply = await _whole(response)
        return read_reply(call, response.status_code, response.headers, reply)

    async def _open(self, call: Call[Reply]) -> AsyncStream[Reply]:
        request = self._http.build_request(
            call.method, call.path, content=call.content(stream=True), headers=headers_of(call)
        )
        with self._connection.errors():
            response = await self._http.send(request, stream=True)
            if response.status_code == 200:
                return AsyncStream(call, response, self._connection)
            async with aclosing(response):
                content = await _whole(response)
        raise failure(response.status_code, response.headers, content)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


async def _whole(response: httpx2.Response) -> bytes:
    """The content of a reply. Raises: ServerUnreachable: it is too long."""
    body = Body()
    async for part in response.aiter_bytes():
        body.feed(part)
    return body.content


async def _from_thread(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, each read in a thread, for reading may wait for a disk."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece
