"""The prompt that is shown of a conversation is the one that the server gives the model."""

from pathlib import Path
from typing import Any

import pytest
from tests.scripted_llama import write_scripted_llama
from tests.served_models import CHAT, add_model

from puna.chat.conversation import Message
from puna.gguf import GGUFFile
from puna.services.asked import ChatRequest, chat_conversation
from puna.services.conversation import Chat, facts_of
from puna.services.limits import DEFAULT_LIMITS
from puna.services.rendering import Talk, prompt_text
from puna.store import model as store
from puna.store.library import Library
from puna.store.model import read_model
from puna.store.name import parse_name
from puna.tokenizer import load_tokenizer

SPOKE = (store.Message("user", "a"), store.Message("assistant", "b"))
RULED = (store.Message("system", "m"), *SPOKE)
THINKS = CHAT + "{{ if .Think }}<think>{{ end }}"


@pytest.mark.parametrize(
    "properties",
    [
        {"system": "s"},
        {"messages": SPOKE},
        {"system": "s", "messages": SPOKE},
        {"messages": RULED},
        {"system": "s", "messages": RULED},
        {"template": THINKS, "parser": "qwen3-thinking"},
    ],
)
def test_it_is_what_a_chat_with_the_model_gets(tmp_path: Path, properties: dict[str, Any]) -> None:
    library = Library(tmp_path / "models")
    path = write_scripted_llama(tmp_path / "plain.gguf", ["a"])
    add_model(library, "mine", path, **{"template": CHAT, **properties})
    model = read_model(library, parse_name("mine"))
    with GGUFFile.open(path) as file:
        tokenizer = load_tokenizer(file.metadata)
        chat = Chat.of(file.metadata, tokenizer, 4096, facts_of("mine", model))
    for roles in (("user",), ("system", "user"), ("user", "system"), ("user", "assistant", "user")):
        messages = [Message(role, f"{role} {place}") for place, role in enumerate(roles)]
        asked = ChatRequest(model="mine", messages=messages)
        prepared = chat.prepare(chat_conversation(asked, model, DEFAULT_LIMITS))
        shown = prompt_text(path, model, Talk([message.for_go() for message in messages]))
        assert shown == tokenizer.decode(prepared.prompt, render_special=True)
