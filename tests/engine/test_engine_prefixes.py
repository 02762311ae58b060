"""Which kept sequence a prompt goes on from."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from puna.engine.prefixes import Prefix, Prefixes, common_length, longest

TOKENS = st.lists(st.integers(0, 1), max_size=700)


def kept(number: int, tokens: list[int], scope: str = "") -> Prefix:
    return Prefix(number, array("i", tokens), scope)


@given(TOKENS, TOKENS, TOKENS)
def test_what_two_sequences_have_in_common(common: list[int], left: list[int], right: list[int]) -> None:
    a, b = common + left, common + right
    expected = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    assert common_length(array("i", a), array("i", b)) == expected


def test_the_longest_is_chosen_and_the_last_token_left() -> None:
    candidates = [kept(3, [1, 2, 9]), kept(5, [1, 2, 3, 4]), kept(6, [2, 2, 3, 4])]
    found = longest(candidates, kept(9, [1, 2, 3, 4]), lambda number, length: length)
    assert found == (candidates[1], 3)
    assert longest(candidates, kept(9, [7, 7]), lambda number, length: length) is None


def test_other_scopes_and_what_cannot_resume_are_passed_over() -> None:
    candidates = [kept(1, [1, 2, 3], "a"), kept(2, [1, 2]), kept(3, [1])]
    prompt, of_a = kept(9, [1, 2, 3, 4]), kept(9, [1, 2, 3, 4], "a")
    assert longest(candidates, prompt, lambda number, length: length if number != 2 else 0) == (
        candidates[2],
        1,
    )
    assert longest(candidates, of_a, lambda number, length: length) == (candidates[0], 3)


def test_the_one_used_longest_ago_is_the_oldest() -> None:
    prefixes = Prefixes()
    assert prefixes.oldest() is None
    for number in (4, 2, 7):
        prefixes.keep(kept(number, [number]))
    prefixes.used(4)
    prefixes.used(9)
    oldest = prefixes.oldest()
    assert oldest is not None
    assert oldest.number == 2
    prefixes.take(2)
    assert [prefix.number for prefix in prefixes] == [7, 4]
