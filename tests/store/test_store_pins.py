"""What one process relies on, another does not delete."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.store.filled import (
    CONFIG,
    add,
    contents,
    digest_of,
    holder,
    layer_of,
    manifest_of,
    names,
    publish,
)

from puna.errors import StoreError
from puna.store.library import Library, Removal
from puna.store.manifests import CONFIG_TYPE
from puna.store.name import parse_name

BUSY = """
import sys
from pathlib import Path
from puna.errors import ModelNotFound
from puna.store.library import Library
from puna.store.manifests import CONFIG_TYPE, MODEL_LAYER, image_manifest
from puna.store.name import parse_name

library, own = Library(Path(sys.argv[1])), sys.argv[2]
for turn in range(int(sys.argv[3])):
    name = parse_name(f"{own}:{turn}")
    with library.session() as session:
        layers = [session.add(MODEL_LAYER, [f"shared {turn % 3}".encode()])]
        session.publish(name, image_manifest(session.add(CONFIG_TYPE, [b"{}"]), layers))
    library.copy(name, parse_name(f"{own}:kept"))
    library.delete(name)
    library.prune(0)
"""


def pins(library: Library) -> list[Path]:
    return [*(library.root / ".puna" / "pins").glob("*")]


def test_a_pinned_blob_survives_what_another_process_deletes(library: Library) -> None:
    with holder(library, b"wanted") as process:
        publish(library, "m", b"wanted", b"mine")
        assert library.delete(parse_name("m")) == Removal(2, len(b"mine") + len(CONFIG))
        assert library.prune(0) == Removal()
        assert contents(library) == {b"wanted"}
        process.communicate()
    assert library.prune(0) == Removal(1, len(b"wanted"))
    assert contents(library) == set()


def test_a_replaced_model_leaves_what_another_process_pins(library: Library) -> None:
    publish(library, "m", b"wanted")
    with holder(library, b"wanted") as process:
        assert publish(library, "m", b"new") == Removal()
        assert contents(library) == {b"wanted", b"new"}
        process.communicate()


def test_pins_of_a_killed_process_count_for_nothing_and_are_cleared(library: Library) -> None:
    with holder(library, b"lost") as process:
        assert len(pins(library)) == 1
        process.send_signal(signal.SIGKILL)
    assert len(pins(library)) == 1
    assert library.prune(0) == Removal(1, len(b"lost"))
    assert pins(library) == []


def test_a_blob_may_be_pinned_before_it_exists(library: Library) -> None:
    with library.session() as session:
        session.pin(digest_of(b"later"))
        add(library, b"later")
        assert library.prune(0) == Removal()
        assert contents(library) == {b"later"}


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_no_pin_outlives_its_operation(library: Library, error: type[BaseException] | None) -> None:
    publish(library, "m", b"kept")
    try:
        with library.session() as session:
            session.add("x", [b"unused"])
            assert len(pins(library)) == 1
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert pins(library) == []
    assert library.prune(0) == Removal(1, len(b"unused"))


def test_several_threads_share_a_session(library: Library) -> None:
    with library.session() as session:
        pieces = [b"%d" % number for number in range(24)]

        def store(part: list[bytes]) -> None:
            for piece in part:
                session.add("x", [piece])

        threads = [threading.Thread(target=store, args=(pieces[start::4],)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert library.prune(0) == Removal()
        session.add(CONFIG_TYPE, [CONFIG])
        session.publish(parse_name("m"), manifest_of(*(layer_of(piece) for piece in pieces)))
    library.prune(0)
    assert contents(library) == {*pieces}


def test_a_file_of_pins_that_makes_no_sense_keeps_everything(library: Library) -> None:
    add(library, b"unused")
    with library.session() as session:
        session._pins.write(b"what?\n")
        session._pins.flush()
        done = library.prune(0)
    assert "unused blobs are kept" in done.kept
    assert contents(library) == {b"unused"}


@pytest.mark.parametrize("turns", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_processes_that_publish_delete_and_prune_at_once(library: Library, turns: int) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", BUSY, str(library.root), own, str(turns)])
        for own in ("a", "b", "c")
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(names(library)) == ["a:kept", "b:kept", "c:kept"]
    assert contents(library) == {b"{}", b"shared %d" % ((turns - 1) % 3)}
    assert pins(library) == []
    with library.session() as session, pytest.raises(StoreError, match="is not complete"):
        session.publish(parse_name("m"), manifest_of(layer_of(b"never stored")))
