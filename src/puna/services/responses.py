"""Answers that are kept, so that a conversation goes on from the id of its last one.

They lie in an SQLite database, in memory or in a file. Whoever has another key does not find them.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from puna.errors import InvalidOption, ResponseNotFound, StoreError

Item = dict[str, Any]
"""A piece of a conversation, as JSON has it; those of answers have an `id`."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, previous TEXT NOT NULL, used REAL NOT NULL,
    size INTEGER NOT NULL, document TEXT NOT NULL, input TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS by_use ON responses (owner, used, size);
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS by_response ON items (response);
"""
_CHAIN = """
WITH RECURSIVE chain (id, previous, depth) AS (
    SELECT id, previous, 0 FROM responses WHERE id = :id AND owner = :owner AND used >= :since
    UNION ALL
    SELECT responses.id, responses.previous, depth + 1
    FROM chain JOIN responses ON responses.id = chain.previous
    WHERE owner = :owner AND depth < :most
)
SELECT responses.id, responses.previous, document, input
FROM chain JOIN responses USING (id) ORDER BY depth DESC
"""
_TOO_MUCH = """
DELETE FROM responses WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER latest AS number, sum(size) OVER latest AS total
        FROM responses WHERE owner = :owner WINDOW latest AS (ORDER BY used DESC, rowid DESC)
    ) WHERE number > :count OR total > :size
)
"""


@dataclass(frozen=True, slots=True)
class ResponseLimits:
    """What is kept for one key.

    Attributes:
        count: answers; those that were used longest ago go first.
        size: bytes of all, with what was asked.
        seconds: since the last use.
        turns: of one conversation.
    """

    count: int = 10_000
    size: int = 256 << 20
    seconds: float = 30 * 86_400.0
    turns: int = 1000


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """An answer.

    Attributes:
        document: as the API tells it; its `output` is a list of items.
        input: what was asked in this turn.
        previous: the id of the answer that it goes on from; empty for none.
    """

    id: str
    document: dict[str, Any]
    input: Sequence[Item]
    previous: str = ""

    @property
    def output(self) -> list[Item]:
        """The answer's items."""
        items: list[Item] = self.document.get("output", [])
        return items


class Responses:
    """Keeps answers. Several threads may use it; every method takes as long as a disk does."""

    def __init__(
        self,
        path: Path | None = None,
        limits: ResponseLimits | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._limits = limits or ResponseLimits()
        self._clock = clock
        self._lock = Lock()
        self._connection: sqlite3.Connection | None = None

    def keep(self, response: KeptResponse, owner: str) -> None:
        """Keep an answer, and forget what is too old or too much.

        Raises:
            InvalidOption: it is larger than all that may be kept.
            StoreError: it cannot be written.
        """
        document, given = _dumped(response.document), _dumped(list(response.input))
        size = len(document) + len(given)
        if size > self._limits.size:
            raise InvalidOption(
                f"this response takes {size} bytes, more than the {self._limits.size} that are kept; "
                "set store to false"
            )
        row = (response.id, owner, response.previous, self._clock(), size, document, given)
        with self._using() as connection:
            connection.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            items = [(item["id"], response.id) for item in response.output]
            connection.executemany("INSERT INTO items VALUES (?, ?)", items)
            connection.execute("DELETE FROM responses WHERE used < ?", [self._since])
            most = {"owner": owner, "count": self._limits.count, "size": self._limits.size}
            connection.execute(_TOO_MUCH, most)

    def get(self, id: str, owner: str) -> KeptResponse:
        """An answer of this owner. Raises: ResponseNotFound, StoreError."""
        with self._using() as connection:
            row = connection.execute(
                "SELECT id, previous, document, input FROM responses "
                "WHERE id = ? AND owner = ? AND used >= ?",
                [id, owner, self._since],
            ).fetchone()
        if row is None:
            raise _not_found(id)
        return _kept(row)

    def delete(self, id: str, owner: str) -> None:
        """Forget an answer of this owner. Raises: ResponseNotFound, StoreError."""
        with self._using() as connection:
            gone = connection.execute(
                "DELETE FROM responses WHERE id = ? AND owner = ?", [id, owner]
            ).rowcount
        if not gone:
            raise _not_found(id)

    def conversation(self, id: str, owner: str) -> list[Item]:
        """All items up to this answer: what was asked, what was said, turn by turn.

        Raises:
            ResponseNotFound: the answer, or one that it goes on from, is not there any more.
            InvalidOption: there are too many turns.
            StoreError: it cannot be read.
        """
        most = self._limits.turns
        with self._using() as connection:
            given = {"id": id, "owner": owner, "since": self._since, "most": most}
            turns = [_kept(row) for row in connection.execute(_CHAIN, given)]
            connection.executemany(
                "UPDATE responses SET used = ? WHERE id = ?", [(self._clock(), turn.id) for turn in turns]
            )
        if not turns:
            raise _not_found(id)
        if len(turns) > most:
            raise InvalidOption(f"the conversation has more than {most} turns")
        if turns[0].previous:
            raise _not_found(turns[0].previous)
        return [item for turn in turns for item in (*turn.input, *turn.output)]

    def item(self, id: str, owner: str) -> Item:
        """An item of an answer of this owner. Raises: ResponseNotFound, StoreError."""
        with self._using() as connection:
            row = connection.execute(
                "SELECT responses.id, previous, document, input "
                "FROM items JOIN responses ON responses.id = items.response "
                "WHERE items.id = ? AND owner = ? AND used >= ?",
                [id, owner, self._since],
            ).fetchone()
        if row is None:
            raise ResponseNotFound(f"item {id[:100]!r} not found")
        return next(item for item in _kept(row).output if item["id"] == id)

    def close(self) -> None:
        """Close the file; what is in memory is gone."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @property
    def _since(self) -> float:
        return self._clock() - self._limits.seconds

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The database, in a transaction. Raises: StoreError."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _opened(self._path)
                with self._connection:
                    yield self._connection
            except (sqlite3.Error, OSError) as error:
                raise StoreError(f"responses cannot be kept: {error}") from error


def _opened(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What people wrote is nobody else's to read; the files beside it get the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    connection = sqlite3.connect(":memory:" if path is None else path, timeout=30, check_same_thread=False)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(_SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _dumped(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _kept(row: tuple[str, str, str, str]) -> KeptResponse:
    id, previous, document, given = row
    return KeptResponse(id, json.loads(document), json.loads(given), previous)


def _not_found(id: str) -> ResponseNotFound:
    return ResponseNotFound(f"response {id[:100]!r} not found")
