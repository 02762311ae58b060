"""A blob that comes from a caller, piece by piece."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, Future

from puna.errors import Interrupted
from puna.store.digest import Digest
from puna.store.library import Library

_PIECE = 1 << 20


async def store_blob(library: Library, digest: Digest, chunks: AsyncIterator[bytes], size: int = 0) -> None:
    """Write a blob while it comes; when anything goes wrong, nothing of it stays.

    Args:
        size: bytes that are to come, where that is known.

    Raises:
        DigestMismatch: it is other content than the digest says.
        OutOfSpace: the disk has not the room.
        StoreError: the store cannot be written.
        Exception: what `chunks` raises.
    """
    loop = asyncio.get_running_loop()
    pieces = _Pieces(chunks)
    asked: list[Future[bytes]] = []

    def work() -> None:
        with library.session() as session, session.create(size) as writer:
            while True:
                asked[:] = [asyncio.run_coroutine_threadsafe(pieces.next(), loop)]
                try:
                    piece = asked[0].result()
                except CancelledError as error:
                    raise Interrupted("the upload was cancelled") from error
                if not piece:
                    break
                writer.write(piece)
            writer.commit(digest)

    try:
        await asyncio.to_thread(work)
    finally:
        for future in asked:
            future.cancel()


class _Pieces:
    """Chunks joined to pieces that are worth a write."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def next(self) -> bytes:
        """About a MiB; empty at the end."""
        piece = bytearray()
        async for chunk in self._chunks:
            piece += chunk
            if len(piece) >= _PIECE:
                break
        return bytes(piece)
