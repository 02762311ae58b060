"""Clients that are slow, many or gone, and a server that is told to stop while it works."""

import asyncio
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.probes import children, descriptors, exists, figure, in_memory, resident, wait_for
from tests.scripted_llama import START, write_scripted_llama
from tests.served import Reply, Served, serving
from tests.served_models import CHAT, add_model

from puna.store.library import Library

ENDLESS = {"model": "tiny", "prompt": "hi", "shift": True}
SHORT = {"model": "said", "prompt": "hi", "stream": False}
SAID = "onetwothreefour"
MEBIBYTE = 1 << 20

Start = Callable[..., Served]


@pytest.fixture
def start(served: Served, tmp_path: Path) -> Iterator[Start]:
    """Starts a server of its own, with these settings."""
    with ExitStack() as stack:

        def started(**settings: str) -> Served:
            return stack.enter_context(serving(tmp_path, served.store, PUNA_METRICS="1", **settings))

        yield started


def still_works(server: Served) -> None:
    assert server.post("/api/generate", SHORT).json["response"] == SAID


def nothing_runs(server: Served) -> None:
    """No request is being answered but the one that asks, and none waits."""
    wait_for(lambda: figure(server, "puna_requests_running") == 1)
    assert figure(server, "puna_requests_queued") == 0


@contextmanager
def begun_streams(server: Served, count: int, **more: Any) -> Iterator[list[Any]]:
    """Streams of which the first line has come."""
    with ExitStack() as stack:
        responses = []
        for number in range(count):
            body = {**ENDLESS, "prompt": f"{number}", **more}
            response = stack.enter_context(server.stream("/api/generate", body))
            assert json.loads(response.readline())["done"] is False
            responses.append(response)
        yield responses


# The end of the server


def test_sigterm_lets_answers_end(start: Start) -> None:
    server = start(PUNA_SHUTDOWN_GRACE="60s", PUNA_NUM_PARALLEL="4")
    with begun_streams(server, 4, options={"num_predict": 40}) as responses:
        runners = children(server.pid)
        server.process.send_signal(signal.SIGTERM)
        last = [json.loads(response.read().splitlines()[-1]) for response in responses]
    assert [document["eval_count"] for document in last] == [40] * 4
    assert server.process.wait(60) == 0
    assert not any(map(exists, runners))


def test_sigterm_tells_what_does_not_end_in_time(start: Start, tmp_path: Path) -> None:
    server = start(PUNA_SHUTDOWN_GRACE="1s", PUNA_NUM_PARALLEL="4")
    with begun_streams(server, 4) as responses:
        runners = children(server.pid)
        server.process.send_signal(signal.SIGTERM)
        last = [json.loads(response.read().splitlines()[-1]) for response in responses]
    assert last == [{"error": "the server is shutting down"}] * 4
    assert server.process.wait(30) == 0
    assert not any(map(exists, runners))
    assert "Traceback" not in (tmp_path / "server.log").read_text()


