"""Names and passwords for registries, kept where Docker keeps them: `~/.docker/config.json` and its helpers.

Source: Docker's documentation of `docker login` (configuration file, credential helpers and their protocol).
Secrets appear in no representation and no error.
"""

import base64
import binascii
import json
import os
import re
import secrets
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from puna.errors import FetchError

_DOCKER_HUB = "https://index.docker.io/v1/"
_DOCKER_HUB_HOSTS = {"docker.io", "index.docker.io", "registry-1.docker.io"}
_TOKEN_USER = "<token>"
_HELPER = re.compile(r"[a-z0-9_-]+", re.ASCII)
_FILE_LIMIT = 4 << 20
_OUTPUT_LIMIT = 64 << 10
_HELPER_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry knows a user by.

    Attributes:
        username: empty with an identity token.
        secret: a password or access token; or an identity token, which an authorization server changes into
            access tokens.
        identity_token: which of the two `secret` is.
    """

    username: str
    secret: str = field(repr=False)
    identity_token: bool = False

    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.secret}".encode()).decode()


class DockerConfig:
    """Docker's configuration file.

    Args:
        folder: where `config.json` lies, or will.
        helper_seconds: the longest that a credential helper may take.
    """

    def __init__(self, folder: Path, helper_seconds: float = _HELPER_SECONDS) -> None:
        self._path = folder / "config.json"
        self._helper_seconds = helper_seconds

    def find(self, host: str) -> Credentials | None:
        """The credentials for a registry's host; None when there are none.

        Raises:
            FetchError: the file or the helper that would know does not work.
        """
        config = self._read()
        server = _server(host)
        helper = self._helper(config, server)
        if helper is not None:
            found = self._from_helper(helper, server)
            if found is not None:
                return found
        auths = _table(config, "auths", self._path)
        entry = next((auths[key] for key in auths if key == server), None) or next(
            (auths[key] for key in auths if _host_of(key) == _host_of(server)), None
        )
        return self._credentials(entry) if entry else None

    def store(self, host: str, credentials: Credentials) -> None:
        """Keep credentials, in the helper that is set for the host, else in the file. Raises: FetchError."""
        config = self._read()
        server = _server(host)
        helper = self._helper(config, server)
        entry: dict[str, str] = {}
        if helper is not None:
            document = {"ServerURL": server, "Username": credentials.username, "Secret": credentials.secret}
            self._run(helper, "store", json.dumps(document))
        else:
            text = f"{credentials.username}:{credentials.secret}"
            entry = {"auth": base64.b64encode(text.encode()).decode()}
        self._write({**config, "auths": {**_table(config, "auths", self._path), server: entry}})

    def erase(self, host: str) -> bool:
        """Forget the credentials for a host; False when there were none. Raises: FetchError."""
        config = self._read()
        server = _server(host)
        helper = self._helper(config, server)
        erased = helper is not None and self._from_helper(helper, server) is not None
        if helper is not None and erased:
            self._run(helper, "erase", server)
        auths = _table(config, "auths", self._path)
        kept = {key: entry for key, entry in auths.items() if _host_of(key) != _host_of(server)}
        if len(kept) < len(auths):
            self._write({**config, "auths": kept})
        return erased or len(kept) < len(auths)

    def _read(self) -> dict[str, Any]:
        try:
            with self._path.open("rb") as file:
                content = file.read(_FILE_LIMIT + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise FetchError(f"{self._path}: {error.strerror or error}") from error
        if len(content) > _FILE_LIMIT:
            raise FetchError(f"{self._path} is longer than the {_FILE_LIMIT} bytes it may have")
        if not content.strip():
            return {}
        try:
            return msgspec.json.decode(content, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FetchError(f"{self._path} is damaged: it holds no JSON object") from error

    def _write(self, config: Mapping[str, Any]) -> None:
        # Some keep the file elsewhere and a link here.
        path = Path(os.path.realpath(self._path))
        temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with open(handle, "wb") as file:
                    file.write(json.dumps(config, indent="\t").encode())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise FetchError(f"{self._path}: {error.strerror or error}") from error

    def _helper(self, config: Mapping[str, Any], server: str) -> str | None:
        """The name of the program that keeps the credentials of `server`."""
        helpers = _table(config, "credHelpers", self._path)
        keys = (server, _host_of(server))
        name = next((helpers[key] for key in keys if key in helpers), config.get("credsStore"))
        if not name:
            return None
        if not isinstance(name, str) or not _HELPER.fullmatch(name):
            raise FetchError(f"{self._path} names an invalid credential helper, {str(name)[:100]!r}")
        return name

    def _from_helper(self, helper: str, server: str) -> Credentials | None:
        output = self._run(helper, "get", server)
        if output is None:
            return None
        try:
            reply = msgspec.json.decode(output, type=_HelperReply)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FetchError(f"docker-credential-{helper} answers with no credentials") from error
        if not reply.Secret:
            return None
        if reply.Username == _TOKEN_USER:
            return Credentials("", reply.Secret, identity_token=True)
        return Credentials(reply.Username, reply.Secret)

    def _run(self, helper: str, action: str, given: str) -> bytes | None:
        """What the helper prints; None when it says that it has no such credentials."""
        program = f"docker-credential-{helper}"
        path = shutil.which(program)
        if path is None:
            raise FetchError(f"{program}, which {self._path} names, is not installed")
        try:
            status, output = _output([path, action], given, self._helper_seconds)
        except OSError as error:
            raise FetchError(f"{program} cannot be started: {error.strerror or error}") from error
        if status is None:
            raise FetchError(f"{program} {action} did not end in {self._helper_seconds:g} s")
        if len(output) > _OUTPUT_LIMIT:
            raise FetchError(f"{program} {action} prints more than {_OUTPUT_LIMIT} bytes")
        if status == 0:
            return output
        if action == "get" and b"not found" in output:
            return None
        raise FetchError(f"{program} {action} failed with status {status}")

    def _credentials(self, entry: Any) -> Credentials | None:
        try:
            values = msgspec.convert(entry, _Entry)
            if values.identitytoken:
                return Credentials("", values.identitytoken, identity_token=True)
            if values.auth:
                text = base64.b64decode(values.auth, validate=True).decode()
                username, _, secret = text.rstrip("\0").partition(":")
            else:
                username, secret = values.username, values.password
        except (msgspec.ValidationError, binascii.Error, ValueError):
            # Their messages may hold what could not be decoded.
            raise FetchError(f"{self._path}: an entry in auths is damaged; log in again") from None
        return Credentials(username, secret) if username and secret else None


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _HelperReply(msgspec.Struct):
    Username: str = ""
    Secret: str = ""


def _server(host: str) -> str:
    """The name Docker keeps a registry's credentials under."""
    return _DOCKER_HUB if host in _DOCKER_HUB_HOSTS else host


def _host_of(key: str) -> str:
    """The host of a key of `auths`, which may be written with scheme and path."""
    return (
        key.partition("://")[2].partition("/")[0].lower() if "://" in key else key.partition("/")[0].lower()
    )


def _table(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = config.get(name)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise FetchError(f"{path} is damaged: {name} is no JSON object")
    return table


def _output(arguments: list[str], given: str, seconds: float) -> tuple[int | None, bytes]:
    """Status and output of a program, a little more than the limit at most; None when it took too long."""
    output: list[bytes] = []
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    worker = threading.Thread(target=_talk, args=(process, given.encode(), output), daemon=True)
    worker.start()
    worker.join(seconds)
    try:
        if worker.is_alive():
            return None, b""
        return process.wait(seconds), output[0]
    except subprocess.TimeoutExpired:
        return None, b""
    finally:
        process.kill()
        process.wait()


def _talk(process: "subprocess.Popen[bytes]", given: bytes, output: list[bytes]) -> None:
    stdin, stdout = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    with stdout:
        try:
            with stdin:
                stdin.write(given)
        except OSError:  # it did not want to read; what it prints says why
            pass
        output.append(stdout.read(_OUTPUT_LIMIT + 1))
