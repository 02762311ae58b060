"""Reading from a terminal, with its keys, its history and an editor."""

import subprocess
import tempfile
from pathlib import Path

import click
from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from puna import settings
from puna.cli.repl.history import SharedHistory
from puna.cli.repl.reader import CONTINUED, HINT, MULTILINE_PLACEHOLDER, PLACEHOLDER, PROMPT


class TerminalReader:
    """Reads with prompt_toolkit. Pasted text of several lines comes as one."""

    def __init__(
        self, input: Input | None = None, output: Output | None = None, history: SharedHistory | None = None
    ) -> None:
        """
        Args:
            input, output: None takes the program's own terminal.
            history: None takes the user's.
        """
        self._history = history or SharedHistory(
            settings.history_path(), kept=not settings.truth("NOHISTORY")
        )
        self._session: PromptSession[str] = PromptSession(
            history=self._history, key_bindings=_keys(), input=input, output=output
        )

    def read(self, *, continued: bool) -> str:
        try:
            return self._session.prompt(
                CONTINUED if continued else PROMPT,
                placeholder=_grey(MULTILINE_PLACEHOLDER if continued else PLACEHOLDER),
                prompt_continuation=CONTINUED,
            )
        except KeyboardInterrupt:
            if not continued and not self._session.default_buffer.text:
                click.echo(HINT)
            raise

    def remember(self, on: bool) -> None:
        self._history.kept = on


def _grey(text: str) -> StyleAndTextTuples:
    return [("fg:ansibrightblack", text)]


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("c-g")
    def open_editor(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        run_in_terminal(lambda: edit(buffer, settings.editor()))

    return keys


def edit(buffer: Buffer, editor: list[str]) -> None:
    """Let the person write the text in an editor; it stays as it is where that fails.

    Args:
        editor: the program and its arguments; the file's name comes behind.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.txt"
        path.write_text(buffer.text, encoding="utf-8")
        try:
            done = subprocess.run([*editor, str(path)], check=False)
        except OSError as error:
            click.echo(f"cannot start the editor {editor[0][:100]!r}: {error.strerror}", err=True)
            return
        if done.returncode == 0:
            buffer.text = path.read_text(encoding="utf-8", errors="replace").rstrip("\n")
            buffer.cursor_position = len(buffer.text)
