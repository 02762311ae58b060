"""Wheels that no honest build makes are refused before anything in them is read."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from puna.errors import FormatError
from puna.registry.wheel import Requirement, open_wheel


def refusal(path: Path) -> str:
    with pytest.raises(FormatError) as caught, open_wheel(path):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../x", "/x", "a/../../x", "a\\..\\x", "C:x", "a/\0b"],
    ids=["up", "root", "climb", "back", "drive", "nul"],
)
def test_member_names_that_lead_outside(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("a.gguf")
        entry.filename = name
        archive.writestr(entry, b"x")
    assert "is refused: its member" in refusal(path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        entry = zipfile.ZipInfo("m/a.gguf")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, b"/etc/hostname")
    assert "is not a regular file" in refusal(path)


def test_a_member_may_not_appear_twice(tmp_path: Path) -> None:
    path = tmp_path / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("m/a.gguf", b"x")
        archive.writestr("m/a.gguf", b"y")
    assert "appears twice" in refusal(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/a.gguf", b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in refusal(path)


def test_unusual_compression_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("m/a.gguf", b"x")
    assert "compressed in a way" in refusal(path)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/a.gguf", bytes(20 << 20))
    assert "expands beyond all measure" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06", b"<html>" * 100], ids=["empty", "cut", "text"])
def test_what_is_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m-1-py3-none-any.whl"
    path.write_bytes(content)
    assert "is not a wheel" in refusal(path)


def test_a_damaged_member_is_found(wheel: Callable[..., Path]) -> None:
    path = wheel("m", {"a.gguf": b"x" * 1000}, record=False)
    content = bytearray(path.read_bytes())
    content[content.index(b"m/a.gguf") + 10] ^= 0xFF
    path.write_bytes(content)
    with open_wheel(path) as opened, pytest.raises(FormatError, match=r"m/a\.gguf is damaged"):
        list(opened.chunks("m/a.gguf"))


def test_a_member_that_record_contradicts(wheel: Callable[..., Path]) -> None:
    path = wheel("m", {"a.gguf": b"x"}, record=False)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m-1.0.dist-info/RECORD", "m/a.gguf,sha256=" + "A" * 43 + ",1\n")
    with open_wheel(path) as opened, pytest.raises(FormatError, match="RECORD says"):
        list(opened.chunks("m/a.gguf"))


def test_requirements_are_the_unconditional_ones(wheel: Callable[..., Path]) -> None:
    requires = (
        "a",
        "b-part1==1.0.0",
        "c_2 (>=1, <2)",
        "d ; extra == 'x'",
        "e @ https://127.0.0.1/e.whl",
        "--f",
    )
    with open_wheel(wheel("m", requires=requires)) as opened:
        assert opened.requirements() == [
            Requirement("a", ""),
            Requirement("b-part1", "==1.0.0"),
            Requirement("c_2", ">=1,<2"),
        ]


def test_no_damage_gets_past_as_anything_but_a_refusal(wheel: Callable[..., Path], tmp_path: Path) -> None:
    content = wheel("m", {"a.gguf": b"GGUF" * 50}).read_bytes()
    random = Random(1)
    refusals = 0
    for _ in range(400):
        damaged = bytearray(content)
        for _change in range(random.choice([1, 1, 4])):
            damaged[random.randrange(len(content))] = random.choice([0, 1, 255, random.randrange(256)])
        path = tmp_path / "m-1.0-py3-none-any.whl"
        path.write_bytes(damaged[: random.choice([len(content), random.randrange(len(content))])])
        try:
            with open_wheel(path) as opened:
                for member in opened.members:
                    list(opened.chunks(member))
        except FormatError:
            refusals += 1
    assert 200 < refusals < 400
