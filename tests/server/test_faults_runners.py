"""Runners that die, hang or run out of memory under a whole server (H01, H07)."""

import json
import os
import re
import resource
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from tests.probes import children, descriptors, figure, in_memory, wait_for
from tests.served import Served, serving

ENDLESS = {"model": "tiny", "prompt": "hi", "shift": True}
SHORT = {"model": "said", "prompt": "hi", "stream": False, "keep_alive": 0}
STREAMS = 4
# Nothing of this machine, and no address.
SECRETS = re.compile(r"0x[0-9a-f]{6,}|/home/|/root|/tmp|Traceback|\.py\b")
DIED = "model runner has unexpectedly stopped"


@pytest.fixture
def server(served: Served, tmp_path: Path) -> Iterator[Served]:
    """A server of its own, which computes four requests at once."""
    with serving(tmp_path, served.store, PUNA_NUM_PARALLEL="4", PUNA_METRICS="1") as found:
        yield found


@contextmanager
def streams(server: Served, **more: Any) -> Iterator[list["Future[dict[str, Any]]"]]:
    """Four streams that have begun; each future gets its last document."""
    with ThreadPoolExecutor(STREAMS) as pool:
        begun: list[Future[None]] = [Future() for _ in range(STREAMS)]

        def read(number: int) -> dict[str, Any]:
            with server.stream("/api/generate", {**ENDLESS, **more, "prompt": f"{number}"}) as response:
                assert json.loads(response.readline())["done"] is False
                begun[number].set_result(None)
                return last_of(response)

        reading = [pool.submit(read, number) for number in range(STREAMS)]
        for future in begun:
            future.result(60)
        yield reading


def last_of(response: HTTPResponse) -> dict[str, Any]:
    """The last document of a stream, of which nothing else is kept."""
    last = b""
    while line := response.readline():
        last = line
    found: dict[str, Any] = json.loads(last)
    return found


def still_works(server: Served) -> None:
    """An innocent request gets its whole answer, and leaves nothing."""
    assert server.post("/api/generate", SHORT).json["response"] == "onetwothreefour"
    wait_for(lambda: "said:latest" not in in_memory(server))


def nothing_is_left(server: Served, files: int) -> None:
    """No model, no process, no request, and no more open files than before."""
    server.post("/api/generate", {"model": "tiny", "keep_alive": 0})
    wait_for(lambda: figure(server, "puna_requests_running") == 1)
    wait_for(lambda: not in_memory(server) and not children(server.pid))
    wait_for(lambda: descriptors(server.pid) <= files)


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_runner_that_is_killed_ends_its_streams_with_an_error(server: Served, name: str) -> None:
    """H01"""
    still_works(server)
    files = descriptors(server.pid)
    with streams(server) as reading:
        (runner,) = children(server.pid)
        os.kill(runner, signal.Signals[name])
        last = [future.result(20) for future in reading]
    for document in last:
        assert {*document} == {"error"}
        assert document["error"].startswith(DIED) and f": it was ended by {name}" in document["error"]
        assert not SECRETS.search(document["error"])
    still_works(server)
    again = server.post("/api/generate", {**ENDLESS, "options": {"num_predict": 3}})
    assert again.lines[-1]["eval_count"] == 3
    nothing_is_left(server, files)


def test_a_runner_that_hangs_is_ended(served: Served, tmp_path: Path) -> None:
    """H01"""
    settings = {"PUNA_NUM_PARALLEL": "4", "PUNA_METRICS": "1", "PUNA_STEP_TIMEOUT": "2s"}
    with serving(tmp_path, served.store, **settings) as server:
        still_works(server)
        files = descriptors(server.pid)
        with streams(server) as reading:
            os.kill(children(server.pid)[0], signal.SIGSTOP)
            # The others do not wait for it.
            still_works(server)
            last = [future.result(20) for future in reading]
        for document in last:
            assert document["error"].startswith(DIED)
            assert document["error"].endswith(": it did nothing for 2 seconds")
        nothing_is_left(server, files)


def test_a_model_whose_runner_keeps_dying_is_left_alone_for_a_while(server: Served) -> None:
    """H01: others are served meanwhile, and it comes back by itself."""
    refused: list[str] = []
    while not refused:
        with server.connection() as connection:
            connection.request("POST", "/api/generate", json.dumps(ENDLESS))
            response = connection.getresponse()
            if response.status != 200:
                refused.append(json.loads(response.read())["error"])
                break
            response.readline()
            os.kill(children(server.pid)[0], signal.SIGKILL)
            assert last_of(response)["error"].startswith(DIED)
    assert re.fullmatch(
        r"'tiny:latest' is not loaded: its runner died \d+ times in short order; try .*", refused[0]
    )
    still_works(server)

    def loads() -> bool:
        return server.post("/api/generate", {"model": "tiny"}).status == 200

    wait_for(loads)


def test_a_runner_that_finds_no_memory(server: Served) -> None:
    """H07: the ceiling is the runner's, and what it cannot have is said to be memory."""
    still_works(server)
    files = descriptors(server.pid)
    before = resource.prlimit(server.pid, resource.RLIMIT_DATA)
    # What the server starts from now on gets no more than this, which is less than a runner takes.
    resource.prlimit(server.pid, resource.RLIMIT_DATA, (170 << 20, before[1]))
    reply = server.post("/api/generate", {**ENDLESS, "options": {"num_batch": 4096, "num_ctx": 4096}})
    resource.prlimit(server.pid, resource.RLIMIT_DATA, before)
    assert reply.status == 500
    assert "memory" in reply.error and not SECRETS.search(reply.error)
    still_works(server)
    nothing_is_left(server, files)
