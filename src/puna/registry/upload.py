"""One blob from the store to a registry: mounted if the registry has it elsewhere, else sent in parts.

Source: the OCI distribution specification 1.1, "Pushing a blob in chunks", and Ollama's additions: session
addresses in `Docker-Upload-Location`, and redirects of single parts to where they are kept.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlencode, urljoin

from puna.errors import FetchError, ModelNotFound
from puna.registry.client import Repository
from puna.registry.http import Response, Upload
from puna.registry.patience import Patience, StatusError
from puna.registry.redirects import next_hop
from puna.store.digest import Digest
from puna.store.files import store_errors

_NOTE_LIMIT = 16 << 10

Sent = Callable[[int], None]
"""Told how many bytes of the blob have been sent, in the caller's thread; what it raises ends the upload."""


@dataclass(frozen=True, slots=True)
class Blob:
    """What is to be sent.

    Attributes:
        path: its file.
        mount_from: a repository of the same registry that may have it already; empty for none.
        note: the file that keeps the address of a session, so that another program run can go on with it.
    """

    digest: Digest
    size: int
    path: Path
    mount_from: str
    note: Path


@dataclass(slots=True)
class _Session:
    """An upload that the registry has begun.

    Attributes:
        url: where the next part goes.
        offset: bytes that the registry has.
        etags: MD5 of each part that was kept elsewhere; Ollama's registry wants them at the end.
    """

    url: str
    offset: int = 0
    etags: list[bytes] = field(default_factory=list)


def upload_blob(repository: Repository, blob: Blob, sent: Sent, chunk: int, patience: Patience) -> bool:
    """See that the repository has the blob; whether anything had to be sent.

    Args:
        sent: see `Sent`.
        chunk: bytes of a part.
        patience: when to give up.

    Raises:
        Unauthorized: it may not be written to.
        FetchError: it does not take the blob.
        StoreError: the blob cannot be read.
    """
    if repository.has_blob(blob.digest):
        return False
    failures = reached = 0
    while True:
        session = patience.insist(lambda: _resumed(repository, blob) or _begun(repository, blob))
        if session is None:
            return False
        try:
            _send(repository, blob, session, sent, chunk)
        except FetchError as error:
            # What a session before this one had too is no gain, or a blob that is always refused at its end
            # would be sent for ever.
            failures = 1 if session.offset > reached else failures + 1
            reached = max(reached, session.offset)
            patience.cancellation.sleep(patience.pause(failures, _lost(error)))
        else:
            blob.note.unlink(missing_ok=True)
            return True


def _lost(error: FetchError) -> FetchError:
    """The error as one of the session's: what one refuses, another may take."""
    return FetchError(str(error)) if isinstance(error, StatusError | ModelNotFound) else error


def _resumed(repository: Repository, blob: Blob) -> _Session | None:
    """The session that the note tells of, if the registry still has it."""
    try:
        with blob.note.open("rb") as file:
            url = file.read(_NOTE_LIMIT).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    try:
        with repository.send("GET", url, push=True) as response:
            # "0-0" is a registry's word for nothing at all, and for one byte: sending that again is right.
            last = int(response.headers.get("Range", "").rpartition("-")[2])
            offset = last + 1 if last else 0
            return _Session(_next_url(url, response), offset) if offset <= blob.size else None
    except (ModelNotFound, StatusError, ValueError):
        blob.note.unlink(missing_ok=True)
        return None


def _begun(repository: Repository, blob: Blob) -> _Session | None:
    url = repository.url("blobs", "uploads/")
    if blob.mount_from:
        url += "?" + urlencode({"mount": str(blob.digest), "from": blob.mount_from})
    with repository.send("POST", url, body=b"", push=True) as response:
        if response.status == HTTPStatus.CREATED:
            return None
        session = _Session(_next_url(url, response))
    _note(blob, session)
    return session


def _send(repository: Repository, blob: Blob, session: _Session, sent: Sent, chunk: int) -> None:
    with store_errors(blob.path), blob.path.open("rb") as file:
        while session.offset < blob.size:
            count = min(chunk, blob.size - session.offset)
            _send_part(repository, session, _Section(file, session.offset, count, sent))
            session.offset += count
            _note(blob, session)
    query = {"digest": str(blob.digest)}
    if session.etags:
        query["etag"] = f"{hashlib.md5(b''.join(session.etags)).hexdigest()}-{len(session.etags)}"
    joint = "&" if "?" in session.url else "?"
    repository.send("PUT", session.url + joint + urlencode(query), body=b"", push=True).close()


def _send_part(repository: Repository, session: _Session, section: "_Section") -> None:
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Range": f"{section.start}-{section.start + section.length - 1}",
    }
    if repository.registry.ollama_key:
        headers["X-Redirect-Uploads"] = "1"
    with repository.send("PATCH", session.url, headers=headers, body=section.upload(), push=True) as response:
        if response.status != HTTPStatus.TEMPORARY_REDIRECT:
            session.url = _next_url(session.url, response)
            return
        hop = next_hop(session.url, response.headers.get("Location"), repository.registry)
    repository.send("PUT", hop.url, body=section.upload(), push=True).close()
    session.etags.append(section.md5())


class _Section:
    """A part of a file as the source of an upload.

    Attributes:
        start: its first byte in the file.
        length: its bytes.
    """

    def __init__(self, file: BinaryIO, start: int, length: int, sent: Sent) -> None:
        self.start = start
        self.length = length
        self._file = file
        self._sent = sent

    def read(self, size: int, /) -> bytes:
        """The next bytes of the section, up to `size`."""
        position = self.tell()
        self._sent(self.start + position)
        return self._file.read(min(size, self.length - position))

    def tell(self) -> int:
        """Bytes of the section that have been read."""
        return self._file.tell() - self.start

    def seek(self, offset: int, /) -> None:
        """Go to that byte of the section."""
        self._file.seek(self.start + offset)

    def upload(self) -> Upload:
        """The section from its beginning."""
        self.seek(0)
        return Upload(self, self.length)

    def md5(self) -> bytes:
        """The digest of the section."""
        self.seek(0)
        return hashlib.md5(self._file.read(self.length), usedforsecurity=False).digest()


def _next_url(url: str, response: Response) -> str:
    """Where the next part goes, by the registry's answer. Raises: FetchError."""
    location = response.headers.get("Docker-Upload-Location") or response.headers.get("Location")
    if not location:
        raise FetchError("the registry does not say where the upload goes on")
    return urljoin(url, location)


def _note(blob: Blob, session: _Session) -> None:
    """Keep the session's address. Without it an interrupted upload begins anew, which is no error."""
    if session.etags or not session.url.isascii():
        return
    with suppress(OSError):
        blob.note.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(blob.note, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(session.url.encode())
