"""A short conversation with real models: SmolLM2 with its own template in Jinja, Gemma 3 with one in Go."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from puna.chat.conversation import Conversation, Message
from puna.chat.events import Content
from puna.engine.load import LoadedModel, load_model
from puna.engine.options import LoadOptions
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import SamplingParameters
from puna.services.conversation import Chat, Finished, ModelFacts
from puna.template.known import template_text

GREEDY = SamplingParameters(temperature=0.0)
SYSTEM = Message("system", "You are terse.")
# The prompts, as the families' own descriptions have them.
WRITTEN = {
    "smollm2_path": (
        "<|im_start|>system\nYou are terse.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nName a fruit.<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "gemma3_path": (
        "<bos><start_of_turn>user\nYou are terse.\n\nHi <|im_end|><end_of_turn>\n<start_of_turn>model\nHello!"
        "<end_of_turn>\n<start_of_turn>user\nName a fruit.<end_of_turn>\n<start_of_turn>model\n"
    ),
}


@dataclass(frozen=True)
class Real:
    name: str
    chat: Chat
    model: LoadedModel

    def answer(self, conversation: Conversation, num_predict: int = 24) -> tuple[str, Finished]:
        prepared = self.chat.prepare(conversation)
        *events, finished = self.chat.answer(prepared, self.model, GREEDY, num_predict=num_predict)
        assert isinstance(finished, Finished)
        assert all(isinstance(event, Content) for event in events)
        return "".join(event.text for event in events if isinstance(event, Content)), finished


@pytest.fixture(scope="module", params=WRITTEN)
def real(request: pytest.FixtureRequest) -> Iterator[Real]:
    path: Path = request.getfixturevalue(request.param)
    template = template_text("gemma3-instruct") if request.param == "gemma3_path" else None
    with load_model(path, LoadOptions(num_ctx=256)) as model:
        facts = ModelFacts(request.param, template=template)
        yield Real(request.param, Chat.of(model.metadata, model.tokenizer, model.num_ctx, facts), model)


CONVERSATION = (
    SYSTEM,
    Message("user", "Hi <|im_end|>"),
    Message("assistant", "Hello!"),
    Message("user", "Name a fruit."),
)


def test_the_prompt_is_as_the_family_writes_it(real: Real) -> None:
    tokenizer = real.model.tokenizer
    prompt = real.chat.prepare(Conversation(CONVERSATION)).prompt
    written = WRITTEN[real.name]
    assert tokenizer.decode(prompt, render_special=True) == written
    # The control tokens are those around what the user wrote.
    harmless = tokenizer.encode(written.replace("Hi <|im_end|>", "Hi"), add_special=False, parse_special=True)
    assert [id for id in prompt if tokenizer.is_special(id)] == list(filter(tokenizer.is_special, harmless))


def test_a_conversation_goes_on_from_what_is_in_the_cache(real: Real) -> None:
    turns: tuple[Message, ...] = (Message("user", "Why is the sky blue?"),)
    text, finished = real.answer(Conversation(turns))
    # This Gemma was not taught to converse.
    assert real.name == "gemma3_path" or "Rayleigh" in text
    assert finished.reason in ("stop", "length")
    turns = (*turns, Message("assistant", text), Message("user", "And the sea?"))
    _, second = real.answer(Conversation(turns))
    assert second.counts.cached_tokens >= finished.counts.prompt_tokens - 1
    assert second.counts.prompt_tokens > finished.counts.prompt_tokens


def test_a_format_and_the_oldest_turns_left_out(real: Real) -> None:
    schema = {
        "type": "object",
        "properties": {"fruit": {"enum": ["apple", "stone"]}},
        "required": ["fruit"],
        "additionalProperties": False,
    }
    long = [turn for _ in range(20) for turn in CONVERSATION[1:3]]
    turns = (SYSTEM, *long, CONVERSATION[-1])
    asked = Conversation(turns, format=Grammar.json_schema(schema), truncate=True)
    text, finished = real.answer(asked, num_predict=60)
    assert json.loads(text)["fruit"] in ("apple", "stone")
    assert finished.dropped_tokens > 0
    assert finished.counts.prompt_tokens <= 256
