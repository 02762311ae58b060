"""Reading what a person types."""

from typing import Protocol

import click

from puna import settings

PROMPT, CONTINUED = ">>> ", "... "
PLACEHOLDER = "Send a message (/? for help)"
HINT = "Use Ctrl + d or /bye to exit."
MULTILINE_PLACEHOLDER = 'Use """ to end multi-line input'


class Reader(Protocol):
    """Reads lines."""

    def read(self, *, continued: bool) -> str:
        """The next line, which may have line ends in it where it was pasted.

        Args:
            continued: it goes on with a message of several lines.

        Raises:
            EOFError: the person wants to leave.
            KeyboardInterrupt: the line was given up.
        """

    def remember(self, on: bool) -> None:
        """Whether lines go into the history file."""


class PlainReader:
    """Reads with Python's `input`: for terminals that can do little, and for what is none."""

    def __init__(self) -> None:
        _enable_line_editing()

    def read(self, *, continued: bool) -> str:
        try:
            return input(CONTINUED if continued else PROMPT)
        except KeyboardInterrupt:
            click.echo(f"\n{HINT}")
            raise

    def remember(self, on: bool) -> None:
        return


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401 - importing it gives input() its line editing
    except ImportError:  # not on Windows
        return


def reader() -> Reader:
    """What reads from this terminal."""
    if not settings.is_able_terminal():
        return PlainReader()
    from puna.cli.repl.terminal import TerminalReader

    return TerminalReader()
