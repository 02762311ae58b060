"""What a model thinks ends when its budget is used up, whatever else is asked of the answer."""

import pytest
from tests.engine.driving import crowded, request, run
from tests.tiny_llama import BOS, BYTES

from puna.engine.load import LoadedModel
from puna.engine.thinking import ThinkingLimit
from puna.sampling.grammar import Grammar, Thinking

TAGS = Thinking("<t>", "</t>")
PIECES = [b"<", b"t>", b" <t>", b"a", b"</", b"</t>", b"x</t>y", b"\n", b"\xe2", b"\x80"]


def ended_after(tokens: list[int], budget: int, *, opened: bool = False) -> int | None:
    """After how many of the tokens the end of thinking must come; None if it never must."""
    limit = ThinkingLimit(TAGS, budget, opened=opened, ending=[5], pieces=PIECES)
    for count, token in enumerate(tokens):
        if limit.ending():
            assert limit.ending() == []  # once
            return count
        limit.accept([token])
    return len(tokens) if limit.ending() else None


@pytest.mark.parametrize(
    ("tokens", "budget", "opened", "expected"),
    [
        ([3, 3, 3], 2, True, 2),
        ([3, 3, 3], 0, True, 0),
        ([3, 3], 9, True, None),
        ([2, 3, 3, 3], 2, False, 3),
        ([7, 0, 1, 3, 3], 1, False, 4),
        ([3, 3, 3, 3], 2, False, None),
        ([0, 3, 2, 3, 3], 1, False, None),
        ([2, 3, 5, 3, 3], 2, False, None),
        ([3, 4, 1, 3, 3, 3], 3, True, None),
        ([6, 3, 3, 3], 2, True, None),
        ([3, 8, 9, 9, 3], 2, True, 4),
        ([8, 8, 8, 8, 8, 8, 8, 8], 2, True, 6),
    ],
)
def test_when_thinking_must_end(tokens: list[int], budget: int, opened: bool, expected: int | None) -> None:
    assert ended_after(tokens, budget, opened=opened) == expected


THINK = Thinking("<think>", "</think>")
OPENED = [BOS, *(BYTES + byte for byte in b"Why?<think>\n")]
CLOSED = [BOS, *(BYTES + byte for byte in b"Why?")]


def test_a_model_is_made_to_answer(tiny: LoadedModel) -> None:
    thought = request(OPENED, 5)
    limited = request(OPENED, 30, thinking=THINK, thinking_budget=5)
    beside = request(OPENED, 30)
    first, second, third = run(crowded(tiny, 3), thought, limited, beside)
    assert second.text.startswith(first.text + "</think>")
    assert "</think>" not in third.text
    assert second.counts.generated_tokens == third.counts.generated_tokens == 30


def test_what_comes_after_is_kept_to_its_grammar(tiny: LoadedModel) -> None:
    for grammar in (Grammar.choice(["yes", "no"]), Grammar.any_object()):
        wanted = request(OPENED, 60, grammar=grammar, thinking=THINK, thinking_budget=3)
        (found,) = run(tiny.engine, wanted)
        answer = found.text.partition("</think>")[2].lstrip()
        assert answer in ("yes", "no") if grammar.kind == "choice" else answer.startswith("{")


def test_an_answer_without_thinking_has_no_limit(tiny: LoadedModel) -> None:
    limited = request(CLOSED, 30, thinking=THINK, thinking_budget=0)
    (first, second) = run(crowded(tiny, 2), limited, request(CLOSED, 30))
    assert first.text == second.text


def test_the_end_of_thinking_has_no_more_room_than_there_is(tiny: LoadedModel) -> None:
    (found,) = run(tiny.engine, request(OPENED, 6, thinking=THINK, thinking_budget=2))
    assert found.text.endswith("</th")
    assert (found.counts.reason, found.counts.generated_tokens) == ("length", 6)
