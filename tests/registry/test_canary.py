"""The canary hears every knock, and the probes see what changes."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.registry.canary import ClosedNetwork, busy_threads, canary, open_fds, peak_rss, rss, tree_hash


def test_the_canary_answers_with_its_secret_and_keeps_what_came() -> None:
    with canary("127.0.0.3", "::1") as birds:
        for host, port in birds.addresses:
            url = f"http://[{host}]:{port}/token" if ":" in host else f"http://{host}:{port}/token"
            got = subprocess.run(["curl", "-s", "-H", "Authorization: x", url], capture_output=True).stdout
            assert got.decode() == birds.secret
        assert [b"Authorization: x" in heard for heard in birds.heard] == [True, True]
        socket.create_connection(birds.addresses[0]).close()
    assert birds.heard[2] == b""


def test_a_closed_network_leads_to_known_servers_and_the_canary() -> None:
    with canary() as bird, canary("127.0.0.4") as known:
        network = ClosedNetwork(bird, frozenset(known.addresses))
        network.names = {"moving.test": [["203.0.113.1"], ["127.0.0.4", "::1"]]}
        assert [network.resolve("moving.test", 80) for _ in range(3)] == [
            ["203.0.113.1"],
            *[["127.0.0.4", "::1"]] * 2,
        ]
        with pytest.raises(OSError, match="not known"):
            network.resolve("other.test", 80)
        for address, port in (*known.addresses, ("203.0.113.1", 443)):
            with network.connect(address, port, 5) as connection:
                connection.sendall(address.encode())
        assert network.strayed == [("203.0.113.1", 443)]
        assert network.resolved == ["moving.test"] * 3 + ["other.test"]
    assert (known.heard, bird.heard) == ([b"127.0.0.4"], [b"203.0.113.1"])


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "new").write_text("x"),
        lambda folder: (folder / "new").mkdir(),
        lambda folder: (folder / "a" / "file").write_text("other"),
        lambda folder: (folder / "a" / "file").rename(folder / "file"),
        lambda folder: (folder / "a" / "file").unlink(),
        lambda folder: (folder / "link").unlink() or (folder / "link").symlink_to("b"),
        lambda folder: os.mkfifo(folder / "pipe"),
    ],
)
def test_a_tree_s_hash_changes_with_it(tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = tmp_path / "tree"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "file").write_text("content")
    (folder / "link").symlink_to("a")
    before = tree_hash(folder)
    os.utime(folder / "a" / "file", (0, 0))
    assert tree_hash(folder) == before
    change(folder)
    assert tree_hash(folder) != before


def test_a_missing_tree_is_not_an_empty_one(tmp_path: Path) -> None:
    missing = tree_hash(tmp_path / "tree")
    (tmp_path / "tree").mkdir()
    assert tree_hash(tmp_path / "tree") != missing


def test_memory_and_descriptors_are_seen() -> None:
    files, memory = open_fds(), rss()
    with Path(os.devnull).open():
        assert open_fds() == files + 1
    held = b"x" * (64 << 20)
    assert rss() > memory + (60 << 20)
    del held
    assert peak_rss() > memory + (60 << 20)


def test_busy_threads_are_seen() -> None:
    # What runs the tests may have threads of its own, which are idle but for moments.
    assert any(busy_threads() == [] for _ in range(1000))
    done = threading.Event()

    def spin() -> None:
        while not done.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    # A thread that wants the interpreter may sleep for its turn at the moment of a look.
    seen = any(busy_threads(os.getpid()) for _ in range(1000))
    done.set()
    thread.join()
    assert seen


def test_another_process_may_be_looked_at() -> None:
    code = "import sys; sys.stdout.write('ready'); sys.stdout.flush(); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.read(5) == b"ready"
    assert 1 << 20 < rss(child.pid) <= peak_rss(child.pid) < 1 << 30
    assert open_fds(child.pid) >= 3
    child.communicate()
