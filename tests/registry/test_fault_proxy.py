"""The proxy does what it says, and nothing to what it should leave alone."""

import hashlib
import http.client
import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest
from tests.registry import docker_registry
from tests.registry.docker_registry import DockerRegistry
from tests.registry.fault_proxy import BLOBS, UPLOADS, Fault, FaultProxy, proxying

CONTENT = random.Random(1).randbytes(300_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
BLOB = f"/v2/library/m/blobs/{DIGEST}"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    with docker_registry.anonymous(tmp_path_factory.mktemp("upstream") / "registry") as registry:
        yield registry


@pytest.fixture
def proxy(upstream: DockerRegistry) -> Iterator[FaultProxy]:
    with proxying(upstream.address) as running:
        assert push(running, "library/m") == 201
        running.forget()
        yield running


@dataclass(frozen=True, slots=True)
class Reply:
    """What came: of the body, all that arrived before the connection ended."""

    status: int
    headers: Message
    body: bytes


def ask(proxy: FaultProxy, method: str, target: str, body: bytes = b"", **headers: str) -> Reply:
    connection = http.client.HTTPConnection(proxy.address, timeout=20)
    try:
        connection.request(method, target, body, headers)
        reply = connection.getresponse()
        try:
            content = reply.read()
        except http.client.IncompleteRead as error:
            content = error.partial
        return Reply(reply.status, reply.headers, content)
    finally:
        connection.close()


def push(proxy: FaultProxy, repository: str) -> int:
    location = ask(proxy, "POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
    target = location.removeprefix(f"http://{proxy.address}")
    return ask(proxy, "PUT", f"{target}&digest={DIGEST}", CONTENT).status


def test_without_faults_everything_passes_and_is_counted(proxy: FaultProxy) -> None:
    whole, part = ask(proxy, "GET", BLOB), ask(proxy, "GET", BLOB, Range="bytes=5-9")
    assert (whole.status, whole.body) == (200, CONTENT)
    assert (part.status, part.body) == (206, CONTENT[5:10])
    head = ask(proxy, "HEAD", BLOB)
    assert (head.status, head.headers["Content-Length"], head.body) == (200, str(len(CONTENT)), b"")
    assert proxy.served(DIGEST) == proxy.served() == len(CONTENT) + 5
    assert [(x.method, x.range, x.status) for x in proxy.about(BLOBS)] == [
        ("GET", "", 200),
        ("GET", "bytes=5-9", 206),
        ("HEAD", "", 200),
    ]
    assert proxy.uploaded() == 0
    assert push(proxy, "library/other") == 201
    assert proxy.uploaded() == len(CONTENT)


def test_uploads_of_unknown_length_pass(proxy: FaultProxy, tmp_path: Path) -> None:
    location = ask(proxy, "POST", "/v2/library/n/blobs/uploads/").headers["Location"]
    given = tmp_path / "content"
    given.write_bytes(CONTENT)
    url = f"{location}&digest={DIGEST}"
    command = ["curl", "-sf", "-T", "-", "-H", "Transfer-Encoding: chunked", url]
    with given.open("rb") as content:
        subprocess.run(command, stdin=content, check=True, capture_output=True)
    assert proxy.uploaded() == len(CONTENT)
    assert ask(proxy, "GET", f"/v2/library/n/blobs/{DIGEST}").body == CONTENT


def test_a_reply_is_cut(proxy: FaultProxy) -> None:
    proxy.set(Fault(BLOBS, cut_after=1234, times=1))
    assert ask(proxy, "GET", BLOB).body == CONTENT[:1234]
    assert ask(proxy, "GET", BLOB).body == CONTENT
    assert [x.sent for x in proxy.about(BLOBS)] == [1234, len(CONTENT)]


def test_an_upload_is_cut(proxy: FaultProxy) -> None:
    proxy.set(Fault(UPLOADS, "PUT|PATCH", cut_upload_after=70_000))
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        push(proxy, "library/cut")
    assert ask(proxy, "HEAD", f"/v2/library/cut/blobs/{DIGEST}").status == 404


@pytest.mark.parametrize("whole", [True, False])
def test_a_part_of_a_part_is_held_back(proxy: FaultProxy, upstream: DockerRegistry, whole: bool) -> None:
    """The registry gives up an upload of which it was sent a part of a part."""
    proxy.set(Fault(UPLOADS, "PATCH", whole_uploads=whole))
    before = upstream.log.stat().st_size

    def noticed() -> bool:
        return b"client disconnected" in upstream.log.read_bytes()[before:]

    location = ask(proxy, "POST", "/v2/library/p/blobs/uploads/").headers["Location"]
    target = location.removeprefix(f"http://{proxy.address}")
    proxy.forget()
    host, port = proxy.address.split(":")
    with socket.create_connection((host, int(port))) as client:
        head = f"PATCH {target} HTTP/1.1\r\nHost: {proxy.address}\r\nContent-Length: 1000\r\n\r\n"
        client.sendall(head.encode() + bytes(500))
        wait_until(lambda: proxy.uploaded() == 500)
    wait_until(noticed)
    # What it was sent reaches its file a moment after it has said so.
    wait_until(lambda: ask(proxy, "GET", target).status == (204 if whole else 404))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_byte_is_changed_wherever_the_range_begins(proxy: FaultProxy) -> None:
    proxy.set(Fault(BLOBS, corrupt_at=100_000, times=2))
    assert ask(proxy, "GET", BLOB, Range="bytes=0-99999").body == CONTENT[:100_000]
    for start in (0, 99_999):
        wanted = CONTENT[start:]
        got = ask(proxy, "GET", BLOB, Range=f"bytes={start}-").body
        assert [i + start for i in range(len(wanted)) if got[i] != wanted[i]] == [100_000]
    assert ask(proxy, "GET", BLOB).body == CONTENT


def test_a_reply_hangs_until_the_client_gives_up(proxy: FaultProxy) -> None:
    proxy.set(Fault(BLOBS, hang_after=10))
    connection = http.client.HTTPConnection(proxy.address, timeout=0.5)
    connection.request("GET", BLOB)
    reply = connection.getresponse()
    assert reply.read(10) == CONTENT[:10]
    with pytest.raises(TimeoutError):
        reply.read(1)
    reply.close()
    connection.close()


def test_refusals_come_as_often_as_asked(proxy: FaultProxy) -> None:
    proxy.set(Fault(BLOBS, times=2, status=503, headers=(("Retry-After", "7"),)))
    replies = [ask(proxy, "GET", BLOB) for _ in range(3)]
    assert [reply.status for reply in replies] == [503, 503, 200]
    assert [reply.headers["Retry-After"] for reply in replies] == ["7", "7", None]


def test_ranges_are_ignored(proxy: FaultProxy) -> None:
    proxy.set(Fault(BLOBS, ignore_range=True))
    reply = ask(proxy, "GET", BLOB, Range="bytes=5-9")
    assert (reply.status, reply.body) == (200, CONTENT)


def test_a_throttled_body_comes_in_small_pieces(proxy: FaultProxy) -> None:
    proxy.set(Fault(BLOBS, rate=1_000_000))
    connection = http.client.HTTPConnection(proxy.address, timeout=20)
    connection.request("GET", BLOB)
    with connection.getresponse() as reply:
        first = reply.read1(1 << 20)
        assert len(first) <= 200_000  # pieces of 20 kB, of which a few may have met
        assert first + reply.read() == CONTENT
    connection.close()


def test_faults_may_change_while_it_runs(proxy: FaultProxy) -> None:
    statuses = []
    for faults in ((), (Fault(".*", status=500),), ()):
        proxy.set(*faults)
        statuses.append(ask(proxy, "GET", BLOB).status)
    assert statuses == [200, 500, 200]


def test_many_clients_at_once(proxy: FaultProxy) -> None:
    results: list[bytes] = []

    def load() -> None:
        results.append(ask(proxy, "GET", BLOB).body)

    threads = [threading.Thread(target=load) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 16
    assert proxy.served(DIGEST) == 16 * len(CONTENT)


def test_it_ends_although_a_client_stays(upstream: DockerRegistry) -> None:
    with proxying(upstream.address) as proxy:
        host, port = proxy.address.split(":")
        client = socket.create_connection((host, int(port)))
    client.close()
