"""Conversations that are too long lose their oldest turns, as few as possible."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.chat.conversation import Message
from puna.chat.fit import fit, kept_from, turn_starts
from puna.errors import ContextLengthExceeded

ROLES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}


def messages(spelled: str) -> list[Message]:
    """One message for each letter; a number after it is its length, else it is 1."""
    found: list[Message] = []
    for letter in spelled:
        if letter.isdigit():
            found[-1] = Message(found[-1].role, "x" * int(letter))
        else:
            found.append(Message(ROLES[letter], "x"))
    return found


def render(given: Sequence[Message]) -> str:
    return "".join(message.content for message in given)


def spell(given: Sequence[Message]) -> str:
    return "".join(message.role[0] for message in given)


@pytest.mark.parametrize(
    ("conversation", "limit", "kept", "tokens"),
    [
        ("suau", 4, "suau", 0),
        ("suau", 3, "su", 2),
        ("suau", 2, "su", 2),
        ("uauau", 4, "uau", 2),
        # Of a longer context a quarter becomes free, if the last turn leaves so much.
        ("u9uauau", 8, "uauau", 9),
        ("u9u3a3uau", 8, "uau", 15),
        ("u9u4a4", 8, "ua", 9),
        ("uauau", 3, "uau", 2),
        ("uauau", 2, "u", 4),
        ("u9a9u1", 9, "u", 18),
        # Calls and results go with the turn that they belong to.
        ("uatatau", 4, "u", 6),
        ("uauatat", 6, "uatat", 2),
        # An answer that comes first belongs to no turn.
        ("sau", 2, "su", 1),
        # System messages stay, wherever they stand.
        ("usasu", 3, "ssu", 2),
        ("suuu", 2, "su", 2),
    ],
)
def test_turns_are_left_out_from_the_oldest_on(conversation: str, limit: int, kept: str, tokens: int) -> None:
    given = messages(conversation)
    fitted = fit(given, render, limit, truncate=True)
    assert spell(fitted.messages) == kept
    assert fitted.prompt == render(fitted.messages)
    assert fitted.dropped_tokens == tokens


@pytest.mark.parametrize(
    ("conversation", "truncate", "length"),
    [("suau", False, 4), ("suau9", True, 10), ("u9", True, 9), ("s9u", True, 10), ("uatata", True, 6)],
)
def test_what_cannot_or_may_not_be_shortened_is_an_error(
    conversation: str, truncate: bool, length: int
) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        fit(messages(conversation), render, 3, truncate=truncate)
    assert (caught.value.length, caught.value.limit) == (length, 3)
    assert str(length) in str(caught.value)
    assert "3" in str(caught.value)


@given(st.text("suat", min_size=1, max_size=40), st.integers(1, 40))
def test_no_turn_more_than_necessary_and_few_renderings(conversation: str, limit: int) -> None:
    given = messages(conversation)
    calls = 0

    def counted(some: Sequence[Message]) -> str:
        nonlocal calls
        calls += 1
        return render(some)

    # Plainly: one turn after the other.
    attempts = [given, *(kept_from(given, start) for start in turn_starts(given))]
    aim = limit - limit // 4
    expected = given if len(given) <= limit else next((a for a in attempts if len(a) <= aim), attempts[-1])
    if len(expected) > limit:
        with pytest.raises(ContextLengthExceeded):
            fit(given, counted, limit, truncate=True)
    else:
        assert list(fit(given, counted, limit, truncate=True).messages) == expected
    assert calls <= 2 + len(attempts).bit_length()


def test_thousands_of_turns_take_a_dozen_renderings() -> None:
    rendered: list[int] = []

    def counted(some: Sequence[Message]) -> str:
        rendered.append(len(some))
        return render(some)

    fit(messages("ua" * 5000 + "u"), counted, 100, truncate=True)
    assert len(rendered) < 16
