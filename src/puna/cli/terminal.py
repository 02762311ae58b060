"""What the command line needs to know of, and do to, the terminal."""

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

_SHOW_CURSOR_AND_RESET_COLOUR = "\x1b[?25h\x1b[0m"
_GREY, _PLAIN = "\x1b[90m", "\x1b[0m"
# Control characters, but tab and newline: a model's text must not steer the terminal.
_UNSAFE = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])


def prepare() -> None:
    """Give the program those of its three streams that it was started without, so that no file takes their
    places, and let no character stop it from writing."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - open to the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end of the stream."""
    return stream is not None and not stream.closed and stream.isatty()


def restore() -> None:
    """Leave the terminal as a shell wants it, whatever was on it."""
    if is_terminal(sys.stderr):
        sys.stderr.write(_SHOW_CURSOR_AND_RESET_COLOUR)
        sys.stderr.flush()


def abandon_output() -> None:
    """Drop what is still to be written to standard output, whose reader has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def harmless(text: str) -> str:
    """The text without characters that steer a terminal."""
    return text.translate(_UNSAFE)


def complain(kind: str, message: str) -> None:
    """Write an error or a warning to standard error, in one line."""
    line = harmless(" ".join(f"{kind}: {message}".split()))
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def piped_input() -> str | None:
    """All of standard input, if it is not a terminal; None if it is, or is closed."""
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        return None
    return sys.stdin.buffer.read().decode("utf-8", errors="replace")


def show(text: str, *, grey: bool = False, wrap: Callable[[str], str] = str) -> None:
    """Write a model's text to standard output at once.

    Args:
        grey: in that colour, on a terminal.
        wrap: breaks lines; is given what can do the terminal no harm.
    """
    if is_terminal(sys.stdout):
        text = wrap(harmless(text))
        text = f"{_GREY}{text}{_PLAIN}" if grey else text
    sys.stdout.write(text)
    sys.stdout.flush()
