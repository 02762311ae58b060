"""Which known prompt template a model's own is, or nearly is.

A template that differs from a family's in one place can add a line of its own when a certain word occurs;
no sandbox finds that, only a comparison. Known ones are the Go templates of `puna.template.known`, and
those in Jinja that models are published with, of which `library/published.json` keeps digests and sketches,
not the texts.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from puna.template.known import STOPS, template_text

ALIKE = 0.6
"""From this likeness on, two templates are taken for variants of one."""

SKETCH = 64
"""Hashes that are kept of one template."""

_WORDS = 4
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Resemblance:
    """A template beside the known ones.

    Attributes:
        digest: of its text in UTF-8, SHA-256 in hexadecimal.
        family: the known one that it is, or is like; empty where it is like none.
        exact: it is that one, byte for byte.
    """

    digest: str
    family: str = ""
    exact: bool = False


@dataclass(frozen=True, slots=True)
class _Known:
    digest: str
    sketch: tuple[int, ...]


def resemblance(template: str) -> Resemblance:
    """What is known of a template, one in Go's language or in Jinja."""
    digest = digest_of(template)
    own = sketch(template)
    likeness = [(_likeness(own, known.sketch), name) for name, known in _known().items()]
    for name, known in _known().items():
        if known.digest == digest:
            return Resemblance(digest, name, exact=True)
    nearest, name = max(likeness)
    return Resemblance(digest, name) if nearest >= ALIKE else Resemblance(digest)


def digest_of(template: str) -> str:
    """SHA-256 of a template's text."""
    return hashlib.sha256(template.encode("utf-8", "surrogatepass")).hexdigest()


def sketch(template: str) -> tuple[int, ...]:
    """The smallest hashes of all groups of four words and signs.

    Two templates share about as many of them as they share groups: A. Broder, On the resemblance and
    containment of documents, 1997.
    """
    return tuple(sorted({*_hashes(template)})[:SKETCH])


def _hashes(template: str) -> Iterator[int]:
    words = _WORD.findall(template)
    for start in range(max(1, len(words) - _WORDS + 1)):
        group = " ".join(words[start : start + _WORDS]).encode("utf-8", "surrogatepass")
        yield int.from_bytes(hashlib.blake2b(group, digest_size=6).digest())


def _likeness(first: tuple[int, ...], second: tuple[int, ...]) -> float:
    """What part of the groups of both is common to both, 0 to 1."""
    smallest = sorted({*first, *second})[:SKETCH]
    return len({*smallest} & {*first} & {*second}) / len(smallest)


@lru_cache(maxsize=1)
def _known() -> Mapping[str, _Known]:
    published = json.loads(files("puna.template").joinpath("library", "published.json").read_bytes())
    return {
        **{name: _Known(digest, tuple(hashes)) for name, (digest, hashes) in published.items()},
        **{name: _Known(digest_of(text), sketch(text)) for name in STOPS for text in [template_text(name)]},
    }
