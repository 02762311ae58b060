"""From a Modelfile on this machine to a request: the files that it names are put into the store.

This half opens paths, and so it is for the owner of the files: the command line, never a server's client.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.convert.folder import wanted
from puna.create.converting import SUFFIX, not_convertible, packed
from puna.create.files import PICKLE_SUFFIXES, Unit, open_gguf, split_name, units
from puna.create.request import ADAPTER_FILES, CreateRequest, checked_parameters, checked_version
from puna.create.weights import merged
from puna.errors import InvalidOption, ModelfileError, UnsupportedModel
from puna.modelfile.commands import Command, Modelfile
from puna.modelfile.parameters import parameters
from puna.progress import Progress, Report
from puna.store.digest import Digest
from puna.store.library import Library, Session
from puna.store.manifests import MODEL_LAYER
from puna.store.model import Message
from puna.store.name import ModelName, parse_name

_GATHERING = "gathering model components"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a Modelfile is made from.

    Attributes:
        from_: the model to derive from.
        files: its local files by a name of their own: the model and projectors. Those of a folder with
            safetensors have their paths in it.
        adapters: the same for adapters.
    """

    from_: ModelName | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that a command means.

    Attributes:
        name: its path in the folder that the command names; empty where it names the file itself.
    """

    path: Path
    name: str = ""

    @property
    def own_name(self) -> str:
        return self.name or self.path.name

    @property
    def folder(self) -> Path:
        return self.path.parents[self.name.count("/")]


@contextmanager
def local_request(
    modelfile: Modelfile,
    name: ModelName,
    folder: Path,
    library: Library,
    report: Report,
    *,
    quantize: str = "",
    imatrix: Path | None = None,
) -> Iterator[CreateRequest]:
    """The request for the model `name` that a Modelfile describes; make it with `create_model` in the block.

    Local files are put into the store without copying them where the disk can do that, and stay there if the
    block makes a model of them.

    Args:
        folder: what the paths in the Modelfile are relative to.
        quantize: the type the weights are to have; empty leaves them as they are.
        imatrix: an importance matrix to quantize by.

    Raises:
        ModelfileError: a command that cannot be followed; names the place.
        InvalidOption: a parameter out of its range.
        FormatError: a file is not of a kind that is read, or is damaged.
        UnsupportedModel: a file cannot be converted.
        StoreError: the store cannot be written.
    """
    texts = stated(modelfile, report)
    sources = resolve(modelfile, folder)
    with library.tidy_session() as session:
        report(Progress(_GATHERING))
        files = _adopted(sources.files, library, session, report)
        adapters = _adopted(sources.adapters, library, session, report)
        matrices = _adopted({imatrix.name: imatrix} if imatrix else {}, library, session, report)
        yield CreateRequest(
            name=name,
            from_=sources.from_,
            files=files,
            adapters=adapters,
            quantize=quantize,
            imatrix=matrices,
            **texts,
        )


def resolve(modelfile: Modelfile, folder: Path) -> Sources:
    """The model and the files that `FROM` and `ADAPTER` name. What exists as a path is a file.

    Raises:
        ModelfileError: a name is neither, or a folder has nothing to make a model from.
        UnsupportedModel: there is a `DRAFT`.
    """
    from_: ModelName | None = None
    files: list[_Found] = []
    adapters: list[_Found] = []
    for command in modelfile.commands:
        if command.name == "draft":
            raise UnsupportedModel(f"line {command.place.line}: DRAFT is not supported yet; leave it out")
        if command.name == "from":
            found = _files(command, folder)
            files += found
            from_ = from_ if found else _model_name(command)
        elif command.name == "adapter":
            found = _files(command, folder)
            if not found:
                raise _error(command, f"there is no file {command.value[:100]!r}")
            adapters += found
    return Sources(from_, _named(files), _named(adapters))


def stated(modelfile: Modelfile, report: Report) -> dict[str, Any]:
    """What a Modelfile says besides its files, as the fields of a request.

    Raises:
        ModelfileError, InvalidOption: as `local_request`.
    """
    options, warnings = parameters(modelfile)
    for warning in warnings:
        report(Progress(f"warning: {warning}"))
    names = ("template", "system", "renderer", "parser", "requires")
    last = {command.name: command for command in modelfile.commands if command.name in names}
    if "requires" in last:
        _check_version(last["requires"])
    messages = [Message(c.key, c.value) for c in modelfile.commands if c.name == "message"]
    return {
        **{name: command.value for name, command in last.items()},
        "licenses": tuple(modelfile.values("license")),
        "parameters": checked_parameters(options),
        "messages": tuple(messages) or None,
    }


def _check_version(command: Command) -> None:
    try:
        checked_version(command.value)
    except InvalidOption as error:
        raise _error(command, str(error)) from error


def _model_name(command: Command) -> ModelName:
    value = command.value
    if value.lower().endswith((".gguf", ".safetensors")) and "/" not in value:
        raise _error(command, f"there is no file {value[:100]!r}")
    try:
        return parse_name(value)
    except InvalidOption as error:
        raise _error(command, f"{error}; and there is no file of that name") from error


def _files(command: Command, folder: Path) -> list[_Found]:
    """The files that the command's path means, parts of a split one all; none when there is no such path."""
    path = folder / os.path.expanduser(command.value)
    if not command.value or not os.path.exists(path):
        return []
    if path.suffix.lower() == SUFFIX and not path.is_dir():
        raise _error(command, f"{path.name[:100]!r} needs the files beside it; name the folder that it is in")
    try:
        return _folder_files(command, path) if path.is_dir() else _with_other_parts(path)
    except OSError as error:
        raise _error(command, f"{command.value[:100]!r} cannot be read: {error.strerror}") from error


