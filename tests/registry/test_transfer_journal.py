"""The journal of a partial download: what is listed was written, whatever is done to the file."""

import zlib
from pathlib import Path

import pytest

from puna.registry.journal import Journal, Record, intact
from puna.registry.spans import Span

SIZE = 1000


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    path = tmp_path / "sha256-x.partial"
    path.write_bytes(bytes(range(250)) * 4)
    return path


def record(partial: Path, start: int, end: int) -> Record:
    return Record(Span(start, end), zlib.crc32(partial.read_bytes()[start:end]))


def loaded(partial: Path, size: int = SIZE, written: int = SIZE) -> list[Record]:
    journal = Journal(partial, size)
    journal.load(written)
    return journal.records


def test_what_was_added_is_listed_again(partial: Path) -> None:
    journal = Journal(partial, SIZE)
    journal.load(SIZE)
    records = [record(partial, 0, 100), record(partial, 500, 1000)]
    for each in records:
        journal.add(each)
    assert loaded(partial) == records
    assert Journal(partial, SIZE).received() == 600


def test_a_line_that_is_cut_is_no_line(partial: Path) -> None:
    journal = Journal(partial, SIZE)
    journal.load(SIZE)
    first = record(partial, 0, 100)
    journal.add(first)
    whole = partial.with_name(partial.name + ".journal").read_bytes()
    journal.add(record(partial, 100, 200))
    longer = partial.with_name(partial.name + ".journal").read_bytes()
    for end in range(len(whole), len(longer)):
        partial.with_name(partial.name + ".journal").write_bytes(longer[:end])
        assert loaded(partial) == [first]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"something else",
        b"puna-partial 2 1000\n0 100 00000000\n",
        b"puna-partial 1 999\n0 100 00000000\n",
        b"puna-partial 1 1000\n100 0 00000000\n5 5 00000000\n0 1001 00000000\n-1 5 00000000\n0 5 0000000G\n",
    ],
)
def test_a_journal_of_another_kind_lists_nothing(partial: Path, content: bytes) -> None:
    partial.with_name(partial.name + ".journal").write_bytes(content)
    assert loaded(partial) == []


def test_what_the_file_is_too_short_for_is_left_out(partial: Path) -> None:
    journal = Journal(partial, SIZE)
    journal.load(SIZE)
    journal.add(record(partial, 0, 100))
    journal.add(record(partial, 100, 200))
    assert [each.span for each in loaded(partial, written=150)] == [Span(0, 100)]


def test_bytes_that_were_lost_are_found_by_their_checksum(partial: Path) -> None:
    records = [record(partial, 0, 100), record(partial, 100, 200), record(partial, 200, 1000)]
    content = bytearray(partial.read_bytes())
    content[150] ^= 1
    partial.write_bytes(content)
    with partial.open("rb") as file:
        assert intact(records, file) == [records[0], records[2]]
