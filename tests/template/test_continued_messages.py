"""An answer that goes on with the assistant's last message: the prompts are those of HF transformers."""

from typing import Any

import pytest
from tests.template.published import NAMES, published_templates
from tests.template.talks import assistant, system, user
from tests.template.test_jinja_families import REFUSALS, TOKENS, WRITTEN
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from puna.errors import ModelError, PunaError
from puna.template.conversation import render_go
from puna.template.go import parse
from puna.template.jinja import render_chat
from puna.template.known import STOPS, known_template

BEGUN = ("Because", "Because ", "\nBecause\n\n", "a </s> b", "{", "x")
ENDS = [
    [*before, assistant(text)]
    for text in BEGUN
    for before in ([user("Why?")], [system(), user("Why?"), assistant("So."), user("Why?")])
]


@pytest.fixture(scope="module")
def judge() -> PreTrainedTokenizerFast:
    model = WordLevel({"<s>": 0, "</s>": 1, "?": 2}, unk_token="?")
    # Has no annotations.
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers has no types here
        tokenizer_object=Tokenizer(model), **TOKENS
    )


def compare(judge: PreTrainedTokenizerFast, template: str) -> int:
    taken = 0
    for talk in ENDS:
        try:
            wanted: Any = judge.apply_chat_template(
                talk, chat_template=template, tokenize=False, continue_final_message=True
            )
        except REFUSALS:
            wanted = None
        try:
            found = render_chat(template, talk, continue_final_message=True, **TOKENS)
        except PunaError:
            found = None
        assert found == wanted, talk
        taken += wanted is not None
    return taken


@pytest.mark.transformers
@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in ("broken", "failing")])
def test_written_templates(judge: PreTrainedTokenizerFast, name: str) -> None:
    compare(judge, WRITTEN[name])


@pytest.mark.transformers
def test_published_templates(judge: PreTrainedTokenizerFast) -> None:
    templates = published_templates()
    taken = [name for name in NAMES if compare(judge, templates[name])]
    assert len(taken) > len(NAMES) * 0.8


@pytest.mark.parametrize("name", STOPS)
def test_go_templates_end_with_what_was_begun(name: str) -> None:
    template = known_template(name)
    question = [user("Why is that?")]
    whole = render_go(template, [*question, assistant("Because of it."), user("?")])
    begun = render_go(template, [*question, assistant("Because")], continue_final_message=True)
    assert begun.endswith("Because")
    assert whole.startswith(begun)


def test_a_go_template_of_single_exchanges_ends_with_what_was_begun() -> None:
    template = parse("{{ .System }}[{{ .Prompt }}]{{ .Response }}<end>")
    talk = [user("a"), assistant("b"), user("c"), assistant("d e")]
    assert render_go(template, talk, continue_final_message=True) == "[a]b<end>[c]d e"


def test_a_template_that_leaves_the_message_out_is_an_error() -> None:
    talk = [user("a"), assistant("b")]
    with pytest.raises(ModelError, match="leaves out the end of the assistant's last message"):
        render_chat("{{ messages[0].content }}", talk, continue_final_message=True)
    with pytest.raises(ModelError, match="leaves out the end of the assistant's last message"):
        render_go(parse("{{ (index .Messages 0).Content }}"), talk, continue_final_message=True)
