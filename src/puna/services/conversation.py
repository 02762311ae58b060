"""Conversations with a loaded model: from what a caller asks to tokens, and from its text to events."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from puna.chat.capabilities import (
    Capability,
    PictureTokens,
    capabilities,
    check_capabilities,
    picture_tokens,
)
from puna.chat.conversation import Conversation, Message, Think
from puna.chat.events import Event, ToolCall
from puna.chat.fit import fit
from puna.chat.parsers.answer import Parser
from puna.chat.parsers.formats.generic import TemplateTags
from puna.chat.parsers.registry import support
from puna.chat.prompt import Encoded, Prompter, is_continued
from puna.chat.style import BARE, Style, style_of
from puna.engine.events import Done, TextChunk
from puna.engine.events import Event as EngineEvent
from puna.engine.request import Image
from puna.errors import MissingCapability
from puna.gguf import Metadata
from puna.gguf.keys import CHAT_TEMPLATE_KEY
from puna.sampling.grammar import Grammar
from puna.sampling.grammar import Thinking as ThinkingTags
from puna.sampling.parameters import MAX_BIAS, SamplingParameters
from puna.sampling.toolcalls import ToolFormat, tool_grammar
from puna.services.stopping import StoppedContent
from puna.store.model import Model
from puna.template.go import Template

if TYPE_CHECKING:
    from puna.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer.

    Attributes:
        counts: tokens and times, as the engine counted them.
        dropped_tokens: by how many tokens the prompt was shortened.
        load_seconds: how long the model took to load, where it had to.
        total_seconds: from the request to here, waiting included; 0 where nobody measured.
        context: the prompt and the answer as tokens, where they were asked for.
        stop_text: the stop text that ended it; empty where none did.
        thinking_tokens: how many of the answer's tokens the text of its thinking takes, where that was asked.
    """

    counts: Done
    dropped_tokens: int = 0
    load_seconds: float = 0.0
    total_seconds: float = 0.0
    context: tuple[int, ...] = ()
    stop_text: str = ""
    thinking_tokens: int = 0

    @property
    def reason(self) -> Literal["stop", "length", "cancelled"]:
        """Why it ended; see `Done`."""
        return self.counts.reason


class Generator(Protocol):
    """What generates, such as `puna.engine.load.LoadedModel`."""

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingParameters,
        *,
        num_predict: int,
        stop: Sequence[str],
        grammar: Grammar | None,
        thinking: ThinkingTags | None,
        shown: Collection[int],
        images: Sequence[Image],
        halted: Callable[[], bool],
    ) -> Iterator[EngineEvent]:
        """The answer to the prompt, piece by piece."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a store says of a model, besides its file.

    Attributes:
        name: as the caller wrote it.
        full_name: with its registry and everything, as the API names it in some errors.
        template: its template in Go's language; None leaves it to the file.
        parser: the name of the parser of its answers; None leaves it to its templates.
        renderer: the name of the way to write its prompts, which counts where it has no template.
        capabilities: what it is said to be able to do.
    """

    name: str = ""
    full_name: str = ""
    template: str | None = None
    parser: str | None = None
    capabilities: tuple[str, ...] = ()
    renderer: str = ""


