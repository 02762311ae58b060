"""The requests that run: whoever made one can end it."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import TypeVar

from puna.errors import Interrupted

T = TypeVar("T")

CANCELED = "request canceled"


class RunningRequest:
    """A request that runs. Within `with`, it waits for something, and `cancel` ends the waiting.

    Attributes:
        owner: the name of the key that it came with; empty where keys are not asked for.
        model: the digest of the model that it is for.
        cancelled: it has been told to end.
    """

    def __init__(self, owner: str, model: str = "") -> None:
        self.owner = owner
        self.model = model
        self.cancelled = False
        self._task: asyncio.Task[object] | None = None

    def cancel(self) -> None:
        """Make it end with `Interrupted`, as soon as it waits or does."""
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        if self.cancelled:
            raise Interrupted(CANCELED)
        self._task = asyncio.current_task()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        task, self._task = self._task, None
        # Its client may have gone in the same moment: then the cancellation goes on.
        if self.cancelled and task and isinstance(error, asyncio.CancelledError) and not task.uncancel():
            raise Interrupted(CANCELED) from None


class RunningRequests:
    """All requests that run, by their ids. Clients choose ids, so several may have one."""

    def __init__(self) -> None:
        self._running: dict[str, list[RunningRequest]] = {}

    @contextmanager
    def running(self, id: str, owner: str, model: str = "") -> Iterator[RunningRequest]:
        """A request of this id runs; one without an id cannot be found."""
        request = RunningRequest(owner, model)
        if not id:
            yield request
            return
        self._running.setdefault(id, []).append(request)
        try:
            yield request
        finally:
            self._running[id].remove(request)
            if not self._running[id]:
                del self._running[id]

    async def cancellable(
        self, id: str, owner: str, events: AsyncGenerator[T, None], model: str = ""
    ) -> AsyncGenerator[T, None]:
        """The events of a request that runs, until it is told to end. Raises: Interrupted."""
        async with aclosing(events):
            with self.running(id, owner, model) as request:
                while True:
                    with request:
                        event = await anext(events, None)
                    if event is None:
                        return
                    yield event

    def cancel(self, id: str, owner: str | None) -> bool:
        """End the requests of this id.

        Args:
            owner: only those that came with the key of this name; None ends anyone's.

        Returns:
            Whether there was any.
        """
        found = [one for one in self._running.get(id, ()) if owner is None or one.owner == owner]
        for request in found:
            request.cancel()
        return bool(found)

    def cancel_for(self, model: str) -> None:
        """End everyone's requests for the model of this digest."""
        for requests in self._running.values():
            for request in requests:
                if request.model == model:
                    request.cancel()

    def __len__(self) -> int:
        return sum(map(len, self._running.values()))
