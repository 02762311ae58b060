"""Answers on the wire: each object is a chunk of its own, sent as soon as there is something to say."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.served import TIMEOUT, Served

HI = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@contextmanager
def chunks(server: Served, path: str, body: dict[str, Any], id: str = "x") -> Iterator[Iterator[bytes]]:
    """The chunks of an answer, by the framing of HTTP/1.1, each read when it is asked for."""
    address = urlsplit(server.url)
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nX-Request-Id: {id}\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname, address.port), timeout=TIMEOUT) as connection:
        connection.sendall(head.encode() + content)
        stream = connection.makefile("rb")
        assert stream.readline() == b"HTTP/1.1 200 OK\r\n"
        headers = [line.lower() for line in iter(stream.readline, b"\r\n")]
        assert b"transfer-encoding: chunked\r\n" in headers
        assert b"content-type: application/x-ndjson\r\n" in headers

        def read() -> Iterator[bytes]:
            while size := int(stream.readline(), 16):
                yield stream.read(size)
                assert stream.readline() == b"\r\n"
            assert stream.readline() == b"\r\n"

        yield read()


def objects(server: Served, path: str, body: dict[str, Any]) -> list[Any]:
    """The objects of an answer, of which each was one chunk and one line."""
    found = []
    with chunks(server, path, body) as parts:
        for part in parts:
            assert part.endswith(b"\n") and part.count(b"\n") == 1
            found.append(json.loads(part))
    return found


def test_a_chunk_for_each_token(served: Served) -> None:
    for path, body in (("/api/generate", {"prompt": "hi"}), ("/api/chat", {"messages": HI})):
        found = objects(served, path, {"model": "said", **body})
        texts = [one.get("response", one.get("message", {}).get("content")) for one in found]
        assert texts == ["one", "two", "three", "four", ""]
        assert [one["done"] for one in found] == [False] * 4 + [True]


def test_a_chunk_for_each_piece_of_thinking_and_for_a_call(served: Served) -> None:
    thought = [one["message"] for one in objects(served, "/api/chat", {"model": "thinks", "messages": HI})]
    assert [message.get("thinking") for message in thought if "thinking" in message] == ["Hmm", "…\n"]
    assert [message["content"] for message in thought if message["content"]] == ["Bl", "ue", "."]
    called = objects(served, "/api/chat", {"model": "calls", "messages": HI, "tools": [WEATHER]})
    assert [len(one["message"].get("tool_calls", ())) for one in called] == [0, 1, 0]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
def test_the_first_chunk_is_there_long_before_the_last(served: Served, path: str) -> None:
    # It would go on for ten contexts, but for the request that ends it, which is made after the first chunk.
    body = {"model": "tiny", "prompt": "hi", "messages": HI, "shift": True}
    with chunks(served, path, body, id="endless") as parts:
        assert json.loads(next(parts))["done"] is False
        assert served.ask("DELETE", "/api/requests/endless").status == 200
        *_, last = parts
    assert json.loads(last) == {"error": "request canceled"}
