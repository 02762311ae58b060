"""What the routes of `puna.server.native.inference` read and write: Ollama's documents."""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from puna.chat.events import ToolCall
from puna.engine.events import TokenLogprob
from puna.server import fields
from puna.services.adapters import NamedAdapter
from puna.services.embedding import Embeddings
from puna.services.figures import nanoseconds, now_text
from puna.services.loaded import ModelInMemory
from puna.services.messages import MessageBody

# As far in the future as Go's clocks reach: how Ollama says for ever.
_FOR_EVER = (2**63 - 1) / 1e9


# Requests. What is null counts as left out.


class Body(msgspec.Struct, kw_only=True):
    """What every request has."""

    model: str = ""
    options: fields.ModelOptions = {}
    keep_alive: fields.KeepAlive = None


class AnswerBody(Body, kw_only=True):
    """What every request for an answer has. Everything is streamed where `stream` is not false.

    `grammar` is as `Grammar.from_document` reads it. `force` is for requests that unload.
    """

    stream: bool = True
    force: bool = False
    format: fields.TextOrObject = None
    grammar: dict[str, Any] = {}
    think: fields.Think = None
    truncate: bool = False
    shift: bool = False
    logprobs: bool = False
    top_logprobs: int = 0
    adapters: list[NamedAdapter] = []
    debug_render_only: bool = msgspec.field(default=False, name="_debug_render_only")


class GenerateBody(AnswerBody, kw_only=True):
    """POST /api/generate."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    template: str = ""
    context: fields.Tokens = []
    raw: bool = False
    images: list[str] = []


class ChatBody(AnswerBody, kw_only=True):
    """POST /api/chat."""

    messages: list[MessageBody] = []
    tools: list[dict[str, Any]] = []
    tool_choice: fields.ToolChoice = None


class EmbedBody(Body, kw_only=True):
    """POST /api/embed."""

    input: fields.Texts = None
    truncate: bool = False
    dimensions: int = 0


class EmbeddingsBody(Body, kw_only=True):
    """POST /api/embeddings."""

    prompt: str = ""
    truncate: bool = False


class TokenizeBody(msgspec.Struct, kw_only=True):
    """POST /api/tokenize."""

    model: str = ""
    prompt: str = ""
    content: str = ""
    add_special: bool = True
    parse_special: bool = False


class DetokenizeBody(msgspec.Struct, kw_only=True):
    """POST /api/detokenize."""

    model: str = ""
    tokens: fields.Tokens = []
    render_special: bool = False


class RerankBody(Body, kw_only=True):
    """POST /api/rerank."""

    query: str = ""
    documents: list[str] = []
    top_n: int = 0


# Answers. What has its default is left out.


class FunctionOnWire(msgspec.Struct, kw_only=True):
    """A function that the model calls."""

    index: int
    name: str
    arguments: dict[str, Any]


class CallOnWire(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A call of a tool."""

    id: str = ""
    function: FunctionOnWire


