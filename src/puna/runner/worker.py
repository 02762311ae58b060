"""The runner's own side: the main thread loads and computes, another hears what the server says.

So a cancellation that comes during a computation is there before the next step, and the end of the server,
which is the end of the connection, ends this process whatever the main thread is doing.
"""

import contextlib
import importlib
import os
import queue
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from puna.engine.events import Done, Event
from puna.engine.options import DEFAULT_PARALLEL, LoadOptions
from puna.engine.request import AdapterUse
from puna.errors import BackendError, InternalError, InvalidOption, OutOfMemory, PunaError
from puna.linux import die_with_parent
from puna.runner.protocol import (
    Cancel,
    Device,
    Embed,
    Embedded,
    Failure,
    Frames,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Resize,
    Stepped,
    Stop,
    ToRunner,
    encode,
    failure_of,
    to_runner,
)

if TYPE_CHECKING:
    from puna.engine.load import LoadedModel
    from puna.ml import BackendMemory, DeviceMemory

_PROGRESS_SECONDS = 0.05
_GRACE = 1.0
"""Seconds that the main thread has to end after the server has gone."""

_OOM_SCORE = 500
_READ = 1 << 16
_EMBEDDED_AT_ONCE = 512
"""About how many tokens are made vectors between two steps of the engine."""


def main(arguments: Sequence[str]) -> int:
    """Runs one model for the server at the other end of an inherited socket; the exit status.

    Args:
        arguments: the socket's descriptor, and the most bytes of memory that the process may take.
    """
    if not arguments or not all(argument.isdecimal() for argument in arguments):
        print(
            "puna.runner is started by the server: python -m puna.runner DESCRIPTOR [MEMORY]", file=sys.stderr
        )
        return 2
    descriptor, *memory = map(int, arguments)
    prepare_process(*memory)
    os.set_inheritable(descriptor, False)
    # A server that has gone needs no answer.
    gone = contextlib.suppress(BrokenPipeError, ConnectionResetError)
    with socket.socket(fileno=descriptor) as connection, gone:
        run(Line(connection))
    return 0


