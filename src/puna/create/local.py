"""From a Modelfile on this machine to a request: the files that it names are put into the store.

This half opens paths, and so it is for the owner of the files: the command line, never a server's client.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.create.files import PICKLE_SUFFIXES, Unit, open_gguf, split_name, units
from puna.create.request import CreateRequest, checked_parameters, checked_version
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
        files: its local files by a name of their own: the model and projectors.
        adapters: the same for adapters.
    """

    from_: ModelName | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)


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
        FormatError: a file is no GGUF file, or is damaged.
        UnsupportedModel: a file would have to be converted.
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
        UnsupportedModel: a folder has files that would have to be converted; or there is a `DRAFT`.
    """
    from_: ModelName | None = None
    files: list[Path] = []
    adapters: list[Path] = []
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


def _files(command: Command, folder: Path) -> list[Path]:
    """The files that the command's path means, parts of a split one all; none when there is no such path."""
    path = folder / os.path.expanduser(command.value)
    if not command.value or not os.path.exists(path):
        return []
    try:
        return _folder_files(command, path) if path.is_dir() else _with_other_parts(path)
    except OSError as error:
        raise _error(command, f"{command.value[:100]!r} cannot be read: {error.strerror}") from error


def _with_other_parts(path: Path) -> list[Path]:
    wanted = split_name(path.name)
    if wanted is None:
        return [path]
    parts = [(other, split_name(other.name)) for other in sorted(path.parent.iterdir())]
    return [
        other
        for other, part in parts
        if part is not None and (part.prefix, part.count) == (wanted.prefix, wanted.count)
    ]


def _folder_files(command: Command, folder: Path) -> list[Path]:
    """The GGUF files of a folder, or the error that says what else is there."""
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    found = [path for path in visible if path.suffix.lower() == ".gguf"]
    # Without a GGUF file, the first of the others is looked at for what it is: safetensors before pickles.
    others = [path for path in visible if path.suffix.lower() == ".safetensors"]
    others += sorted(folder.glob("*/model*.safetensors"))
    others += [path for path in visible if path.suffix.lower() in PICKLE_SUFFIXES]
    if not found and not others:
        raise _error(command, "no Modelfile or safetensors files found")
    chosen = found or others[:1]
    for path in chosen:
        _check_inside(command, path, folder)
    return chosen


def _check_inside(command: Command, path: Path, folder: Path) -> None:
    root = os.path.realpath(folder)
    if not Path(os.path.realpath(path)).is_relative_to(root):
        cached = ".cache" in Path(root).parts
        hint = "; download it with --local-dir to have files instead of links" if cached else ""
        raise _error(command, f"insecure path: {path.relative_to(folder)}{hint}")


def _named(paths: Iterable[Path]) -> dict[str, Path]:
    """The files by base name; for those of the second folder and later ones with its number before."""
    named: dict[str, Path] = {}
    folders: dict[Path, int] = {}
    for path in {os.path.realpath(path): path for path in paths}.values():
        number = folders.setdefault(path.parent, len(folders))
        named[f"{number}/{path.name}" if number else path.name] = path
    return named


def _adopted(
    files: Mapping[str, Path], library: Library, session: Session, report: Report
) -> dict[str, Digest]:
    """The files in the store, split ones joined."""
    return {unit.name: _adopt(unit, files, library, session, report) for unit in units(files)}


def _adopt(
    unit: Unit, files: Mapping[str, Path], library: Library, session: Session, report: Report
) -> Digest:
    parts = [(part, Path(os.path.realpath(files[part]))) for part in unit.parts]
    if len(parts) > 1:
        return merged(unit.name, parts, library, session, report).content
    name, path = parts[0]
    with open_gguf(path, name) as file:
        size = file.size
    return session.adopt(
        MODEL_LAYER, path, seen=lambda read: report(Progress(_GATHERING, read, size))
    ).content


def _error(command: Command, message: str) -> ModelfileError:
    return ModelfileError(message, *command.value_place)
