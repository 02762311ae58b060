"""The server's side of a runner: a model in another process, as an object of this one's event loop."""

import asyncio
import sys
from array import array
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Self

import msgspec

from puna.engine.events import Done, Event, PromptLogprobs, TextChunk
from puna.engine.options import LoadOptions
from puna.engine.request import AdapterUse, GenerateRequest
from puna.errors import Interrupted, PunaError, RunnerDied
from puna.runner.child import Child, Ending
from puna.runner.ending import UNEXPECTED, unexpected_end
from puna.runner.mailbox import LIMIT, Mailbox
from puna.runner.protocol import (
    Cancel,
    Embed,
    Embedded,
    Failure,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Resize,
    Stepped,
    Stop,
    error_of,
)

_TERMINATE_SECONDS = 0.5


def command(descriptor: int, memory: int | None = None) -> list[str]:
    """The command line of a runner.

    Args:
        descriptor: of its end of the socket.
        memory: most bytes of memory of its own that it may take.
    """
    # -P: a file named numpy.py in the current folder must not run.
    start = [sys.executable, "-P", "-X", "faulthandler", "-m", "puna.runner", str(descriptor)]
    return start if memory is None else [*start, str(memory)]


class Runner:
    """A loaded model in a process of its own. One event loop uses it.

    Attributes:
        loaded: what the model takes.
        died: done when the process is gone, whatever the reason.
        on_step: called with the figures of each step.
    """

    def __init__(self, step_timeout: float | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._step_timeout = step_timeout
        self._watch: asyncio.TimerHandle | None = None
        self._child: Child | None = None
        self._gone: str | None = None
        self._stopped = False
        self._ids = count(1)
        self._mailboxes: dict[int, Mailbox] = {}
        self._answers: deque[asyncio.Future[Loaded]] = deque()
        self._progress: Callable[[float], None] = _ignore
        self.loaded = Loaded(0, 0, [])
        self.died: asyncio.Future[None] = self._loop.create_future()
        self.on_step: Callable[[Stepped], None] = _ignore

    @classmethod
    async def start(
        cls,
        path: Path,
        options: LoadOptions,
        *,
        progress: Callable[[float], None] = lambda done: None,
        stall: float | None = 300.0,
        memory: int | None = None,
        step_timeout: float | None = None,
    ) -> Self:
        """Loads a model in a new process. Cancelled, it leaves no process.

        Args:
            progress: called with the share done, 0 to 1.
            stall: seconds without progress after which the load is given up; None waits for ever.
            memory: most bytes of memory of its own that the process may take; files it maps do not count.
            step_timeout: seconds without a word after which a runner that has something to do is taken for
                hung and ended; None waits for ever.

        Raises:
            PunaError: what the load failed of; the same as in this process.
            RunnerDied: the process ended, or the load stalled.
        """
        runner = await cls.spawn(memory=memory, step_timeout=step_timeout)
        await runner.load(path, options, progress=progress, stall=stall)
        return runner

    @classmethod
    async def spawn(cls, *, memory: int | None = None, step_timeout: float | None = None) -> Self:
        """A new process without a model, for `load`. Cancelled, it leaves none.

        Args:
            memory, step_timeout: see `start`.

        Raises:
            RunnerDied: the system starts no process.
        """
        runner = cls(step_timeout)
        runner._child = await Child.spawn(lambda descriptor: command(descriptor, memory), runner._received)
        runner._child.ended.add_done_callback(lambda ended: runner._settle(ended.result()))
        return runner

    async def load(
        self,
        path: Path,
        options: LoadOptions,
        *,
        progress: Callable[[float], None] = lambda done: None,
        stall: float | None = 300.0,
    ) -> None:
        """Loads the process's model, once; see `start`."""
        await self._load(Load(str(path.absolute()), options), progress, stall)

    @classmethod
    async def plan(
        cls, path: Path, options: LoadOptions, *, stall: float | None = 300.0, memory: int | None = None
    ) -> Loaded:
        """What a model would take; a process finds out, and ends.

        Raises:
            PunaError: the model cannot be loaded.
            RunnerDied: the process ended, or stalled.
        """
        runner = await cls.spawn(memory=memory)
        await runner._load(Load(str(path.absolute()), options, plan=True), _ignore, stall)
        await runner.stop(1.0)
        return runner.loaded

    @property
    def pid(self) -> int:
        """The process's number; 0 before it is started."""
        return self._child.pid if self._child is not None else 0

    @property
    def active(self) -> int:
        """How many requests the runner has not finished."""
        return len(self._mailboxes)

    async def generate(
        self, request: GenerateRequest, halted: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[Event, None]:
        """Yields the answer to a prompt piece by piece, and at last `Done`.

        Nothing is sent before the first piece is asked for. Closing the iterator, and cancelling the task
        that waits for it, ends the request within one step of the runner. Who does not read on while more
        than a mebibyte has come loses the rest.

        Args:
            halted: asked after each piece of text whether it was the last that is wanted; then the answer
                has stopped, and `Done` comes next.

        Raises:
            PunaError: of the request.
            Interrupted: too much was not read.
            RunnerDied: the process ended.
        """
        stopped = False
        with self._request(lambda id: Generate(id, request)) as (id, mailbox):
            while True:
                item = await mailbox.get()
                if isinstance(item, TextChunk):
                    if stopped:
                        continue
                    yield item
                    if stopped := halted():
                        self._cancel(id)
                elif isinstance(item, PromptLogprobs):
                    yield item
                elif isinstance(item, Done):
                    yield msgspec.structs.replace(item, reason="stop") if stopped else item
                    return
                else:
                    raise _failed(item)

    async def embed(
        self, inputs: list[list[int]], adapters: tuple[AdapterUse, ...] | None = None
    ) -> list["array[float]"]:
        """The vectors of texts, F32, not normalised.

        Args:
            inputs: each text's token ids, at least one.
            adapters: what they are made with; None for those that the model was loaded with.

        Raises:
            PunaError: of the request.
            RunnerDied: the process ended.
        """
        with self._request(lambda id: Embed(id, inputs, adapters)) as (_, mailbox):
            item = await mailbox.get()
        if isinstance(item, Embedded):
            return [_floats(vector) for vector in item.vectors]
        raise _failed(item)

    async def resize(self, options: LoadOptions) -> None:
        """Makes the cache anew for other options; only while no request runs.

        Raises:
            PunaError: what it failed of.
            RunnerDied: the process ended.
        """
        await self._ask(Resize(options))

    async def stop(self, grace: float = 5.0) -> None:
        """Ends the process: asks it to, and after `grace` seconds makes it.

        Requests end with `RunnerDied`.
        """
        self._stopped = True
        child = self._child
        if child is None:
            return
        child.send(Stop())
        try:
            if not await _within(child, grace):
                child.terminate()
                await _within(child, _TERMINATE_SECONDS)
        finally:
            child.kill()
        await asyncio.shield(self.died)

    # -- the process ----------------------------------------------------------------------------------

    async def _load(self, load: Load, progress: Callable[[float], None], stall: float | None) -> None:
        try:
            async with asyncio.timeout(stall) as limit:
                last = -1.0

                def report(done: float) -> None:
                    nonlocal last
                    if stall is not None and done > last:
                        limit.reschedule(self._loop.time() + stall)
                    last = done
                    progress(done)

                self._progress = report
                await self._ask(load)
        except TimeoutError as error:
            await self._abandon()
            raise RunnerDied(
                f"timed out waiting for the runner to load the model: no progress in {stall:g} seconds"
            ) from error
        except BaseException:
            await self._abandon()
            raise
        finally:
            self._progress = _ignore

    async def _abandon(self) -> None:
        if self._child is not None:
            self._child.kill()
            await asyncio.shield(self.died)

    async def _ask(self, message: Load | Resize) -> None:
        """Says what is answered by `Loaded` or `LoadFailed`, in order."""
        answer: asyncio.Future[Loaded] = self._loop.create_future()
        child = self._speaking()
        self._answers.append(answer)
        child.send(message)
        if isinstance(message, Resize):
            self._watch_steps()
        await answer

    def _speaking(self) -> Child:
        if self._gone is not None:
            raise RunnerDied(self._gone)
        if self._child is None or self._stopped:
            raise RunnerDied("the model runner was stopped")
        return self._child

    @contextmanager
    def _request(self, message: Callable[[int], Generate | Embed]) -> Iterator[tuple[int, Mailbox]]:
        """Sends a request; a request that is not finished at the end is cancelled."""
        child = self._speaking()
        id, mailbox = next(self._ids), Mailbox()
        self._mailboxes[id] = mailbox
        child.send(message(id))
        self._watch_steps()
        try:
            yield id, mailbox
        finally:
            if self._mailboxes.pop(id, None) is not None:
                self._cancel(id)

    def _cancel(self, id: int) -> None:
        if self._child is not None:
            self._child.send(Cancel(id))

    # -- what it says ---------------------------------------------------------------------------------

    def _received(self, message: FromRunner) -> None:
        if isinstance(message, Stepped):
            for id, event in message.events:
                self._deliver(id, event)
            self.on_step(message)
        elif isinstance(message, Embedded):
            self._deliver(message.id, message)
        elif isinstance(message, Loading):
            self._progress(message.done)
        else:
            self._answered(message)
        if self._watch is not None and not (self._mailboxes or self._answers):
            # The next request has all its time, however long the runner has been silent until then.
            self._watch.cancel()
            self._watch = None

    def _deliver(self, id: int, item: Event | Failure | Embedded) -> None:
        mailbox = self._mailboxes.get(id)
        if mailbox is None:
            return
        mailbox.put(item)
        if not isinstance(item, (TextChunk, PromptLogprobs)):
            del self._mailboxes[id]
        elif mailbox.full:
            del self._mailboxes[id]
            self._cancel(id)
            mailbox.close(Interrupted(f"the answer was not read, and more than {LIMIT} bytes of it waited"))

    def _answered(self, message: Loaded | LoadFailed) -> None:
        answer = self._answers.popleft() if self._answers else None
        if isinstance(message, Loaded):
            self.loaded = message
        if answer is None or answer.done():
            return
        if isinstance(message, Loaded):
            answer.set_result(message)
        else:
            answer.set_exception(error_of(message.failure))

    # -- its end --------------------------------------------------------------------------------------

    def _settle(self, ending: Ending) -> None:
        """The process is gone: whoever waits for something learns it."""
        self._gone = _reason(ending, self._stopped)
        mailboxes, self._mailboxes = self._mailboxes, {}
        for mailbox in mailboxes.values():
            mailbox.close(RunnerDied(self._gone))
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(RunnerDied(self._gone))
        if self._watch is not None:
            self._watch.cancel()
        if not self.died.done():
            self.died.set_result(None)

    def _watch_steps(self) -> None:
        """Sees to it that a runner with something to do says something in time."""
        if self._step_timeout is None or self._child is None or self._watch is not None:
            return
        self._child.heard = self._loop.time()
        self._watch = self._loop.call_later(self._step_timeout, self._look)

    def _look(self) -> None:
        self._watch = None
        if not (self._mailboxes or self._answers) or self._child is None or self._step_timeout is None:
            return
        left = self._child.heard + self._step_timeout - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self._child.kill(f"it did nothing for {self._step_timeout:g} seconds")


def _ignore(said: object) -> None:
    """Nobody asked to be told."""


def _reason(ending: Ending, stopped: bool) -> str:
    if stopped:
        return "the model runner was stopped"
    if ending.fault:
        return f"{UNEXPECTED}: {ending.fault}"
    return unexpected_end(ending.status, ending.output)


def _failed(item: Event | Failure | Embedded) -> PunaError:
    if isinstance(item, Failure):
        return error_of(item)
    return RunnerDied(f"{UNEXPECTED}: it answered with {type(item).__name__}")


def _floats(vector: bytes) -> "array[float]":
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


async def _within(child: Child, seconds: float) -> bool:
    """Whether the child ends in time."""
    done, _ = await asyncio.wait({child.ended}, timeout=seconds)
    return bool(done)
