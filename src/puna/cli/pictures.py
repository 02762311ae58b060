"""Pictures that a prompt names by their paths."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import click

from puna.cli import terminal
from puna.errors import InvalidOption

MAX_PICTURE = 100_000_000
"""The largest picture, in bytes."""

# A path that begins at a drive, a root or a folder, with blanks behind backslashes; Ollama's forms.
_PATH = re.compile(
    r"(?:[A-Za-z]:)?(?:\./|/|\\|~/)(?:\\ |[^\s'\"]){1,4096}?\.(?:jpe?g|png|webp)\b", re.IGNORECASE | re.ASCII
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")


@dataclass(frozen=True, slots=True)
class Illustrated:
    """A prompt and its pictures.

    Attributes:
        text: without the paths.
        images: the files' contents.
        paths: as they stood in the prompt.
    """

    text: str
    images: tuple[bytes, ...] = ()
    paths: tuple[str, ...] = ()


def look(prompt: str, model: str, *, sees: bool) -> Illustrated:
    """The prompt with its pictures, for a model that sees; what is done with them is told.

    Raises:
        InvalidOption: as `illustrated`.
    """
    if not sees:
        for path in named_pictures(prompt):
            terminal.complain("Warning", f"'{model}' cannot see pictures: {path} is sent as text")
        return Illustrated(prompt)
    found = illustrated(prompt)
    for path in found.paths:
        click.echo(f"Added image '{path}'", err=True)
    return found


def illustrated(prompt: str) -> Illustrated:
    """The prompt with the pictures that it names, as far as there are such files.

    Raises:
        InvalidOption: a file cannot be read, is too large or is no picture.
    """
    text, images, paths = prompt, [], []
    for match in _PATH.finditer(prompt):
        path = Path(os.path.expanduser(match[0].replace("\\ ", " ")))
        if path.is_file():
            images.append(_read(path))
            paths.append(match[0])
            text = text.replace(f"'{match[0]}'", "").replace(f'"{match[0]}"', "").replace(match[0], "")
    return Illustrated(text.strip(), tuple(images), tuple(paths))


def named_pictures(prompt: str) -> list[str]:
    """The paths of the pictures that a prompt names and that exist."""
    found = (match[0] for match in _PATH.finditer(prompt))
    return [path for path in found if Path(os.path.expanduser(path.replace("\\ ", " "))).is_file()]


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PICTURE + 1)
    except OSError as error:
        raise InvalidOption(f"cannot read {str(path)[:100]!r}: {error.strerror}") from error
    if len(content) > MAX_PICTURE:
        raise InvalidOption(f"{str(path)[:100]!r} is larger than {MAX_PICTURE // 10**6} MB")
    if not content.startswith(_SIGNATURES) and not (content[:4] == b"RIFF" and content[8:12] == b"WEBP"):
        raise InvalidOption(f"{str(path)[:100]!r} is no picture in JPEG, PNG or WebP")
    return content
