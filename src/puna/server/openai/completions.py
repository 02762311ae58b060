"""POST /v1/completions: a text goes on as it is, without a chat template."""

import asyncio
import codecs
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import NotRequired, TypeAlias, TypedDict

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.chat.events import Content
from puna.engine.events import PromptLogprobs, TokenLogprob
from puna.options import INFERENCE
from puna.server import fields
from puna.server.errors import Refused
from puna.server.http import ignored_header, json_response, while_connected
from puna.server.openai.body import (
    DONE,
    ChoicesBody,
    asked_of,
    bias_of,
    check_choices,
    check_ignored,
    check_top_logprobs,
    options_of,
    read_request,
    seeded,
)
from puna.server.openai.errors import error_event, error_response
from puna.server.openai.formats import read_format
from puna.server.openai.usage import UsageDocument, fingerprint, new_id, now, token_text, usage
from puna.server.routing import route
from puna.server.sse import sse_event, stream_sse
from puna.server.state import AppState
from puna.services.asked import CompletionRequest
from puna.services.choices import merged
from puna.services.conversation import Finished
from puna.services.inference import Answer, AnswerEvent, Logprobs

MAX_ANSWERS = 64
"""The most answers to all prompts of a request together."""

Prompt: TypeAlias = str | list[int]


class CompletionBody(ChoicesBody, kw_only=True):
    """The body. `response_format` is an extension."""

    prompt: fields.TextsOrTokens = None
    suffix: str = ""
    echo: bool = False
    best_of: int | None = None
    logprobs: int | None = None
    response_format: fields.Object = None

    @property
    def tried(self) -> int:
        """How many answers to make for each prompt, of which the best `n` are told."""
        return self.n if self.best_of is None else self.best_of


class CompletionLogprobs(TypedDict):
    """The tokens of a choice or a part of it; nothing is known of a prompt's first."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[Mapping[str, float] | None]
    text_offset: list[int]


class CompletionChoice(TypedDict):
    """A choice, or what is new of it."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class CompletionDocument(TypedDict):
    """An answer, or a chunk of a stream; `usage` is null in all chunks but the last."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: NotRequired[UsageDocument | None]


def routes(state: AppState) -> list[Route]:
    """The route."""
    return [
        route(
            "/v1/completions",
            _Completions(state).complete,
            "POST",
            opens=INFERENCE,
            body=CompletionBody,
            answer=CompletionDocument,
            events=CompletionDocument,
        )
    ]


@dataclass(frozen=True, slots=True)
class _Completions:
    state: AppState

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        body, ignored = await read_request(request, CompletionBody, self.state.limits)
        prompts = prompts_of(body.prompt)
        _check(body, len(prompts))
        asked = [await asyncio.to_thread(_asked, request, body, prompt) for prompt in prompts]
        answers = [
            await self.state.inference.complete(seeded(one, index))
            for one in asked
            for index in range(body.tried)
        ]
        ignored += [f"options.{name}" for name in answers[0].ignored]
        check_ignored(request, ignored)
        echoed = [await self._text(one) if body.echo else "" for one in asked]
        reply = _Reply(body.model, fingerprint(answers[0].digest))
        choices = [_Choice(text, body.logprobs) for text in echoed for _ in range(body.tried)]
        if not body.stream:
            whole = await while_connected(request.receive, _whole(reply, answers, choices, body))
            return json_response(whole, headers=ignored_header(ignored))
        chunks = _chunks(reply, answers, choices, body)
        response = stream_sse(chunks, self.state.explain, refusal=error_response, failure=error_event)
        response.headers.update(ignored_header(ignored))
        return response

    async def _text(self, asked: CompletionRequest) -> str:
        """The prompt as text."""
        if isinstance(asked.prompt, str):
            return asked.prompt
        return await self.state.inference.detokenize(asked.model, asked.prompt, render_special=True)


def prompts_of(value: object) -> list[Prompt]:
    """The prompts: texts, or lists of tokens, which are checked later. Raises: Refused."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(one, str) for one in value) or all(isinstance(one, list) for one in value):
            return value
        if not any(isinstance(one, str | list) for one in value):
            return [value]
    raise Refused(
        400, "prompt must be a text, tokens, or a list of texts or of lists of tokens", param="prompt"
    )


def _check(body: CompletionBody, prompts: int) -> None:
    """Raises Refused for what cannot be had together, or is too much."""
    check_choices("n", body.n)
    check_choices("best_of", body.tried)
    check_top_logprobs(body.logprobs or 0, "logprobs")
    if body.tried < body.n:
        raise Refused(400, "best_of must not be less than n", param="best_of")
    if body.stream and body.tried > body.n:
        raise Refused(400, "best_of cannot be streamed", param="best_of")
    if prompts * body.tried > MAX_ANSWERS:
        raise Refused(400, f"at most {MAX_ANSWERS} answers to all prompts together", param="prompt")
    if body.echo and body.suffix:
        raise Refused(400, "echo and suffix cannot be had together", param="echo")