def test_a_second_sigterm_ends_everything_at_once(start: Start) -> None:
    server = start(PUNA_SHUTDOWN_GRACE="10m", PUNA_NUM_PARALLEL="4")
    with begun_streams(server, 4):
        runners = children(server.pid)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not accepts(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 128 + signal.SIGTERM
        wait_for(lambda: not any(map(exists, runners)))


def accepts(server: Served) -> bool:
    try:
        socket.create_connection(server.address, timeout=30).close()
    except ConnectionError:
        return False
    return True


# Clients that take their time (D12)

HEAD = b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n"
GENERATE = json.dumps({**ENDLESS, "options": {"num_predict": 2000}}).encode()


def never_reads(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.sendall((HEAD + b"\r\n") * 16)


def reads_no_answer(connection: socket.socket) -> None:
    head = b"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    connection.sendall(head % len(GENERATE) + GENERATE)


def sends_half_a_head(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"X-Slow: ")


def sends_half_a_body(connection: socket.socket) -> None:
    connection.sendall(b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")


def lies_idle(connection: socket.socket) -> None:
    connection.sendall(HEAD + b"\r\n")


SLOW = (never_reads, sends_half_a_head, sends_half_a_body, lies_idle)


@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_slow_clients_slow_nobody(start: Start, count: int) -> None:
    """D12"""
    server = start()
    still_works(server)
    files, memory = descriptors(server.pid), resident(server.pid)
    held: list[socket.socket] = []
    try:
        for number in range(count):
            held.append(socket.create_connection(server.address, timeout=30))
            slow = reads_no_answer if number % 50 == 49 else SLOW[number % len(SLOW)]
            slow(held[-1])
            if number % 100 == 0:
                still_works(server)
        for _ in range(30):
            still_works(server)
            for connection in held[1 :: len(SLOW)]:
                drip(connection)
        assert resident(server.pid) - memory < 64 * MEBIBYTE
    finally:
        for connection in held:
            connection.close()
    nothing_runs(server)
    # The model that two of the clients have asked for stays, with its socket and its output.
    server.post("/api/generate", {"model": "tiny", "keep_alive": 0})
    wait_for(lambda: descriptors(server.pid) <= files)
    assert resident(server.pid) - memory < 64 * MEBIBYTE


def drip(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.sendall(b"y")


def test_an_open_connection_ends_in_its_time(start: Start) -> None:
    """D12: whatever a client leaves undone, its connection does not stay."""
    server = start(
        PUNA_HEADER_TIMEOUT="1s", PUNA_BODY_TIMEOUT="1s", PUNA_IDLE_TIMEOUT="1s", PUNA_WRITE_TIMEOUT="1s"
    )
    still_works(server)
    files = descriptors(server.pid)
    held = [socket.create_connection(server.address, timeout=30) for _ in range(40)]
    try:
        for number, connection in enumerate(held):
            SLOW[number % len(SLOW)](connection)
        wait_for(lambda: descriptors(server.pid) <= files)
    finally:
        for connection in held:
            connection.close()
    nothing_runs(server)


# Many at once (D19)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_requests_at_once_are_all_answered(start: Start, count: int) -> None:
    """D19"""
    server = start(PUNA_MAX_CONNECTIONS="2000")
    still_works(server)
    files, memory = descriptors(server.pid), resident(server.pid)
    with ThreadPoolExecutor(count) as pool:
        replies = [*pool.map(lambda _: server.post("/api/generate", SHORT), range(count))]
    assert {reply.json["response"] for reply in replies} == {SAID}
    nothing_runs(server)
    wait_for(lambda: descriptors(server.pid) <= files)
    assert resident(server.pid) - memory < 64 * MEBIBYTE


@pytest.mark.parametrize("count", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_flood_is_answered_to_the_last(start: Start, count: int) -> None:
    """D19: requests that come together, each on a connection of its own, while a model answers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = start(PUNA_MAX_CONNECTIONS=str(2 * count))
    still_works(server)
    with begun_streams(server, 1):
        pass
    nothing_runs(server)
    files = descriptors(server.pid)
    content = json.dumps(SHORT).encode()
    head = "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    async def asked() -> bytes:
        reader, writer = await asyncio.open_connection(*server.address)
        try:
            writer.write(request)
            return await reader.read()
        finally:
            writer.close()

    async def flood() -> list[bytes]:
        return await asyncio.gather(*(asked() for _ in range(count)))

    try:
        with begun_streams(server, 1):
            replies = asyncio.run(flood())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    said = f'"response":"{SAID}"'.encode()
    assert [reply for reply in replies if b" 200 OK" not in reply[:20] or said not in reply] == []
    nothing_runs(server)
    wait_for(lambda: descriptors(server.pid) <= files)
    still_works(server)


def test_who_finds_the_queue_full_is_told_when_to_come_back(start: Start) -> None:
    """D19: whoever has a place in it is served."""
    server = start(PUNA_MAX_QUEUE="3", PUNA_MAX_LOADED_MODELS="1")
    with begun_streams(server, 1), ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(server.post, "/api/generate", SHORT) for _ in range(12)]
        wait_for(lambda: sum(future.done() for future in waiting) == 9)
        refused = [future.result() for future in waiting if future.done()]
        # Those with a place still have it.
        assert figure(server, "puna_requests_running") == 1 + 1 + 3
        for reply in refused:
            assert (reply.status, reply.error[:11]) == (503, "server busy")
            assert 1 <= int(reply.headers["retry-after"]) <= 60
        # The endless answer makes room.
        os.kill(children(server.pid)[0], signal.SIGKILL)
        served = [future.result(60) for future in waiting if future.result(60).status == 200]
    assert [reply.json["response"] for reply in served] == [SAID] * 3


def test_contexts_without_bounds_are_refused_and_models_that_stay_for_ever_go(tmp_path: Path) -> None:
    """D19"""
    library = Library(tmp_path / "models")
    for name in ("a", "b", "c", "d"):
        path = write_scripted_llama(tmp_path / f"{name}.gguf", ("one", name * 2), context=1_000_000_000)
        add_model(library, name, path, template=CHAT + START)
    with serving(tmp_path, tmp_path / "models", PUNA_MAX_LOADED_MODELS="2") as server:

        def vast(name: str) -> Reply:
            body = {"model": name, "prompt": "hi", "options": {"num_ctx": 10**9}, "keep_alive": -1}
            return server.post("/api/generate", body)

        with ThreadPoolExecutor(8) as pool:
            for reply in pool.map(vast, "abcdabcd"):
                assert reply.status == 500 and "memory" in reply.error
        for name in "abcdab":
            body = {"model": name, "prompt": "hi", "stream": False, "keep_alive": -1}
            assert server.post("/api/generate", body).json["response"] == f"one{name * 2}"
            assert len(in_memory(server)) <= 2
        wait_for(lambda: len(children(server.pid)) <= 2)


# Clients that leave (E22)


@pytest.mark.parametrize("stage", ["queue", "load", "prompt", "turn", "answer", "whole answer"])
def test_what_a_client_leaves_behind(start: Start, stage: str) -> None:
    """E22, INV-TIME: no request, no place in the model, no open file."""
    server = start(PUNA_MAX_LOADED_MODELS="1", PUNA_NUM_PARALLEL="1")
    still_works(server)
    files = descriptors(server.pid)
    body: dict[str, Any] = {**ENDLESS, "keep_alive": 0}
    with ExitStack() as stack:
        if stage in ("queue", "turn"):
            stack.enter_context(begun_streams(server, 1))
        if stage == "queue":
            body |= {"model": "said"}
        elif stage == "load":
            body |= {"model": "slow"}
        elif stage == "prompt":
            body |= {"model": "slow", "prompt": "x" * 4000, "options": {"num_batch": 1}}
        elif stage == "whole answer":
            body |= {"stream": False}
        running = figure(server, "puna_requests_running")
        connection = stack.enter_context(server.connection())
        connection.request("POST", "/api/generate", json.dumps(body))
        if stage == "answer":
            connection.getresponse().readline()
        wait_for(lambda: figure(server, "puna_requests_running") == running + 1)
        if stage in ("prompt", "whole answer"):
            wait_for(lambda: any(model["size"] for model in in_memory(server).values()))
    nothing_runs(server)
    server.post("/api/generate", {"model": "tiny", "keep_alive": 0})
    still_works(server)
    wait_for(lambda: descriptors(server.pid) <= files)
    assert len(children(server.pid)) == 1


@pytest.mark.parametrize("rounds", [30, pytest.param(1000, marks=pytest.mark.slow)])
def test_clients_that_come_and_go_use_nothing_up(start: Start, rounds: int) -> None:
    """E22"""
    server = start(PUNA_NUM_PARALLEL="4")
    still_works(server)
    with begun_streams(server, 4):
        pass
    nothing_runs(server)
    files, memory = descriptors(server.pid), resident(server.pid)
    for number in range(rounds):
        with server.connection() as connection:
            connection.request("POST", "/api/generate", json.dumps({**ENDLESS, "stream": number % 2 == 0}))
            if number % 3:
                connection.sock.settimeout(0.02)
                with suppress(TimeoutError):
                    connection.sock.recv(1)
    nothing_runs(server)
    wait_for(lambda: descriptors(server.pid) <= files)
    assert resident(server.pid) - memory < 64 * MEBIBYTE
    assert len(children(server.pid)) == 2
    still_works(server)
