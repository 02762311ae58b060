"""Joining the parts of a split GGUF file.

Each part is a GGUF file of its own; `split.no`, `split.count` and `split.tensors.count` say how they belong
together, and the first has the metadata. Source: llama.cpp, tools/gguf-split.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as brief

from puna.create.files import open_gguf, shown
from puna.errors import FormatError
from puna.gguf import GGUFWriter, TensorInfo
from puna.progress import Progress, Report

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """One part: its name, its file, and the tensors in it."""

    name: str
    path: Path
    tensors: tuple[TensorInfo, ...]


def merge(parts: Sequence[tuple[str, Path]], target: Path, report: Report) -> None:
    """Write the parts, names and files in order, as one GGUF file `target`, a piece at a time.

    Raises:
        FormatError: a part is damaged, or they do not belong together.
        GGUFError: the file cannot be written.
    """
    found = [_read_part(name, path, number, len(parts)) for number, (name, path) in enumerate(parts)]
    with open_gguf(found[0].path, found[0].name) as first:
        _check_tensors(found, first.metadata.get(TENSORS))
        progress = _Meter(report, sum(tensor.nbytes for part in found for tensor in part.tensors))
        with GGUFWriter(
            target, alignment=first.alignment, byte_order=first.byte_order, version=first.version
        ) as writer:
            writer.copy_metadata(first.metadata, without={NUMBER, COUNT, TENSORS})
            for part in found:
                for tensor in part.tensors:
                    writer.add_tensor(tensor.name, tensor.type, tensor.shape, _data(part, tensor, progress))


def _read_part(name: str, path: Path, number: int, count: int) -> _Part:
    with open_gguf(path, name) as file:
        # Only the first part has an architecture, so these are asked for by their full names.
        found = file.metadata.get(NUMBER), file.metadata.get(COUNT)
        if found != (number, count):
            raise FormatError(
                f"{shown(name)} does not say that it is part {number} of {count}, counted from 0, of a split "
                f"model: its {NUMBER} is {brief(found[0])}, its {COUNT} {brief(found[1])}"
            )
        if file.byte_order != "<":
            raise FormatError(f"{shown(name)} is a part in big-endian byte order, which cannot be merged")
        return _Part(name, path, tuple(file.tensors.values()))


def _check_tensors(parts: Sequence[_Part], expected: object) -> None:
    names = [tensor.name for part in parts for tensor in part.tensors]
    if expected not in (None, len(names)):
        raise FormatError(
            f"the parts of {shown(parts[0].name)} have {len(names)} tensors together, "
            f"instead of {brief(expected)}"
        )
    if len({*names}) != len(names):
        raise FormatError(f"two parts of {shown(parts[0].name)} have the same tensor")


class _Meter:
    """Reports how much has been copied."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0

    def add(self, size: int) -> None:
        self._done += size
        self._report(Progress("merging GGUF files", self._done, self._total))


def _data(part: _Part, tensor: TensorInfo, progress: _Meter) -> Iterator[bytes]:
    # Read and not mapped: a file that is cut short meanwhile then ends in an error, not in a bus error.
    with part.path.open("rb") as source:
        source.seek(tensor.offset)
        rest = tensor.nbytes
        while rest and (chunk := source.read(min(_CHUNK, rest))):
            rest -= len(chunk)
            progress.add(len(chunk))
            yield chunk
