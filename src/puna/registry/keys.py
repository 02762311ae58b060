"""The user's Ollama key: an Ed25519 key in OpenSSH's format, `~/.ollama/id_ed25519`, shared with Ollama.

It takes the place of a password: ollama.com and Hugging Face know its public half, and what is asked of them
is signed with the private one.
"""

import base64
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from puna.errors import FetchError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_NAME = "id_ed25519"
_LONGEST = 16 << 10
# Whoever else may write the key could swap it; whoever else may read it could use it.
_TOO_OPEN = stat.S_IWGRP | stat.S_IWOTH | stat.S_IROTH


@dataclass(frozen=True, slots=True)
class Key:
    """A private key.

    Attributes:
        public: the base64 field of the public key's line, which begins with `AAAA`.
    """

    public: str
    _private: "Ed25519PrivateKey" = field(repr=False)


def sign(key: Key, text: str) -> str:
    """The base64 text of the Ed25519 signature (RFC 8032) over the UTF-8 bytes of `text`."""
    return base64.b64encode(key._private.sign(text.encode())).decode()


def read_key(folder: Path) -> Key | None:
    """The key in `folder`; None when there is none.

    Raises:
        FetchError: it cannot be read or used, or others may read or change it.
    """
    path = folder / KEY_NAME
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(_LONGEST + 1) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FetchError(f"the key {path}: {error.strerror or error}") from error
    if os.name == "posix" and status.st_mode & _TOO_OPEN:
        mode = stat.S_IMODE(status.st_mode)
        raise FetchError(f"the key {path} may be used by others (mode {mode:04o}); run `chmod 600 {path}`")
    return _parsed(path, content)


def read_or_make_key(folder: Path) -> Key:
    """The key in `folder`, made now if there is none. Raises: FetchError."""
    key = read_key(folder)
    if key is None:
        _make(folder)
        key = read_key(folder)
    if key is None:
        raise FetchError(f"the key {folder / KEY_NAME} went away while it was used")
    return key


def _parsed(path: Path, content: bytes) -> Key:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    if len(content) > _LONGEST:
        raise FetchError(f"the key {path} is longer than any key")
    try:
        private = load_ssh_private_key(content, password=None)
    except TypeError as error:
        raise FetchError(f"the key {path} has a passphrase; a key without one is needed") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FetchError(f"the key {path} is damaged: it is no OpenSSH private key") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise FetchError(f"the key {path} is no Ed25519 key")
    return Key(_public_line(private).split()[1].decode(), private)


def _public_line(private: "Ed25519PrivateKey") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def _make(folder: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    content = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _publish(folder / KEY_NAME, content, 0o600):
            public = folder / f"{KEY_NAME}.pub"
            public.unlink(missing_ok=True)
            _publish(public, _public_line(private) + b"\n", 0o644)
    except OSError as error:
        raise FetchError(f"the key {folder / KEY_NAME} cannot be made: {error.strerror or error}") from error


def _publish(path: Path, content: bytes, mode: int) -> bool:
    """Give `path` this content, whole or not at all; False when another program was first."""
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:
            if os.name == "posix":
                os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)  # unlike a rename, this replaces nothing
            return True
        return False
    finally:
        temporary.unlink()
