"""The inference service with runners that say what a test wants, under the real scheduler."""

import asyncio
import math
from array import array
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_llama import START, write_scripted_llama
from tests.served_models import CHAT, SAYS, add_model

from puna.chat.conversation import Message
from puna.chat.events import Content, Thinking, ToolCall
from puna.engine.events import Done, TextChunk, TokenLogprob
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.errors import BackendError, Interrupted, InvalidOption, MissingCapability, ModelNotFound
from puna.runner.protocol import Loaded, Stepped
from puna.scheduler.scheduler import Scheduler
from puna.scheduler.state import SchedulerOptions
from puna.services.asked import Asked, ChatRequest, CompletionRequest, EmbedRequest
from puna.services.conversation import Finished
from puna.services.inference import Answer, Inference, Logprobs
from puna.services.limits import Limits
from puna.store.library import Library
from puna.store.name import parse_name

HI = (Message("user", "hi"),)
NOW = {"type": "function", "function": {"name": "now"}}
DONE = Done("stop", 8, 0.5, 3, 0.25, 2)
STOPPED = Done("stop", 8, 0.5, 17, 0.25, 5)
"""What a runner counted of an answer that was ended from here."""


@dataclass
class Script:
    """What runners do, and what was asked of them.

    Attributes:
        pieces: of every answer; None waits for ever.
        load: loading waits for it.
    """

    pieces: list[TextChunk | Done | None] = field(default_factory=lambda: [TextChunk("blue"), DONE])
    vectors: list[float] = field(default_factory=lambda: [3.0, 4.0])
    load: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[GenerateRequest] = field(default_factory=list)
    embedded: list[list[list[int]]] = field(default_factory=list)
    options: list[LoadOptions] = field(default_factory=list)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    closed: int = 0


