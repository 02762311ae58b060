"""Progress on standard error: a bar on a terminal, elsewhere a line for each step that was done."""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

import click

from puna.cli.terminal import harmless, is_terminal
from puna.humanize import bytes_text, seconds_left_text
from puna.progress import Progress, Report, document

_REDRAW_SECONDS = 0.1
_CLEAR = "\r\x1b[K"
_MAX_BAR = 40


class ProgressDisplay:
    """Shows the steps of a fetch or a load. A context manager; leaving it ends the line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = is_terminal(self._stream)
        self._step = Progress("")
        self._began = self._drawn = 0.0
        self._before = 0
        self._fleeting = False

    def update(self, step: Progress) -> None:
        """Show a step: its status, and how far it is if bytes are counted."""
        step = replace(step, status=harmless(step.status))  # it may have a stranger's file name in it
        now = time.monotonic()
        changed = step.status != self._step.status
        if changed:
            self._end_step()
            # What an earlier try has fetched says nothing of the speed of this one.
            self._began, self._before = now, step.completed
        self._step = step
        if self._live and (changed or now - self._drawn >= _REDRAW_SECONDS or step.completed == step.total):
            self._drawn = now
            width = shutil.get_terminal_size().columns
            rate = (step.completed - self._before) / max(now - self._began, _REDRAW_SECONDS)
            self._write(_CLEAR + line(step, rate, width, self._characters()))

    def fraction(self, status: str, done: float) -> None:
        """Show how much of something is done, 0 to 1, in a line that goes when the display ends.

        Nothing at all is shown where there is no terminal.
        """
        now = time.monotonic()
        if self._live and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn, self._fleeting = now, True
            self._write(f"{_CLEAR}{status} {done:4.0%}")

    def _end_step(self) -> None:
        if self._fleeting:
            self._fleeting = False
            self._write(_CLEAR)
        elif self._step.status:
            self._write("\n" if self._live else self._step.status + "\n")

    def _characters(self) -> str:
        try:
            "▕█▏".encode(self._stream.encoding or "ascii")
        except UnicodeEncodeError:
            return "[#]"
        return "▕█▏"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def __enter__(self) -> "ProgressDisplay":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._live or kind is None:
            self._end_step()


@contextmanager
def show_progress(as_json: bool) -> Iterator[Report]:
    """What shows the steps of a transfer: the display, or lines of JSON on standard output."""
    if as_json:
        yield lambda step: click.echo(json.dumps(document(step)))
        return
    with ProgressDisplay() as display:
        yield display.update


def line(step: Progress, rate: float, width: int, characters: str) -> str:
    """One line for a step, as Ollama draws it, at most `width` columns wide.

    Args:
        rate: bytes per second.
        characters: the bar's left end, filling and right end.
    """
    if not step.total:
        return step.status[: width - 1]
    left, filling, right = tuple(characters)
    head = f"{step.status}: {step.completed / step.total:4.0%} "
    tail = f" {bytes_text(step.completed):>6}/{bytes_text(step.total):>6}"
    if rate and step.completed < step.total:
        tail += (
            f"  {bytes_text(int(rate)):>6}/s  {seconds_left_text((step.total - step.completed) / rate):>5}"
        )
    room = min(_MAX_BAR, width - len(head) - len(tail) - 3)
    if room < 5:
        return (head + tail)[: width - 1]
    filled = room * step.completed // step.total
    return f"{head}{left}{filling * filled}{' ' * (room - filled)}{right}{tail}"