class LogprobOnWire(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: "list[LogprobOnWire] | UnsetType" = UNSET


class DebugOnWire(msgspec.Struct, kw_only=True):
    """A prompt that was only rendered."""

    rendered_template: str
    image_count: int


class GenerateReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A piece of the answer of /api/generate, or all of it."""

    model: str
    created_at: str
    response: str
    thinking: str = ""
    done: bool
    done_reason: str = ""
    context: list[int] | UnsetType = UNSET
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
    tool_calls: list[CallOnWire] | UnsetType = UNSET
    debug: DebugOnWire | UnsetType = msgspec.field(default=UNSET, name="_debug_info")
    logprobs: list[LogprobOnWire] | UnsetType = UNSET


class MessageOnWire(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What the model says."""

    role: str
    content: str
    thinking: str = ""
    tool_calls: list[CallOnWire] | UnsetType = UNSET


class ChatReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A piece of the answer of /api/chat, or all of it."""

    model: str
    created_at: str
    message: MessageOnWire
    done: bool
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
    debug: DebugOnWire | UnsetType = msgspec.field(default=UNSET, name="_debug_info")
    logprobs: list[LogprobOnWire] | UnsetType = UNSET


class EmbedReply(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The answer of /api/embed."""

    model: str
    embeddings: Sequence[Sequence[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    dropped_tokens: int = 0


class EmbeddingsReply(msgspec.Struct):
    """The answer of /api/embeddings."""

    embedding: Sequence[float]


class TokensReply(msgspec.Struct):
    """The answer of /api/tokenize."""

    model: str
    tokens: list[int]
    count: int


class TextReply(msgspec.Struct):
    """The answer of /api/detokenize."""

    model: str
    content: str
    text: str


class Rank(msgspec.Struct):
    """How well a document fits."""

    index: int
    relevance_score: float
    document: dict[str, str]


class RankUsage(msgspec.Struct):
    """The tokens of a query with its documents."""

    total_tokens: int
    prompt_tokens: int


class RanksReply(msgspec.Struct):
    """The answer of /api/rerank."""

    model: str
    results: list[Rank]
    usage: RankUsage


class CancelReply(msgspec.Struct):
    """The answer of /api/requests/{id}."""

    status: str


class InMemoryDetails(msgspec.Struct):
    """What /api/ps tells of a model's make."""

    parent_model: str
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str


class InMemory(msgspec.Struct):
    """A model in memory."""

    name: str
    model: str
    size: int
    digest: str
    details: InMemoryDetails
    expires_at: str
    size_vram: int
    context_length: int


class InMemoryReply(msgspec.Struct):
    """The answer of /api/ps."""

    models: list[InMemory]


class Part(msgspec.Struct, kw_only=True):
    """A part of an answer, whichever route gives it."""

    content: str = ""
    thinking: str = ""
    calls: list[CallOnWire] = []
    logprobs: list[LogprobOnWire] = []


def generate_reply(model: str, part: Part, reason: str = "", **more: Any) -> GenerateReply:
    """The part as /api/generate gives it; with a reason it is the last."""
    return GenerateReply(
        model=model,
        created_at=now_text(),
        response=part.content,
        thinking=part.thinking,
        done=bool(reason),
        done_reason=reason,
        tool_calls=part.calls or UNSET,
        logprobs=part.logprobs or UNSET,
        **more,
    )


def chat_reply(model: str, part: Part, reason: str = "", **more: Any) -> ChatReply:
    """The part as /api/chat gives it; with a reason it is the last."""
    return ChatReply(
        model=model,
        created_at=now_text(),
        message=MessageOnWire(
            role="assistant", content=part.content, thinking=part.thinking, tool_calls=part.calls or UNSET
        ),
        done=bool(reason),
        done_reason=reason,
        logprobs=part.logprobs or UNSET,
        **more,
    )


def call_on_wire(call: ToolCall) -> CallOnWire:
    """A call of a tool."""
    function = FunctionOnWire(index=call.index, name=call.name, arguments=call.arguments)
    return CallOnWire(id=call.id or "", function=function)


def logprob_on_wire(token: TokenLogprob) -> LogprobOnWire:
    """A token's log-probability, and those of its alternatives."""
    return LogprobOnWire(
        token=token.bytes.decode("utf-8", "replace"),
        logprob=token.logprob,
        bytes=list(token.bytes),
        top_logprobs=[logprob_on_wire(other) for other in token.top] if token.top else UNSET,
    )


def in_memory_on_wire(models: Iterable[ModelInMemory]) -> InMemoryReply:
    """GET /api/ps."""
    return InMemoryReply([_in_memory(one) for one in models])


def _in_memory(one: ModelInMemory) -> InMemory:
    loaded, model = one.loaded, one.model
    return InMemory(
        name=loaded.name,
        model=loaded.name,
        size=loaded.size,
        digest=model.digest if model else "",
        details=InMemoryDetails(
            parent_model=model.parent if model else "",
            format=model.config.model_format if model else "",
            family=model.config.model_family if model else "",
            families=model.config.model_families if model else None,
            parameter_size=model.config.model_type if model else "",
            quantization_level=model.config.file_type if model else "",
        ),
        expires_at=_in(loaded.expires),
        size_vram=loaded.gpu_size,
        context_length=loaded.num_ctx,
    )


def _in(seconds: float) -> str:
    """The local time so many seconds from now."""
    lasting = _FOR_EVER if math.isinf(seconds) else min(seconds, _FOR_EVER)
    return (datetime.now(UTC) + timedelta(seconds=lasting)).astimezone().isoformat()


def embed_reply(model: str, made: Embeddings) -> EmbedReply:
    """POST /api/embed."""
    return EmbedReply(
        model=model,
        embeddings=made.vectors,
        total_duration=nanoseconds(made.total_seconds),
        load_duration=nanoseconds(made.load_seconds),
        prompt_eval_count=made.tokens,
        dropped_tokens=made.dropped_tokens,
    )


def rerank_reply(body: RerankBody, made: Embeddings) -> RanksReply:
    """POST /api/rerank: the best documents first."""
    scores = [vector[0] for vector in made.vectors]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results = [
        Rank(index=index, relevance_score=scores[index], document={"text": body.documents[index]})
        for index in order[: body.top_n if body.top_n > 0 else None]
    ]
    usage = RankUsage(total_tokens=made.tokens, prompt_tokens=made.tokens)
    return RanksReply(model=body.model, results=results, usage=usage)
