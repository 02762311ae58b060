"""What a conversation becomes before a model sees it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from puna.errors import InvalidOption
from puna.gguf import GGUFFile
from puna.services.asked import own_messages
from puna.services.conversation import Chat, facts_of
from puna.store.model import Model
from puna.tokenizer import load_tokenizer

_LONGEST = 16 << 20


class Talk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conversation in the words of Ollama's API, and of OpenAI's where the model's template knows those.

    Attributes:
        messages: the latest last.
        tools: those that the model is told of.
        think: whether it is to think, or how hard; None lets it if it can.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = []
    think: bool | str | None = None


EXAMPLE = Talk(
    [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Why is the sky blue?"},
        {"role": "assistant", "content": "Air scatters blue light more than red."},
        {"role": "user", "content": "And at sunset?"},
    ]
)


def read_talk(path: Path) -> Talk:
    """The conversation in a JSON file.

    Raises:
        InvalidOption: it is no such document, or longer than 16 MiB.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(_LONGEST + 1)
    if len(content) > _LONGEST:
        raise InvalidOption(f"{path} is longer than {_LONGEST >> 20} MiB; a conversation in JSON is wanted")
    try:
        return msgspec.json.decode(content, type=Talk)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidOption(
            f"{path} is not a conversation in JSON ({str(error)[:200]}); "
            'an object is wanted: {"messages": […], "tools": […], "think": …}'
        ) from error


def prompt_text(path: Path, model: Model | None, talk: Talk) -> str:
    """The text of the prompt that a model gets for a conversation, control tokens written out.

    Args:
        path: the model's GGUF file.
        model: what the store says of it; None for a bare file.
        talk: the conversation. What the model itself has to say comes before it, as in `chat_conversation`.

    Raises:
        GGUFError: the file is no model.
        ModelError, TemplateError: the template fails or refuses the conversation.
        InvalidOption: a message or a tool is malformed.
    """
    with GGUFFile.open(path) as file:
        facts = facts_of(str(model.name) if model else "", model)
        chat = Chat.of(file.metadata, load_tokenizer(file.metadata), 0, facts)
    messages = _with_own(model, talk.messages)
    text = chat.prompter.text_of(messages, tools=talk.tools, think=chat.thinks(talk.think))
    # A template can write half a character, which the tokenizer reads as U+FFFD.
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _with_own(model: Model | None, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    own = own_messages(model, str(messages[0].get("role")) if messages else "")
    return [*({"role": message.role, "content": message.content} for message in own), *messages]
