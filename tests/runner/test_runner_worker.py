"""What a runner does of what the server says, with an engine that fails as told."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from puna.engine.events import Done, Event, TextChunk
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.errors import BackendError, InternalError, InvalidOption, OutOfMemory
from puna.ml import BackendMemory, DeviceMemory
from puna.ml.memory import Memory
from puna.runner.protocol import (
    Cancel,
    Device,
    Embed,
    Embedded,
    Failure,
    FromRunner,
    Generate,
    LoadFailed,
    Resize,
    Stepped,
    Stop,
    ToRunner,
)
from puna.runner.worker import Line, Served, devices

REQUEST = GenerateRequest([1])
DONE = Done("stop", 1, 0.0, 1, 0.0)


class Script(Line):
    """A server that says these messages, one group before each step, and then hangs up."""

    def __init__(self, groups: Sequence[Sequence[ToRunner]]) -> None:
        self._groups = [list(group) for group in groups]
        self.heard: list[FromRunner] = []

    def say(self, message: FromRunner) -> None:
        self.heard.append(message)

    def next(self) -> ToRunner | None:
        self._groups = [group for group in self._groups if group]
        return self._groups[0].pop(0) if self._groups else None

    def waiting(self) -> bool:
        if self._groups and not self._groups[0]:
            del self._groups[0]
            return False
        return bool(self._groups)


class Engine:
    """Answers each request by what `outcomes` has for its steps."""

    waiting = 3
    cells = 4

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.ids: list[int] = []
        self.cancelled: list[int] = []
        self.checked = 0
        self.fault: InternalError | None = None

    @property
    def idle(self) -> bool:
        return not self.ids

    def submit(self, id: int, request: GenerateRequest) -> None:
        if request.num_predict == 0:
            raise InvalidOption("no tokens")
        self.ids.append(id)

    def cancel(self, id: int) -> None:
        self.ids.remove(id)
        self.cancelled.append(id)

    def step(self) -> Any:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        for id, event in outcome:
            if not isinstance(event, TextChunk):
                self.ids.remove(id)
        return SimpleNamespace(events=outcome, tokens=1, sequences=2, waiting=self.waiting, cells=self.cells)

    def check(self) -> None:
        self.checked += 1
        if self.fault is not None:
            raise self.fault


def _serve(
    groups: Sequence[Sequence[ToRunner]],
    engine: Engine,
    embed: Any = None,
    heard: list[FromRunner] | None = None,
) -> list[FromRunner]:
    """What a server hears that says this; it is in `heard` too, if the runner fails."""
    line = Script(groups)
    line.heard = [] if heard is None else heard
    memory = BackendMemory(Memory(1), DeviceMemory("CPU"), [])
    model: Any = SimpleNamespace(
        engine=engine, embed=embed, memory=memory, num_ctx=64, resize=lambda options: None
    )
    Served(line, model).run()
    return line.heard


def _events(heard: list[FromRunner]) -> list[tuple[int, Event | Failure]]:
    return [event for message in heard if isinstance(message, Stepped) for event in message.events]


def test_one_message_for_each_step() -> None:
    engine = Engine([(1, TextChunk("a")), (2, TextChunk("b"))], [(1, DONE), (2, DONE)])
    heard = _serve([[Generate(1, REQUEST), Generate(2, REQUEST)]], engine)
    assert [isinstance(message, Stepped) and len(message.events) for message in heard] == [2, 2]
    first = heard[0]
    assert isinstance(first, Stepped)
    assert (first.tokens, first.sequences, first.waiting, first.cells) == (1, 2, 3, 4)
    assert first.seconds > 0


@pytest.mark.parametrize("error", [BackendError("broken"), OutOfMemory("full"), MemoryError()])
def test_a_step_that_fails_ends_what_runs_and_no_more(error: Exception) -> None:
    engine = Engine(error, [(3, DONE)])
    heard = _serve([[Generate(1, REQUEST), Generate(2, REQUEST)], [Generate(3, REQUEST)]], engine)
    failed = dict(_events(heard)[:2])
    assert failed.keys() == {1, 2}
    kinds = {event.kind for event in failed.values() if isinstance(event, Failure)}
    assert kinds == {"BackendError" if isinstance(error, BackendError) else "OutOfMemory"}
    assert _events(heard)[2:] == [(3, DONE)]
    # After the failure, and after the last answer.
    assert (engine.cancelled, engine.checked) == ([1, 2], 2)


def test_wrong_books_end_the_runner_once_all_are_answered() -> None:
    engine = Engine([(1, TextChunk("a"))], [(1, DONE)])
    engine.fault = InternalError("a cell is taken and belongs to nobody")
    heard: list[FromRunner] = []
    with pytest.raises(InternalError, match="belongs to nobody"):
        _serve([[Generate(1, REQUEST)]], engine, heard=heard)
    assert _events(heard) == [(1, TextChunk("a")), (1, DONE)]


def test_a_request_that_is_refused_is_told_at_once() -> None:
    heard = _serve([[Generate(1, GenerateRequest([1], num_predict=0)), Stop()]], Engine())
    assert _events(heard) == [(1, Failure("InvalidOption", "no tokens"))]


def test_only_what_runs_is_cancelled() -> None:
    engine = Engine([(1, TextChunk("a"))], [(2, DONE)], [])
    begin: list[ToRunner] = [Generate(1, REQUEST), Generate(2, REQUEST)]
    _serve([begin, [Cancel(1), Cancel(7)], [Cancel(2), Stop()]], engine)
    assert engine.cancelled == [1]


def test_no_other_cache_while_something_runs() -> None:
    engine = Engine([(1, TextChunk("a"))], [(1, DONE)])
    heard = _serve(
        [[Generate(1, REQUEST), Resize(LoadOptions())], [Cancel(9)], [Resize(LoadOptions())]], engine
    )
    kinds = [type(message).__name__ for message in heard]
    assert kinds == ["LoadFailed", "Stepped", "Stepped", "Loaded"]
    assert next(m for m in heard if isinstance(m, LoadFailed)).failure.kind == "InvalidOption"


def _lengths(inputs: list[list[int]], adapters: Any = None) -> list[Any]:
    return [np.array([len(text)], np.float32) for text in inputs]


def test_long_lists_of_texts_give_way_to_answers() -> None:
    engine = Engine([(2, TextChunk("a"))], [(2, DONE)])
    texts = [[1] * 300 for _ in range(6)]
    heard = _serve([[Embed(1, texts), Generate(2, REQUEST)]], engine, _lengths)
    done = next(message for message in heard if isinstance(message, Embedded))
    assert done == Embedded(1, [np.float32(300).tobytes()] * 6)
    assert heard.index(done) > next(i for i, m in enumerate(heard) if isinstance(m, Stepped) and m.events)
    assert sum(message.tokens for message in heard if isinstance(message, Stepped)) == 1800 + 2


def test_short_lists_of_texts_do_not_wait_for_long_ones() -> None:
    lists = [Embed(1, [[1] * 300] * 100), Embed(2, [[1] * 300] * 4), Embed(3, [[1]])]
    heard = _serve([lists], Engine(), _lengths)
    assert [message.id for message in heard if isinstance(message, Embedded)] == [3, 2, 1]


def test_vectors_change_nothing_of_what_the_engine_tells() -> None:
    steps = _serve([[Embed(1, [[1] * 300] * 6)]], Engine(), _lengths)[:-1]
    told = [(step.waiting, step.cells) for step in steps if isinstance(step, Stepped)]
    assert told == [(3, 4)] * 3


def test_vectors_of_nothing() -> None:
    heard = _serve([[Embed(1, [])]], Engine(), _lengths)
    assert heard[-1] == Embedded(1, [])


def test_vectors_that_fail_or_are_no_longer_wanted() -> None:
    def fail(inputs: list[list[int]], adapters: Any) -> list[Any]:
        raise InvalidOption("no")

    heard = _serve([[Embed(1, [[1]])]], Engine(), fail)
    assert _events(heard) == [(1, Failure("InvalidOption", "no"))]
    heard = _serve([[Embed(1, [[1] * 600] * 5)], [Cancel(1)]], Engine(), _lengths)
    assert not any(isinstance(message, Embedded) for message in heard)


def test_what_a_model_takes_of_each_device() -> None:
    cpu = DeviceMemory("CPU", "", [Memory(5), Memory(), Memory(7)], [Memory(1)] * 3, Memory(9), total=100)
    gpu = DeviceMemory("GPU0", "id", [Memory(), Memory(50)], [Memory(), Memory(8)], Memory(3), 40, 90)
    assert devices(BackendMemory(Memory(2), cpu, [gpu])) == [
        Device("CPU", False, 14, 3, 9, 2, 0, 100),
        Device("GPU0", True, 50, 8, 3, 1, 40, 90),
    ]
