"""What a server answers: Ollama's native API, field by field.

Durations are nanoseconds, sizes are bytes, moments are texts as RFC 3339 writes them. Fields that a server
leaves out have the value that means nothing.
"""

from typing import Any

import msgspec


class _Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all replies. Fields that are not listed are passed over, as servers grow."""


class Function(_Reply, frozen=True):
    """What a call names.

    Attributes:
        index: counts the calls of one answer from 0.
        arguments: JSON values by name.
    """

    name: str
    arguments: dict[str, Any] = {}
    index: int = 0


class ToolCall(_Reply, frozen=True):
    """A call of a tool.

    Attributes:
        id: the call's own name, to say whose result a message is; empty where there is none.
    """

    function: Function
    id: str = ""


class Message(_Reply, frozen=True):
    """A message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        thinking: what the model thought before.
        images: content of picture files in base64.
        tool_calls: the calls that the model made.
        tool_name: the tool whose result this is.
        tool_call_id: the call whose result this is.
    """

    role: str
    content: str = ""
    thinking: str = ""
    images: list[str] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_name: str = ""
    tool_call_id: str = ""


class TokenLogprob(_Reply, frozen=True):
    """A token and the natural logarithm of its probability.

    Attributes:
        token: its text, with U+FFFD for what is no whole character.
        bytes: its bytes.
        top_logprobs: the likeliest tokens in its place.
    """

    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: "list[TokenLogprob] | None" = None


class Answer(_Reply, frozen=True):
    """What replies of a model have in common. All but the first four stand in the last one only.

    Attributes:
        model: the name as it was asked for.
        done: whether this is the last.
        done_reason: `stop`, `length`, `load` or `unload`.
        logprobs: of the tokens since the last piece.
        total_duration: of the whole request.
        load_duration: until the model was loaded.
        prompt_eval_count: tokens of the prompt.
        eval_count: tokens of the answer.
        cached_tokens: tokens of the prompt that did not have to be evaluated.
        dropped_tokens: tokens that were left out of the prompt, or dropped on the way.
        draft_count: tokens that were drafted for the answer, to be evaluated together.
        draft_accepted_count: how many of these the answer has.
    """

    model: str = ""
    created_at: str = ""
    done: bool = False
    logprobs: list[TokenLogprob] | None = None
    done_reason: str = ""
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    prompt_eval_duration: int = 0
    eval_count: int = 0
    eval_duration: int = 0
    cached_tokens: int = 0
    dropped_tokens: int = 0
    draft_count: int = 0
    draft_accepted_count: int = 0


class GenerateReply(Answer, frozen=True):
    """An answer to a prompt, or a piece of it.

    Attributes:
        context: tokens that a next request can go on from; deprecated, but in use.
    """

    response: str = ""
    thinking: str = ""
    context: list[int] | None = None
    tool_calls: list[ToolCall] | None = None


class ChatReply(Answer, frozen=True):
    """An answer to a conversation, or a piece of it."""

    message: Message = Message(role="assistant")


class EmbedReply(_Reply, frozen=True):
    """Vectors of texts, each of length 1.

    Attributes:
        prompt_eval_count: tokens of all texts.
        dropped_tokens: tokens that were cut off.
    """

    model: str = ""
    embeddings: list[list[float]] = []
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    dropped_tokens: int = 0


class TokenizeReply(_Reply, frozen=True):
    """The ids of a text's tokens."""

    model: str = ""
    tokens: list[int] = []


class DetokenizeReply(_Reply, frozen=True):
    """The text of tokens."""

    model: str = ""
    text: str = ""


class Details(_Reply, frozen=True):
    """What a model is."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: list[str] | None = None
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int = 0
    embedding_length: int = 0


class ListedModel(_Reply, frozen=True):
    """A model that a server has.

    Attributes:
        digest: 64 hexadecimal digits.
        size: bytes of its files.
    """

    name: str
    model: str = ""
    modified_at: str = ""
    size: int = 0
    digest: str = ""
    details: Details = Details()
    capabilities: list[str] | None = None


class ListReply(_Reply, frozen=True):
    """The models that a server has, the last changed first."""

    models: list[ListedModel] = []


class RunningModel(_Reply, frozen=True):
    """A model in memory.

    Attributes:
        size: bytes it takes of all memory.
        size_vram: those of them that are on GPUs.
        expires_at: when it will be unloaded.
        context_length: tokens of context.
    """

    name: str
    model: str = ""
    size: int = 0
    digest: str = ""
    details: Details = Details()
    expires_at: str = ""
    size_vram: int = 0
    context_length: int = 0


class RunningReply(_Reply, frozen=True):
    """The models in memory, the one that stays longest first."""

    models: list[RunningModel] = []


class Tensor(_Reply, frozen=True):
    """A tensor of a model file; its shape is as GGUF has it, the fastest axis first."""

    name: str
    type: str = ""
    shape: list[int] = []


class ShowReply(_Reply, frozen=True):
    """What there is to say of a model.

    Attributes:
        parameters: a line for each.
        template: of its prompts.
        template_family: the known family that the template is of, where the model has none of its own.
        renderer: the name of a built-in way to write prompts.
        model_info: the file's metadata; arrays are None unless everything was asked for.
        projector_info: the same of what turns pictures into embeddings.
        messages: those that each conversation begins with.
    """

    license: str = ""
    modelfile: str = ""
    parameters: str = ""
    template: str = ""
    template_family: str = ""
    renderer: str = ""
    system: str = ""
    details: Details = Details()
    messages: list[Message] | None = None
    model_info: dict[str, Any] = {}
    projector_info: dict[str, Any] | None = None
    tensors: list[Tensor] | None = None
    capabilities: list[str] | None = None
    modified_at: str = ""
    requires: str = ""


class ProgressReply(_Reply, frozen=True):
    """A step of a pull, a push or a creation.

    Attributes:
        status: what is being done; `success` at the end.
        completed: bytes done; 0 where bytes are not counted.
        total: bytes to do; 0 where that is unknown.
    """

    status: str = ""
    digest: str = ""
    total: int = 0
    completed: int = 0


class VersionReply(_Reply, frozen=True):
    """The server's version."""

    version: str = ""


class Nothing(_Reply, frozen=True):
    """The reply of what only succeeds or fails."""
