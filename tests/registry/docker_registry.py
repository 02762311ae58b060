"""The registry of the distribution project (Debian's `docker-registry`), run for a test.

Every run has its own storage and a port that the system chose. The process dies with the thread that
started it.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from urllib.request import Request, urlopen

from tests.registry.images import MANIFEST_TYPE, Image
from tests.registry.token_issuer import ISSUER, SERVICE, TokenIssuer

_LISTENING = re.compile(r"listening on (127\.0\.0\.\d+:\d+)")
_START_LIMIT = 30.0
_ACCEPT = {"Accept": MANIFEST_TYPE}


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """A running registry.

    Attributes:
        address: `127.0.0.1:<port>`, which may stand in a model's name.
        storage: the folder of its files.
        log: what it wrote.
        pid: its process.
    """

    address: str
    storage: Path
    log: Path
    pid: int

    @property
    def url(self) -> str:
        """Where its HTTP API begins."""
        return f"http://{self.address}"

    def blob_file(self, digest: str) -> Path:
        """Where it keeps the blob `sha256:<hex>`."""
        hexadecimal = digest.removeprefix("sha256:")
        blobs = self.storage / "docker" / "registry" / "v2" / "blobs" / "sha256"
        return blobs / hexadecimal[:2] / hexadecimal / "data"

    def hold(self, image: Image, repository: str, tag: str = "latest") -> None:
        """Put an image into an anonymous registry, without any code of ours."""
        for digest, content in image.blobs.items():
            upload, headers = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
            assert upload == 202
            target = headers["Location"].removeprefix(self.url)
            assert self._ask("PUT", f"{target}&digest={digest}", content)[0] == 201
        assert self._ask("PUT", f"/v2/{repository}/manifests/{tag}", image.manifest, MANIFEST_TYPE)[0] == 201

    def manifest(self, repository: str, tag: str = "latest") -> bytes:
        """The manifest that an anonymous registry has under this name."""
        with urlopen(Request(f"{self.url}/v2/{repository}/manifests/{tag}", headers=_ACCEPT)) as reply:
            content: bytes = reply.read()
            return content

    def _ask(
        self, method: str, target: str, body: bytes, kind: str = "application/octet-stream"
    ) -> tuple[int, Message]:
        request = Request(self.url + target, body, {"Content-Type": kind}, method=method)
        with urlopen(request, timeout=30) as reply:
            reply.read()
            return reply.status, reply.headers


@contextmanager
def anonymous(folder: Path) -> Iterator[DockerRegistry]:
    """A registry that lets anyone pull, push and delete."""
    with _running(folder, {}) as registry:
        yield registry


@contextmanager
def basic(folder: Path, passwords: dict[str, str]) -> Iterator[DockerRegistry]:
    """A registry that wants one of these users and passwords (RFC 7617)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "htpasswd"
    path.write_text("".join(_htpasswd(user, password) for user, password in passwords.items()))
    with _running(folder, {"htpasswd": {"realm": "tests", "path": str(path)}}) as registry:
        yield registry


@contextmanager
def bearer(folder: Path, issuer: TokenIssuer) -> Iterator[DockerRegistry]:
    """A registry that wants the tokens of a running issuer (RFC 6750)."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "issuer.pem"
    bundle.write_bytes(issuer.identity.pem)
    token = {"realm": issuer.url, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle)}
    with _running(folder, {"token": token}) as registry:
        yield registry


def _htpasswd(user: str, password: str) -> str:
    # bcrypt is the one hash the registry takes; a cost of 4 is enough for a test.
    command = ["htpasswd", "-n", "-i", "-B", "-C", "4", user]
    done = subprocess.run(command, input=password, capture_output=True, text=True, check=True)
    return done.stdout.strip() + "\n"


@contextmanager
def _running(folder: Path, auth: dict[str, object]) -> Iterator[DockerRegistry]:
    storage, log, config = folder / "storage", folder / "registry.log", folder / "config.json"
    storage.mkdir(parents=True)
    settings = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(storage)},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {"addr": "127.0.0.1:0", "secret": "of the tests"},
        **({"auth": auth} if auth else {}),
    }
    config.write_text(json.dumps(settings))  # JSON is YAML
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    try:
        yield DockerRegistry(_listening_address(process, log), storage, log, process.pid)
    finally:
        process.kill()
        process.wait()


def _listening_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        if found := _LISTENING.search(log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.01)
    raise RuntimeError(f"docker-registry did not start: {log.read_text(errors='replace')[-2000:]}")
