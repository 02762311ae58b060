"""The state of a sequence in its grammar: masks, forced tokens, ends, thoughts, the cache."""

from dataclasses import replace

import numpy as np
import pytest
from tests.sampling.conftest import Accepts

from puna.engine.load import token_table
from puna.engine.thinking import ends_with
from puna.errors import InvalidOption
from puna.sampling.constraints import CACHE_BYTES, CACHE_ENTRIES, Constraint, Constraints, TokenTable
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters
from puna.sampling.sampler import Sampler
from puna.tokenizer import Tokenizer

NUMBER = Grammar.regex("[0-9]{1,3}")
THINK = Thinking("<think>", "</think>")


def allowed(constraint: Constraint) -> set[int]:
    return set(np.flatnonzero(constraint.mask()).tolist())


def advance(constraint: Constraint, tokenizer: Tokenizer, text: str) -> None:
    for token in tokenizer.encode(text, add_special=False):
        constraint.advance(token, most=0)


def test_a_mask_allows_what_goes_on_and_nothing_else(constraints: Constraints, tokenizer: Tokenizer) -> None:
    constraint = constraints.start(NUMBER)
    assert constraint.mask().shape == (tokenizer.vocab_size,)
    for taken in ("", "1", "12"):
        expected = {
            id
            for id, piece in enumerate(tokenizer.pieces)
            if piece.isdigit() and len(taken) + len(piece) <= 3 and not tokenizer.is_special(id)
        }
        assert allowed(constraint) == expected | (tokenizer.end_ids if taken else set())
        advance(constraint, tokenizer, "12"[len(taken) : len(taken) + 1])


def test_end_tokens_are_allowed_exactly_where_the_text_may_end(
    constraints: Constraints, tokenizer: Tokenizer
) -> None:
    constraint = constraints.start(Grammar.json_schema({"type": "array", "items": {"enum": [1]}}))
    for character in "[1,1]":
        assert not tokenizer.end_ids & allowed(constraint)
        assert not constraint.accepting
        advance(constraint, tokenizer, character)
    assert allowed(constraint) == tokenizer.end_ids
    assert constraint.accepting
    assert constraint.complete


def test_complete_is_more_than_accepting(constraints: Constraints, tokenizer: Tokenizer) -> None:
    constraint = constraints.start(NUMBER)
    advance(constraint, tokenizer, "1")
    assert (constraint.accepting, constraint.complete) == (True, False)
    advance(constraint, tokenizer, "23")
    assert (constraint.accepting, constraint.complete) == (True, True)
    assert constraint.advance(min(tokenizer.end_ids)) == []


def test_forced_tokens_are_what_must_follow(constraints: Constraints, tokenizer: Tokenizer) -> None:
    constraint = constraints.start(Grammar.regex("(x|y)hello world(a|b)"))
    (token,) = tokenizer.encode("x", add_special=False)
    forced = constraint.advance(token)
    text = tokenizer.decode(forced)
    assert text
    assert "hello world".startswith(text)
    again = constraints.start(Grammar.regex("(x|y)hello world(a|b)"))
    assert again.advance(token, most=1) == forced[:1]


def test_a_token_that_is_not_allowed_is_an_error(constraints: Constraints, tokenizer: Tokenizer) -> None:
    constraint = constraints.start(NUMBER)
    with pytest.raises(InvalidOption, match="cannot be kept to its grammar"):
        constraint.advance(tokenizer.encode("x", add_special=False)[0])
    with pytest.raises(InvalidOption, match="cannot be kept to its grammar"):
        constraint.mask()


def test_sequences_do_not_share_their_state(constraints: Constraints, tokenizer: Tokenizer) -> None:
    first = constraints.start(NUMBER)
    advance(first, tokenizer, "12")
    second, third = constraints.start(NUMBER), first.copy()
    advance(third, tokenizer, "3")
    assert third.complete
    assert not first.complete
    assert not second.accepting


