"""The Ollama key: made, read, used; ssh-keygen and cryptography's own verification are the oracles."""

import base64
import os
import shutil
import stat
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_public_key,
)

from puna.errors import FetchError
from puna.registry.keys import Key, read_key, read_or_make_key, sign

needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")


def write(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "id_ed25519"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def pem(private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.parametrize("umask", [0, 0o077])
def test_a_key_is_made_once(tmp_path: Path, umask: int) -> None:
    folder = tmp_path / "home" / ".ollama"
    assert read_key(folder) is None
    old = os.umask(umask)
    try:
        key = read_or_make_key(folder)
    finally:
        os.umask(old)
    assert stat.S_IMODE((folder / "id_ed25519").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "id_ed25519.pub").stat().st_mode) == 0o644
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755 & ~umask
    assert sorted(path.name for path in folder.iterdir()) == ["id_ed25519", "id_ed25519.pub"]
    assert (folder / "id_ed25519.pub").read_text().split() == ["ssh-ed25519", key.public]
    again = read_or_make_key(folder)
    assert again.public == key.public
    assert sign(again, "text") == sign(key, "text")


def test_signatures_verify(tmp_path: Path) -> None:
    key = read_or_make_key(tmp_path)
    public = load_ssh_public_key((tmp_path / "id_ed25519.pub").read_bytes())
    assert isinstance(public, ed25519.Ed25519PublicKey)
    public.verify(base64.b64decode(sign(key, "GET,https://é")), "GET,https://é".encode())


@needs_ssh
def test_ssh_keygen_reads_what_is_made(tmp_path: Path) -> None:
    read_or_make_key(tmp_path)
    shown = subprocess.run(
        ["ssh-keygen", "-y", "-f", tmp_path / "id_ed25519"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split()[:2] == (tmp_path / "id_ed25519.pub").read_text().split()[:2]


@needs_ssh
def test_what_ssh_keygen_makes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a comment", "-f", file], check=True)
    key = read_key(tmp_path)
    assert key is not None
    assert key.public == (tmp_path / "id_ed25519.pub").read_text().split()[1]


def test_several_at_once_agree(tmp_path: Path) -> None:
    keys: list[Key] = []
    threads = [threading.Thread(target=lambda: keys.append(read_or_make_key(tmp_path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(keys) == 8
    assert {key.public for key in keys} == {(tmp_path / "id_ed25519.pub").read_text().split()[1]}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("mode", [0o644, 0o620, 0o602, 0o604, 0o666])
def test_keys_that_others_may_use_are_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, pem(ed25519.Ed25519PrivateKey.generate()), mode)
    with pytest.raises(FetchError, match=f"chmod 600 {path}"):
        read_or_make_key(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"junk", "damaged"),
        (pem(ed25519.Ed25519PrivateKey.generate())[:150], "damaged"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "no Ed25519 key"),
        (b"x" * 20_000, "longer than any key"),
    ],
)
def test_keys_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    write(tmp_path, content)
    with pytest.raises(FetchError, match=message) as caught:
        read_or_make_key(tmp_path)
    assert "\n" not in str(caught.value)


@needs_ssh
def test_a_key_with_a_passphrase(tmp_path: Path) -> None:
    file = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "password", "-f", file], check=True)
    with pytest.raises(FetchError, match="has a passphrase"):
        read_key(tmp_path)


def test_a_place_that_cannot_have_a_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FetchError, match="the key"):
        read_or_make_key(tmp_path / "file")
    (tmp_path / "id_ed25519").mkdir()
    with pytest.raises(FetchError, match="directory"):
        read_or_make_key(tmp_path)


def test_the_private_half_is_not_shown(tmp_path: Path) -> None:
    key = read_or_make_key(tmp_path)
    assert repr(key) == f"Key(public={key.public!r})"
