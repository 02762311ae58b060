"""Runners that only pretend: they keep the contract of `RunningModel`, and complain when it is broken."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.engine.events import Done, TextChunk
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.errors import OutOfMemory, RunnerDied
from puna.runner.protocol import Device, Loaded, Stepped
from puna.scheduler.memory import HostMemory
from puna.scheduler.scheduler import Lease, Scheduler
from puna.scheduler.state import ModelSource, SchedulerOptions

MB = 10**6


def source(name: str) -> ModelSource:
    return ModelSource(f"sha256-{name}", Path(f"/models/{name}"), name)


@dataclass(eq=False)
class PretendedRunner:
    """Attributes:
    users: who holds a lease, as the clients count.
    """

    machine: "Machine"
    path: Path
    options: LoadOptions
    loaded: Loaded
    pid: int
    died: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    users: int = 0
    resizes: list[LoadOptions] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.on_step: Callable[[Stepped], None] = lambda step: None

    @property
    def alive(self) -> bool:
        return not self.died.done()

    async def generate(
        self, request: GenerateRequest, halted: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[TextChunk | Done, None]:
        await asyncio.sleep(0)
        yield TextChunk("never asked for")

    async def embed(self, inputs: list[list[int]], adapters: Any = None) -> list[Any]:
        return []

    async def resize(self, options: LoadOptions) -> None:
        assert self.users == 0, "a model in use was resized"
        await asyncio.sleep(self.machine.resize_seconds)
        if not self.alive:
            raise RunnerDied("it died of a resize")
        self.machine.fail_if_short(self.path, options, self)
        self.options, self.loaded = options, self.machine.report(self.path, options)
        self.resizes.append(options)

    async def stop(self, grace: float = 5.0) -> None:
        assert self.users == 0 or self.machine.killing, "a model in use was stopped"
        if self.alive:
            await asyncio.sleep(min(grace, self.machine.stop_seconds))
            self.die()

    def die(self) -> None:
        if self.alive:
            self.died.set_result(None)
            self.machine.running.remove(self)


@dataclass(eq=False)
class Machine:
    """What there is to run models on.

    Attributes:
        weights: bytes of each model's weights, by file name.
        most: the most processes that may run at a time.
        seconds: how long the next load takes.
        fault: what the next load fails of.
    """

    weights: dict[str, int] = field(default_factory=dict)
    total: int = 10**12
    most: int = 3
    seconds: Callable[[], float] = lambda: 1.0
    fault: Callable[[], Exception | None] = lambda: None
    resize_seconds: float = 0.5
    stop_seconds: float = 0.1
    plan_seconds: float = 0.1
    hidden: int = 0
    killing: bool = False
    running: list[PretendedRunner] = field(default_factory=list)
    starting: int = 0
    loads: list[tuple[str, LoadOptions]] = field(default_factory=list)
    planning: int = 0

    async def start(self, path: Path, options: LoadOptions, *, stall: float | None) -> PretendedRunner:
        self.starting += 1
        try:
            assert self.starting == 1, "two models were loaded at once"
            assert len(self.running) + 1 <= self.most, "too many models are loaded"
            assert all(runner.path != path for runner in self.running), "a model was loaded twice"
            self.loads.append((path.name, options))
            await asyncio.sleep(self.seconds())
            if (fault := self.fault()) is not None:
                raise fault
            self.fail_if_short(path, options)
        finally:
            self.starting -= 1
        runner = PretendedRunner(self, path, options, self.report(path, options), 1000 + len(self.loads))
        self.running.append(runner)
        return runner

    async def plan(self, path: Path, options: LoadOptions) -> Loaded:
        self.planning += 1
        try:
            await asyncio.sleep(self.plan_seconds)
        finally:
            self.planning -= 1
        return self.report(path, options)

    def memory(self) -> HostMemory:
        return HostMemory(self.total, self.total - self.taken())

    def taken(self) -> int:
        return sum(runner.loaded.size for runner in self.running)

    def fail_if_short(self, path: Path, options: LoadOptions, own: PretendedRunner | None = None) -> None:
        """`hidden`: bytes that cannot be had, although the machine says so."""
        free = self.total - self.hidden - self.taken() + (own.loaded.size if own else 0)
        if self.report(path, options).size > free:
            raise OutOfMemory(f"no room for {path.name}")

    def report(self, path: Path, options: LoadOptions) -> Loaded:
        num_ctx = options.num_ctx or 4096
        num_parallel = options.num_parallel or 1
        cache = num_ctx * num_parallel * 1000
        weights = self.weights.get(path.name, 100 * MB)
        return Loaded(num_ctx, num_parallel, [Device("CPU", False, weights, cache, MB)], 4)

    def scheduler(self, options: SchedulerOptions | None = None) -> Scheduler:
        return Scheduler(
            options or SchedulerOptions(),
            start=self.start,
            plan=self.plan,
            clock=asyncio.get_running_loop().time,
            memory=self.memory,
        )


@asynccontextmanager
async def held(
    scheduler: Scheduler,
    name: str,
    asked: LoadOptions | None = None,
    keep_alive: float | None = None,
) -> AsyncIterator[Lease]:
    """A lease, counted in the runner's `users`."""
    async with scheduler.lease(source(name), asked or LoadOptions(), keep_alive) as lease:
        runner = lease.runner
        assert isinstance(runner, PretendedRunner)
        runner.users += 1
        try:
            yield lease
        finally:
            runner.users -= 1
