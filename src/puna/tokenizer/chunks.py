"""Cutting very long texts where no token can cross, so that memory stays bounded and time linear."""

import re
from collections.abc import Callable, Iterable, Iterator

SIZE = 1 << 17
# A stretch this long without a place to cut (no space, no line end: not prose, not code) is cut anyway.
LONGEST = 1 << 20

# Before a space between two letters, and before the first letter after a single line end: every pre-tokenizer
# in use that ends words at spaces splits there, and so does a vocabulary of which no token crosses the cut.
WORD_START = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])|(?<=\S\n)(?=[^\W\d_])")
WORD_SPACE = re.compile(r"(?<=[^\W\d_])(?= [^\W\d_])")
LINE_START = re.compile(r"(?<=\n)(?=[^\n])")
NOWHERE = re.compile(r"(?!)")

_CROSSES = re.compile(r"[^\W\d_] |\n[^\W\d_]")

Segment = Callable[[str], list[int]]


def crosses(tokens: Iterable[bytes]) -> bool:
    """Whether some token holds both sides of a place where WORD_START cuts."""
    return _CROSSES.search("\0".join(token.decode(errors="replace") for token in tokens)) is not None


def chunks(text: str, cut: re.Pattern[str]) -> Iterator[str]:
    """The text in pieces of at least SIZE and at most LONGEST code points, cut where `cut` matches.

    A text shorter than 2 · SIZE stays whole.
    """
    start = 0
    while len(text) - start > 2 * SIZE:
        match = cut.search(text, start + SIZE, start + LONGEST)
        end = match.start() if match else start + LONGEST
        yield text[start:end]
        start = end
    yield text[start:]
