"""How much is drafted, and what."""

from __future__ import annotations

from array import array

import pytest

from puna.engine.speculation.depth import COSTS, LARGEST, Trust, batch_size
from puna.engine.speculation.lookup import Lookup

PASSAGE = list(range(100, 160))


def test_what_has_long_been_right_is_trusted() -> None:
    sizes = [batch_size(agreement, 1.0, 1, 64) for agreement in (1, 2, 4, 8, 16, 32, 64, 1000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0 and sizes[-1] == LARGEST


def test_the_surer_the_more() -> None:
    sizes = [batch_size(8, hazard, 1, 64) for hazard in (0.0, 0.2, 0.5, 1.0, 2.0, 5.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == LARGEST and sizes[-1] == 0


def test_a_draft_must_bring_more_than_it_costs() -> None:
    assert batch_size(1000, 0.0, 1, 64, {4: 4.0, 8: 8.0}) == 0
    assert batch_size(1000, 0.0, 1, 64, {4: 4.0, 8: 4.0}) == 8
    # Two of four tokens are no drafts: three come of it at most.
    assert batch_size(1000, 0.0, 2, 64, {4: 2.9}) == 0
    assert batch_size(1000, 0.0, 2, 64, {4: 2.8}) == 4


@pytest.mark.parametrize("most", range(40))
@pytest.mark.parametrize("pending", [1, 3, 20])
def test_only_sizes_that_are_known_and_fit(most: int, pending: int) -> None:
    size = batch_size(100, 0.1, pending, most)
    assert size == 0 or (size in COSTS and pending < size <= most)


def test_trust_is_lost_and_won() -> None:
    trust = Trust()
    start = trust.hazard
    for agreement in range(1, 50):
        trust.learn(agreement, True)
    sure = trust.hazard
    for _ in range(30):
        trust.learn(3, False)
    assert sure < start < trust.hazard
    doubtful = trust.hazard
    for _ in range(2):
        for agreement in range(1, 50):
            trust.learn(agreement, True)
    assert trust.hazard < doubtful


def told(lookup: Lookup, tokens: array[int], answer: list[int], most: int = LARGEST) -> list[list[int]]:
    """What is drafted before each token of the answer."""
    drafts = []
    for token in answer:
        drafts.append(lookup.draft(tokens, 1, most))
        tokens.append(token)
    return drafts


def test_a_quoted_passage_is_drafted() -> None:
    tokens = array("i", [*PASSAGE, 1, 2])
    drafts = told(Lookup(), tokens, PASSAGE)
    first = next(index for index, draft in enumerate(drafts) if draft)
    assert first < 10
    for index, draft in enumerate(drafts[first:], first):
        assert draft[: len(PASSAGE) - index] == PASSAGE[index : index + len(draft)]
    assert max(map(len, drafts)) == LARGEST - 1


def test_an_edited_word_does_not_end_it() -> None:
    tokens = array("i", [*PASSAGE, 1, 2])
    answer = [*PASSAGE[:30], 7, *PASSAGE[31:]]
    drafts = told(Lookup(), tokens, answer)
    again = next(index for index, draft in enumerate(drafts) if index > 31 and draft)
    assert again < 38 and drafts[again][:3] == PASSAGE[again : again + 3]


def test_words_left_out_are_found_again() -> None:
    tokens = array("i", [*PASSAGE, 1, 2])
    drafts = told(Lookup(), tokens, PASSAGE[:20] + PASSAGE[26:])
    assert drafts[-10][:3] == PASSAGE[-10:-7]


def test_what_repeats_itself_goes_on_for_ever() -> None:
    tokens = array("i", [5, 6, 7] * 3)
    drafts = told(Lookup(), tokens, [5, 6, 7] * 20)
    assert drafts[-3] == ([5, 6, 7] * 20)[: len(drafts[-3])] and len(drafts[-3]) == LARGEST - 1


def test_what_was_never_said_is_not_drafted() -> None:
    assert not any(told(Lookup(), array("i", [1, 2, 3]), PASSAGE))


def test_wrong_drafts_end_drafting() -> None:
    """Texts that agree for three tokens again and again, and then no more."""
    lookup, tokens = Lookup(), array("i", [1, 2, 3, 4])
    drafts = told(lookup, tokens, [token for end in range(500, 560) for token in (1, 2, 3, end)])
    assert not any(drafts[20:])


def test_tokens_that_are_dropped_are_forgotten() -> None:
    lookup, tokens = Lookup(), array("i", [*PASSAGE, *PASSAGE[:20]])
    assert lookup.draft(tokens, 1, LARGEST) or lookup.agreement
    left = array("i", tokens[60:])
    assert lookup.draft(left, 1, LARGEST) == []
    assert lookup.agreement == 0


@pytest.mark.parametrize("length", range(5))
def test_short_texts(length: int) -> None:
    assert Lookup().draft(array("i", [9] * (length + 1)), 1, 2) == []


def test_several_tokens_at_once() -> None:
    one, all_ = Lookup(), Lookup()
    tokens = array("i", [*PASSAGE, 1, 2])
    told(one, tokens, PASSAGE[:20])
    grown = array("i", [*PASSAGE, 1, 2])
    all_.draft(grown, 1, LARGEST)
    grown.extend(PASSAGE[:20])
    assert one.draft(tokens, 1, LARGEST) == all_.draft(grown, 1, LARGEST) != []
