"""Tiny models, false runners, and a look at what a test leaves behind."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.tiny_llama import BOS, write_tiny_llama

from puna.engine.events import Done, TextChunk
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.runner import process
from puna.runner.process import Runner
from puna.sampling.parameters import SamplingParameters

OPTIONS = LoadOptions(num_threads=1)
GREEDY = SamplingParameters(temperature=0.0)
ENDLESS = GenerateRequest([BOS, 70, 71], GREEDY)
"""Goes on until the context is full."""

FALSE = """
import os, signal, socket, sys, time
from puna.runner.protocol import *
line = socket.socket(fileno=int(sys.argv[1]))
frames, heard = Frames(), []
def hear():
    while not heard:
        data = line.recv(65536)
        if not data:
            sys.exit(0)
        heard.extend(map(to_runner.decode, frames.feed(data)))
    return heard.pop(0)
def say(message):
    line.sendall(encode(message))
"""
LOADED = FALSE + "hear()\nsay(Loaded(64, 1, []))\n"

Pretend: TypeAlias = Callable[[str], None]
Started: TypeAlias = Callable[..., AbstractAsyncContextManager[Runner]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("runner") / "tiny.gguf")


@pytest.fixture(scope="session")
def slow_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose answers take a while."""
    return write_tiny_llama(tmp_path_factory.mktemp("runner") / "slow.gguf", blocks=24, hidden=256)


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Has runners run the given Python code instead; its first argument is the socket's descriptor."""

    def pretend(code: str) -> None:
        monkeypatch.setattr(
            process, "command", lambda descriptor, memory: [sys.executable, "-c", code, str(descriptor)]
        )

    return pretend


@pytest.fixture
def started(tiny_path: Path) -> Started:
    """Starts a runner that is stopped at the end of the block."""

    @asynccontextmanager
    async def start(
        path: Path = tiny_path, options: LoadOptions = OPTIONS, **arguments: Any
    ) -> AsyncIterator[Runner]:
        runner = await Runner.start(path, options, **arguments)
        try:
            yield runner
        finally:
            await runner.stop()

    return start


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a process, dead or alive, or a thread."""
    before = children(), threading.active_count()
    yield
    assert (children(), threading.active_count()) == before


def children() -> set[int]:
    """The processes that this one has started and that are not reaped."""
    tasks = Path("/proc/self/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def exists(pid: int) -> bool:
    """Whether there is such a process, other than a dead one that nobody reaps."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(true: Callable[[], bool], seconds: float = 30.0) -> None:
    """Waits until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.005)


async def answer(runner: Runner, request: GenerateRequest) -> tuple[str, Done]:
    """The whole answer to a request."""
    events = [event async for event in runner.generate(request)]
    assert isinstance(events[-1], Done)
    return "".join(event.text for event in events if isinstance(event, TextChunk)), events[-1]
