"""What callers ask of models, whatever way they speak; and the conversations that this makes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from reprlib import repr as brief
from typing import Any, TypeAlias

import msgspec

from puna.chat.conversation import Conversation, Message, Think, ToolChoice
from puna.chat.prompt import Prompter
from puna.errors import InvalidOption
from puna.images.header import examine
from puna.sampling.grammar import Grammar
from puna.services.adapters import NamedAdapter
from puna.services.conversation import Chat, Prepared
from puna.services.limits import Limits, check_count
from puna.store.model import Model
from puna.template.go import parse
from puna.tokenizer import Tokenizer

Format: TypeAlias = object
"""A `Grammar`, or a `format` as Ollama's API has it; see `Grammar.from_format`."""


def only_format(format: object, grammar: Grammar | Mapping[str, Any] | None) -> Format:
    """What an answer is kept to, of two fields that can say it; a grammar may be an object of the APIs.

    Raises:
        InvalidOption: both do, or the grammar is refused.
    """
    if not grammar:
        return format
    if format:
        raise InvalidOption("only one of format and grammar can be given")
    return grammar if isinstance(grammar, Grammar) else Grammar.from_document(grammar)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What every request to a model says.

    Attributes:
        model: its name, as the caller writes it.
        options: under Ollama's names; see `puna.services.options`.
        keep_alive: seconds that the model stays in memory afterwards; None leaves it to the server.
        id: by which the request can be ended.
        key: the name of the key that it came with: prompts of one key are not found in the cache of another.
    """

    model: str
    options: Mapping[str, Any] = msgspec.field(default_factory=dict)
    keep_alive: float | None = None
    id: str = ""
    key: str = ""


class AskedAnswer(Asked, frozen=True, kw_only=True):
    """What every request for an answer says.

    Attributes:
        format: what the answer, after thinking, is kept to.
        think: whether the model thinks first, or how hard; None lets it if it can.
        truncate: leave out the oldest turns of a conversation that is too long, which else is an error.
        shift: drop old tokens when the context is full, rather than end the answer.
        logprobs: report the log-probability of each token.
        top_logprobs: with logprobs, so many alternatives.
        prompt_logprobs: report those of the prompt's tokens too, before everything else.
        logit_bias: token id to what is added to its logit.
        thinking_budget: most tokens of thinking, where the model thinks between tags; below 0 no limit.
        tell_prompt: `Prompted` comes before everything else.
        tell_thinking: `Finished` is to say how many tokens the thinking takes.
        adapters: those that it is made with besides the model's own.
    """

    format: Format = None
    think: Think = None
    truncate: bool = False
    shift: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    logit_bias: Mapping[int, float] = msgspec.field(default_factory=dict)
    thinking_budget: int = -1
    tell_prompt: bool = False
    tell_thinking: bool = False
    adapters: Sequence[NamedAdapter] = ()

    @property
    def grammar(self) -> Grammar | None:
        """What the answer is kept to. Raises: InvalidOption."""
        return self.format if isinstance(self.format, Grammar) else Grammar.from_format(self.format)


class ChatRequest(AskedAnswer, frozen=True, kw_only=True):
    """A conversation to go on with; see `puna.chat.conversation.Conversation`.

    The model's own messages come before the caller's, and its system message before all, where the caller's
    first message is none.

    Attributes:
        parallel_tool_calls: an answer may have several calls; otherwise it ends with the first.
        variables: further ones of the model's chat template.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    variables: Mapping[str, Any] = msgspec.field(default_factory=dict)


class CompletionRequest(AskedAnswer, frozen=True, kw_only=True):
    """A prompt to go on with.

    Attributes:
        prompt: a text, or in raw mode its tokens.
        suffix: the text after the gap that the model is to fill.
        system: the system message; empty for the model's own.
        template: a prompt template in Go's language that replaces the model's.
        context: the tokens of an earlier prompt and answer, which come first.
        raw: the prompt is whole: no template, no system message, control tokens as they are spelled.
        images: the content of image files.
    """

    prompt: str | Sequence[int]
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: Sequence[int] = ()
    raw: bool = False
    images: tuple[bytes, ...] = ()


class EmbedRequest(Asked, frozen=True, kw_only=True):
    """Texts to make vectors of.

    Attributes:
        inputs: texts, or their tokens.
        truncate: cut texts that are too long, which else is an error.
        dimensions: keep only so many numbers of each vector; 0 for all.
        normalize: give the vectors the length 1.
    """

    inputs: Sequence[str | Sequence[int]]
    truncate: bool = False
    dimensions: int = 0
    normalize: bool = True


