"""`python -m puna.quantize SOURCE TARGET TYPE [IMATRIX NAME]`: what `puna.quantize.process` starts.

It ends when its standard input does, so that none is left of a program that was killed.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from puna.errors import PunaError
from puna.ggml import load
from puna.gguf import GGUFFile
from puna.quantize.filetypes import file_type
from puna.quantize.importance import read_importance
from puna.quantize.messages import Message, Reached, failure_of, line
from puna.quantize.plan import plan_of
from puna.quantize.rewriting import NamedImportance, rewrite

_PAUSE = 0.05
"""Seconds between two messages of progress."""


def main(arguments: Sequence[str]) -> int:
    """Quantizes a file; the exit status."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _quantize(*arguments)
    except PunaError as error:
        _say(failure_of(error))
        return 1
    return 0


def _quantize(source: str, target: str, kind: str, imatrix: str = "", name: str = "") -> None:
    importance = NamedImportance(name, read_importance(Path(imatrix))) if imatrix else None
    with GGUFFile.open(source) as file:
        plan = plan_of(file, file_type(kind), weighted=importance is not None)
        rewrite(file, Path(target), plan, load(), _progress(), importance)


def _progress() -> Callable[[int], None]:
    last = 0.0

    def seen(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PAUSE:
            last = now
            _say(Reached(done))

    return seen


def _say(message: Message) -> None:
    sys.stdout.buffer.write(line(message))
    sys.stdout.buffer.flush()


def _end_with_parent() -> None:
    # Not by way of `sys.stdin`, whose lock a thread that waits would hold at the end of the program.
    while os.read(0, 1):
        pass
    os._exit(1)


sys.exit(main(sys.argv[1:]))
