"""Log-probabilities come with the text of their tokens, whatever holds that back."""

import codecs

from hypothesis import given
from hypothesis import strategies as st

from puna.engine.events import TextChunk, TokenLogprob
from puna.engine.text import TextStream, Transcript


class _Bytes:
    """Tokens are positions in a list of byte strings, as a tokenizer's decoder treats them."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        return self._utf8.decode(self._pieces[token])

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


def chunks(pieces: list[bytes], stop: list[str]) -> list[TextChunk]:
    transcript = Transcript(TextStream(_Bytes(pieces), stop))
    found = []
    for token, piece in enumerate(pieces):
        found.append(transcript.feed(token, TokenLogprob(token, piece, -float(token))))
        if transcript.stopped:
            break
    found.append(transcript.finish())
    return [chunk for chunk in found if chunk is not None]


def shape(pieces: list[bytes], stop: list[str]) -> list[tuple[str, list[int]]]:
    return [(chunk.text, [token.id for token in chunk.logprobs]) for chunk in chunks(pieces, stop)]


def test_a_token_comes_with_its_text() -> None:
    assert shape([b"a", b"bc"], []) == [("a", [0]), ("bc", [1])]


def test_parts_of_a_character_come_with_its_end() -> None:
    assert shape([b"a\xc3", b"\xa4", b"\xe2", b"\x82", b"\xac!"], []) == [
        ("a", [0]),
        ("ä", [1]),
        ("€!", [2, 3, 4]),
    ]


def test_what_could_become_a_stop_text_is_held_back_with_its_tokens() -> None:
    assert shape([b"so ", b"wor", b"k"], ["world"]) == [("so ", [0]), ("work", [1, 2])]


def test_tokens_cut_off_by_a_stop_text_are_left_out() -> None:
    assert shape([b"so ", b"wor", b"ld", b"x"], ["world"]) == [("so ", [0])]


def test_a_token_of_which_something_shows_is_not_left_out() -> None:
    assert shape([b"so", b" wor", b"ld"], ["world"]) == [("so", [0]), (" ", []), ("", [1])]


def test_tokens_without_text_are_told_of_in_the_end() -> None:
    assert shape([b"a", b"", b""], []) == [("a", [0]), ("", [1, 2])]


def test_half_a_character_at_the_end_is_told_of() -> None:
    assert shape([b"a", b"\xe2\x82"], []) == [("a", [0]), ("\ufffd", [1])]


PIECES = st.lists(
    st.sampled_from([b"a", b"b", b"ab", b"\xc3", b"\xa4", b"\xe2\x82", b"", b"aab"]), max_size=14
)


@given(PIECES, st.lists(st.sampled_from(["ab", "bb", "aaba", "ä", "bä"]), max_size=2))
def test_pieces_and_tokens_agree(pieces: list[bytes], stop: list[str]) -> None:
    found = chunks(pieces, stop)
    plain = TextStream(_Bytes(pieces), stop)
    text = ""
    for token in range(len(pieces)):
        text += plain.feed(token)
        if plain.stopped:
            break
    text += plain.flush()
    assert "".join(chunk.text for chunk in found) == text
    tokens = [token.id for chunk in found for token in chunk.logprobs]
    assert tokens == list(range(len(tokens)))
    if not plain.stopped:
        assert len(tokens) == len(pieces)
        return
    # Together their text reaches the cut, and without the last it does not.
    decoder = _Bytes(pieces)
    reach = [len(decoder.feed(token)) for token in tokens]
    assert sum(reach) >= len(text)
    assert not reach or not text or sum(reach[:-1]) < len(text)
