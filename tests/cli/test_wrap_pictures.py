"""Word wrap, by a terminal that is played; and pictures that a prompt names."""

import random
from pathlib import Path

import pytest

from puna.cli.pictures import MAX_PICTURE, illustrated, look, named_pictures
from puna.cli.wrap import Wrapper, columns
from puna.errors import InvalidOption

PNG = b"\x89PNG\r\n\x1a\n and more"


class Screen:
    """What a terminal of `width` columns shows, for text without other codes than those of the wrapper."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: list[list[str]] = [[]]

    def write(self, text: str) -> None:
        while text:
            if text.startswith("\x1b["):
                code = text[2:].partition("D")[0]
                assert text[2 + len(code) :].startswith("D\x1b[K")
                taken = 0
                while taken < int(code):
                    taken += columns(self.rows[-1].pop())
                assert taken == int(code)
                text = text[2 + len(code) + 4 :]
                continue
            char, text = text[0], text[1:]
            if char == "\n" or sum(map(columns, self.rows[-1])) + columns(char) > self.width:
                self.rows.append([])
            if char != "\n":
                self.rows[-1].append(char)

    @property
    def text(self) -> list[str]:
        return ["".join(row) for row in self.rows]


def shown(text: str, width: int, pieces: int = 1) -> list[str]:
    screen, wrapper = Screen(width), Wrapper(width)
    for start in range(0, len(text), pieces):
        screen.write(wrapper.feed(text[start : start + pieces]))
    return screen.text


def test_words_go_to_the_next_line() -> None:
    assert shown("one two three four five", 15) == ["one two ", "three four", "five"]
    assert shown("one\ntwo three four", 15) == ["one", "two three ", "four"]
    assert shown("x" * 30, 20) == ["x" * 20, "x" * 10]
    assert shown("a " + "x" * 12 + " b", 20) == ["a " + "x" * 12 + " ", "b"]


def test_ideographs_break_anywhere_and_count_twice() -> None:
    assert shown("日本語日本語日本語", 13) == ["日本語日", "本語日本", "語"]
    assert columns("é") == 1
    assert columns("\u0301") == 0


def test_nothing_is_wrapped_where_there_is_no_room() -> None:
    text = "one two three four five"
    assert Wrapper(0).feed(text) == text
    assert Wrapper(9).feed(text) == text


def test_no_word_is_lost_or_torn() -> None:
    chance = random.Random(7)
    for _ in range(200):
        words = ["".join(chance.choices("abcé", k=chance.randint(1, 9))) for _ in range(30)]
        width = chance.randint(15, 40)
        rows = shown(" ".join(words), width, chance.randint(1, 9))
        assert [word for row in rows for word in row.split()] == words
        assert max(len(row.rstrip()) for row in rows) <= width - 5


def test_pictures_are_taken_out_of_the_text(tmp_path: Path) -> None:
    for name in ("cat.png", "a dog.JPG", "c.webp"):
        (tmp_path / name).write_bytes(
            PNG if name == "cat.png" else b"\xff\xd8\xff" if "dog" in name else b"RIFF....WEBP"
        )
    spelled = str(tmp_path / "a dog.JPG").replace(" ", "\\ ")
    prompt = f"What are '{tmp_path}/cat.png', {spelled} and {tmp_path}/c.webp?"
    found = illustrated(prompt)
    assert found.images == (PNG, b"\xff\xd8\xff", b"RIFF....WEBP")
    assert found.text == "What are ,  and ?"
    assert named_pictures(prompt) == [f"{tmp_path}/cat.png", spelled, f"{tmp_path}/c.webp"]


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(InvalidOption, match="is no picture in JPEG, PNG or WebP"):
        illustrated(f"see {tmp_path}/text.png")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(MAX_PICTURE + 1)
    with pytest.raises(InvalidOption, match="is larger than 100 MB"):
        illustrated(f"see {tmp_path}/large.png")
    assert illustrated(f"see {tmp_path}/none.png").images == ()


def test_a_model_that_does_not_see(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    prompt = f"see {tmp_path}/cat.png"
    assert look(prompt, "m", sees=False).text == prompt
    assert capsys.readouterr().err == (
        f"Warning: 'm' cannot see pictures: {tmp_path}/cat.png is sent as text\n"
    )
    assert look(prompt, "m", sees=True).images == (PNG,)
    assert capsys.readouterr().err == f"Added image '{tmp_path}/cat.png'\n"


def test_a_hostile_prompt_takes_no_time() -> None:
    assert named_pictures("/" * 20_000 + ".png") == []
    assert named_pictures("./a\\ " * 20_000) == []
