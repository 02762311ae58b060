"""Text is released as soon as it cannot become a stop string any more, and not earlier."""

from hypothesis import given
from hypothesis import strategies as st

from puna.engine.text import TextStream


class _Decoder:
    """Tokens are positions in a list of pieces."""

    def __init__(self, pieces: list[str]) -> None:
        self._pieces = pieces

    def feed(self, token: int) -> str:
        return self._pieces[token]

    def flush(self) -> str:
        return ""


def stream(pieces: list[str], stop: list[str]) -> tuple[list[str], bool]:
    text = TextStream(_Decoder(pieces), stop)
    shown = []
    for token in range(len(pieces)):
        shown.append(text.feed(token))
        if text.stopped:
            break
    shown.append(text.flush())
    return shown, text.stopped


def test_a_stop_string_split_over_pieces_never_shows() -> None:
    assert stream(["Hello", " wo", "rl", "d!", " never"], ["world"]) == (["Hello", " ", "", "", ""], True)


def test_the_earliest_stop_string_counts() -> None:
    assert stream(["a END b STOP"], ["STOP", "END"]) == (["a ", ""], True)


def test_the_stop_string_that_counts_is_told() -> None:
    for pieces, stop, told in (
        (["a END b STOP"], ["STOP", "END"], "END"),
        (["a E", "ND"], ["", "END"], "END"),
        (["a E"], ["END"], ""),
    ):
        text = TextStream(_Decoder(pieces), stop)
        for token in range(len(pieces)):
            text.feed(token)
        assert text.stop_text == told


def test_text_held_back_in_vain_shows_in_the_end() -> None:
    assert stream(["one wor"], ["world"]) == (["one ", "wor"], False)


def test_text_held_back_in_vain_shows_with_what_disproves_it() -> None:
    assert stream(["wor", "k"], ["world"]) == (["", "work", ""], False)


def test_an_empty_stop_string_stops_nothing() -> None:
    assert stream(["text"], [""]) == (["text", ""], False)


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=3), max_size=3),
)
def test_what_shows_is_the_text_up_to_the_first_stop_string(pieces: list[str], stop: list[str]) -> None:
    whole = "".join(pieces)
    # Stop strings are looked for as the text grows: the one that ends first wins.
    ends = [(whole.find(s) + len(s), whole.find(s)) for s in stop if s in whole]
    shown, stopped = stream(pieces, stop)
    assert stopped == bool(ends)
    if not ends:
        assert "".join(shown) == whole
    else:
        assert not any(s in "".join(shown) for s in stop)
        assert whole.startswith("".join(shown))