def prepare_process(memory: int | None = None) -> None:
    """Sets how the process ends: by the server's word, or before the server when memory runs out.

    Args:
        memory: most bytes of memory of its own; what is mapped from files does not count.
    """
    # The end of the connection tells it as well, but not to a process that is stopped.
    die_with_parent()
    # A terminal's Ctrl-C is for the server to act on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))
    if memory is not None:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = memory if hard == resource.RLIM_INFINITY else min(memory, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


class Line:
    """The connection to the server: a thread hears, the main thread takes what was heard and speaks."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._readable = select.poll()
        self._readable.register(connection, select.POLLIN)
        self._heard: queue.SimpleQueue[ToRunner | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="listener", daemon=True).start()

    def say(self, message: FromRunner) -> None:
        """Speaks; waits while the server does not read."""
        self._connection.sendall(encode(message))

    def next(self) -> ToRunner | None:
        """Waits for the next message; None at the end of the connection."""
        return self._heard.get()

    def waiting(self) -> bool:
        """Whether `next` would not wait."""
        return not self._heard.empty()

    def _listen(self) -> None:
        try:
            frames = Frames()
            while data := self._receive():
                for body in frames.feed(data):
                    self._heard.put(to_runner.decode(body))
        except (PunaError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            print(f"puna: runner: error: the server said what cannot be understood: {error}", file=sys.stderr)
        finally:
            self._heard.put(None)
            time.sleep(_GRACE)
            # The main thread may be deep in a computation, or waiting for a server that reads no more.
            os._exit(1)

    def _receive(self) -> bytes:
        try:
            # Who waits in `recv` is woken whenever the other side has read, too: once a token.
            self._readable.poll()
            return self._connection.recv(_READ)
        except OSError:
            return b""


def run(line: Line) -> None:
    """Does what the server says, until it says no more."""
    # It may be a while until there is something to load. Whatever is wrong, the load will tell.
    with contextlib.suppress(Exception):
        importlib.import_module("puna.engine.load")
    first = line.next()
    if not isinstance(first, Load):
        return
    try:
        served = _load(line, first)
    except PunaError as error:
        line.say(LoadFailed(failure_of(error)))
        return
    if served is not None:
        with contextlib.closing(served):
            served.run()


def _load(line: Line, load: Load) -> "Served | None":
    """The loaded model, told to the server; None after a plan.

    Raises:
        PunaError: it cannot be loaded.
    """
    line.say(Loading(0.0))
    path = Path(load.path)
    try:
        # Only here, so that the server hears of a process that cannot import them.
        from puna.engine.load import load_model, plan_model

        if load.plan:
            memory, num_ctx, _ = plan_model(path, load.options)
            line.say(loaded(memory, num_ctx, load.options))
            return None
        served = Served(line, load_model(path, load.options, _reporter(line)))
    except OSError as error:
        raise PunaError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from error
    except MemoryError as error:
        raise OutOfMemory("there is not enough memory to load the model") from error
    served.say_loaded(load.options)
    return served


def loaded(memory: "BackendMemory", num_ctx: int, options: LoadOptions) -> Loaded:
    """What a model takes, as a message. The output counts as a layer, as it does in num_gpu_layers."""
    return Loaded(num_ctx, options.num_parallel or DEFAULT_PARALLEL, devices(memory), len(memory.cpu.weights))


def devices(memory: "BackendMemory") -> list[Device]:
    """What a model takes of each device, the machine's own memory first."""
    cpu = _device(memory.cpu, gpu=False, more=memory.input_weights.size)
    return [cpu, *(_device(device, gpu=True) for device in memory.gpus)]


def _device(memory: "DeviceMemory", *, gpu: bool, more: int = 0) -> Device:
    return Device(
        memory.name,
        gpu,
        more + sum(entry.size for entry in memory.weights),
        sum(entry.size for entry in memory.cache),
        memory.graph.size,
        sum(entry.size > 0 for entry in memory.weights),
        memory.free,
        memory.total,
    )


def _reporter(line: Line) -> Callable[[float], None]:
    """Tells the server how much of a load is done, not too often."""
    told = time.monotonic()

    def report(done: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= _PROGRESS_SECONDS:
            told = now
            line.say(Loading(done))

    return report


@dataclass(slots=True)
class Embedding:
    """Texts that become vectors: those that are left, and the vectors of the others."""

    id: int
    inputs: deque[list[int]]
    adapters: tuple[AdapterUse, ...] | None = None
    vectors: list[bytes] = field(default_factory=list)

    def share(self) -> list[list[int]]:
        """The next texts, at least one if any is left."""
        taken: list[list[int]] = []
        while self.inputs and sum(map(len, taken)) < _EMBEDDED_AT_ONCE:
            taken.append(self.inputs.popleft())
        return taken


class Served:
    """A loaded model and what the server wants of it; to be closed."""

    def __init__(self, line: Line, model: "LoadedModel") -> None:
        self._line = line
        self._model = model
        self._active: set[int] = set()
        self._embeddings: deque[Embedding] = deque()

    def say_loaded(self, options: LoadOptions) -> None:
        """Tells the server what the model takes."""
        self._line.say(loaded(self._model.memory, self._model.num_ctx, options))

    def run(self) -> None:
        """Takes requests and computes until the server says no more.

        Raises:
            InternalError: the books of the cache are wrong, or it is lost; a new process would be better.
        """
        while self._hear():
            if not self._model.engine.idle:
                self._step()
            if self._embeddings:
                self._embed(self._embeddings[0])

    def close(self) -> None:
        """Frees the model."""
        self._model.close()

    def _hear(self) -> bool:
        """Does what was said meanwhile; waits for it if there is nothing else to do. False at the end."""
        while self._line.waiting() or (self._model.engine.idle and not self._embeddings):
            message = self._line.next()
            if message is None or isinstance(message, Stop):
                return False
            self._do(message)
        return True

    def _do(self, message: ToRunner) -> None:
        if isinstance(message, Generate):
            self._submit(message)
        elif isinstance(message, Cancel):
            self._cancel(message.id)
        elif isinstance(message, Embed):
            self._embeddings.append(Embedding(message.id, deque(message.inputs), message.adapters))
        elif isinstance(message, Resize):
            self._resize(message.options)

    def _submit(self, message: Generate) -> None:
        try:
            self._model.engine.submit(message.id, message.request)
        except PunaError as error:
            self._line.say(Stepped([(message.id, failure_of(error))]))
        else:
            self._active.add(message.id)

    def _cancel(self, id: int) -> None:
        if id in self._active:
            self._model.engine.cancel(id)
        left = deque(embedding for embedding in self._embeddings if embedding.id != id)
        if len(left) < len(self._embeddings):
            self._embeddings = left
            # The server is to know that nothing is owed any more.
            self._line.say(Stepped([]))

    def _resize(self, options: LoadOptions) -> None:
        try:
            if self._active or self._embeddings:
                raise InvalidOption("a model cannot be given another cache while it answers")
            self._model.resize(options)
        except InternalError:
            raise
        except PunaError as error:
            self._line.say(LoadFailed(failure_of(error)))
        else:
            self.say_loaded(options)

    def _step(self) -> None:
        begun = time.perf_counter()
        try:
            report = self._model.engine.step()
        except (BackendError, OutOfMemory, MemoryError) as error:
            self._line.say(Stepped(self._fail(_failure(error))))
            return
        events = [(id, _said(event)) for id, event in report.events]
        self._active.difference_update(id for id, event in events if isinstance(event, Done | Failure))
        if events or report.tokens:
            seconds = time.perf_counter() - begun
            counts = (report.tokens, report.sequences, report.waiting, report.cells)
            self._line.say(Stepped(events, *counts, seconds))
        if self._model.engine.idle:
            # A millisecond, when all who waited have been answered: what is lost here is lost for good.
            self._model.engine.check()

    def _fail(self, failure: Failure) -> list[tuple[int, Event | Failure]]:
        """Ends all requests after a step that failed, and sees whether the engine can go on.

        Raises:
            PunaError: it cannot.
        """
        engine, failed = self._model.engine, sorted(self._active)
        self._active.clear()
        for id in failed:
            engine.cancel(id)
        if not engine.idle:
            engine.step()
        engine.check()
        return [(id, failure) for id in failed]

    def _embed(self, embedding: Embedding) -> None:
        begun = time.perf_counter()
        texts = embedding.share()
        try:
            vectors = self._model.embed(texts, embedding.adapters) if texts else []
        except (PunaError, MemoryError) as error:
            self._embeddings.popleft()
            self._line.say(Stepped([(embedding.id, _failure(error))]))
            return
        embedding.vectors += [vector.astype("<f4").tobytes() for vector in vectors]
        seconds, engine = time.perf_counter() - begun, self._model.engine
        # What the engine has stays as it is.
        counts = (sum(map(len, texts)), len(texts), engine.waiting, engine.cells)
        self._line.say(Stepped([], *counts, seconds))
        if embedding.inputs:
            # The others have their turn.
            self._embeddings.rotate(-1)
        else:
            self._embeddings.popleft()
            self._line.say(Embedded(embedding.id, embedding.vectors))


def _said(event: Event | PunaError) -> Event | Failure:
    return failure_of(event) if isinstance(event, PunaError) else event


def _failure(error: PunaError | MemoryError) -> Failure:
    if isinstance(error, PunaError):
        return failure_of(error)
    return failure_of(OutOfMemory("there is not enough memory to go on with the answer"))
