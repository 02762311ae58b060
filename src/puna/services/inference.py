"""Answers, vectors and tokens from the models of a store, for any number of callers at once.

Everything here runs on an event loop, and nothing blocks it: files are read, prompts made and texts encoded
in threads, and models compute in processes of their own.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

from puna.chat.conversation import Conversation
from puna.chat.events import Event, Thinking
from puna.engine.events import Done, PromptLogprobs, TokenLogprob
from puna.engine.request import AdapterUse, GenerateRequest, uses
from puna.errors import ContextLengthExceeded, InternalError, MissingCapability
from puna.scheduler.scheduler import Lease, Scheduler
from puna.services.adapters import adapted, used
from puna.services.asked import (
    Asked,
    AskedAnswer,
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    chat_conversation,
    check_pictures,
    check_raw,
    check_tokens,
    completion_conversation,
    kept_context,
    prepare_completion,
    with_template,
)
from puna.services.conversation import Chat, Finished, Prepared, Reading
from puna.services.embedding import Embeddings, encode_inputs, finished_vectors, pair
from puna.services.limits import DEFAULT_LIMITS, Limits, check_count
from puna.services.named import find_stored
from puna.services.opened import OpenedModel, OpenedModels, weights_digest
from puna.services.options import Options, read_options
from puna.services.projectors import seeing
from puna.services.running import RunningRequests
from puna.store.library import Library
from puna.store.manifests import StoredManifest
from puna.tokenizer import Tokenizer

P = ParamSpec("P")
T = TypeVar("T")

# No prompt is this long.
_BOUNDLESS = 1 << 40


@dataclass(frozen=True, slots=True)
class Logprobs:
    """The tokens of the events that follow, as far as they are known; comes before them."""

    tokens: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Prompted:
    """The prompt is made, and the model about to read it; comes first, where it is asked for.

    Attributes:
        tokens: of the prompt.
    """

    tokens: int


AnswerEvent: TypeAlias = Event | Logprobs | Prompted | PromptLogprobs | Finished


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way: its events, and at last `Finished`.

    The model is loaded, and everything else done, when the first event is asked for. Close it when no more
    is wanted; what it holds is free at once.

    Attributes:
        ignored: options of the request that mean nothing here.
        events: raises any PunaError.
        digest: of the model that answers, 64 hexadecimal digits.
    """

    ignored: tuple[str, ...]
    events: AsyncGenerator[AnswerEvent, None]
    digest: str = ""

    def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        return self.events

    async def aclose(self) -> None:
        """End it."""
        await self.events.aclose()


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as a model would get it.

    Attributes:
        text: with its control tokens.
        images: how many pictures it has.
    """

    text: str
    images: int


@dataclass(frozen=True, slots=True)
class _Job:
    """An answer that is to be made.

    Attributes:
        prepare: makes the prompt, for the chat with its length of context.
        chat: what to make it with.
        adapters: what it is made with.
        keeps_context: `Finished` is to have the tokens.
        one_call: the answer ends with its first call.
    """

    request: AskedAnswer
    model: OpenedModel
    options: Options
    chat: Chat
    prepare: Callable[[Chat], Prepared]
    adapters: tuple[AdapterUse, ...]
    keeps_context: bool = False
    one_call: bool = False


def _not_found(name: str) -> str:
    return f"model '{name}' not found"


class Watcher(Protocol):
    """Who is told of answers; every method is quick."""

    def tokens(self, model: str, counts: Mapping[str, int]) -> None:
        """A request has ended.

        Args:
            counts: how many tokens of each kind it had: `prompt`; `cached`, those of the prompt that the
                cache had; `generated`; `drafted` for the answer, and of these `accepted`.
        """

    def first_token(self, model: str, seconds: float) -> None:
        """How long a request waited for its first token."""

    def token_gap(self, model: str, seconds: float) -> None:
        """The time between two pieces of an answer."""


class Inference:
    """What models do for callers.

    Attributes:
        requests: those that run.
    """

    def __init__(
        self,
        library: Library,
        scheduler: Scheduler,
        limits: Limits = DEFAULT_LIMITS,
        watcher: Watcher | None = None,
    ) -> None:
        self._watcher = watcher
        self.requests = RunningRequests()
        self._library = library
        self._scheduler = scheduler
        self._limits = limits
        self._models = OpenedModels(library, limits)
        self._threads = ThreadPoolExecutor(limits.threads, thread_name_prefix="puna-prompt")

    async def close(self) -> None:
        """Wait for the threads. Requests must have ended."""
        await self._models.close()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def open(self, name: str, not_found: Callable[[str], str] = _not_found) -> OpenedModel:
        """The model that a caller calls `name`, without its weights.

        Args:
            not_found: the text of the error where the store has none, from the name.

        Raises:
            InvalidOption: this is no name.
            ModelNotFound: the store has no such model.
            PunaError: as `puna.services.opened.open_model`.
        """
        return await self._opened(await self._found(name, not_found), name)

    async def _found(self, name: str, not_found: Callable[[str], str]) -> StoredManifest:
        return await asyncio.to_thread(find_stored, self._library, name, not_found)

    async def _opened(self, stored: StoredManifest, name: str) -> OpenedModel:
        return (await self._models.get(stored)).called(name, stored.name)

    async def _wanted(self, name: str, not_found: Callable[[str], str] = _not_found) -> OpenedModel:
        """As `open`, for a request that needs the weights as well."""
        stored = await self._found(name, not_found)
        if stored not in self._models:
            self._scheduler.expect(weights_digest(stored.manifest()))
        return await self._opened(stored, name)

    async def chat(self, request: ChatRequest) -> Answer:
        """The answer to a conversation.

        Raises:
            PunaError: as `open`; or the model cannot do it, or the request makes no sense.
        """
        return self._started(await self._chat_job(request))

    async def complete(self, request: CompletionRequest) -> Answer:
        """The answer to a prompt. Raises: as `chat`."""
        return self._started(await self._completion_job(request))

    async def render(self, request: ChatRequest | CompletionRequest) -> Rendered:
        """The prompt that a request makes; the model is loaded for it. Raises: as `chat`."""
        if isinstance(request, ChatRequest):
            job = await self._chat_job(request)
        else:
            job = await self._completion_job(request)
        async with self._scheduler.lease(job.model.source, job.options.load, request.keep_alive) as lease:
            prepared = await self._prepared(job, lease)
        text = await self._apart(_text_of, prepared, job.model.tokenizer)
        return Rendered(text, len(prepared.images))

    async def count(self, request: ChatRequest) -> int:
        """How many tokens the prompt of a conversation has; the model is not loaded. Raises: as `chat`."""
        job = await self._chat_job(request)
        prepared = await self._apart(job.prepare, replace(job.chat, num_ctx=_BOUNDLESS))
        return len(prepared.prompt)

    async def load(
        self, request: Asked, act: str = "", not_found: Callable[[str], str] = _not_found
    ) -> float:
        """Load a model; how many seconds that took.

        Args:
            act: what the caller wants of a model that generates, for the error where it does not.

        Raises:
            PunaError: as `open`, and as the model's loading.
        """
        model = await self._wanted(request.model, not_found)
        if act:
            model.chat.check_completion(act)
        options = self._options(request, model)
        with self.requests.running(request.id, request.key, model.source.digest) as running, running:
            async with self._scheduler.lease(model.source, options.load, request.keep_alive) as lease:
                return lease.load_seconds

    async def unload(self, name: str, *, force: bool = False) -> bool:
        """Take a model out of memory once nobody uses it; whether it was there.

        Args:
            force: take it out at once, and end the requests that use it or wait for it.

        Raises:
            PunaError: as `open`.
        """
        digest = (await self.open(name)).source.digest
        if force:
            self.requests.cancel_for(digest)
        return await self._scheduler.unload(digest, at_once=force)

    async def tokenize(
        self, name: str, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """The tokens of a text; see `Tokenizer.encode`. Raises: as `open`."""
        model = await self.open(name)
        return await self._apart(
            partial(model.tokenizer.encode, text, add_special=add_special, parse_special=parse_special)
        )

    async def detokenize(self, name: str, tokens: Sequence[int], *, render_special: bool = False) -> str:
        """The text of tokens. Raises: as `open`; InvalidOption for what is no token."""
        model = await self.open(name)

        def decoded() -> str:
            check_tokens(tokens, model.tokenizer, "tokens")
            return model.tokenizer.decode(tokens, render_special=render_special)

        return await self._apart(decoded)

    async def embed(self, request: EmbedRequest, not_found: Callable[[str], str] = _not_found) -> Embeddings:
        """The vectors of texts, in their order; any model can make some.

        Raises:
            InvalidOption: a text is too long or empty, which the error names by its index.
            PunaError: as `open`, and as the model.
        """
        began = time.perf_counter()
        check_count("inputs", request.inputs, self._limits.inputs)
        model = await self._wanted(request.model, not_found)
        options = self._options(request, model)
        with self.requests.running(request.id, request.key, model.source.digest) as running, running:
            async with self._scheduler.lease(model.source, options.load, request.keep_alive) as lease:
                encoded = await self._apart(
                    encode_inputs,
                    model.tokenizer,
                    request.inputs,
                    lease.runner.loaded.num_ctx,
                    request.truncate,
                )
                vectors = await lease.runner.embed(encoded.inputs, uses(model.adapters))
            if self._watcher:
                self._watcher.tokens(model.source.name, {"prompt": encoded.tokens})
            numbers = await self._apart(finished_vectors, vectors, request.dimensions, request.normalize)
        return Embeddings(
            vectors=numbers,
            tokens=encoded.tokens,
            dropped_tokens=encoded.dropped_tokens,
            load_seconds=lease.load_seconds,
            total_seconds=time.perf_counter() - began,
            ignored=options.ignored,
        )

    async def rank(self, request: Asked, query: str, documents: Sequence[str]) -> Embeddings:
        """How well each document fits a query: vectors of one number, in the order of the documents.

        Raises:
            MissingCapability: the model does not rank.
            PunaError: as `embed`.
        """
        model = await self._wanted(request.model)
        if not model.ranks:
            raise MissingCapability(["rerank"], subject=f'"{request.model}"')
        check_count("documents", documents, self._limits.inputs)
        pairs = await self._apart(lambda: [pair(model.tokenizer, query, text) for text in documents])
        return await self.embed(
            EmbedRequest(
                model=request.model,
                inputs=pairs,
                options=request.options,
                keep_alive=request.keep_alive,
                id=request.id,
                key=request.key,
                normalize=False,
            )
        )

    def _options(
        self, request: Asked, model: OpenedModel, adapters: Sequence[AdapterUse] | None = None
    ) -> Options:
        """What a request means; without adapters, the model is loaded with its own."""
        options = read_options(request.options, model.model.parameters, self._limits)
        num_ctx = options.load.num_ctx
        if num_ctx and model.trained_ctx and num_ctx > model.trained_ctx:
            options = replace(options, load=replace(options.load, num_ctx=model.trained_ctx))
        loaded = uses(model.adapters) if adapters is None else adapters
        load = adapted(seeing(options.load, model.projector), loaded)
        options = replace(options, load=load)
        if not isinstance(request, AskedAnswer):
            return options
        sampling = replace(
            options.sampling,
            logprobs=request.logprobs,
            top_logprobs=request.top_logprobs,
            logit_bias=request.logit_bias,
        )
        return replace(options, sampling=sampling)

    async def _chat_job(self, request: ChatRequest) -> _Job:
        model = await self._wanted(request.model)
        model.chat.check_completion("chat")
        conversation = await self._apart(chat_conversation, request, model.model, self._limits)
        model.chat.check(conversation, "chat")
        check_pictures(conversation)
        adapters = await self._used(request, model)
        options = self._options(request, model, adapters)
        prepare = partial(_prepare_chat, conversation)
        one_call = not request.parallel_tool_calls
        return _Job(request, model, options, model.chat, prepare, adapters, one_call=one_call)

    async def _completion_job(self, request: CompletionRequest) -> _Job:
        model = await self._wanted(request.model)
        check_raw(request)
        model.chat.check_completion("generate")

        def made() -> tuple[Chat, Conversation]:
            check_tokens(request.context, model.tokenizer, "context")
            if not isinstance(request.prompt, str):
                check_tokens(request.prompt, model.tokenizer, "prompt")
            conversation = completion_conversation(request, model.model, self._limits)
            return with_template(model.chat, request.template), conversation

        chat, conversation = await self._apart(made)
        chat.check(conversation, "generate")
        check_pictures(conversation)
        adapters = await self._used(request, model)
        options = self._options(request, model, adapters)
        prepare = partial(prepare_completion, request=request, conversation=conversation)
        return _Job(request, model, options, chat, prepare, adapters, keeps_context=not request.raw)

    async def _used(self, request: AskedAnswer, model: OpenedModel) -> tuple[AdapterUse, ...]:
        """The adapters of an answer. Raises: as `puna.services.adapters.used`."""
        if not request.adapters:
            return uses(model.adapters)
        return await self._apart(used, self._library, model.adapters, request.adapters)

    def _started(self, job: _Job) -> Answer:
        request, events = job.request, self._events(job)
        events = self.requests.cancellable(request.id, request.key, events, job.model.source.digest)
        return Answer(job.options.ignored, events, job.model.digest)

    async def _events(self, job: _Job) -> AsyncGenerator[AnswerEvent, None]:
        began = time.perf_counter()
        async with self._scheduler.lease(job.model.source, job.options.load, job.request.keep_alive) as lease:
            prepared = await self._prepared(job, lease)
            if job.request.tell_prompt:
                yield Prompted(len(prepared.prompt))
            reading = Reading(prepared, job.options.stop, one_call=job.one_call)
            clock = _Clock(began, job.model.source.name, self._watcher)
            counts: Done | None = None
            texts: list[str] = []
            thoughts: list[str] = []
            answer = lease.runner.generate(_for_engine(job, prepared, lease), lambda: reading.stopped)
            async with aclosing(answer) as pieces:
                async for piece in pieces:
                    if isinstance(piece, Done):
                        counts = piece
                        break
                    if isinstance(piece, PromptLogprobs):
                        yield piece
                        continue
                    clock.piece()
                    if piece.logprobs:
                        yield Logprobs(piece.logprobs)
                    if job.keeps_context:
                        texts.append(piece.text)
                    for event in reading.feed(piece.text):
                        if job.request.tell_thinking and isinstance(event, Thinking):
                            thoughts.append(event.text)
                        yield event
        if counts is None:
            raise InternalError("an answer of the runner had no end")
        for event in reading.finish():
            yield event
        clock.finished(counts)
        yield Finished(
            counts=counts,
            dropped_tokens=prepared.dropped_tokens,
            load_seconds=lease.load_seconds,
            context=await self._context(job, prepared, "".join(texts)) if job.keeps_context else (),
            total_seconds=time.perf_counter() - began,
            stop_text=reading.stop_text(counts),
            thinking_tokens=await self._count(job, "".join(thoughts)),
        )

    async def _context(self, job: _Job, prepared: Prepared, text: str) -> tuple[int, ...]:
        return await self._apart(kept_context, job.model.tokenizer, prepared.prompt, text)

    async def _count(self, job: _Job, text: str) -> int:
        """How many tokens a text within an answer takes."""
        if not text:
            return 0
        return len(await self._apart(job.model.tokenizer.encode_continuation, text))

    async def _prepared(self, job: _Job, lease: Lease) -> Prepared:
        try:
            return await self._apart(job.prepare, replace(job.chat, num_ctx=lease.runner.loaded.num_ctx))
        except ContextLengthExceeded:
            if not job.request.shift:
                raise
            # The engine drops what is too much.
            return await self._apart(job.prepare, replace(job.chat, num_ctx=_BOUNDLESS))

    async def _apart(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the work returns, done in a thread, which ends by itself where nobody waits any more."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))


@dataclass(slots=True)
class _Clock:
    """The times of an answer's pieces, for whoever watches.

    Attributes:
        began: when the request came.
        model: the model's name.
        last: when the latest piece came; 0 before the first.
    """

    began: float
    model: str
    watcher: Watcher | None
    last: float = 0.0

    def piece(self) -> None:
        """A piece has come."""
        now = time.perf_counter()
        if self.watcher and self.last:
            self.watcher.token_gap(self.model, now - self.last)
        elif self.watcher:
            self.watcher.first_token(self.model, now - self.began)
        self.last = now

    def finished(self, counts: Done) -> None:
        """The answer is complete."""
        if self.watcher:
            told = {
                "prompt": counts.prompt_tokens,
                "cached": counts.cached_tokens,
                "generated": counts.generated_tokens,
                "drafted": counts.drafted_tokens,
                "accepted": counts.accepted_tokens,
            }
            self.watcher.tokens(self.model, told)


def _prepare_chat(conversation: Conversation, chat: Chat) -> Prepared:
    return chat.prepare(conversation)


def _text_of(prepared: Prepared, tokenizer: Tokenizer) -> str:
    """The text of a prompt, with the tags of its pictures."""
    text, done = "", 0
    for image, number in zip(prepared.images, prepared.numbers, strict=True):
        text += tokenizer.decode(prepared.prompt[done : image.at], render_special=True) + f"[img-{number}]"
        done = image.at
    return text + tokenizer.decode(prepared.prompt[done:], render_special=True)


def _for_engine(job: _Job, prepared: Prepared, lease: Lease) -> GenerateRequest:
    options = job.options
    return GenerateRequest(
        prompt=prepared.prompt,
        sampling=prepared.without_banned(options.sampling),
        num_predict=options.most_tokens(lease.runner.loaded.num_ctx),
        stop=options.stop,
        grammar=prepared.grammar,
        thinking=prepared.thinking,
        shown=prepared.shown,
        shift=job.request.shift,
        num_keep=min(options.num_keep, len(prepared.prompt)),
        draft=options.draft,
        scope=job.request.key,
        thinking_budget=job.request.thinking_budget,
        prompt_logprobs=job.request.prompt_logprobs,
        images=prepared.images,
        adapters=job.adapters,
    )
