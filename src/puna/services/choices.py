"""Several answers at once: to one prompt, or to several."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeAlias

from puna.services.inference import Answer, AnswerEvent

MAX_CHOICES = 16
"""The most answers that one prompt gets."""

_Waiting: TypeAlias = "dict[asyncio.Task[AnswerEvent | None], int]"


async def merged(answers: Sequence[Answer]) -> AsyncGenerator[tuple[int, AnswerEvent], None]:
    """The events of all answers as they come, each with its answer's index.

    The first answer goes ahead until it says something: what it has then put into the model's cache of their
    common prompt, the others find there.

    Raises:
        PunaError: what the first answer that fails raises; the others end.
    """
    if len(answers) == 1:
        async with aclosing(answers[0].events) as events:
            async for event in events:
                yield 0, event
        return
    waiting: _Waiting = {_next(answers[0]): 0}
    behind = True
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting[task]
                found = task.result()
                del waiting[task]
                if behind:
                    behind = False
                    waiting |= {_next(answer): number for number, answer in enumerate(answers) if number}
                if found is not None:
                    waiting[_next(answers[index])] = index
                    yield index, found
    finally:
        await _ended(waiting, answers)


def _next(answer: Answer) -> "asyncio.Task[AnswerEvent | None]":
    return asyncio.create_task(_event(answer))


async def _event(answer: Answer) -> AnswerEvent | None:
    return await anext(answer.events, None)


async def _ended(waiting: _Waiting, answers: Sequence[Answer]) -> None:
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await asyncio.gather(*(answer.aclose() for answer in answers))
