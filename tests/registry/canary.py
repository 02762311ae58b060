"""Listeners where nobody may knock, a network that leads nowhere else, and probes of what was left behind."""

import hashlib
import os
import socket
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

_END = b"the test is over"


@dataclass(slots=True)
class Canary:
    """Loopback listeners that keep what comes.

    Attributes:
        addresses: where they listen, as (address, port).
        secret: what each answers with; it may be seen nowhere.
        heard: the first bytes of each connection that was made.
    """

    addresses: list[tuple[str, int]]
    secret: str = field(default_factory=lambda: f"TOP-SECRET-{uuid4()}")
    heard: list[bytes] = field(default_factory=list)


@contextmanager
def canary(*hosts: str) -> Iterator[Canary]:
    """Listeners on free ports of these loopback addresses (127.0.0.3 if none is given)."""
    listeners = [socket.create_server((host, 0), family=_family(host)) for host in hosts or ("127.0.0.3",)]
    running = Canary([listener.getsockname()[:2] for listener in listeners])
    threads = [threading.Thread(target=_listen, args=(running, listener)) for listener in listeners]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        for listener, thread in zip(listeners, threads, strict=True):
            # Comes after all that knocked before, so that none of them is missed.
            with socket.create_connection(listener.getsockname()[:2]) as last:
                last.sendall(_END)
            thread.join()
            listener.close()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _listen(canary: Canary, listener: socket.socket) -> None:
    body = canary.secret.encode()
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    while True:
        connection, _ = listener.accept()
        with connection:
            heard = _first_bytes(connection)
            if heard == _END:
                return
            canary.heard.append(heard)
            with suppress(OSError):
                connection.sendall(answer)


def _first_bytes(connection: socket.socket) -> bytes:
    connection.settimeout(1)
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


@dataclass(slots=True)
class ClosedNetwork:
    """A resolver and a connector that lead to a few known servers, and for all else to the canary.

    Attributes:
        canary: where all other connections end, whatever address was asked for.
        reachable: the (address, port) pairs that are really connected to.
        names: what each host resolves to: one answer after the other, the last for ever.
        resolved: the hosts that were asked for.
        connected: the (address, port) pairs that were connected to, the canary's own not among them.
    """

    canary: Canary
    reachable: frozenset[tuple[str, int]]
    names: dict[str, list[Sequence[str]]] = field(default_factory=dict)
    resolved: list[str] = field(default_factory=list)
    connected: list[tuple[str, int]] = field(default_factory=list)

    def resolve(self, host: str, port: int) -> Sequence[str]:
        """The host's next answer. Raises: OSError for one that has none."""
        self.resolved.append(host)
        answers = self.names.get(host)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def connect(self, address: str, port: int, timeout: float) -> socket.socket:
        """A connection there if that is reachable, else to the canary."""
        self.connected.append((address, port))
        target = (address, port) if (address, port) in self.reachable else self.canary.addresses[0]
        return socket.create_connection(target, timeout)

    @property
    def strayed(self) -> list[tuple[str, int]]:
        """The connections made to places that are not reachable."""
        return [place for place in self.connected if place not in self.reachable]


def tree_hash(path: Path) -> str:
    """A digest of the names, kinds, contents and link targets of everything under `path`.

    A folder that is missing and one that is empty differ. Times and permissions do not count.
    """
    summary = hashlib.sha256()
    for entry in sorted([path, *path.rglob("*")]) if path.exists() else []:
        mode = entry.lstat().st_mode
        if stat.S_ISLNK(mode):
            content = os.readlink(entry).encode()
        elif stat.S_ISREG(mode):
            content = entry.read_bytes()
        else:
            content = b""
        part = f"{entry.relative_to(path)}\0{stat.S_IFMT(mode)}\0{hashlib.sha256(content).hexdigest()}\n"
        summary.update(part.encode(errors="surrogateescape"))
    return summary.hexdigest()


def peak_rss(pid: int | str = "self") -> int:
    """The most memory that the process has had resident, in bytes."""
    return _status_bytes(pid, "VmHWM")


def rss(pid: int | str = "self") -> int:
    """The memory that the process has resident, in bytes."""
    return _status_bytes(pid, "VmRSS")


def _status_bytes(pid: int | str, key: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise ValueError(f"process {pid} has no {key}")


def open_files(pid: int | str = "self") -> dict[int, str]:
    """What each file descriptor of the process is open on."""
    found = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(entry.name)] = os.readlink(entry)
        except FileNotFoundError:
            continue  # the one that this very listing used
    return found


def open_fds(pid: int | str = "self") -> int:
    """How many file descriptors the process has open."""
    return len(open_files(pid))


def busy_threads(pid: int | str = "self") -> list[str]:
    """The names of threads that are running or wait for the disk, the asking one left out."""
    mine = threading.get_native_id()
    busy = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(task.name) != mine and rest.split()[0] in "RD":
            busy.append(name)
    return busy
