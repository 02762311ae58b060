"""Starting runners, if possible before it is known which model they are for."""

import asyncio
from pathlib import Path

from puna.engine.options import LoadOptions
from puna.errors import RunnerDied
from puna.runner.process import Runner
from puna.runner.protocol import Loaded

_KEPT_SECONDS = 10.0


class Starter:
    """Starts runners for one server. One event loop uses it.

    A process takes as long to start and to import what computes as the server takes to read a small model's
    vocabulary. So whoever is about to want a model says so, and both go on side by side.
    """

    def __init__(
        self,
        *,
        memory: int | None = None,
        step_timeout: float | None = None,
        plan_timeout: float | None = 300.0,
    ) -> None:
        """
        Args:
            memory, step_timeout: see `Runner.start`.
            plan_timeout: see `stall` of `Runner.plan`.
        """
        self._memory = memory
        self._step_timeout = step_timeout
        self._plan_timeout = plan_timeout
        self._ahead: asyncio.Task[Runner] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ends: set[asyncio.Task[None]] = set()

    def expect(self) -> None:
        """A model may be wanted soon: a process begins, and ends if nothing comes of it."""
        if self._ahead is None:
            loop = asyncio.get_running_loop()
            self._ahead = loop.create_task(self._spawned())
            self._timer = loop.call_later(_KEPT_SECONDS, self._give_up)

    async def start(self, path: Path, options: LoadOptions, *, stall: float | None = 300.0) -> Runner:
        """A runner with the model; see `Runner.start`."""
        runner = await self._begun()
        await runner.load(path, options, stall=stall)
        return runner

    async def plan(self, path: Path, options: LoadOptions) -> Loaded:
        """What a model would take; see `Runner.plan`."""
        return await Runner.plan(path, options, stall=self._plan_timeout, memory=self._memory)

    async def close(self) -> None:
        """Ends what has begun and nobody wanted."""
        self._give_up()
        if self._ends:
            await asyncio.wait(self._ends)

    async def _spawned(self) -> Runner:
        return await Runner.spawn(memory=self._memory, step_timeout=self._step_timeout)

    async def _begun(self) -> Runner:
        ahead = self._taken()
        if ahead is not None:
            try:
                # Cancelled in the moment in which it is there, an `await` of the task itself would lose it.
                runner = await asyncio.shield(ahead)
            except RunnerDied:
                pass
            except asyncio.CancelledError:
                self._end(ahead)
                raise
            else:
                if not runner.died.done():
                    return runner
        return await self._spawned()

    def _taken(self) -> asyncio.Task[Runner] | None:
        ahead, self._ahead = self._ahead, None
        if self._timer is not None:
            self._timer.cancel()
        return ahead

    def _give_up(self) -> None:
        ahead = self._taken()
        if ahead is not None:
            self._end(ahead)

    def _end(self, ahead: asyncio.Task[Runner]) -> None:
        end = asyncio.get_running_loop().create_task(_ended(ahead))
        self._ends.add(end)
        end.add_done_callback(self._ends.discard)


async def _ended(ahead: asyncio.Task[Runner]) -> None:
    try:
        runner = await ahead
    except RunnerDied:
        return
    await runner.stop(1.0)
