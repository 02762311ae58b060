"""A folder with a model: its configuration and its weights."""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.convert.safetensors import StoredTensor, read_tensors
from puna.errors import FormatError
from puna.regular import regular_only

_MAX_JSON = 64 << 20
# `consolidated.safetensors` holds the same weights by other names, beside those that are read.
_WEIGHTS = re.compile(r"model(?:-([0-9]{5})-of-([0-9]{5}))?\.safetensors", re.ASCII)
_FOLDER = re.compile(r"[0-9A-Za-z_]{1,64}", re.ASCII)
_MODULE = re.compile(r"[0-9A-Za-z_]{1,64}/config\.json", re.ASCII)
_DOCUMENTS = frozenset(
    (
        *("config.json", "generation_config.json", "modules.json", "sentence_bert_config.json"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("tokenizer.model", "vocab.txt", "chat_template.jinja", "chat_template.json"),
        *("preprocessor_config.json", "processor_config.json"),
    )
)

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def wanted(names: Iterable[str]) -> list[str]:
    """Those files of a model's folder, by their paths in it, that a conversion may read."""
    return [
        name for name in names if name in _DOCUMENTS or _WEIGHTS.fullmatch(name) or _MODULE.fullmatch(name)
    ]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model as Hugging Face's libraries save it. Only data are read, whatever they say.

    Attributes:
        files: where each file is, by its path in the folder; what is not here is never opened.
    """

    files: Mapping[str, Path]

    @classmethod
    def at(cls, path: Path) -> "ModelFolder":
        """The folder at a path. Raises: FormatError when it cannot be read."""
        try:
            names = [entry.name for entry in path.iterdir()]
            names += [f"{entry.parent.name}/config.json" for entry in path.glob("*/config.json")]
        except OSError as error:
            raise FormatError(f"{path.name}: cannot be read: {error.strerror}") from error
        return cls({name: path / name for name in wanted(names)})

    def content(self, name: str) -> bytes | None:
        """The content of a small file, None if there is none. Raises: FormatError."""
        if name not in self.files:
            return None
        try:
            refusal = FormatError(f"{name} is no regular file of at most {_MAX_JSON} bytes")
            with open(self.files[name], "rb", opener=regular_only(refusal)) as file:
                if os.fstat(file.fileno()).st_size > _MAX_JSON:
                    raise refusal
                return file.read(_MAX_JSON)
        except OSError as error:
            raise FormatError(f"{name}: cannot be read: {error.strerror}") from error

    def text(self, name: str) -> str | None:
        """The text of a file, None if there is none. Raises: FormatError."""
        content = self.content(name)
        try:
            return None if content is None else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{name} is not UTF-8") from error

    def document(self, name: str) -> dict[str, Any]:
        """A file with a JSON object, empty if there is no such file. Raises: FormatError."""
        text = self.text(name)
        if text is None:
            return {}
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(f"{name} is no JSON: {str(error)[:100]}") from error
        if not isinstance(found, dict):
            raise FormatError(f"{name} is no JSON object")
        return found

    def config(self) -> dict[str, Any]:
        """What `config.json` says. Raises: FormatError when there is none."""
        found = self.document("config.json")
        if not found:
            raise FormatError("there is no config.json beside the safetensors files, or nothing in it")
        return found

    def pooling(self) -> dict[str, Any]:
        """How Sentence Transformers makes one vector of a text, empty where nothing says so."""
        try:
            modules = json.loads(self.text("modules.json") or "[]")
        except (ValueError, RecursionError) as error:
            raise FormatError(f"modules.json is no JSON: {str(error)[:100]}") from error
        for module in modules if isinstance(modules, list) else ():
            kind, path = (
                (str(module.get(key)) for key in ("type", "path")) if isinstance(module, dict) else ("", "")
            )
            if kind.endswith(".Pooling") and _FOLDER.fullmatch(path):
                return self.document(f"{path}/config.json")
        return {}

    def tensors(self) -> dict[str, StoredTensor]:
        """All tensors by name. Raises: FormatError when a file is missing or damaged, or has one again."""
        return read_all((name, self.files[name]) for name in self._weight_files())

    def _weight_files(self) -> list[str]:
        if "model.safetensors" in self.files:
            return ["model.safetensors"]
        shards = {int(match[1]): match for match in map(_WEIGHTS.fullmatch, self.files) if match}
        if not shards:
            raise FormatError("there is no model.safetensors, whole or in numbered parts")
        count = int(next(iter(shards.values()))[2])
        if [*sorted(shards)] != [*range(1, count + 1)] or any(int(m[2]) != count for m in shards.values()):
            raise FormatError(f"the model is not complete: there are {len(shards)} files of {count}")
        return [shards[number][0] for number in range(1, count + 1)]


def read_all(files: Iterable[tuple[str, Path]]) -> dict[str, StoredTensor]:
    """The tensors of safetensors files together.

    Args:
        files: what to call each, and where it is.

    Raises:
        FormatError: a file is damaged, or two have a tensor of one name.
    """
    found: dict[str, StoredTensor] = {}
    for name, path in files:
        for tensor in read_tensors(path, name).values():
            if tensor.name in found:
                raise FormatError(f"{name}: the tensor {tensor.name[:100]!r} is in another file too")
            found[tensor.name] = tensor
    return found


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a configuration, each checked when it is read.

    Attributes:
        values: the document.
        source: what to call it.
    """

    values: dict[str, Any]
    source: str = "config.json"

    def count(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """A whole number below 2³¹ under the first of the names that is there. Raises: FormatError."""
        value = self._first(names, default)
        if type(value) is not int or not least <= value < 1 << 31:
            raise FormatError(
                f"{self.source}: {names[0]!r} must be a whole number above {least - 1}, not {shown(value)}"
            )
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        """A number above 0. Raises: FormatError."""
        value = self._first(names, default)
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise FormatError(f"{self.source}: {names[0]!r} must be a number above 0, not {shown(value)}")
        return float(value)

    def text(self, *names: str, default: str | None = None) -> str:
        """A text. Raises: FormatError."""
        value = self._first(names, default)
        if not isinstance(value, str):
            raise FormatError(f"{self.source}: {names[0]!r} must be a text, not {shown(value)}")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false. Raises: FormatError."""
        value = self._first((name,), default)
        if not isinstance(value, bool):
            raise FormatError(f"{self.source}: {name!r} must be true or false, not {shown(value)}")
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """A document within this one, empty where there is none. Raises: FormatError."""
        value = self._first((name,), {})
        if not isinstance(value, dict):
            raise FormatError(f"{self.source}: {name!r} must be an object, not {shown(value)}")
        return value

    def _first(self, names: tuple[str, ...], default: Any) -> Any:
        return next((self.values[name] for name in names if self.values.get(name) is not None), default)


def shown(value: Any) -> str:
    """A stranger's value, as errors show it."""
    return "missing" if value is None else repr(value)[:100]