def chat_conversation(request: ChatRequest, model: Model | None, limits: Limits) -> Conversation:
    """The conversation that a request means, with a model of the store or a bare file.

    Raises:
        InvalidOption: there is too much of something, or it makes no sense.
    """
    check_count("messages", request.messages, limits.messages)
    _check_images(request.messages, limits)
    first = request.messages[0].role if request.messages else ""
    return Conversation(
        messages=(*own_messages(model, first), *request.messages),
        tools=tuple(request.tools),
        tool_choice=request.tool_choice,
        think=request.think,
        format=request.grammar,
        truncate=request.truncate,
        variables=request.variables,
    )


def completion_conversation(request: CompletionRequest, model: Model | None, limits: Limits) -> Conversation:
    """The conversation that a prompt means: with a suffix, or in raw mode, the prompt alone.

    Raises:
        InvalidOption: there is too much of something, or it makes no sense.
    """
    # Tokens are in raw mode only, which makes no use of the messages.
    text = request.prompt if isinstance(request.prompt, str) else ""
    messages = [Message("user", text, images=request.images)]
    _check_images(messages, limits)
    if not request.suffix and not request.raw:
        own = [] if request.context else _own(model)
        messages = [*_system(model, request.system), *own, *messages]
    return Conversation(
        messages=tuple(messages),
        think=request.think,
        format=request.grammar,
        suffix="" if request.raw else request.suffix,
        truncate=request.truncate,
    )


def own_messages(model: Model | None, first: str) -> list[Message]:
    """What a model of the store has to say before a conversation: its system message, then its messages.

    Args:
        first: the role of the conversation's first message: where it is a system message, the model's own
            one is left out.
    """
    return [*([] if first == "system" else _system(model, "")), *_own(model)]


def _system(model: Model | None, asked: str) -> list[Message]:
    text = asked or (model.system if model else "")
    return [Message("system", text)] if text else []


def _own(model: Model | None) -> list[Message]:
    return [Message(message.role, message.content) for message in model.messages] if model else []


def check_raw(request: CompletionRequest) -> None:
    """Raises InvalidOption where a prompt is whole, and yet something is to be put around it, or must be."""
    if not request.raw and not isinstance(request.prompt, str):
        raise InvalidOption("a prompt in tokens is whole: nothing can be put around it")
    if request.raw and (request.template or request.system or request.context):
        raise InvalidOption("raw mode does not support template, system, or context")


def with_template(chat: Chat, template: str) -> Chat:
    """The same model, prompted by another template. Raises: TemplateError."""
    return replace(chat, prompter=Prompter(chat.prompter.tokenizer, parse(template))) if template else chat


def prepare_completion(chat: Chat, request: CompletionRequest, conversation: Conversation) -> Prepared:
    """What the engine needs for a prompt. Raises: as `Chat.prepare`."""
    if request.raw or not isinstance(request.prompt, str):
        return chat.prepare_raw(request.prompt, conversation.format, request.images)
    prepared = chat.prepare(conversation)
    if not request.context:
        return prepared
    bos = chat.prompter.tokenizer.bos_id
    tokens = prepared.prompt[1:] if prepared.prompt[:1] == [bos] else prepared.prompt
    moved = len(request.context) - (len(prepared.prompt) - len(tokens))
    images = tuple(replace(image, at=image.at + moved) for image in prepared.images)
    return replace(prepared, prompt=[*request.context, *tokens], images=images)


def check_pictures(conversation: Conversation) -> None:
    """Check that each picture is one that can be read, as its header says. Raises: InvalidOption."""
    for message in conversation.messages:
        for image in message.images:
            examine(image)


def kept_context(tokenizer: Tokenizer, prompt: Sequence[int], answer: str) -> tuple[int, ...]:
    """The tokens of a prompt and of its answer, for a next request to go on from."""
    return (*prompt, *tokenizer.encode_continuation(answer, parse_special=True))


def check_tokens(tokens: Sequence[object], tokenizer: Tokenizer, name: str) -> None:
    """Check that all are ids of the vocabulary. Raises: InvalidOption, which calls the list `name`."""
    for index, id in enumerate(tokens):
        if type(id) is not int or not 0 <= id < tokenizer.vocab_size:
            last = tokenizer.vocab_size - 1
            raise InvalidOption(f"{name}[{index}] must be a token id from 0 to {last}, not {brief(id)}")


def _check_images(messages: Sequence[Message], limits: Limits) -> None:
    check_count("images", [image for message in messages for image in message.images], limits.images)
