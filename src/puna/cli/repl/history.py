"""The history of what was typed, in a file that Ollama shares: a line for each entry, the newest last."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import History

ENTRIES = 100
_LONGEST = 1 << 20


class SharedHistory(History):
    """Keeps the last 100 lines in a file that only its owner may read; without a file, for this session.

    A file that cannot be read or written is done without: a history is no reason to end a conversation.

    Attributes:
        kept: whether lines are written to the file.
    """

    def __init__(self, path: Path, *, kept: bool) -> None:
        super().__init__()
        self.kept = kept
        self._path = path

    def load_history_strings(self) -> Iterable[str]:
        """The entries, the newest first."""
        return reversed(self._lines()) if self.kept else ()

    def store_string(self, string: str) -> None:
        """Write an entry to the file; of several lines each is one."""
        if not self.kept:
            return
        lines = [*self._lines(), *(line for line in string.splitlines() if line.strip())]
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(handle, "w", encoding="utf-8", errors="replace") as file:
                file.writelines(f"{line}\n" for line in lines[-ENTRIES:])
            os.replace(temporary, self._path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                content = file.read(_LONGEST)
        except OSError:
            return []
        return content.decode("utf-8", "replace").splitlines()[-ENTRIES:]
