"""Why a runner's process ended, told from its exit status and what it wrote last."""

import re
import signal

UNEXPECTED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
)
"""How the text begins that says a runner ended by itself; clients of Ollama look for it."""

_LONGEST = 300
# A line that tells a fault. Python's tracebacks and the stacks under a fatal signal are indented.
_FAULT = re.compile(
    r"(\S.*)?(GGML_ASSERT|ggml:|puna\.errors\.|[Ee]rror\b|ERROR|terminate called|[Aa]ssert|what\(\):).*"
)
_HINTS = {
    signal.SIGKILL: ", as the system does when memory runs out",
    signal.SIGILL: ": the compute library was built for another processor",
}


def unexpected_end(status: int, output: bytes) -> str:
    """The sentence for a runner that ended by itself.

    Args:
        status: its exit status; below 0 the signal that ended it, negated.
        output: the end of what it wrote.
    """
    words = last_words(output)
    said = f"; its last words: {words!r}" if words else ""
    return f"{UNEXPECTED}: {_how(status)}{said}"


def last_words(output: bytes) -> str:
    """The last line that tells a fault, else the last line; cut to 300 characters."""
    lines = [line.rstrip() for line in output.decode("utf-8", "replace").splitlines() if line.strip()]
    faults = [line for line in lines if _FAULT.fullmatch(line)]
    return (faults or lines or [""])[-1][:_LONGEST]


def _how(status: int) -> str:
    if status >= 0:
        return f"it ended with status {status}"
    try:
        killer = signal.Signals(-status)
    except ValueError:
        return f"it was ended by signal {-status}"
    return f"it was ended by {killer.name}{_HINTS.get(killer, '')}"
