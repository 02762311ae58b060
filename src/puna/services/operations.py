"""Long operations of the store for callers on an event loop: each in a thread, told of as it goes on."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

from puna.cancellation import Cancellation
from puna.errors import Overloaded
from puna.progress import Progress, Report

Work: TypeAlias = Callable[[Report, Cancellation], None]
"""An operation: tells of its steps, and raises Interrupted when it is cancelled."""

_RETRY_SECONDS = 10


class Operations:
    """Runs operations, so many at once. All methods are called on one event loop.

    Args:
        most: how many may run at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: set[Cancellation] = set()

    @property
    def running(self) -> int:
        """How many operations there are."""
        return len(self._running)

    async def run(self, work: Work) -> AsyncGenerator[Progress, None]:
        """The steps of `work`, which goes on in a thread of its own.

        A caller that is slower than the work gets the newest figures of each step. When the generator is
        closed, the work is cancelled; it ends by itself soon after.

        Raises:
            Overloaded: too many run already.
            Exception: what `work` raises.
        """
        if len(self._running) >= self._most:
            raise Overloaded(f"{self._most} transfers are under way already; try again later", _RETRY_SECONDS)
        cancellation, steps = Cancellation(), _Steps(asyncio.get_running_loop())
        self._running.add(cancellation)
        ended = asyncio.get_running_loop().create_future()
        ended.add_done_callback(lambda _: self._running.discard(cancellation))
        # A daemon: one that is stuck in the operating system must not keep the server from ending.
        threading.Thread(
            target=_work, args=(work, steps, cancellation, ended), name="operation", daemon=True
        ).start()
        try:
            async for step in steps.until(ended):
                yield step
            await ended
        finally:
            cancellation.cancel()

    def close(self) -> None:
        """Cancel everything."""
        for cancellation in list(self._running):
            cancellation.cancel()


class _Steps:
    """Progress on its way from a thread to the loop; of steps with the same words and blob the newest."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: OrderedDict[tuple[str, str], Progress] = OrderedDict()
        self._come = asyncio.Event()

    def add(self, step: Progress) -> None:
        """Called by the thread."""
        with self._lock:
            first = not self._waiting
            self._waiting[step.status, step.digest] = step
        if first:
            _call(self._loop, self._come.set)

    async def until(self, ended: "asyncio.Future[None]") -> AsyncGenerator[Progress, None]:
        """What comes until the work has ended."""
        ended.add_done_callback(lambda _: self._come.set())
        done = False
        while not done:
            await self._come.wait()
            self._come.clear()
            done = ended.done()
            with self._lock:
                steps = list(self._waiting.values())
                self._waiting.clear()
            for step in steps:
                yield step


def _work(work: Work, steps: _Steps, cancellation: Cancellation, ended: "asyncio.Future[None]") -> None:
    def report(step: Progress) -> None:
        cancellation.check()
        steps.add(step)

    error: BaseException | None = None
    try:
        work(report, cancellation)
    except BaseException as raised:  # noqa: BLE001 - it is handed to the loop, whatever it is
        error = raised
    _call(ended.get_loop(), lambda: _finish(ended, error))


def _finish(ended: "asyncio.Future[None]", error: BaseException | None) -> None:
    if ended.cancelled():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
        ended.exception()  # nobody may be left to ask for it


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
    """Have the loop call back, if it still runs."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:  # it has been closed: the server has ended
        return
