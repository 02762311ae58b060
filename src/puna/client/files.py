"""Files to send."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from puna.errors import InvalidOption

_PIECE = 1 << 20


def digest_of(path: Path) -> str:
    """The file's digest, as `sha256:<hex>`. Raises: InvalidOption: it cannot be read."""
    with _readable(path), path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def file_size(path: Path) -> int:
    """Its bytes. Raises: InvalidOption: there is no such file."""
    with _readable(path):
        return path.stat().st_size


def pieces_of(path: Path, sent: Callable[[int], None]) -> Iterator[bytes]:
    """Its content in pieces; `sent` is told the length of each. Raises: InvalidOption: it cannot be read."""
    with _readable(path), path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
            sent(len(piece))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidOption(f"cannot read {str(path)[:100]!r}: {error.strerror}") from error