class Scripted:
    """A runner of a script."""

    def __init__(self, script: Script, options: LoadOptions) -> None:
        self.loaded = Loaded(options.num_ctx or 256, 1, [])
        self.pid = 1
        self.died: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_step: Callable[[Stepped], None] = lambda step: None
        self._script = script

    async def generate(
        self, request: GenerateRequest, halted: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[TextChunk | Done, None]:
        self._script.asked.append(request)
        try:
            for piece in self._script.pieces:
                if piece is None:
                    self._script.reached.set()
                    await asyncio.Event().wait()
                else:
                    yield piece
                    if halted():
                        yield STOPPED
                        return
        finally:
            self._script.closed += 1

    async def embed(self, inputs: list[list[int]], adapters: Any = None) -> list[Any]:
        self._script.embedded.append(inputs)
        return [array("f", self._script.vectors) for _ in inputs]

    async def resize(self, options: LoadOptions) -> None:
        self.loaded = Loaded(options.num_ctx or 256, 1, [])

    async def stop(self, grace: float = 5.0) -> None:
        self.died.set_result(None)


@dataclass
class Seen:
    """What a watcher was told."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def tokens(self, model: str, counts: Mapping[str, int]) -> None:
        self.told.append((model, *(counts.get(kind, 0) for kind in ("prompt", "cached", "generated"))))

    def first_token(self, model: str, seconds: float) -> None:
        self.told.append((model, "first", seconds > 0))

    def token_gap(self, model: str, seconds: float) -> None:
        self.told.append((model, "gap", seconds >= 0))


@dataclass
class Parts:
    """The service, and what it works with."""

    inference: Inference
    scheduler: Scheduler
    script: Script
    seen: Seen

    async def events(self, answer: Answer) -> list[Any]:
        return [event async for event in answer]


Story = Callable[[Parts], Awaitable[None]]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    folder = tmp_path_factory.mktemp("inference")
    library = Library(folder / "models")
    plain = write_scripted_llama(folder / "plain.gguf", ["a"])
    for name in ("one", "two", "three"):
        add_model(library, name, plain, template=f"{name}{CHAT}{START}", parameters={"num_ctx": 128})
    add_model(library, "calls", plain, template=SAYS + "{{ .Tools }}" + START, parser="qwen3-thinking")
    ranks = write_scripted_llama(folder / "ranks.gguf", ["a"], metadata={"llama.pooling_type": 4})
    add_model(library, "ranks", ranks)
    return library


def tell(library: Library, story: Story, *, loads: bool = True, limits: Limits | None = None) -> None:
    """Runs a story; afterwards nothing of it is left."""

    @asynccontextmanager
    async def parts() -> AsyncIterator[Parts]:
        script, seen = Script(), Seen()
        if loads:
            script.load.set()

        async def start(path: Path, options: LoadOptions, *, stall: float | None) -> Scripted:
            script.reached.set()
            script.options.append(options)
            await script.load.wait()
            return Scripted(script, options)

        async def plan(path: Path, options: LoadOptions) -> Loaded:
            return Loaded(options.num_ctx or 256, 1, [])

        scheduler = Scheduler(SchedulerOptions(num_parallel=1), start=start, plan=plan)
        inference = Inference(library, scheduler, limits or Limits(), seen)
        try:
            yield Parts(inference, scheduler, script, seen)
        finally:
            await scheduler.close(0.0)
            await inference.close()
            assert len(inference.requests) == 0

    async def run() -> None:
        async with parts() as found:
            await asyncio.wait_for(story(found), 60)
            assert all(model.active == 0 for model in found.scheduler.loaded())

    asyncio.run(run())


# Opening models


def test_a_model_is_opened_once_for_all_who_want_it(library: Library) -> None:
    async def story(parts: Parts) -> None:
        found = await asyncio.gather(*(parts.inference.open(name) for name in ("one", "ONE:latest", "one")))
        assert len({id(one.tokenizer) for one in found}) == 1
        assert [one.chat.facts.name for one in found] == ["one", "ONE:latest", "one"]
        # Another model of the same file has the same tokenizer, and a prompt of its own.
        other = await parts.inference.open("two")
        assert other.tokenizer is found[0].tokenizer
        assert other.source.digest == found[0].source.digest
        assert other.digest != found[0].digest

    tell(library, story)


def test_a_copy_has_its_own_name(library: Library) -> None:
    async def story(parts: Parts) -> None:
        first = await parts.inference.open("one")
        library.copy(parse_name("one"), parse_name("me/copied:v2"))
        copied = await parts.inference.open("Me/copied:v2")
        library.delete(parse_name("me/copied:v2"))
        assert copied.digest == first.digest and copied.tokenizer is first.tokenizer
        assert copied.source.name == str(copied.model.name) == str(parse_name("me/copied:v2"))
        assert copied.chat.facts.name == "Me/copied:v2"
        assert (await parts.inference.open("one")).source.name == first.source.name

    tell(library, story)


def test_who_waits_for_a_model_may_leave(library: Library) -> None:
    async def story(parts: Parts) -> None:
        first = asyncio.create_task(parts.inference.open("one"))
        second = asyncio.create_task(parts.inference.open("one"))
        await asyncio.sleep(0.001)
        first.cancel()
        assert (await second).model.name.model == "one"

    tell(library, story)


def test_models_that_were_not_used_for_long_are_forgotten(library: Library) -> None:
    async def story(parts: Parts) -> None:
        first = await parts.inference.open("one")
        await parts.inference.open("two")
        again = await parts.inference.open("one")
        assert again.chat.prompter is first.chat.prompter
        await parts.inference.open("calls")
        # "two" had to go, not "one".
        assert (await parts.inference.open("one")).chat.prompter is first.chat.prompter

    tell(library, story, limits=Limits(opened=2))
    tell(library, story, limits=Limits(opened_bytes=500_000))


def test_names(library: Library) -> None:
    async def story(parts: Parts) -> None:
        for name, error in (("nix", ModelNotFound), ("a/../b", InvalidOption), ("", InvalidOption)):
            with pytest.raises(error):
                await parts.inference.chat(ChatRequest(model=name, messages=HI))
        with pytest.raises(ModelNotFound, match=r"^model 'Nix' not found$"):
            await parts.inference.complete(CompletionRequest(model="Nix", prompt="a"))

    tell(library, story)


# Answers


def test_what_the_engine_is_asked_for(library: Library) -> None:
    async def story(parts: Parts) -> None:
        options = {"temperature": 0.5, "stop": ["x"], "num_keep": 9999, "n_discard": 3, "num_ctx": 10**6}
        request = ChatRequest(
            model="one", messages=HI, options=options, shift=True, key="ann", logit_bias={3: 1.0}
        )
        answer = await parts.inference.chat(request)
        assert answer.ignored == ("n_discard",)
        assert parts.script.options == []
        events = await parts.events(answer)
        # The file says for how much context the model was made.
        assert parts.script.options[0].num_ctx == 512
        (asked,) = parts.script.asked
        assert (asked.stop, asked.shift, asked.scope) == (("x",), True, "ann")
        assert (asked.num_predict, asked.num_keep) == (5120, len(asked.prompt))
        assert asked.sampling.temperature == 0.5 and asked.sampling.logit_bias == {3: 1.0}
        assert events[0] == Content("blue")
        assert (events[1].counts, events[1].dropped_tokens) == (DONE, 0)
        assert events[1].total_seconds >= events[1].load_seconds >= 0

    tell(library, story)


def test_the_model_s_own_options_count_where_the_request_says_nothing(library: Library) -> None:
    async def story(parts: Parts) -> None:
        await parts.events(await parts.inference.chat(ChatRequest(model="one", messages=HI)))
        assert parts.script.options[0].num_ctx == 128
        assert parts.script.asked[0].num_predict == 1280

    tell(library, story)


def test_log_probabilities_come_before_their_pieces(library: Library) -> None:
    one, two, three = (TokenLogprob(number, b"x", -1.0) for number in range(3))

    async def story(parts: Parts) -> None:
        parts.script.pieces = [TextChunk("a", (one, two)), TextChunk("", (three,)), DONE]
        request = ChatRequest(model="one", messages=HI, logprobs=True, top_logprobs=3)
        events = await parts.events(await parts.inference.chat(request))
        assert events[:3] == [Logprobs((one, two)), Content("a"), Logprobs((three,))]
        sampling = parts.script.asked[0].sampling
        assert (sampling.logprobs, sampling.top_logprobs) == (True, 3)

    tell(library, story)


def test_a_stop_text_that_only_the_parser_sees_ends_the_request(library: Library) -> None:
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'

    async def story(parts: Parts) -> None:
        text = [TextChunk(f"<think>hm</think>S{call}"), TextChunk("TOP more"), None]
        parts.script.pieces = [*text]
        request = ChatRequest(model="calls", messages=HI, tools=(NOW,), options={"stop": ["STOP"]})
        *events, last = await parts.events(await parts.inference.chat(request))
        assert events == [Thinking("hm"), ToolCall(0, "now", {})]
        assert isinstance(last, Finished)
        assert last.counts == STOPPED
        assert parts.script.closed == 1
        assert parts.seen.told[-1] == ("calls:latest", 8, 5, 17)

    tell(library, story)


@pytest.mark.parametrize("told", [True, False])
def test_thinking_is_counted_for_who_wants_to_know(library: Library, told: bool) -> None:
    async def story(parts: Parts) -> None:
        parts.script.pieces = [TextChunk("<think>hm</think>blue"), DONE]
        request = ChatRequest(model="calls", messages=HI, tell_thinking=told)
        *_, last = await parts.events(await parts.inference.chat(request))
        assert last.thinking_tokens == (2 if told else 0)

    tell(library, story)


@pytest.mark.parametrize("stop", [[], ["STOP"]])
def test_the_only_call_ends_the_request(library: Library, stop: list[str]) -> None:
    call = '<tool_call>{"name": "now", "arguments": {}}</tool_call>'

    async def story(parts: Parts) -> None:
        parts.script.pieces = [TextChunk(f"<think>hm</think>no S{call}{call}"), TextChunk(call), None]
        request = ChatRequest(
            model="calls", messages=HI, tools=(NOW,), options={"stop": stop}, parallel_tool_calls=False
        )
        *events, last = await parts.events(await parts.inference.chat(request))
        assert events[0] == Thinking("hm")
        assert "".join(event.text for event in events[1:-1]) == "no S"
        # It comes after the content that could have been the beginning of a stop text.
        assert events[-1] == ToolCall(0, "now", {})
        assert last.counts == STOPPED

    tell(library, story)


def test_a_completion_gives_its_tokens_back(library: Library) -> None:
    async def story(parts: Parts) -> None:
        request = CompletionRequest(model="one", prompt="hi", context=[9, 8, 7])
        *_, last = await parts.events(await parts.inference.complete(request))
        asked = parts.script.asked[0].prompt
        tokenizer = (await parts.inference.open("one")).tokenizer
        assert asked[:3] == [9, 8, 7]
        assert list(last.context) == [*asked, *tokenizer.encode("blue")]
        raw = CompletionRequest(model="one", prompt="hi", raw=True)
        *_, last = await parts.events(await parts.inference.complete(raw))
        assert last.context == ()
        assert parts.script.asked[1].prompt == tokenizer.encode("hi")

    tell(library, story)


def test_tokens_of_a_conversation_are_counted_without_the_model(library: Library) -> None:
    async def story(parts: Parts) -> None:
        long = (Message("user", "x" * 5000),)
        count = await parts.inference.count(ChatRequest(model="one", messages=long))
        assert count == len("one[user]") + 5000 + 1
        assert parts.script.options == []

    tell(library, story)


def test_what_is_watched(library: Library) -> None:
    async def story(parts: Parts) -> None:
        parts.script.pieces = [TextChunk("a"), TextChunk("b"), DONE]
        await parts.events(await parts.inference.chat(ChatRequest(model="ONE", messages=HI)))
        assert parts.seen.told == [
            ("one:latest", "first", True),
            ("one:latest", "gap", True),
            ("one:latest", 8, 2, 3),
        ]

    tell(library, story)


# Ends


async def reach(parts: Parts, answer: Answer) -> tuple["asyncio.Task[Any]", list[Any]]:
    """A task that reads the answer up to where it waits, and what it has read."""
    events: list[Any] = []

    async def read() -> None:
        try:
            async for event in answer:
                events.append(event)
        finally:
            await answer.aclose()

    task = asyncio.create_task(read())
    await parts.script.reached.wait()
    await asyncio.sleep(0.01)
    return task, events


STAGES: dict[str, list[TextChunk | Done | None]] = {
    "load": [DONE],
    "prompt": [None],
    "answer": [TextChunk("a"), TextChunk("b"), None],
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("by", ["client", "id"])
def test_a_request_ends_at_any_stage(library: Library, stage: str, by: str) -> None:
    async def story(parts: Parts) -> None:
        parts.script.pieces = STAGES[stage]
        answer = await parts.inference.chat(ChatRequest(model="one", messages=HI, id="7", key="ann"))
        task, events = await reach(parts, answer)
        assert [event.text for event in events] == [
            piece.text for piece in STAGES[stage] if isinstance(piece, TextChunk)
        ]
        if by == "client":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            assert not parts.inference.requests.cancel("7", "bob")
            assert parts.inference.requests.cancel("7", "ann")
            with pytest.raises(Interrupted, match="request canceled"):
                await task
        assert parts.script.closed == len(parts.script.asked) == (stage != "load")
        assert all(model.active == 0 for model in parts.scheduler.loaded())
        assert parts.scheduler.queued == 0
        parts.script.load.set()

    tell(library, story, loads=stage != "load")


def test_a_request_is_ended_while_its_client_does_not_read(library: Library) -> None:
    async def story(parts: Parts) -> None:
        parts.script.pieces = [TextChunk("a"), TextChunk("b"), DONE]
        answer = await parts.inference.chat(ChatRequest(model="one", messages=HI, id="7"))
        assert await anext(answer.events) == Content("a")
        assert parts.inference.requests.cancel("7", None)
        with pytest.raises(Interrupted):
            await anext(answer.events)
        assert parts.script.closed == 1
        assert not parts.inference.requests.cancel("7", None)

    tell(library, story)


def test_several_requests_may_have_one_id(library: Library) -> None:
    async def story(parts: Parts) -> None:
        parts.script.pieces = [None]
        tasks = []
        for key in ("ann", "ann", "bob"):
            answer = await parts.inference.chat(ChatRequest(model="one", messages=HI, id="7", key=key))
            tasks.append((await reach(parts, answer))[0])
        assert len(parts.inference.requests) == 3
        assert parts.inference.requests.cancel("7", "ann")
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        await asyncio.sleep(0.01)
        assert [task.done() for task in tasks] == [True, True, False]
        for task in (*done, *pending):
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(one) for one in ended] == [Interrupted, Interrupted, asyncio.CancelledError]

    tell(library, story)


def test_an_answer_that_nobody_reads_holds_nothing(library: Library) -> None:
    async def story(parts: Parts) -> None:
        answer = await parts.inference.chat(ChatRequest(model="one", messages=HI, id="7"))
        await answer.aclose()
        assert (parts.script.options, len(parts.inference.requests)) == ([], 0)

    tell(library, story)


# Vectors and ranks


def test_vectors_as_they_are_asked_for(library: Library) -> None:
    async def story(parts: Parts) -> None:
        inputs: list[str | list[int]] = ["ab", [5, 6, 7]]
        found = await parts.inference.embed(EmbedRequest(model="one", inputs=inputs))
        assert found.vectors == [pytest.approx([0.6, 0.8])] * 2
        assert found.tokens == 2 + 3
        assert parts.script.embedded[0][1] == [5, 6, 7]
        plain = await parts.inference.embed(
            EmbedRequest(model="one", inputs=["a"], normalize=False, dimensions=1)
        )
        assert plain.vectors == [[3.0]]

    tell(library, story)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        (["a", "x" * 200], r"input\[1\] has 200 tokens, but the context holds 128"),
        (["a", ""], r"input\[1\] is empty"),
        (["a", []], r"input\[1\] is empty"),
        (["a", [-1]], r"input\[1\]\[0\] must be a token id from 0 to 258, not -1"),
        (["a", [2**70]], r"input\[1\]\[0\] must be a token id"),
        (["a"] * 3000, "there are 3000 inputs; at most 2048"),
    ],
)
def test_what_cannot_be_embedded(library: Library, inputs: list[Any], error: str) -> None:
    async def story(parts: Parts) -> None:
        with pytest.raises(InvalidOption, match=error):
            await parts.inference.embed(EmbedRequest(model="one", inputs=inputs))
        assert parts.script.embedded == []

    tell(library, story)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_vectors_that_are_none(library: Library, number: float) -> None:
    async def story(parts: Parts) -> None:
        parts.script.vectors = [1.0, number]
        with pytest.raises(BackendError, match=r"the embedding of input\[0\] contains NaN or Inf values"):
            await parts.inference.embed(EmbedRequest(model="one", inputs=["a"]))

    tell(library, story)


def test_a_vector_of_zeros_stays_one(library: Library) -> None:
    async def story(parts: Parts) -> None:
        parts.script.vectors = [0.0, 0.0]
        found = await parts.inference.embed(EmbedRequest(model="one", inputs=["a"]))
        assert found.vectors == [[0.0, 0.0]]

    tell(library, story)


def test_ranks(library: Library) -> None:
    async def story(parts: Parts) -> None:
        parts.script.vectors = [2.5]
        found = await parts.inference.rank(Asked(model="ranks"), "q", ["a", "bc"])
        assert found.vectors == [[2.5], [2.5]]
        tokenizer = (await parts.inference.open("ranks")).tokenizer
        assert parts.script.embedded == [[tokenizer.encode("qa"), tokenizer.encode("qbc")]]
        with pytest.raises(MissingCapability, match=r'^"one" does not support rerank$'):
            await parts.inference.rank(Asked(model="one"), "q", ["a"])

    tell(library, story)