def test_control_tokens_are_no_text(constraints: Constraints, tokenizer: Tokenizer) -> None:
    mask = constraints.start(Grammar.regex(r"(.|\n)*")).mask()
    special = [id for id in range(tokenizer.vocab_size) if tokenizer.is_special(id)]
    assert set(special) - tokenizer.end_ids
    assert not mask[[id for id in special if id not in tokenizer.end_ids]].any()


def test_a_vocabulary_without_end_tokens(tokenizer: Tokenizer) -> None:
    table = replace(token_table(tokenizer), ends=[])
    constraint = Constraints(table).start(NUMBER)
    assert constraint.mask().shape == (tokenizer.vocab_size,)
    advance(constraint, tokenizer, "123")
    assert constraint.complete
    assert not constraint.mask().any()


def test_a_vocabulary_that_cannot_write_the_grammar(tokenizer: Tokenizer) -> None:
    pieces = [b"<end>", b"a", b"b", b"\xff"]
    constraints = Constraints(TokenTable(pieces, [0], [0], lambda text: [1] * len(text)))
    sampler = Sampler(SamplingParameters(temperature=0), 4)
    constraint = constraints.start(Grammar.regex("[ab]+"))
    assert sampler.sample(np.array([9, 1, 2, 9], np.float32), constraint.mask()).token == 2
    with pytest.raises(InvalidOption, match=r"no token|no text"):
        sampler.sample(np.zeros(4, np.float32), constraints.start(Grammar.regex("é")).mask())


def test_a_tokenizer_that_encodes_wrongly_forces_nothing_wrong(tokenizer: Tokenizer) -> None:
    for encode in (lambda text: [5] * len(text), lambda text: [], lambda text: [0, 1]):
        table = replace(token_table(tokenizer), encode=encode)
        constraint = Constraints(table).start(Grammar.regex("xhello world"))
        written = b""
        while not constraint.complete:
            token = int(np.flatnonzero(constraint.mask())[0])
            for id in [token, *constraint.advance(token)]:
                written += tokenizer.pieces[id]
        assert written == b"xhello world"


# The sampler under a mask


