"""A model that answers one request at a time, through `LoadedModel.generate`."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from puna.engine.events import Done, Event, TextChunk
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.errors import ContextLengthExceeded, MissingCapability, PunaError
from puna.ml import BackendMemory


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step brought; see `puna.runner.protocol.Stepped`."""

    events: list[tuple[int, TextChunk | Done | PunaError]] = field(default_factory=list)
    tokens: int = 0
    sequences: int = 0
    waiting: int = 0
    cells: int = 0


class Model:
    """A loaded model, and how to load it anew."""

    def __init__(self, path: Path, options: LoadOptions, progress: Callable[[float], None]) -> None:
        self._path = path
        self._loaded = load_model(path, options, progress)
        self.engine = Engine(self._loaded)

    @property
    def memory(self) -> BackendMemory:
        return self._loaded.memory

    @property
    def num_ctx(self) -> int:
        return self._loaded.num_ctx

    def resize(self, options: LoadOptions) -> None:
        """Loads again, with other options."""
        self._loaded.close()
        self._loaded = load_model(self._path, options)
        self.engine.model = self._loaded

    def embed(self, inputs: list[list[int]]) -> list[NDArray[np.float32]]:
        raise MissingCapability(["embedding"])

    def close(self) -> None:
        self._loaded.close()


class Engine:
    """One request at a time, in the order they came."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self._waiting: deque[tuple[int, GenerateRequest]] = deque()
        self._running: tuple[int, Iterator[Event]] | None = None
        self._cancelled: list[int] = []

    @property
    def idle(self) -> bool:
        return self._running is None and not self._waiting and not self._cancelled

    def submit(self, id: int, request: GenerateRequest) -> None:
        if len(request.prompt) > self.model.num_ctx:
            raise ContextLengthExceeded(len(request.prompt), self.model.num_ctx)
        self._waiting.append((id, request))

    def cancel(self, id: int) -> None:
        if self._running is not None and self._running[0] == id:
            self._running = None
        elif any(waiting == id for waiting, _ in self._waiting):
            self._waiting = deque(item for item in self._waiting if item[0] != id)
        else:
            return
        self._cancelled.append(id)

    def step(self) -> StepReport:
        if self._cancelled:
            ids, self._cancelled = self._cancelled, []
            return StepReport([(id, Done("cancelled", 0, 0.0, 0, 0.0)) for id in ids])
        if self._running is None:
            id, request = self._waiting.popleft()
            try:
                self._running = id, self._answer(request)
            except PunaError as error:
                return StepReport([(id, error)])
        id, events = self._running
        try:
            event: Event | PunaError = next(events)
        except PunaError as error:
            event = error
        if not isinstance(event, TextChunk):
            self._running = None
        return StepReport([(id, event)], 1, 1, len(self._waiting))

    def check(self) -> None:
        """There is nothing that could be left over."""

    def _answer(self, request: GenerateRequest) -> Iterator[Event]:
        return self.model.generate(
            request.prompt,
            request.sampling,
            num_predict=request.num_predict,
            stop=request.stop,
            grammar=request.grammar,
            thinking=request.thinking,
            shown=request.shown,
        )


def plan_model(path: Path, options: LoadOptions) -> tuple[BackendMemory, int, int]:
    """What a model takes, its context and its layers; found out by loading it."""
    with load_model(path, options) as model:
        return model.memory, model.num_ctx, len(model.memory.cpu.weights)
