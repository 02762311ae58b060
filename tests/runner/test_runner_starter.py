"""Runners that begin before it is known which model they are for."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.runner.conftest import OPTIONS
from tests.runner.conftest import children as all_children

from puna.errors import RunnerDied
from puna.runner import starter as module
from puna.runner.starter import Starter

pytestmark = pytest.mark.anyio

Children = Callable[[], set[int]]


@pytest.fixture
def children() -> Children:
    """The processes that the test has started."""
    others = all_children()
    return lambda: all_children() - others


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def begun(children: Children) -> int:
    """The process that has been expected."""
    await until(children)
    (pid,) = children()
    return pid


async def gone(pid: int) -> None:
    await until(lambda: pid not in all_children())


async def test_what_was_expected_gets_the_model(tiny_path: Path, children: Children) -> None:
    starter = Starter()
    starter.expect()
    starter.expect()
    pid = await begun(children)
    runner = await starter.start(tiny_path, OPTIONS)
    assert (runner.pid, children()) == (pid, {pid})
    assert runner.loaded.num_ctx
    other = await starter.start(tiny_path, OPTIONS)
    assert other.pid != pid
    await other.stop()
    await runner.stop()
    await starter.close()


async def test_a_load_need_not_be_expected(tiny_path: Path, children: Children) -> None:
    starter = Starter()
    runner = await starter.start(tiny_path, OPTIONS)
    assert children() == {runner.pid}
    assert (await starter.plan(tiny_path, OPTIONS)).size == runner.loaded.size
    await runner.stop()
    await starter.close()


async def test_what_nobody_wanted_ends_with_the_server(children: Children) -> None:
    starter = Starter()
    starter.expect()
    await starter.close()
    assert not children()
    starter.expect()
    await begun(children)
    await starter.close()
    assert not children()


async def test_what_nobody_wanted_ends_after_a_while(
    monkeypatch: pytest.MonkeyPatch, tiny_path: Path, children: Children
) -> None:
    monkeypatch.setattr(module, "_KEPT_SECONDS", 0.2)
    starter = Starter()
    starter.expect()
    pid = await begun(children)
    await gone(pid)
    runner = await starter.start(tiny_path, OPTIONS)
    assert runner.pid != pid
    await runner.stop()
    await starter.close()


async def test_one_that_died_meanwhile_is_replaced(tiny_path: Path, children: Children) -> None:
    starter = Starter()
    starter.expect()
    pid = await begun(children)
    os.kill(pid, signal.SIGKILL)
    await gone(pid)
    runner = await starter.start(tiny_path, OPTIONS)
    assert runner.pid != pid
    await runner.stop()
    await starter.close()


async def test_a_load_that_is_cancelled_leaves_no_process(tiny_path: Path, children: Children) -> None:
    for pause in (0.0, 0.01, 0.1):
        starter = Starter()
        starter.expect()
        task = asyncio.create_task(starter.start(tiny_path, OPTIONS))
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await starter.close()
        assert not children()


async def test_a_process_that_cannot_be_started_is_told_to_who_wants_it(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*arguments: object) -> None:
        raise RunnerDied("no model runner can be started: Resource temporarily unavailable")

    starter = Starter()
    monkeypatch.setattr("puna.runner.process.Child.spawn", refused)
    starter.expect()
    with pytest.raises(RunnerDied, match="no model runner can be started"):
        await starter.start(tiny_path, OPTIONS)
    starter.expect()
    await starter.close()
