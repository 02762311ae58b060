"""Carries out what `puna.scheduler.policy` decides: runners start, change and stop, requests get leases.

Everything happens on one event loop. Whatever changes what is known (a request comes or leaves, a runner
starts, ends or dies, a model's time is up) leads to one call of `Scheduler._dispatch`.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from puna.engine.events import Event
from puna.engine.options import LoadOptions
from puna.engine.request import AdapterUse, GenerateRequest
from puna.errors import InternalError, OutOfMemory, Overloaded, PunaError, RunnerDied
from puna.runner.protocol import Loaded, Stepped
from puna.scheduler import policy
from puna.scheduler.fit import out_of_memory, shortages_alone
from puna.scheduler.launch import change_for, check_asked, smaller
from puna.scheduler.memory import HostMemory, free_memory
from puna.scheduler.state import (
    Abort,
    Action,
    Crashes,
    Load,
    ModelSource,
    Plan,
    Refuse,
    Resident,
    Resize,
    SchedulerOptions,
    Serve,
    Stage,
    State,
    Unload,
    Waiting,
)

logger = logging.getLogger("puna.scheduler")

_QUEUE_FULL = "server busy, please try again.  maximum pending requests exceeded"
_UNKNOWN_END = "its process ended"
_LONGEST_TIMER = 3600.0
_LONGEST_RETRY = 60
# Seconds that a runner has to end before it is killed.
_STOP_GRACE = 5.0


class RunningModel(Protocol):
    """A model in a process of its own; `puna.runner.process.Runner` is one.

    Attributes:
        on_step: called with the figures of each step.
    """

    on_step: Callable[[Stepped], None]

    @property
    def loaded(self) -> Loaded:
        """What it takes, and its context; after a resize the new ones."""

    @property
    def pid(self) -> int:
        """Of the process."""

    @property
    def died(self) -> "asyncio.Future[None]":
        """Done when the process has ended."""

    def generate(
        self, request: GenerateRequest, halted: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[Event, None]:
        """Answers a prompt, until `halted` says after a piece that it was the last that is wanted."""

    async def embed(
        self, inputs: list[list[int]], adapters: tuple[AdapterUse, ...] | None = None
    ) -> list[Any]:
        """Makes vectors of texts."""

    async def resize(self, options: LoadOptions) -> None:
        """Makes the cache anew."""

    async def stop(self, grace: float = 5.0) -> None:
        """Ends the process."""


class StartRunner(Protocol):
    """Loads a file in a new process. Cancelling it leaves no process behind."""

    def __call__(
        self, path: Path, options: LoadOptions, *, stall: float | None
    ) -> Coroutine[Any, Any, RunningModel]: ...


PlanLoad = Callable[[Path, LoadOptions], Awaitable[Loaded]]
Ready = Callable[[ModelSource, RunningModel, float], None]
"""Is told of a model that has been loaded, and how many seconds that took; before anybody uses it."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, or on its way there.

    Attributes:
        size: bytes on all devices; 0 while it is loaded.
        gpu_size: bytes of them on other devices than the machine's own memory.
        num_ctx: tokens of context; 0 while it is loaded.
        num_parallel: requests that it computes at once.
        expires: seconds from now until it is unloaded, if nobody uses it; infinite for never.
        active: requests that use it.
        pid: of its process; 0 while it is loaded.
    """

    digest: str
    name: str
    size: int
    gpu_size: int
    num_ctx: int
    num_parallel: int
    expires: float
    active: int
    pid: int


@dataclass(slots=True, eq=False)
class _Slot:
    """One model from the start of its load to the end of its process."""

    source: ModelSource
    options: LoadOptions
    asked: LoadOptions
    keep_alive: float
    stage: Stage = "loading"
    runner: RunningModel | None = None
    active: int = 0
    idle_since: float = 0.0
    lost: bool = False
    task: asyncio.Task[None] | None = None

    def view(self) -> Resident:
        """As plain data."""
        loaded = self.runner.loaded if self.runner else None
        return Resident(
            self.source, self.stage, self.options, loaded, self.active, self.keep_alive, self.idle_since
        )


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """A model for one request, for as long as the context lasts.

    Attributes:
        runner: the model.
        load_seconds: how long the request waited for it.
    """

    runner: RunningModel
    load_seconds: float
    _slot: _Slot


@dataclass(slots=True, eq=False)
class _Pending:
    """A request in the queue."""

    waiting: Waiting
    keep_alive: float | None
    since: float
    lease: asyncio.Future[Lease]
    planning: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Queue:
    """The requests that wait, by id, in the order in which they came."""

    pending: dict[int, _Pending] = field(default_factory=dict)
    last_id: int = 0

    def next_id(self) -> int:
        """An id larger than all before."""
        self.last_id += 1
        return self.last_id


class Scheduler:
    """Gives requests the models that they need, and memory to the models; see docs/scheduling.md.

    Args:
        start: loads a model in a process of its own.
        plan: finds out what a load takes.
        expect: is told that `start` may be called soon.
        clock: seconds, for all moments.
        memory: the machine's memory as it is now.
        ready: is told of each model that has been loaded.
    """

    def __init__(
        self,
        options: SchedulerOptions,
        *,
        start: StartRunner,
        plan: PlanLoad,
        expect: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], HostMemory] = free_memory,
        ready: Ready = lambda source, runner, seconds: None,
    ) -> None:
        self.options = options
        self._start = start
        self._plan = plan
        self._expect = expect
        self._clock = clock
        self._memory = memory
        self._tell_ready = ready
        self._slots: dict[str, _Slot] = {}
        self._queue = _Queue()
        self._crashes: dict[str, Crashes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._gpus = 0
        self._leases = 0
        self._no_leases = asyncio.Event()
        self._no_leases.set()
        self._closing = False

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return len(self._queue.pending)

    def expect(self, digest: str) -> None:
        """A request is on its way for a model that may have to be loaded."""
        if digest not in self._slots and not self._closing:
            self._expect()

    @asynccontextmanager
    async def lease(
        self, source: ModelSource, options: LoadOptions, keep_alive: float | None = None
    ) -> AsyncIterator[Lease]:
        """The model, loaded as the options name it, for as long as the context lasts.

        Args:
            options: what is None is not named, and matches what is loaded.
            keep_alive: seconds to keep the model after its last request; None leaves it as it is.

        Raises:
            InvalidOption: the options ask for more than is allowed.
            Overloaded: too many requests wait, or the server is shutting down.
            OutOfMemory: the model does not fit.
            RunnerDied: it died, now or several times before.
            PunaError: it cannot be loaded.
        """
        lease = await self._acquire(source, options, keep_alive)
        try:
            yield lease
        except RunnerDied as error:
            self._lost(lease._slot, str(error))
            raise
        finally:
            self._release(lease)

    async def unload(self, digest: str, *, at_once: bool = False) -> bool:
        """Takes a model out of memory, now or when its requests have ended; whether there was one.

        Args:
            at_once: its process ends also while requests use it, which then fail with RunnerDied.
        """
        slot = self._slots.get(digest)
        if slot is None:
            return False
        slot.keep_alive = 0.0
        for pending in self._queue.pending.values():
            if pending.waiting.digest == digest:
                pending.keep_alive = 0.0
        self._dispatch()
        if at_once and slot.stage == "loading":
            self._abort(slot)
        elif at_once and slot.stage != "stopping":
            self._stop(slot, _STOP_GRACE)
        if slot.stage == "stopping" and slot.task is not None:
            await asyncio.wait([slot.task])
        return True

    def loaded(self) -> list[LoadedModel]:
        """The models in memory and on their way there, the one that stays longest first."""
        models = [self._told(slot) for slot in self._slots.values() if slot.stage != "stopping"]
        return sorted(models, key=lambda model: (-model.expires, model.name))

    async def close(self, grace: float) -> None:
        """Ends everything: what waits is refused, what is answered gets `grace` seconds, runners end."""
        self._closing = True
        for pending in list(self._queue.pending.values()):
            self._fail(pending, Overloaded("the server is shutting down"))
        for slot in list(self._slots.values()):
            if slot.stage == "loading":
                self._abort(slot)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._no_leases.wait(), grace)
        stop_grace = _STOP_GRACE if self._no_leases.is_set() else 0.0
        for slot in list(self._slots.values()):
            if slot.stage != "stopping":
                self._stop(slot, stop_grace)
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._timer is not None:
            self._timer.cancel()

    async def _acquire(self, source: ModelSource, asked: LoadOptions, keep_alive: float | None) -> Lease:
        check_asked(asked, self.options)
        if self._closing:
            raise Overloaded("the server is shutting down")
        size = _file_size(source.path) + (_file_size(Path(asked.projector)) if asked.projector else 0)
        waiting = Waiting(self._queue.next_id(), source, asked, size)
        lease: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        pending = _Pending(waiting, keep_alive, self._clock(), lease)
        self._check_queue(waiting)
        self._queue.pending[waiting.id] = pending
        self._dispatch()
        try:
            return await lease
        except asyncio.CancelledError:
            self._abandon(pending)
            raise

    def _check_queue(self, waiting: Waiting) -> None:
        """Raises Overloaded if the queue is full and the request would have to wait in it."""
        if self.queued < self.options.max_queue:
            return
        if Serve(waiting.id) in policy.schedule(self._state(waiting)):
            return
        oldest = min((pending.since for pending in self._queue.pending.values()), default=self._clock())
        seconds = round(self._clock() - oldest)
        raise Overloaded(_QUEUE_FULL, retry_after=min(max(seconds, 1), _LONGEST_RETRY))

    def _abandon(self, pending: _Pending) -> None:
        """The client went away: its place in the queue, or its lease, is given back."""
        lease = pending.lease
        if lease.done() and not lease.cancelled() and lease.exception() is None:
            self._release(lease.result())
        if self._queue.pending.pop(pending.waiting.id, None) is not None:
            _cancel(pending.planning)
            self._dispatch()

    def _release(self, lease: Lease) -> None:
        slot = lease._slot
        slot.active -= 1
        slot.idle_since = self._clock()
        self._leases -= 1
        if self._leases == 0:
            self._no_leases.set()
        if slot.active == 0:
            self._dispatch()

    def _state(self, *more: Waiting) -> State:
        waiting = (*(pending.waiting for pending in self._queue.pending.values()), *more)
        return State(
            now=self._clock(),
            limits=self.options,
            residents=tuple(slot.view() for slot in self._slots.values()),
            waiting=waiting,
            memory=self._memory,
            gpus=self._gpus,
            crashes=self._crashes,
        )

    def _dispatch(self) -> None:
        if self._closing:
            return
        now = self._clock()
        forgotten = [d for d, crashes in self._crashes.items() if now - crashes.last >= policy.CRASH_MEMORY]
        for digest in forgotten:
            del self._crashes[digest]
        for action in policy.schedule(self._state()):
            self._carry_out(action)
        self._set_timer()

    def _carry_out(self, action: Action) -> None:
        match action:
            case Unload(digest):
                self._stop(self._slots[digest], _STOP_GRACE)
            case Abort(digest):
                self._abort(self._slots[digest])
            case Serve(id):
                self._serve(self._queue.pending[id])
            case Refuse(id, error):
                self._fail(self._queue.pending[id], error)
            case Plan(id, options):
                self._start_plan(self._queue.pending[id], options)
            case Load(id, options):
                self._start_load(self._queue.pending[id], options)
            case Resize(id, options):
                self._start_resize(self._queue.pending[id], options)

    def _set_timer(self) -> None:
        """Looks again when the next idle model's time is up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        # What is over already stays for a request that waits for something else, whose end is an event too.
        left = [view.expires - now for slot in self._slots.values() if (view := slot.view()).idle]
        delay = min((seconds for seconds in left if seconds > 0), default=None)
        if delay is not None:
            delay = min(delay, _LONGEST_TIMER)
            self._timer = asyncio.get_running_loop().call_later(delay, self._dispatch)

    def _serve(self, pending: _Pending) -> None:
        if pending.lease.done():
            return
        del self._queue.pending[pending.waiting.id]
        slot = self._slots[pending.waiting.digest]
        if slot.runner is None:
            raise RuntimeError("a model without a runner was to serve a request")
        # Of several names of one file the list tells the one that was used last; another may be deleted.
        slot.source = pending.waiting.source
        if pending.keep_alive is not None:
            slot.keep_alive = self._kept(pending.keep_alive)
        slot.active += 1
        self._leases += 1
        self._no_leases.clear()
        pending.lease.set_result(Lease(slot.runner, self._clock() - pending.since, slot))

    def _kept(self, keep_alive: float | None) -> float:
        wanted = self.options.keep_alive if keep_alive is None else max(0.0, keep_alive)
        ceiling = self.options.max_keep_alive
        return wanted if ceiling is None else min(wanted, ceiling)

    def _fail(self, pending: _Pending, error: PunaError) -> None:
        self._queue.pending.pop(pending.waiting.id, None)
        _cancel(pending.planning)
        if not pending.lease.done():
            pending.lease.set_exception(error)

    def _start_plan(self, pending: _Pending, options: LoadOptions) -> None:
        pending.waiting = replace(pending.waiting, options=options, need=None, planning=True)
        pending.planning = self._spawn(
            self._find_need(pending, options), lambda error: self._plan_failed(pending, error)
        )

    async def _find_need(self, pending: _Pending, options: LoadOptions) -> None:
        try:
            need = await self._plan(pending.waiting.source.path, options)
        except PunaError as error:
            self._plan_failed(pending, error)
            return
        pending.waiting = replace(pending.waiting, need=need, planning=False)
        self._dispatch()

    def _plan_failed(self, pending: _Pending, error: PunaError) -> None:
        pending.planning = None
        self._fail(pending, error)
        self._dispatch()

    def _start_load(self, pending: _Pending, options: LoadOptions) -> None:
        waiting = pending.waiting
        slot = _Slot(waiting.source, options, waiting.asked, self._kept(pending.keep_alive))
        self._slots[waiting.digest] = slot
        slot.task = self._spawn(self._load(slot), lambda error: self._load_failed(slot, error))
        # Not in the coroutine itself: it does not run at all when it is cancelled early.
        slot.task.add_done_callback(lambda task: self._remove(slot) if task.cancelled() else None)

    async def _load(self, slot: _Slot) -> None:
        began = self._clock()
        try:
            runner = await self._loaded_runner(slot)
        except PunaError as error:
            self._load_failed(slot, error)
        else:
            slot.runner = runner
            self._tell_ready(slot.source, runner, self._clock() - began)
            self._ready(slot, runner)

    async def _loaded_runner(self, slot: _Slot) -> RunningModel:
        """Loads; where memory does not suffice, without the other idle models, then something smaller."""
        while True:
            try:
                return await self._start(slot.source.path, slot.options, stall=self.options.load_timeout)
            except OutOfMemory as error:
                failure = error
            idle = [other for other in self._slots.values() if other.view().idle]
            less = smaller(slot.options, slot.asked, self.options)
            if idle:
                await self._stop_all(idle)
            elif less is not None:
                slot.options = less
            else:
                raise await self._explained(slot, failure)

    async def _explained(self, slot: _Slot, failure: OutOfMemory) -> OutOfMemory:
        """The failure in numbers, as far as a plan has them."""
        try:
            need = await self._plan(slot.source.path, slot.options)
        except PunaError:
            return failure
        missing = shortages_alone(need, slot.options, self._memory(), self.options.gpu_overhead, None, ())
        return out_of_memory(slot.source.name, need, missing)

    def _ready(self, slot: _Slot, runner: RunningModel) -> None:
        slot.stage = "ready"
        slot.idle_since = self._clock()
        # One that is to do without GPUs tells of none.
        self._gpus = max(self._gpus, sum(device.gpu for device in runner.loaded.devices))
        runner.died.add_done_callback(lambda _: self._lost(slot))
        self._dispatch()

    def _start_resize(self, pending: _Pending, options: LoadOptions) -> None:
        slot = self._slots[pending.waiting.digest]
        slot.stage = "resizing"
        slot.asked = pending.waiting.asked
        slot.task = self._spawn(
            self._resize(slot, options), lambda error: self._resize_failed(slot, slot.options, error)
        )

    async def _resize(self, slot: _Slot, options: LoadOptions) -> None:
        if slot.runner is None:
            raise RuntimeError("a model without a runner was to be resized")
        before, slot.options = slot.options, options
        try:
            await slot.runner.resize(options)
        except PunaError as error:
            self._resize_failed(slot, before, error)
        else:
            # Unless it was stopped in the meantime.
            if slot.stage == "resizing":
                self._resized(slot)
        self._dispatch()

    def _resize_failed(self, slot: _Slot, before: LoadOptions, error: PunaError) -> None:
        """Fails who wanted it. Where there was no room for the new cache, the model goes on with the old."""
        self._fail_all(slot, error)
        if isinstance(error, RunnerDied):
            self._lost(slot, str(error))
        elif slot.stage == "resizing":
            slot.options = before
            if isinstance(error, InternalError):
                self._stop(slot, _STOP_GRACE)
            else:
                self._resized(slot)

    def _resized(self, slot: _Slot) -> None:
        slot.stage = "ready"
        slot.idle_since = self._clock()

    def _load_failed(self, slot: _Slot, error: PunaError) -> None:
        self._fail_all(slot, error)
        if isinstance(error, RunnerDied):
            self._lost(slot, str(error))
        elif slot.runner is None:
            self._remove(slot)
        elif slot.stage == "loading":
            self._stop(slot, _STOP_GRACE)

    def _fail_all(self, slot: _Slot, error: PunaError) -> None:
        """Fails every request that waits for what the slot was to become."""
        view = slot.view()
        for pending in list(self._queue.pending.values()):
            waiting = pending.waiting
            if waiting.digest == view.digest and change_for(view, waiting.asked) == "none":
                self._fail(pending, error)

    def _lost(self, slot: _Slot, reason: str = "") -> None:
        """The runner died: its model is gone, and the next request loads it again.

        Args:
            reason: as a request was told; its process alone, which may be heard of before or after, has none.
        """
        digest = slot.source.digest
        crashes = self._crashes.get(digest)
        if self._slots.get(digest) is slot and slot.stage != "stopping":
            slot.lost = True
            self._crashes[digest] = policy.after_crash(crashes, self._clock(), reason or _UNKNOWN_END)
            self._remove(slot)
        elif slot.lost and crashes is not None and reason:
            self._crashes[digest] = replace(crashes, reason=reason)

    def _abort(self, slot: _Slot) -> None:
        slot.stage = "stopping"
        _cancel(slot.task)

    def _stop(self, slot: _Slot, grace: float) -> asyncio.Task[None]:
        slot.stage = "stopping"
        slot.task = self._spawn(self._end(slot, grace))
        return slot.task

    async def _stop_all(self, slots: Iterable[_Slot]) -> None:
        await asyncio.wait([self._stop(slot, _STOP_GRACE) for slot in slots])

    async def _end(self, slot: _Slot, grace: float) -> None:
        try:
            if slot.runner is not None:
                await slot.runner.stop(grace)
        finally:
            self._remove(slot)

    def _remove(self, slot: _Slot) -> None:
        if self._slots.get(slot.source.digest) is slot:
            del self._slots[slot.source.digest]
        for pending in self._queue.pending.values():
            need = pending.waiting.need
            # What a GPU had free when the plan was made is no longer so.
            if need is not None and need.gpu_size:
                pending.waiting = replace(pending.waiting, need=None)
        self._dispatch()

    def _told(self, slot: _Slot) -> LoadedModel:
        loaded = slot.runner.loaded if slot.runner else None
        view = slot.view()
        left = max(0.0, view.expires - self._clock()) if view.idle else slot.keep_alive
        return LoadedModel(
            digest=slot.source.digest,
            name=slot.source.name,
            size=loaded.size if loaded else 0,
            gpu_size=loaded.gpu_size if loaded else 0,
            num_ctx=loaded.num_ctx if loaded else 0,
            num_parallel=loaded.num_parallel if loaded else 0,
            expires=left,
            active=slot.active,
            pid=slot.runner.pid if slot.runner else 0,
        )

    def _spawn(
        self, work: Coroutine[Any, Any, None], broken: Callable[[InternalError], None] = lambda error: None
    ) -> asyncio.Task[None]:
        """Has a task do the work.

        Args:
            broken: is told where the work ends with an error that it is not made for.
        """
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda ended: self._ended(ended, broken))
        return task

    def _ended(self, task: asyncio.Task[None], broken: Callable[[InternalError], None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("a fault of the program itself: %s", error, exc_info=error)
            broken(InternalError(f"a fault of the program itself: {type(error).__name__}"))


def _cancel(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()


def _file_size(path: Path) -> int:
    """Bytes of the file; 0 if there is none, which its load will tell."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
