"""A loaded model with the methods, arguments and replies of `puna.client.Client`."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, Self, TypeVar, Unpack, overload

from puna.chat.conversation import read_tool_choice
from puna.chat.events import Event as ChatEvent
from puna.client.arguments import (
    AnswerArguments,
    ChatArguments,
    EmbedArguments,
    GenerateArguments,
    GivenMessage,
)
from puna.client.calls import check_names
from puna.client.replies import ChatReply, DetokenizeReply, EmbedReply, GenerateReply, TokenizeReply
from puna.engine.events import Event
from puna.engine.load import LoadedModel
from puna.engine.request import AdapterUse
from puna.errors import InvalidOption
from puna.inprocess.answering import (
    Heard,
    Measured,
    chat_reply,
    generate_reply,
    pieces,
    whole_chat,
    whole_generate,
)
from puna.inprocess.messages import read_adapters, read_message, read_pictures
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import SamplingParameters
from puna.services.adapters import NamedAdapter
from puna.services.asked import (
    AskedAnswer,
    ChatRequest,
    CompletionRequest,
    chat_conversation,
    check_raw,
    check_tokens,
    completion_conversation,
    kept_context,
    only_format,
    prepare_completion,
    with_template,
)
from puna.services.conversation import Chat, Finished, Prepared
from puna.services.embedding import encode_inputs, finished_vectors
from puna.services.figures import nanoseconds, now_text
from puna.services.limits import DEFAULT_LIMITS
from puna.services.options import Options, read_options
from puna.store import model as store

Reply = TypeVar("Reply")


class Pieces(Generic[Reply]):
    """The pieces of an answer as they come: an iterator.

    Closing it, or leaving its `with`, ends the answer.
    """

    def __init__(self, pieces: Generator[Reply, None, None]) -> None:
        self._pieces = pieces

    def close(self) -> None:
        """Generate no more. Closing twice is harmless."""
        self._pieces.close()

    def __iter__(self) -> Iterator[Reply]:
        return self

    def __next__(self) -> Reply:
        return next(self._pieces)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Ear:
    """The loaded model as `Chat` needs it, with what `Chat` knows nothing of."""

    model: LoadedModel
    heard: Heard
    options: Options
    shift: bool
    adapters: tuple[AdapterUse, ...]

    def generate(self, prompt: Sequence[int], sampling: SamplingParameters, **how: Any) -> Iterator[Event]:
        options = self.options
        answer = self.model.generate(
            prompt,
            sampling,
            shift=self.shift,
            num_keep=options.num_keep,
            draft=options.draft,
            adapters=self.adapters,
            **how,
        )
        return self.heard.listen(answer)


class Model:
    """A model in this process; a context manager.

    It has the methods of `puna.client.Client`, without the model's name, and gives the same replies. Use it
    from one thread at a time.

    Attributes:
        name: as the caller wrote it.
        num_ctx: tokens of context.
        continues_text: it has no template, so a prompt is text to go on with.
        capabilities: what it can do, by the names of the API: `completion`, `tools`, `thinking` …
    """

    def __init__(
        self,
        name: str,
        stored: store.Model | None,
        loaded: LoadedModel,
        chat: Chat,
        defaults: Mapping[str, Any],
        load_seconds: float,
        used: Callable[[Sequence[NamedAdapter]], tuple[AdapterUse, ...]],
    ) -> None:
        self.name = name
        self.num_ctx = loaded.num_ctx
        self.continues_text = chat.prompter.template is None and not chat.prompter.renderer
        self.capabilities = tuple(str(capability) for capability in chat.capabilities)
        self._stored = stored
        self._loaded = loaded
        self._chat = chat
        self._defaults = defaults
        self._load_seconds = load_seconds
        self._used = used

    @overload
    def generate(
        self,
        prompt: str = "",
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[GenerateArguments],
    ) -> GenerateReply: ...
    @overload
    def generate(
        self,
        prompt: str = "",
        *,
        stream: Literal[True],
        **arguments: Unpack[GenerateArguments],
    ) -> Pieces[GenerateReply]: ...
    def generate(
        self,
        prompt: str = "",
        *,
        stream: bool = False,
        **arguments: Unpack[GenerateArguments],
    ) -> GenerateReply | Pieces[GenerateReply]:
        """The model's answer to a prompt.

        Raises:
            InvalidOption: an argument is malformed.
            MissingCapability: the model cannot do what is asked for.
            ContextLengthExceeded: the prompt is too long.
            ModelError, TemplateError: the template fails or refuses the prompt.
        """
        check_names(arguments, GenerateArguments)
        began = time.perf_counter()
        if not prompt:
            empty = [GenerateReply(model=self.name, created_at=now_text(), done=True, done_reason="load")]
            return Pieces(reply for reply in empty) if stream else empty[0]
        request = CompletionRequest(
            prompt=prompt,
            suffix=arguments.get("suffix") or "",
            system=arguments.get("system") or "",
            template=arguments.get("template") or "",
            context=arguments.get("context") or (),
            raw=bool(arguments.get("raw")),
            images=read_pictures(arguments.get("images") or ()),
            **self._asked(arguments),
        )
        check_raw(request)
        check_tokens(request.context, self._loaded.tokenizer, "context")
        chat = with_template(self._chat, request.template)
        conversation = completion_conversation(request, self._stored, DEFAULT_LIMITS)
        chat.check(conversation, "generate")
        prepared = prepare_completion(chat, request, conversation)
        context = None if request.raw else partial(kept_context, self._loaded.tokenizer, prepared.prompt)
        parts = pieces(*self._answer(chat, prepared, request, began, context), generate_reply)
        return Pieces(parts) if stream else whole_generate(parts)

    @overload
    def chat(
        self,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: Literal[False] = False,
        **arguments: Unpack[ChatArguments],
    ) -> ChatReply: ...
    @overload
    def chat(
        self,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: Literal[True],
        **arguments: Unpack[ChatArguments],
    ) -> Pieces[ChatReply]: ...
    def chat(
        self,
        messages: Sequence[GivenMessage] = (),
        *,
        stream: bool = False,
        **arguments: Unpack[ChatArguments],
    ) -> ChatReply | Pieces[ChatReply]:
        """The model's next message. Raises: as `generate`."""
        check_names(arguments, ChatArguments)
        began = time.perf_counter()
        if not messages:
            empty = [ChatReply(model=self.name, created_at=now_text(), done=True, done_reason="load")]
            return Pieces(reply for reply in empty) if stream else empty[0]
        request = ChatRequest(
            messages=[read_message(message) for message in messages],
            tools=arguments.get("tools") or (),
            tool_choice=read_tool_choice(arguments.get("tool_choice")),
            **self._asked(arguments),
        )
        conversation = chat_conversation(request, self._stored, DEFAULT_LIMITS)
        prepared = self._chat.prepare(conversation)
        parts = pieces(*self._answer(self._chat, prepared, request, began), chat_reply)
        return Pieces(parts) if stream else whole_chat(parts)

    def embed(self, input: str | Sequence[str] = (), **arguments: Unpack[EmbedArguments]) -> EmbedReply:
        """A vector of length 1 for each text.

        Raises:
            MissingCapability: the model makes none.
            InvalidOption: an argument is malformed, or a text is too long and may not be cut.
        """
        check_names(arguments, EmbedArguments)
        began = time.perf_counter()
        self._options(arguments.get("options"))
        texts = ([input] if input else []) if isinstance(input, str) else list(input)
        encoded = encode_inputs(self._loaded.tokenizer, texts, self.num_ctx, bool(arguments.get("truncate")))
        made = self._loaded.embed(encoded.inputs) if texts else []
        vectors = [array("f", vector.tolist()) for vector in made]
        load_seconds = self._take_load_seconds()
        return EmbedReply(
            model=self.name,
            embeddings=finished_vectors(vectors, arguments.get("dimensions") or 0, normalize=True),
            total_duration=nanoseconds(time.perf_counter() - began + load_seconds),
            load_duration=nanoseconds(load_seconds),
            prompt_eval_count=encoded.tokens,
            dropped_tokens=encoded.dropped_tokens,
        )

    def tokenize(self, text: str) -> TokenizeReply:
        """The ids of a text's tokens, with those that begin and end a text; control tokens are not read."""
        return TokenizeReply(model=self.name, tokens=self._loaded.tokenizer.encode(text))

    def detokenize(self, tokens: Sequence[int]) -> DetokenizeReply:
        """The text of tokens. Raises: InvalidOption: there is no such token."""
        check_tokens(tokens, self._loaded.tokenizer, "tokens")
        return DetokenizeReply(model=self.name, text=self._loaded.tokenizer.decode(list(tokens)))

    def warnings(self, grammar: Grammar) -> tuple[str, ...]:
        """What of a grammar has no effect. Raises: InvalidOption: the grammar is refused."""
        return tuple(self._loaded.constraints.start(grammar).warnings)

    def interrupted_by_signals(self) -> AbstractContextManager[None]:
        """While inside, Ctrl-C ends a computation at once, rather than after it; for the main thread."""
        return self._loaded.interrupted_by_signals()

    def close(self) -> None:
        """Free everything. Closing twice is harmless."""
        self._loaded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _asked(self, arguments: AnswerArguments) -> dict[str, Any]:
        """What every request for an answer says. Raises: InvalidOption."""
        logprobs = bool(arguments.get("logprobs"))
        return {
            "model": self.name,
            "options": arguments.get("options") or {},
            "format": only_format(arguments.get("format"), arguments.get("grammar")),
            "think": arguments.get("think"),
            "truncate": bool(arguments.get("truncate")),
            "shift": bool(arguments.get("shift")),
            "logprobs": logprobs,
            "top_logprobs": (arguments.get("top_logprobs") or 0) if logprobs else 0,
            "adapters": read_adapters(arguments.get("adapters") or ()),
        }

    def _answer(
        self,
        chat: Chat,
        prepared: Prepared,
        request: AskedAnswer,
        began: float,
        context: Callable[[str], Sequence[int]] | None = None,
    ) -> tuple[str, Iterator[ChatEvent | Finished], Heard, Measured]:
        options, heard = self._options(request.options), Heard()
        sampling = replace(options.sampling, logprobs=request.logprobs, top_logprobs=request.top_logprobs)
        ear = _Ear(self._loaded, heard, options, request.shift, self._used(request.adapters))
        num_predict = options.most_tokens(self.num_ctx)
        events = chat.answer(prepared, ear, sampling, num_predict=num_predict, stop=options.stop)
        return self.name, events, heard, Measured(began, self._take_load_seconds(), context)

    def _options(self, given: Mapping[str, Any] | None) -> Options:
        """The options of one call. Raises: InvalidOption: one is wrong, or set when a model is loaded."""
        loaded = {**(given or {})}
        if loaded.get("num_ctx") == self.num_ctx:
            del loaded["num_ctx"]
        options = read_options(loaded, self._defaults)
        if options.load != read_options({}, self._defaults).load:
            raise InvalidOption(
                "the options given change how a model is loaded; give them to puna.load: "
                f"{', '.join(sorted(loaded))}"
            )
        return options

    def _take_load_seconds(self) -> float:
        """How long the model took to load, for the first answer; 0 for the next ones."""
        taken, self._load_seconds = self._load_seconds, 0.0
        return taken
