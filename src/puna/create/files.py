"""What the files of a model are, by name and by content. Nothing but GGUF is ever read further.

A model may be split over files `<prefix>-00001-of-00003.gguf` (llama.cpp's `gguf-split`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from puna.errors import FormatError, GGUFError
from puna.gguf import GGUFFile, Metadata
from puna.regular import regular_only
from puna.store.manifests import ADAPTER_LAYER, MODEL_LAYER, PROJECTOR_LAYER

PICKLE_SUFFIXES = frozenset(
    {".bin", ".pth", ".pt", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".msgpack"}
)
_GGUF = b"GGUF"
# A pickle of protocol 2 to 5; a zip archive, which newer PyTorch files are; NumPy's arrays.
_PICKLES = (*(bytes((0x80, protocol)) for protocol in range(2, 6)), b"PK\x03\x04", b"\x93NUMPY")
_SPLIT = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class SplitName:
    """The name of one part of a split file.

    Attributes:
        prefix: what all parts have in common, with their folder.
        number: which one it is, counted from 1.
        count: how many there are.
    """

    prefix: str
    number: int
    count: int

    @property
    def file_name(self) -> str:
        """The name itself."""
        return f"{self.prefix}-{self.number:05}-of-{self.count:05}.gguf"


@dataclass(frozen=True, slots=True)
class Unit:
    """A GGUF file: its name, and the names of the files it lies in; several when it is split."""

    name: str
    parts: tuple[str, ...]


def split_name(path: str) -> SplitName | None:
    """What the name of a part says; None for the name of a whole file."""
    match = _SPLIT.fullmatch(path)
    return SplitName(match[1], int(match[2]), int(match[3])) if match else None


def units(paths: Iterable[str]) -> list[Unit]:
    """The GGUF files that these files are, parts of a split one together and in order.

    Raises:
        FormatError: a part is missing.
    """
    whole: list[Unit] = []
    split: dict[tuple[str, int], dict[int, str]] = {}
    for path in paths:
        part = split_name(path)
        if part is None:
            whole.append(Unit(path, (path,)))
        else:
            split.setdefault((part.prefix, part.count), {})[part.number] = path
    return whole + [_split_unit(prefix, count, parts) for (prefix, count), parts in split.items()]


def _split_unit(prefix: str, count: int, parts: dict[int, str]) -> Unit:
    for number in range(1, count + 1):
        if number not in parts:
            name = SplitName(prefix, number, count).file_name
            raise FormatError(f"the split model is not complete: {shown(name)} is missing")
    if len(parts) != count:
        raise FormatError(f"{shown(parts[max(parts)] if 0 not in parts else parts[0])} is no part of {count}")
    return Unit(f"{prefix}.gguf", tuple(parts[number] for number in sorted(parts)))


def check_gguf(path: Path, name: str) -> None:
    """See that a file begins as GGUF files do, and say what it is instead if that is known.

    Args:
        name: what to call it.

    Raises:
        FormatError: it is something else, a pickle for one, or cannot be read.
    """
    suffix = PurePosixPath(name.lower()).suffix
    magic = _first_bytes(path, name)
    if magic.startswith(_GGUF) and (suffix not in PICKLE_SUFFIXES or suffix == ".bin"):
        return
    if suffix in PICKLE_SUFFIXES or magic.startswith(_PICKLES):
        raise FormatError(
            f"{shown(name)} is a file of a kind that can hold programs, so it is not read; "
            "give a GGUF file or safetensors"
        )
    raise FormatError(f"{shown(name)}: supplied file was not in GGUF format")


def open_gguf(path: Path, name: str) -> GGUFFile:
    """Open a GGUF file and check it whole.

    Raises:
        FormatError: as `check_gguf`.
        GGUFError: it is damaged; this message, and later ones about its metadata, have `name` for the path.
    """
    check_gguf(path, name)
    try:
        file = GGUFFile.open(path)
    except GGUFError as error:
        raise GGUFError(str(error).replace(str(path), shown(name))) from error
    file.metadata.source = shown(name)
    return file


def media_type(metadata: Metadata) -> str:
    """The media type of the layer that a GGUF file with this metadata is: model, projector or adapter.

    Raises:
        GGUFError: a value that decides it has a wrong type.
    """
    kind = metadata.string("general.type", "")
    if kind == "adapter":
        return ADAPTER_LAYER
    if kind in ("projector", "mmproj") or metadata.architecture == "clip":
        return PROJECTOR_LAYER
    only_vision = metadata.uint("vision.block_count", 0) and not metadata.uint("block_count", 0)
    return PROJECTOR_LAYER if only_vision else MODEL_LAYER


def base_name(path: str) -> str:
    """The last part of a path with slashes."""
    return PurePosixPath(path).name


def shown(name: str) -> str:
    """A stranger's file name, as errors show it."""
    return repr(base_name(name)[:100])


def _first_bytes(path: Path, name: str) -> bytes:
    try:
        refusal = FormatError(f"{shown(name)} is not a regular file")
        with open(path, "rb", opener=regular_only(refusal)) as file:
            return file.read(8)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FormatError(f"{shown(name)}: cannot be read: {reason}") from error
