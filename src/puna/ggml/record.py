"""Whether installed libraries are still those that were installed: the RECORD of their distribution tells.

Source: the specification "Recording installed projects", https://packaging.python.org/en/latest/specifications/.
"""

import base64
import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path

from puna.errors import BackendError
from puna.ggml.locate import Candidate


def check_installed(candidate: Candidate) -> None:
    """Compares the libraries of an installed package with what its installer has noted of them.

    A folder that the user has named has no such notes, and what has none is not looked at.

    Raises:
        BackendError: a library is another one; names it.
    """
    noted = dict(_noted(candidate.record)) if candidate.record else {}
    for file in candidate.files:
        expected = noted.get(file)
        if expected and _digest(file) != expected:
            raise BackendError(
                f"{file} has changed since it was installed, so it is not loaded; "
                f"install {candidate.origin} again if that was no intention of yours"
            )


def _noted(record: Path) -> Iterator[tuple[Path, str]]:
    """The files that a RECORD gives a SHA-256 of, and these, as it spells them."""
    try:
        with record.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines) if len(row) > 1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BackendError(f"{record} cannot be read: {error}; install the package again") from error
    for path, checksum, *_ in rows:
        if checksum.startswith("sha256="):
            yield record.parent.parent / path, checksum.removeprefix("sha256=")


def _digest(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BackendError(f"{file} cannot be read: {error.strerror}") from error
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode("ascii")
