"""Several answers at once: their order, and that none is left behind."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from puna.chat.events import Content
from puna.errors import Interrupted
from puna.services.choices import merged
from puna.services.inference import Answer, AnswerEvent


class Script:
    """Answers that say what they are told to, and how they went.

    Attributes:
        log: what happened, in order: an index and "begins", a text, or "ends".
    """

    def __init__(self) -> None:
        self.log: list[tuple[int, str]] = []

    def answer(self, index: int, texts: Sequence[str], error: str = "", wait: bool = False) -> Answer:
        async def events() -> AsyncGenerator[AnswerEvent, None]:
            self.log.append((index, "begins"))
            try:
                for text in texts:
                    await asyncio.sleep(0)
                    self.log.append((index, text))
                    yield Content(text)
                if error:
                    raise Interrupted(error)
                if wait:
                    await asyncio.Event().wait()
            finally:
                self.log.append((index, "ends"))

        return Answer((), events())


async def collected(answers: Sequence[Answer]) -> list[tuple[int, AnswerEvent]]:
    async with aclosing(merged(answers)) as events:
        return [event async for event in events]


def test_each_answer_keeps_its_order() -> None:
    script = Script()
    texts = ["a", "ab", "abc"]
    found = asyncio.run(collected([script.answer(index, text) for index, text in enumerate(texts)]))
    for index, text in enumerate(texts):
        assert [event for number, event in found if number == index] == [Content(c) for c in text]
    assert sum(what == "ends" for _, what in script.log) == 3


def test_the_first_goes_ahead_until_it_says_something() -> None:
    script = Script()
    asyncio.run(collected([script.answer(index, "ab") for index in range(3)]))
    assert script.log[:2] == [(0, "begins"), (0, "a")]
    assert {(1, "begins"), (2, "begins")} <= {*script.log[2:]}


def test_when_one_fails_all_end() -> None:
    script = Script()
    failing = script.answer(1, "a", error="no more")
    with pytest.raises(Interrupted, match="no more"):
        asyncio.run(collected([script.answer(0, "a", wait=True), failing, script.answer(2, "a" * 9)]))
    begun = {index for index, what in script.log if what == "begins"}
    assert {index for index, what in script.log if what == "ends"} == begun


def test_when_the_first_fails_at_once_the_others_do_not_begin() -> None:
    script = Script()
    with pytest.raises(Interrupted, match="no"):
        asyncio.run(collected([script.answer(0, "", error="no"), script.answer(1, "a")]))
    assert script.log == [(0, "begins"), (0, "ends")]


@pytest.mark.parametrize("count", [1, 3])
def test_who_stops_listening_ends_all(count: int) -> None:
    script = Script()

    async def first() -> None:
        async with aclosing(merged([script.answer(i, "a", wait=True) for i in range(count)])) as events:
            for _ in range(count):
                await anext(events)

    asyncio.run(first())
    assert sum(what == "ends" for _, what in script.log) == count


def test_who_is_cancelled_ends_all() -> None:
    script = Script()

    async def cancelled() -> None:
        task = asyncio.create_task(collected([script.answer(i, "a", wait=True) for i in range(3)]))
        while len(script.log) < 6:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert sum(what == "ends" for _, what in script.log) == 3