def _asked(request: Request, body: CompletionBody, prompt: Prompt) -> CompletionRequest:
    """What the body asks for of one prompt. Raises: Refused, InvalidOption."""
    # Who wants to know about the prompt only, wants no answer.
    options = options_of(body, body.max_tokens, body.stop, least=0 if body.echo else 1)
    return CompletionRequest(
        **{**asked_of(request, body), "options": options},
        prompt=prompt,
        suffix=body.suffix,
        raw=not body.suffix,
        tell_thinking=True,
        format=read_format(body.response_format),
        shift=body.shift,
        # The best answer is the likeliest.
        logprobs=body.logprobs is not None or body.tried > body.n,
        top_logprobs=body.logprobs or 0,
        prompt_logprobs=body.echo and body.logprobs is not None,
        logit_bias=bias_of(body.logit_bias),
    )


@dataclass(frozen=True, slots=True)
class _Reply:
    """What all documents of one answer have in common."""

    model: str
    fingerprint: str
    id: str = field(default_factory=lambda: new_id("cmpl-"))
    created: int = field(default_factory=now)

    def document(self, choices: list[CompletionChoice]) -> CompletionDocument:
        """One of the documents."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


@dataclass(frozen=True, slots=True)
class _Told:
    """A token with its log-probability and those of the likeliest; None for what nothing precedes."""

    piece: bytes
    logprob: float | None = None
    top: Mapping[str, float] | None = None


def _told(token: TokenLogprob) -> _Told:
    top = {token_text(one.bytes): one.logprob for one in token.top}
    return _Told(token.bytes, token.logprob, top)


class _Choice:
    """One choice, as far as it has come.

    Attributes:
        text: that has not been told yet; at first the prompt, where it is to be repeated.
        tokens: that have not been told yet.
        finished: how it ended.
        likelihood: the sum of its tokens' log-probabilities.
        count: of these tokens.
    """

    def __init__(self, text: str, logprobs: int | None) -> None:
        self.text = text
        self.tokens: list[_Told] = []
        self.finished: Finished | None = None
        self.likelihood = 0.0
        self.count = 0
        self._logprobs = logprobs
        self._offset = len(text)
        # Tokens end within characters.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def add(self, event: AnswerEvent) -> None:
        """Take an event in."""
        if isinstance(event, Content):
            self.text += event.text
        elif isinstance(event, PromptLogprobs):
            self.tokens += [_Told(event.first), *map(_told, event.tokens)]
            # A token that was put before the text begins it, and is none of it.
            known = b"".join(token.piece for token in self.tokens)
            self._offset -= len(known.decode("utf-8", "replace"))
        elif isinstance(event, Logprobs):
            self.tokens += map(_told, event.tokens)
            self.likelihood += sum(token.logprob for token in event.tokens)
            self.count += len(event.tokens)
        elif isinstance(event, Finished):
            self.finished = event

    @property
    def goodness(self) -> float:
        """The mean of its tokens' log-probabilities."""
        return self.likelihood / self.count if self.count else 0.0

    def document(self, index: int) -> CompletionChoice:
        """What has not been told yet."""
        text, tokens = self.text, self.tokens
        self.text, self.tokens = "", []
        finished = self.finished
        return {
            "text": text,
            "index": index,
            "logprobs": None if self._logprobs is None else self._logprobs_document(tokens),
            "finish_reason": ("length" if finished.reason == "length" else "stop") if finished else None,
        }

    def _logprobs_document(self, tokens: Sequence[_Told]) -> CompletionLogprobs:
        offsets = []
        for token in tokens:
            offsets.append(max(self._offset, 0))
            self._offset += len(self._decode(token.piece))
        return {
            "tokens": [token_text(token.piece) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [token.top for token in tokens],
            "text_offset": offsets,
        }


async def _chunks(
    reply: _Reply, answers: Sequence[Answer], choices: Sequence[_Choice], body: CompletionBody
) -> AsyncGenerator[bytes, None]:
    """The answers as they come."""
    counted = body.stream_options.include_usage
    async with aclosing(merged(answers)) as events:
        async for index, event in events:
            choices[index].add(event)
            if not isinstance(event, Logprobs | PromptLogprobs):
                chunk = reply.document([choices[index].document(index)])
                yield sse_event({**chunk, "usage": None} if counted else chunk)
    if counted:
        yield sse_event({**reply.document([]), "usage": _usage(choices, body)})
    yield DONE


async def _whole(
    reply: _Reply, answers: Sequence[Answer], choices: Sequence[_Choice], body: CompletionBody
) -> CompletionDocument:
    """The answers in one piece."""
    async with aclosing(merged(answers)) as events:
        async for index, event in events:
            choices[index].add(event)
    told: list[_Choice] = []
    for begin in range(0, len(choices), body.tried):
        together = choices[begin : begin + body.tried]
        told += sorted(together, key=lambda choice: -choice.goodness)[: body.n] if body.best_of else together
    documents = [choice.document(index) for index, choice in enumerate(told)]
    return {**reply.document(documents), "usage": _usage(choices, body)}


def _usage(choices: Sequence[_Choice], body: CompletionBody) -> UsageDocument:
    ended = [choice.finished for choice in choices if choice.finished]
    return usage(ended[:: body.tried], ended)