@pytest.mark.parametrize("share", [0.01, 0.4, 0.6, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_a_masked_choice_is_the_choice_among_the_allowed(share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, 5000).astype(np.float32)
    before = logits.copy()
    mask = rng.random(5000) < share
    parameters = SamplingParameters(temperature=0.7, seed=4, repeat_penalty=1.3, logit_bias={7: 3.0})
    history = [7, 8, 9]
    masked = Sampler(parameters, 5000, history)
    removed = Sampler(parameters, 5000, history)
    for _ in range(20):
        token = masked.sample(logits, mask).token
        assert mask[token]
        assert removed.sample(np.where(mask, logits, np.float32(-np.inf))).token == token
    assert (logits == before).all()


# Thoughts


def test_thoughts_are_free_and_the_answer_is_not(accepts: Accepts) -> None:
    grammar = Grammar.any_object()
    for text in ('{"a": 1}', '<think>Hm {"b": </thinks> \n\n ok</think>\n\n{"a": 1}', "<think></think>{}"):
        assert accepts(grammar, text, THINK)
    for text in ("Hm", "<think>Hm</think>", "<think>Hm</think>no", "<think>{}", "<thing>{}", ""):
        assert not accepts(grammar, text, THINK)


def test_thoughts_that_the_prompt_opened(accepts: Accepts) -> None:
    grammar = Grammar.any_object()
    assert accepts(grammar, "Hm <think>\n</think>\n{}", THINK, True)
    assert not accepts(grammar, "{}", THINK, True)


@pytest.mark.parametrize("pattern", ["<.*", ".*", "<think>er", "<b>"])
def test_answers_that_could_begin_like_thoughts(accepts: Accepts, pattern: str) -> None:
    grammar = Grammar.regex(pattern)
    for text in ("<abc", "<think>er", "<b>", "plain"):
        assert accepts(grammar, text, THINK) is accepts(grammar, text)
        assert accepts(grammar, f"<think>a\nb</think>{text}", THINK) is accepts(grammar, text)


def test_no_end_is_allowed_while_the_model_thinks(constraints: Constraints, tokenizer: Tokenizer) -> None:
    constraint = constraints.start(Grammar.any_object(), THINK, thinking_opened=True)
    assert not tokenizer.end_ids & allowed(constraint)
    advance(constraint, tokenizer, "Hm")
    plain = {id for id in range(tokenizer.vocab_size) if not tokenizer.is_special(id)}
    assert len(allowed(constraint)) > 0.85 * len(
        plain
    )  # the rest are bytes that are no character by themselves
    advance(constraint, tokenizer, "</think>\n{}")
    assert constraint.complete


def test_thoughts_between_control_tokens(tokenizer: Tokenizer) -> None:
    table = token_table(tokenizer)
    opening, closing = 5, 6
    special = [*table.special, opening, closing]
    constraints = Constraints(replace(table, special=special))
    tags = Thinking(*(tokenizer.pieces[id].decode() for id in (opening, closing)))
    thought = constraints.start(Grammar.any_object(), tags)
    assert opening in allowed(thought)
    assert closing not in allowed(thought)
    thought.advance(opening)
    advance(thought, tokenizer, "Hm")
    assert closing in allowed(thought)
    thought.advance(closing)
    advance(thought, tokenizer, '{"x": 1}')
    assert thought.complete
    opened = constraints.start(Grammar.any_object(), tags, thinking_opened=True)
    opened.advance(closing)
    advance(opened, tokenizer, "{}")
    assert opened.complete


@pytest.mark.parametrize(
    "prompt, opened",
    [
        ("<think>", True),
        ("hi<think>\n", True),
        ("<think>\n\n</think>\n\n", False),
        ("think>", False),
        ("", False),
    ],
)
def test_whether_a_prompt_opens_the_thoughts(tokenizer: Tokenizer, prompt: str, opened: bool) -> None:
    assert ends_with(tokenizer, tokenizer.encode(prompt), "<think>") is opened


@pytest.mark.parametrize("tags", [("", "</think>"), ("<think>", "")])
def test_tags_without_text_are_refused(tags: tuple[str, str]) -> None:
    with pytest.raises(InvalidOption, match="empty"):
        Thinking(*tags)


# The cache


def test_the_cache_is_bounded_in_entries_and_bytes(tokenizer: Tokenizer) -> None:
    constraints = Constraints(token_table(tokenizer))
    for number in range(CACHE_ENTRIES * 3):
        constraints.start(Grammar.json_schema({"const": number}))
    assert len(constraints._compiled) == CACHE_ENTRIES
    assert constraints._sources == sum(len(key[0].source) for key in constraints._compiled)
    for number in range(20):
        constraints.start(Grammar.choice([f"{number}" + "x" * 30_000]))
        assert constraints._sources <= CACHE_BYTES
    assert 1 < len(constraints._compiled) < 20


def test_the_latest_grammars_stay_in_the_cache(tokenizer: Tokenizer) -> None:
    constraints = Constraints(token_table(tokenizer))
    constraints.start(NUMBER)
    for number in range(CACHE_ENTRIES * 2):
        constraints.start(Grammar.json_schema({"const": number}))
        constraints.start(NUMBER)
    assert (NUMBER, None, False) in constraints._compiled


def test_what_is_refused_is_not_kept(tokenizer: Tokenizer) -> None:
    constraints = Constraints(token_table(tokenizer))
    for _ in range(2):
        with pytest.raises(InvalidOption):
            constraints.start(Grammar.json_schema({"type": "nope"}))
    assert not constraints._compiled


@pytest.mark.slow
def test_many_tiny_schemas_take_no_memory(tokenizer: Tokenizer) -> None:
    import resource

    constraints = Constraints(token_table(tokenizer))
    sizes = []
    for number in range(100_000):
        constraints.start(Grammar.json_schema({"const": number}))
        if number % 50_000 == 10_000:
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[1] - sizes[0] < 20_000