def facts_of(name: str, model: Model | None) -> ModelFacts:
    """What the store says of the model that the caller calls `name`; of a file it says nothing."""
    if model is None:
        return ModelFacts(name)
    config = model.config
    *path, tag = model.name.parts
    full_name = f"{'/'.join(path)}:{tag}"
    return ModelFacts(
        name,
        full_name,
        model.template,
        config.parser or None,
        tuple(config.capabilities or ()),
        config.renderer or "",
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A conversation, ready for the engine.

    Attributes:
        prompt: its tokens.
        parser: reads the answer, once.
        images: the pictures, and where they stand in the prompt.
        numbers: the number of each, as the prompt's text had it in a tag: `[img-0]`, `[img-1]` …
        grammar: what the answer is kept to.
        thinking: the tags of thinking that comes before, and that the grammar leaves alone.
        banned: tokens that must not be generated.
        shown: control tokens that the parser has to see.
        dropped_tokens: see `Finished`.
    """

    prompt: list[int]
    parser: Parser
    images: tuple[Image, ...] = ()
    numbers: tuple[int, ...] = ()
    grammar: Grammar | None = None
    thinking: ThinkingTags | None = None
    banned: frozenset[int] = frozenset()
    shown: frozenset[int] = frozenset()
    dropped_tokens: int = 0

    def without_banned(self, sampling: SamplingParameters) -> SamplingParameters:
        """The parameters, such that no banned token is chosen."""
        if not self.banned:
            return sampling
        return replace(sampling, logit_bias={**sampling.logit_bias, **dict.fromkeys(self.banned, -MAX_BIAS)})


@dataclass(frozen=True, slots=True)
class _Prompt:
    """A rendered conversation.

    Attributes:
        open_tag: the tag with which it opens thinking; empty where it does not.
        image_tokens: how many tokens its pictures take.
    """

    encoded: Encoded
    open_tag: str
    image_tokens: int

    def __len__(self) -> int:
        return len(self.encoded.tokens) + self.image_tokens


@dataclass(frozen=True)
class Chat:
    """Conversations with one loaded model.

    Attributes:
        prompter: makes its prompts.
        style: how it writes its answers.
        capabilities: what it can do here.
        facts: what the store says of it.
        num_ctx: tokens of context.
        image_tokens: how many of them a picture takes; None if the engine can be given none.
    """

    prompter: Prompter
    style: Style
    capabilities: tuple[Capability, ...]
    facts: ModelFacts
    num_ctx: int
    image_tokens: PictureTokens | None = None

    @classmethod
    def of(
        cls,
        metadata: Metadata,
        tokenizer: "Tokenizer",
        num_ctx: int,
        facts: ModelFacts | None = None,
        *,
        image_tokens: PictureTokens | None = None,
        projector: Metadata | None = None,
    ) -> "Chat":
        """Conversations with the model of this metadata.

        Args:
            image_tokens: how many tokens a picture takes, where the file is not to tell.
            projector: the metadata of its image encoder, where that is a file of its own.

        Raises:
            GGUFError: the file's template is no text.
            TemplateError: the store's is no template.
        """
        facts = facts or ModelFacts()
        prompter = Prompter.of(metadata, tokenizer, facts.template, facts.renderer)
        go = prompter.template if isinstance(prompter.template, Template) else None
        jinja = metadata.string(CHAT_TEMPLATE_KEY, None)
        style = style_of(metadata.architecture, stated=facts.parser, template=go, chat_template=jinja)
        able = capabilities(
            metadata,
            template=go,
            chat_template=jinja if go is None else None,
            stated=facts.capabilities,
            projector=projector,
            parser=support(facts.parser) if facts.parser else None,
        )
        if image_tokens is None:
            image_tokens = picture_tokens(metadata, projector)
        seen = tuple(one for one in able if image_tokens or one is not Capability.VISION)
        return cls(prompter, style, seen, facts, num_ctx, image_tokens)

    def answer(
        self,
        prepared: Prepared,
        generator: Generator,
        sampling: SamplingParameters,
        *,
        num_predict: int = -1,
        stop: Sequence[str] = (),
    ) -> Iterator[Event | Finished]:
        """Yields the answer to what was prepared, once, and at last `Finished`.

        Args:
            num_predict: most tokens to generate; below 0 until the context is full.
            stop: texts that end the answer.

        Raises:
            PunaError: as the generator.
        """
        reading = Reading(prepared, stop)
        events = generator.generate(
            prepared.prompt,
            prepared.without_banned(sampling),
            num_predict=num_predict,
            stop=stop,
            grammar=prepared.grammar,
            thinking=prepared.thinking,
            shown=prepared.shown,
            images=prepared.images,
            halted=lambda: reading.stopped,
        )
        return reading.events(events)

    def prepare_raw(
        self, prompt: str | Sequence[int], format: Grammar | None = None, images: Sequence[bytes] = ()
    ) -> Prepared:
        """What the engine needs for a prompt that its caller has written whole, control tokens and all.

        Args:
            prompt: a text, or its tokens as they are.
            images: its pictures; those for which it has no tag stand at its beginning.
        """
        parser = Style("passthrough", TemplateTags()).reader({}, thinking_open=False)
        if isinstance(prompt, str):
            encoded = self.prompter.encode_raw(prompt, len(images))
        else:
            encoded = Encoded(list(prompt), [(0, number) for number in range(len(images))])
        placed, numbers = _placed(encoded, images)
        return Prepared(encoded.tokens, parser, placed, numbers, grammar=format)

    def prepare(self, conversation: Conversation) -> Prepared:
        """What the engine needs for a conversation.

        Raises:
            MissingCapability: the model cannot do what is asked for.
            ContextLengthExceeded: the conversation is too long, and may not or cannot be shortened.
            ModelError, TemplateError: the template fails or refuses the conversation.
            InvalidOption: a value is nested too deeply.
        """
        self.check(conversation)
        think = self.thinks(conversation.think)
        style = self.style
        grammar, bare = self._grammar(conversation)
        # What is kept to a grammar has no header: the prompt writes the one of the message for the user.
        # In what goes on with an earlier message, that message's is there already.
        continued = not conversation.suffix and is_continued([conversation.messages[-1].for_go()])
        header = style.final if grammar and not continued else ""

        def render(messages: Sequence[Message]) -> _Prompt:
            pieces = self.prompter.pieces(
                messages,
                tools=conversation.offered,
                think=think,
                suffix=conversation.suffix,
                variables=conversation.variables,
            )
            pieces[-1] += header
            images = [image for message in messages for image in message.images]
            encoded = self.prompter.encode_pictured(pieces, len(images))
            image_tokens = sum(map(self.image_tokens, images)) if self.image_tokens else 0
            return _Prompt(encoded, style.open_tag(pieces[-1]), image_tokens)

        turns = [without_spelled_thinking(message, style) for message in conversation.messages]
        fitted = fit(turns, render, self.num_ctx, truncate=conversation.truncate)
        open_tag = fitted.prompt.open_tag
        tools = conversation.declarations if conversation.offered else []
        parser = style.reader(
            {tool.name: tool.parameters for tool in tools}, thinking_open=bool(open_tag), bare_calls=bare
        )
        if not bare:
            # What the prompt writes of the answer; a header gives no events.
            parser.feed(style.final if continued else header)
        thinks = bool(style.closing) and bool(open_tag or think)
        contents = [image for message in fitted.messages for image in message.images]
        images, numbers = _placed(fitted.prompt.encoded, contents)
        return Prepared(
            prompt=fitted.prompt.encoded.tokens,
            parser=parser,
            images=images,
            numbers=numbers,
            grammar=grammar,
            thinking=ThinkingTags(open_tag or style.openings[0], style.closing) if thinks else None,
            banned=self._banned(conversation),
            shown=self._shown,
            dropped_tokens=fitted.dropped_tokens,
        )

    def check(self, conversation: Conversation, act: str = "chat") -> None:
        """Check that the model can do what is asked for, with the texts of Ollama's errors.

        Args:
            act: what the caller wants of it, for a model that cannot generate at all.

        Raises:
            MissingCapability: it cannot.
        """
        short, full = f'"{self.facts.name}"', self.facts.full_name or f'"{self.facts.name}"'
        self.check_completion(act)
        wanted = [(Capability.TOOLS, full, bool(conversation.tools))]
        wanted.append((Capability.INSERT, full, bool(conversation.suffix)))
        wanted.append((Capability.VISION, short, any(m.images for m in conversation.messages)))
        wanted.append((Capability.THINKING, short, bool(conversation.think)))
        for capability, subject, asked in wanted:
            if asked:
                check_capabilities(
                    self.capabilities,
                    [capability],
                    model=self.facts.name,
                    subject=subject if self.facts.name else "the model",
                )

    def check_completion(self, act: str = "chat") -> None:
        """Check that the model generates at all. Raises: MissingCapability, which says it cannot `act`."""
        if Capability.COMPLETION not in self.capabilities:
            raise MissingCapability([act], subject=f'"{self.facts.name}"' if self.facts.name else "the model")

    def thinks(self, think: Think) -> Think:
        """Whether to think: models that can do so unless they are told not to."""
        return True if think is None and Capability.THINKING in self.capabilities else think

    def _grammar(self, conversation: Conversation) -> tuple[Grammar | None, bool]:
        """What the answer is kept to, and whether that is calls in the form that any model can write."""
        if tools := conversation.must_call:
            calls = None if self.style.final else self.style.calls
            parallel = conversation.tool_choice == "required"
            return tool_grammar(tools, "required", calls or BARE, parallel=parallel), calls is None
        calls, format = self.style.calls, conversation.format
        if conversation.tools and conversation.tool_choice == "none":
            tag = self.style.call_tag
            needed = format is None and self._trigger is None and tag is not None
            return tool_grammar([], "none", ToolFormat(tag or "", "")) if needed else format, False
        if not conversation.tools or calls is None:
            return format, False
        if format is not None and format.kind == "json_schema":
            return tool_grammar(conversation.declarations, "auto", calls, answer=format), False
        return format, False

    def _banned(self, conversation: Conversation) -> frozenset[int]:
        forbids = conversation.tool_choice == "none" and conversation.tools
        return frozenset({self._trigger} if forbids and self._trigger is not None else ())

    @property
    def _trigger(self) -> int | None:
        """The token that begins a call, where it is one."""
        return self.prompter.tokenizer.special_ids.get(self.style.call_tag or "")

    @property
    def _shown(self) -> frozenset[int]:
        ids = self.prompter.tokenizer.special_ids
        return frozenset(ids[text] for text in self.style.tokens if text in ids)


def _placed(encoded: Encoded, contents: Sequence[bytes]) -> tuple[tuple[Image, ...], tuple[int, ...]]:
    """The pictures where they stand in a prompt, and their numbers."""
    images = tuple(Image(place, contents[number]) for place, number in encoded.pictures)
    return images, tuple(number for _, number in encoded.pictures)


class Reading:
    """One answer, as it is read: the engine's pieces of text become events.

    The engine has cut the text at the first stop text. One that comes about only in the content, because
    calls and tags are taken out of the text, does not get through either.

    Attributes:
        stopped: a stop text, or the only call, has come about, so nothing more is wanted.

    Args:
        stop: texts that end the answer.
        one_call: the answer ends with its first call.
    """

    def __init__(self, prepared: Prepared, stop: Sequence[str] = (), *, one_call: bool = False) -> None:
        self._prepared = prepared
        self._content = StoppedContent(stop)
        self._one_call = one_call
        self._endless = not (stop or one_call)
        self.stopped = False

    def stop_text(self, counts: Done) -> str:
        """The stop text that ended the answer, here or in the engine; empty where none did."""
        return self._content.stop_text or counts.stop_text

    def events(self, events: Iterable[EngineEvent]) -> Iterator[Event | Finished]:
        """The answer's events, and at last `Finished`."""
        for event in events:
            if isinstance(event, TextChunk):
                yield from self.feed(event.text)
            elif isinstance(event, Done):
                yield from self.finish()
                yield Finished(event, self._prepared.dropped_tokens, stop_text=self.stop_text(event))

    def feed(self, text: str) -> list[Event]:
        """The events that this text completes."""
        return self._let_through(self._prepared.parser.feed(text))

    def finish(self) -> list[Event]:
        """The events of what was held back, at the answer's end: nothing is fed after it."""
        events = self._let_through(self._prepared.parser.finish())
        return [*events, *self._content.flush()]

    def _let_through(self, events: list[Event]) -> list[Event]:
        if self._endless:
            return events
        wanted: list[Event] = []
        for event in events:
            if self.stopped:
                break
            wanted += self._content.feed(event)
            self.stopped = self._content.stopped or (self._one_call and isinstance(event, ToolCall))
        return wanted


def without_spelled_thinking(message: Message, style: Style) -> Message:
    """An earlier answer whose thinking is where it belongs.

    Some callers send back the whole text of an answer, tags and all. The template decides what of earlier
    thinking the model gets to see.
    """
    if message.role != "assistant" or message.thinking or not style.closing:
        return message
    before, closing, after = message.content.partition(style.closing)
    if not closing:
        return message
    before = before.lstrip()
    opening = next((tag for tag in style.openings if before.startswith(tag)), "")
    return replace(message, content=after.lstrip(), thinking=before.removeprefix(opening).strip())
