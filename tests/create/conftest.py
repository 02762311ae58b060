"""Small GGUF files, a store, and a creation with its reports."""

import hashlib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from puna.create.create import TemplateRules, create_model
from puna.create.layers import DetectedTemplate
from puna.create.local import local_request
from puna.create.request import CreateRequest
from puna.errors import ModelNotFound, PunaError, TemplateError
from puna.gguf import GGMLType, GGUFWriter, Metadata
from puna.modelfile.parser import parse
from puna.progress import Progress, Report
from puna.store.digest import Digest
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER
from puna.store.name import ModelName, parse_name

CHAT_TEMPLATE = "{% for message in messages %}known{% endfor %}"
DETECTED = DetectedTemplate("chatml", "{{ .Prompt }} in chatml", {"stop": ["<|im_end|>", "<b>"]})


def check_template(text: str) -> None:
    if text.count("{{") != text.count("}}"):
        raise TemplateError("unclosed action")


def detect_template(text: str, metadata: Metadata) -> DetectedTemplate | None:
    assert metadata.architecture
    return DETECTED if text == CHAT_TEMPLATE else None


TEMPLATES = TemplateRules(check_template, detect_template)


def write_gguf(
    path: Path,
    values: Mapping[str, Any] | None = None,
    *,
    architecture: str = "llama",
    tensors: Mapping[str, int] | None = None,
) -> Path:
    """A GGUF file with these metadata, and F32 tensors of one row of that many elements."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with GGUFWriter(path) as writer:
        if architecture:
            writer.add("general.architecture", architecture)
        for key, value in (values or {}).items():
            writer.add(key, value)
        for name, size in (tensors or {"token_embd.weight": 32}).items():
            writer.add_tensor(name, GGMLType.F32, (size,), struct.pack(f"<{size}f", *range(size)))
    return path


def write_parts(folder: Path, count: int = 3, *, tensors: int | None = None) -> list[Path]:
    """A split model of `count` parts with two tensors each, or what it says; the first has the metadata."""
    total = 2 * count if tensors is None else tensors
    paths = []
    for number in range(count):
        values: dict[str, Any] = {"split.no": number, "split.count": count, "split.tensors.count": total}
        if number == 0:
            values |= {"general.file_type": 1, "tokenizer.chat_template": CHAT_TEMPLATE}
        sizes = {f"blk.{number}.a": 8, f"blk.{number}.b": 40 + number}
        path = folder / f"big-{number + 1:05}-of-{count:05}.gguf"
        paths.append(write_gguf(path, values, architecture="" if number else "llama", tensors=sizes))
    return paths


def tree(folder: Path) -> dict[str, str]:
    """The content of every file, and every folder, but for the store's own notes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if not name.startswith(".puna"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


@dataclass
class Maker:
    """Makes models in a store and keeps what is reported.

    Attributes:
        pulls: fetches the model of a name; by default there is none.
    """

    library: Library
    folder: Path
    told: list[Progress] = field(default_factory=list)
    pulled: list[str] = field(default_factory=list)
    pulls: Callable[[ModelName, Report], None] | None = None

    def create(self, request: CreateRequest) -> list[str]:
        """Make it; the statuses."""
        self.told.clear()
        create_model(request, self.library, self.told.append, pull=self._pull, templates=TEMPLATES)
        return self.statuses

    def local(self, text: str, name: str = "new", quantize: str = "") -> list[str]:
        """Make the model of a Modelfile; the statuses."""
        self.told.clear()
        with local_request(
            parse(text), parse_name(name), self.folder, self.library, self.told.append, quantize=quantize
        ) as request:
            create_model(request, self.library, self.told.append, pull=self._pull, templates=TEMPLATES)
        return self.statuses

    @property
    def statuses(self) -> list[str]:
        return [progress.status for progress in self.told]

    def add(self, path: Path) -> Digest:
        """Upload a file."""
        with self.library.session() as session:
            return session.add(MODEL_LAYER, [path.read_bytes()]).content

    def blob(self, name: str, media_type: str) -> bytes | None:
        """The content of a model's last layer of that kind."""
        layer = self.library.manifests.read(parse_name(name)).first(media_type)
        return None if layer is None else self.library.blobs.path(layer.content).read_bytes()

    def _pull(self, name: ModelName, report: Report) -> None:
        self.pulled.append(str(name))
        if self.pulls is None:
            raise ModelNotFound(f"model '{name}' not found")
        self.pulls(name, report)


def refused_locally(maker: Maker, text: str, kind: type[PunaError], message: str) -> None:
    """The Modelfile gives that error, in one line, and changes nothing."""
    before = tree(maker.library.root)
    with pytest.raises(kind, match=message) as caught:
        maker.local(text)
    assert "\n" not in str(caught.value)
    assert tree(maker.library.root) == before


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    folder = tmp_path / "modelfiles"
    folder.mkdir()
    return Maker(Library(tmp_path / "models"), folder)
