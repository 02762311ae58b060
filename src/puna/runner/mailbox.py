"""What has come for one request and was not taken yet."""

import asyncio
from collections import deque
from typing import TypeAlias

from puna.engine.events import Event, TextChunk
from puna.errors import PunaError
from puna.runner.protocol import Embedded, Failure

LIMIT = 1 << 20
"""The most that may lie in a mailbox, in bytes: about ten thousand short pieces of text."""

_EVENT_SIZE = 100

Item: TypeAlias = Event | Failure | Embedded


class Mailbox:
    """The items of one request, in order, for one reader; and at last an error, if it ends with one."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._size = 0
        self._error: PunaError | None = None
        self._reader: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        """Whether so much lies here that its reader cannot be reading."""
        return self._size > LIMIT

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._size += _size(item)
        self._wake()

    def close(self, error: PunaError) -> None:
        """Nothing more will come; who has read what is there gets the error."""
        self._error = error
        self._wake()

    async def get(self) -> Item:
        """The next item. Raises the error of `close` when there is none left."""
        while not self._items:
            if self._error is not None:
                raise self._error
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        item = self._items.popleft()
        self._size -= _size(item)
        return item

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


def _size(item: Item) -> int:
    """About how many bytes of memory an item takes. What comes once for a request does not count."""
    if not isinstance(item, TextChunk):
        return 0
    tokens = sum(1 + len(token.top) for token in item.logprobs) if item.logprobs else 0
    return _EVENT_SIZE * (1 + tokens) + len(item.text)
