"""What a model is to be made of, free of paths: files are named by the digests of blobs in the store.

Its rules are those of Ollama's `POST /api/create`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.convert.folder import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from puna.errors import InvalidOption, StoreError
from puna.modelfile.parameters import KINDS, Kind
from puna.sampling.parameters import SamplingParameters
from puna.store.digest import Digest
from puna.store.model import Message
from puna.store.name import ModelName

MAX_FILES = 1024
MAX_FILE_NAME = 1024
ADAPTER_FILES = {ADAPTER_CONFIG, ADAPTER_WEIGHTS}

_ROLES = ("system", "user", "assistant", "tool")
_NUMBER = "(?:0|[1-9][0-9]*)"
_SEMVER = re.compile(
    # Numbers, of which the last two may be left out; before a release, and of which build, in words.
    rf"{_NUMBER}(?:\.{_NUMBER}(?:\.{_NUMBER}"
    rf"(?:-(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)(?:\.(?:{_NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*))*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?)?)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What to make, checked as far as that is possible without the store.

    Of `template`, `system`, `renderer`, `parser` and `requires`, None leaves what the model `from_` has, and
    an empty text takes it away.

    Attributes:
        name: of the new model.
        from_: the model to derive from.
        files: by relative path: a model, in GGUF files or in safetensors with all that belongs to these, and
            projectors. With `from_`, projectors.
        adapters: at most one: a GGUF file, or safetensors and their configuration.
        licenses: added to those of `from_`.
        parameters: options; they go before those of `from_`.
        messages: replace those of `from_`; None keeps them.
        quantize: the type the weights are to have, such as `Q4_K_M`; empty leaves them as they are.
        imatrix: at most one GGUF file, an importance matrix to quantize by.
        requires: the least version of Ollama that runs the model.

    Raises:
        InvalidOption: a file name, version, role, or the type or range of a parameter cannot be.
    """

    name: ModelName
    from_: ModelName | None = None
    files: Mapping[str, Digest] = field(default_factory=dict)
    adapters: Mapping[str, Digest] = field(default_factory=dict)
    template: str | None = None
    system: str | None = None
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] | None = None
    quantize: str = ""
    imatrix: Mapping[str, Digest] = field(default_factory=dict)
    renderer: str | None = None
    parser: str | None = None
    requires: str | None = None

    def __post_init__(self) -> None:
        if self.from_ is None and not self.files:
            raise InvalidOption("neither 'from' or 'files' was specified")
        if len(self.files) > MAX_FILES:
            raise InvalidOption(f"a model is made of at most {MAX_FILES} files, not {len(self.files)}")
        if len(self.adapters) > 1 and self.adapters.keys() != ADAPTER_FILES:
            raise InvalidOption("only one adapter is currently supported")
        if len(self.imatrix) > 1:
            raise InvalidOption("only one importance matrix can be used")
        if self.imatrix and not self.quantize:
            raise InvalidOption("an importance matrix is of use for quantizing only; give 'quantize' too")
        for path in (*self.files, *self.adapters, *self.imatrix):
            check_file_name(path)
        for message in self.messages or ():
            if message.role not in _ROLES:
                raise InvalidOption(
                    f"message role must be one of {', '.join(_ROLES)}, not {message.role[:100]!r}"
                )
        object.__setattr__(self, "parameters", checked_parameters(self.parameters))
        if self.requires:
            object.__setattr__(self, "requires", checked_version(self.requires))


def named_files(files: Mapping[str, str]) -> dict[str, Digest]:
    """The files of a request, as it names them: digests by relative path.

    Raises:
        InvalidOption: a path is not relative, or a digest is not valid.
    """
    for path in files:
        check_file_name(path)
    try:
        return {path: Digest.parse(digest) for path, digest in files.items()}
    except StoreError as error:
        raise InvalidOption("invalid digest format") from error


def check_file_name(path: str) -> None:
    """Hold a file's name against the rules: a relative path with slashes that climbs nowhere.

    Raises:
        InvalidOption: it breaks them.
    """
    if any(part in ("", ".", "..") for part in path.split("/")):
        raise InvalidOption("file path must be relative")
    if not path.isprintable() or len(path) > MAX_FILE_NAME:
        raise InvalidOption(
            f"{path[:100]!r} cannot name a file: want at most {MAX_FILE_NAME} characters of text"
        )


def checked_version(text: str) -> str:
    """A semantic version, without the `v` that may stand before it. Raises: InvalidOption."""
    version = text.removeprefix("v")
    if len(version) > 100 or not _SEMVER.fullmatch(version):
        raise InvalidOption("requires must be a valid semver (e.g. 0.14.0)")
    return version


def checked_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options as they are stored. Those that nobody knows are kept, for another program may know them.

    Raises:
        InvalidOption: a value is not of its option's type, or out of its range.
    """
    values = {name: [value] if _is_lone_text(name, value) else value for name, value in values.items()}
    for name, value in values.items():
        kind = KINDS.get(name)
        if kind is not None and value is not None and not _fits(kind, value):
            raise InvalidOption(f'option "{name}" must be {_NEEDS[kind]}')
    SamplingParameters.from_options(values)
    return values


_NEEDS = {
    Kind.INT: "of type integer",
    Kind.FLOAT: "of type float32",
    Kind.BOOL: "of type boolean",
    Kind.STRINGS: "of an array of strings",
}


def _is_lone_text(name: str, value: object) -> bool:
    return KINDS.get(name) is Kind.STRINGS and isinstance(value, str)


def _fits(kind: Kind, value: object) -> bool:
    match kind:
        case Kind.BOOL:
            return isinstance(value, bool)
        case Kind.STRINGS:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case Kind.INT:
            whole = isinstance(value, int) and -(2**63) <= value < 2**63
            return (whole or (isinstance(value, float) and value.is_integer())) and not isinstance(
                value, bool
            )
        case Kind.FLOAT:
            return isinstance(value, int | float) and not isinstance(value, bool)
