"""Models that bring no chat template: their family's where the vocabulary tells, else none."""

from pathlib import Path
from typing import Any

import pytest
from tests.scripted_llama import write_scripted_llama

from puna.chat.conversation import Conversation, Message
from puna.chat.family import family_by_tokens
from puna.errors import UnsupportedModel
from puna.gguf import GGUFFile
from puna.services.conversation import Chat, ModelFacts
from puna.template.conversation import render_go
from puna.template.known import known_template
from puna.tokenizer import load_tokenizer

EOS, EOT = "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"
# The first of the control tokens has number 3.
CHATML = ("<|im_end|>", "<|im_start|>")
LLAMA3 = ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
GEMMA = ("<end_of_turn>", "<start_of_turn>")
HI = (Message("system", "Be brief."), Message("user", "hi"))


def written(folder: Path, control: tuple[str, ...], **metadata: Any) -> Path:
    keys = {name.replace("__", "."): value for name, value in metadata.items()}
    return write_scripted_llama(folder / "model.gguf", ["a"], control=control, metadata=keys)


def family(path: Path) -> str:
    with GGUFFile.open(path) as file:
        return family_by_tokens(file.metadata)


def chat(path: Path, facts: ModelFacts | None = None) -> Chat:
    with GGUFFile.open(path) as file:
        return Chat.of(file.metadata, load_tokenizer(file.metadata), 512, facts)


def prompt(chat: Chat, *messages: Message) -> str:
    tokens = chat.prepare(Conversation(messages)).prompt
    return chat.prompter.tokenizer.decode(tokens, render_special=True).removeprefix("<s>")


@pytest.mark.parametrize(
    "control, name", [(CHATML, "chatml"), (LLAMA3, "llama3-instruct"), (GEMMA, "gemma-instruct")]
)
@pytest.mark.parametrize("end", [EOS, EOT])
def test_a_family_is_known_by_its_tokens(
    control: tuple[str, ...], name: str, end: str, tmp_path: Path
) -> None:
    path = written(tmp_path, control, **{end: 3})
    found = chat(path)
    assert found.prompter.family == name
    expected = render_go(known_template(name), [message.for_go() for message in HI])
    assert prompt(found, *HI) == expected


@pytest.mark.parametrize(
    "control, metadata",
    [
        ((), {}),
        (CHATML, {}),
        (CHATML[:1], {EOS: 3}),
        (LLAMA3[:2], {EOS: 3}),
        ((*CHATML, *GEMMA), {EOS: 3}),
        (("[INST]", "[/INST]"), {}),
        (CHATML, {EOS: 10**9}),
    ],
    ids=["none", "another end", "half", "two of three", "two families", "mistral's", "no such end"],
)
def test_where_there_is_doubt_the_text_is_continued(
    control: tuple[str, ...], metadata: dict[str, int], tmp_path: Path
) -> None:
    path = written(tmp_path, control, **metadata)
    assert family(path) == ""


def test_a_model_continues_text_where_nothing_tells(tmp_path: Path) -> None:
    found = chat(written(tmp_path, CHATML))
    assert (found.prompter.template, found.prompter.family) == (None, "")
    assert prompt(found, Message("user", "hi")) == "hi"


def test_a_template_goes_before_the_tokens(tmp_path: Path) -> None:
    path = written(tmp_path, CHATML, **{EOS: 3, "tokenizer.chat_template": "jinja {{ messages[0].content }}"})
    assert prompt(chat(path), Message("user", "hi")) == "jinja hi"
    facts = ModelFacts(template="go {{ .Prompt }}")
    assert prompt(chat(path, facts), Message("user", "hi")) == "go hi"


def test_a_renderer_that_there_is_not_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, CHATML, **{EOS: 3})
    found = chat(path, ModelFacts(renderer="qwen3-vl-instruct"))
    with pytest.raises(UnsupportedModel, match="renderer 'qwen3-vl-instruct', which is not supported"):
        prompt(found, Message("user", "hi"))
    assert found.prepare_raw("hi").prompt


def test_a_renderer_of_a_model_with_a_template_is_not_needed(tmp_path: Path) -> None:
    path = written(tmp_path, (), **{"tokenizer.chat_template": "jinja {{ messages[0].content }}"})
    facts = ModelFacts(renderer="qwen3-vl-instruct")
    assert prompt(chat(path, facts), Message("user", "hi")) == "jinja hi"
    go = ModelFacts(template="go {{ .Prompt }}", renderer="qwen3-vl-instruct")
    assert prompt(chat(path, go), Message("user", "hi")) == "go hi"
