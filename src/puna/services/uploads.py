"""A blob that comes from a caller, piece by piece."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError

from puna.cancellation import Cancellation
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
    loop, cancellation, pieces = asyncio.get_running_loop(), Cancellation(), _Pieces(chunks)

    def piece() -> bytes:
        future = asyncio.run_coroutine_threadsafe(pieces.next(), loop)
        try:
            with cancellation.calling(future.cancel):
                return future.result()
        except CancelledError as error:
            raise Interrupted("the upload was cancelled") from error
        finally:
            future.cancel()

    def work() -> None:
        with library.session() as session, session.create(size) as writer:
            while content := piece():
                writer.write(content)
            writer.commit(digest)

    working = asyncio.ensure_future(asyncio.to_thread(work))
    # An error that comes after its caller has gone is told to nobody.
    working.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        await asyncio.shield(working)
    except asyncio.CancelledError:
        cancellation.cancel()
        # The thread is about to clear up, and nobody else may use the chunks before.
        await asyncio.wait([working])
        raise


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
