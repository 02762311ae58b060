"""The store of answers: whose they are, how long they stay, and how many."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from puna.errors import InvalidOption, ResponseNotFound, StoreError
from puna.services.responses import KeptResponse, ResponseLimits, Responses


@dataclass
class Clock:
    now: float = 1e9

    def __call__(self) -> float:
        return self.now


def response(id: str, previous: str = "", text: str = "yes") -> KeptResponse:
    message: dict[str, Any] = {"id": f"msg_{id}", "type": "message", "content": text}
    return KeptResponse(id, {"id": id, "output": [message]}, [{"id": f"in_{id}", "content": "?"}], previous)


def there(store: Responses, id: str, owner: str = "me") -> bool:
    try:
        return store.get(id, owner).id == id
    except ResponseNotFound:
        return False


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return tmp_path / "folder" / "responses.sqlite3" if request.param == "file" else None


def test_what_is_kept_is_found(path: Path | None) -> None:
    store = Responses(path)
    kept = response("a", text="ä\x00😀")
    store.keep(kept, "me")
    assert store.get("a", "me") == kept
    assert store.item("msg_a", "me") == kept.output[0]
    store.delete("a", "me")
    for missing in (lambda: store.get("a", "me"), lambda: store.item("msg_a", "me")):
        with pytest.raises(ResponseNotFound, match="not found"):
            missing()
    store.close()


def test_a_conversation_is_its_turns_in_order(path: Path | None) -> None:
    store = Responses(path)
    for id, previous in (("a", ""), ("b", "a"), ("other", "a"), ("c", "b")):
        store.keep(response(id, previous), "me")
    items = store.conversation("c", "me")
    assert [item["id"] for item in items] == ["in_a", "msg_a", "in_b", "msg_b", "in_c", "msg_c"]
    store.delete("a", "me")
    with pytest.raises(ResponseNotFound, match="'a'"):
        store.conversation("c", "me")
    store.close()


def test_others_find_nothing() -> None:
    store = Responses()
    store.keep(response("a"), "me")
    store.keep(response("b", "a"), "you")
    for ask in (store.get, store.delete, store.conversation):
        with pytest.raises(ResponseNotFound):
            ask("a", "you")
    with pytest.raises(ResponseNotFound):
        store.item("msg_a", "you")
    with pytest.raises(ResponseNotFound, match="'a'"):
        store.conversation("b", "you")
    assert there(store, "a")
    store.close()


def test_what_was_used_longest_ago_goes_first() -> None:
    clock = Clock()
    store = Responses(None, ResponseLimits(count=3), clock)
    for id in "abc":
        clock.now += 1
        store.keep(response(id), "me")
    clock.now += 1
    store.conversation("a", "me")
    store.keep(response("x"), "you")
    clock.now += 1
    store.keep(response("d"), "me")
    assert [id for id in "abcd" if there(store, id)] == ["a", "c", "d"]
    assert there(store, "x", "you")
    with pytest.raises(ResponseNotFound):
        store.item("msg_b", "me")
    store.close()


def test_there_is_a_limit_of_bytes() -> None:
    clock = Clock()
    store = Responses(None, ResponseLimits(size=3000), clock)
    for id in "abcd":
        clock.now += 1
        store.keep(response(id, text="x" * 900), "me")
    assert [id for id in "abcd" if there(store, id)] == ["b", "c", "d"]
    with pytest.raises(InvalidOption, match="store to false"):
        store.keep(response("e", text="x" * 4000), "me")
    assert there(store, "d") and not there(store, "e")
    store.close()


def test_there_is_a_limit_of_time_since_the_last_use() -> None:
    clock = Clock()
    store = Responses(None, ResponseLimits(seconds=10), clock)
    store.keep(response("a"), "me")
    clock.now += 8
    store.conversation("a", "me")
    clock.now += 8
    assert there(store, "a")
    clock.now += 3
    assert not there(store, "a")
    with pytest.raises(ResponseNotFound):
        store.conversation("a", "me")
    store.close()


def test_there_is_a_limit_of_turns() -> None:
    store = Responses(None, ResponseLimits(turns=5))
    for number in range(7):
        store.keep(response(str(number), str(number - 1) if number else ""), "me")
    assert len(store.conversation("4", "me")) == 10
    with pytest.raises(InvalidOption, match="more than 5 turns"):
        store.conversation("6", "me")
    store.close()


def test_several_threads(path: Path | None) -> None:
    store = Responses(path)

    def work(name: str) -> None:
        for number in range(20):
            previous = f"{name}{number - 1}" if number else ""
            store.keep(response(f"{name}{number}", previous), name)
            assert len(store.conversation(f"{name}{number}", name)) == 2 * (number + 1)

    threads = [threading.Thread(target=work, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(there(store, f"{name}19", name) for name in "abcd")
    store.close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "responses.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(StoreError, match="cannot be kept"):
        Responses(path).keep(response("a"), "me")


def test_a_file_of_two_servers(tmp_path: Path) -> None:
    one, two = (Responses(tmp_path / "responses.sqlite3") for _ in range(2))
    one.keep(response("a"), "me")
    two.keep(response("b", "a"), "me")
    assert len(one.conversation("b", "me")) == 4
    one.close()
    two.close()
    assert (tmp_path / "responses.sqlite3").stat().st_mode & 0o077 == 0