def _with_other_parts(path: Path) -> list[_Found]:
    part = split_name(path.name)
    if part is None:
        return [_Found(path)]
    parts = [(other, split_name(other.name)) for other in sorted(path.parent.iterdir())]
    return [
        _Found(other)
        for other, found in parts
        if found is not None and (found.prefix, found.count) == (part.prefix, part.count)
    ]


def _folder_files(command: Command, folder: Path) -> list[_Found]:
    """The GGUF files of a folder, else its model in safetensors, else the error that says what is there."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    chosen = [_Found(path) for path in visible if path.suffix.lower() == ".gguf"]
    chosen = chosen or _packed_files(command, folder, visible) or _pickles(command, folder, visible)[:1]
    if not chosen:
        raise _error(command, "no Modelfile or safetensors files found")
    for found in chosen:
        _check_inside(command, found.path, folder)
    return chosen


def _packed_files(command: Command, folder: Path, visible: list[Path]) -> list[_Found]:
    """A model in safetensors, or an adapter, with all that belongs to it."""
    inner = sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/config.json"))
    names = [path.name for path in visible] + inner
    read = ADAPTER_FILES.intersection(names) if command.name == "adapter" else wanted(names)
    chosen = [_Found(folder / name, name) for name in sorted(read)]
    return chosen if any(found.path.suffix == SUFFIX for found in chosen) else []


def _pickles(command: Command, folder: Path, visible: list[Path]) -> list[_Found]:
    """Files that can hold programs, to be refused by name; safetensors that are no whole model come first."""
    strange = [path for path in visible if path.suffix.lower() == SUFFIX]
    strange += sorted(folder.glob("*/model*.safetensors"))
    if strange:
        raise _error(command, str(not_convertible(strange[0].name)))
    return [_Found(path) for path in visible if path.suffix.lower() in PICKLE_SUFFIXES]


def _check_inside(command: Command, path: Path, folder: Path) -> None:
    root = os.path.realpath(folder)
    if not Path(os.path.realpath(path)).is_relative_to(root):
        cached = ".cache" in Path(root).parts
        hint = "; download it with --local-dir to have files instead of links" if cached else ""
        raise _error(command, f"insecure path: {path.relative_to(folder)}{hint}")


def _named(files: Iterable[_Found]) -> dict[str, Path]:
    """The files by name; for those of the second folder and later ones with its number before."""
    named: dict[str, Path] = {}
    folders: dict[Path, int] = {}
    for found in {os.path.realpath(found.path): found for found in files}.values():
        number = folders.setdefault(found.folder, len(folders))
        named[f"{number}/{found.own_name}" if number else found.own_name] = found.path
    return named


def _adopted(
    files: Mapping[str, Path], library: Library, session: Session, report: Report
) -> dict[str, Digest]:
    """The files in the store, split ones joined."""
    converted = packed(files)
    whole = [name for name in files if name not in converted]
    adopted = {unit.name: _adopt(unit, files, library, session, report) for unit in units(whole)}
    return adopted | {name: _stored(files[name], session, report) for name in converted}


def _stored(path: Path, session: Session, report: Report) -> Digest:
    real = Path(os.path.realpath(path))
    size = real.stat().st_size
    return session.adopt(
        MODEL_LAYER, real, seen=lambda read: report(Progress(_GATHERING, read, size))
    ).content


def _adopt(
    unit: Unit, files: Mapping[str, Path], library: Library, session: Session, report: Report
) -> Digest:
    parts = [(part, Path(os.path.realpath(files[part]))) for part in unit.parts]
    if len(parts) > 1:
        return merged(unit.name, parts, library, session, report).content
    name, path = parts[0]
    with open_gguf(path, name):
        pass
    return _stored(path, session, report)


def _error(command: Command, message: str) -> ModelfileError:
    return ModelfileError(message, *command.value_place)
