"""Long operations in threads, watched from an event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from puna.cancellation import Cancellation
from puna.errors import Interrupted, Overloaded, StoreError
from puna.progress import Progress, Report
from puna.services.operations import Operations, Work

LIMIT = 30.0


async def steps_of(operations: Operations, work: Work) -> list[Progress]:
    return [step async for step in operations.run(work)]


def test_every_step_comes_in_order() -> None:
    def work(report: Report, cancellation: Cancellation) -> None:
        for number in range(100):
            report(Progress(f"step {number}"))

    steps = asyncio.run(steps_of(Operations(1), work))
    assert [step.status for step in steps] == [f"step {number}" for number in range(100)]


def test_a_slow_watcher_gets_the_newest_figures() -> None:
    reported = threading.Event()

    def work(report: Report, cancellation: Cancellation) -> None:
        report(Progress("begin"))
        for number in range(10_000):
            report(Progress("pulling", number, 10_000, "sha256:x"))
        report(Progress("success"))
        reported.set()

    async def watch() -> list[Progress]:
        found = []
        async for step in Operations(1).run(work):
            found.append(step)
            await asyncio.to_thread(reported.wait, LIMIT)
        return found

    steps = asyncio.run(watch())
    assert steps[0] == Progress("begin")
    assert steps[-2:] == [Progress("pulling", 9999, 10_000, "sha256:x"), Progress("success")]
    assert len(steps) < 100


def test_an_error_comes_after_the_steps_before_it() -> None:
    def work(report: Report, cancellation: Cancellation) -> None:
        report(Progress("begin"))
        raise StoreError("full")

    async def watch() -> list[Progress]:
        found: list[Progress] = []
        with pytest.raises(StoreError, match="full"):
            async for step in Operations(1).run(work):
                found.append(step)
        return found

    assert asyncio.run(watch()) == [Progress("begin")]


def waiting(ended: threading.Event, how: Callable[[Report, Cancellation], Any]) -> Work:
    """Work that begins, and then does `how` until it is interrupted."""

    def work(report: Report, cancellation: Cancellation) -> None:
        try:
            report(Progress("begin"))
            while True:
                how(report, cancellation)
        except Interrupted:
            ended.set()
            raise

    return work


def called(report: Report, cancellation: Cancellation) -> None:
    end = threading.Event()
    with cancellation.calling(end.set):
        assert end.wait(LIMIT)
    cancellation.check()


@pytest.mark.parametrize(
    "how",
    [
        lambda report, cancellation: cancellation.sleep(LIMIT),
        lambda report, cancellation: report(Progress("again")),
        called,
    ],
)
def test_closing_ends_the_work(how: Callable[[Report, Cancellation], Any]) -> None:
    ended, operations = threading.Event(), Operations(1)

    async def watch() -> None:
        async with aclosing(operations.run(waiting(ended, how))) as steps:
            assert await anext(steps) == Progress("begin")
        assert await asyncio.to_thread(ended.wait, LIMIT)
        for _ in range(3000):
            if not operations.running:
                return
            await asyncio.sleep(0.01)

    asyncio.run(watch())
    assert operations.running == 0


def test_no_more_than_so_many_at_once() -> None:
    ended, operations = threading.Event(), Operations(1)

    async def watch() -> None:
        wait = waiting(ended, lambda report, cancellation: cancellation.sleep(LIMIT))
        async with aclosing(operations.run(wait)) as steps:
            await anext(steps)
            with pytest.raises(Overloaded) as caught:
                await anext(operations.run(wait))
            assert caught.value.retry_after > 0
            operations.close()
            with pytest.raises(Interrupted):
                await anext(steps)
        assert ended.is_set()

    asyncio.run(watch())


def test_a_cancellation_that_came_first() -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    for use in (
        cancellation.check,
        lambda: cancellation.sleep(LIMIT),
        cancellation.calling(lambda: None).__enter__,
    ):
        with pytest.raises(Interrupted):
            use()
