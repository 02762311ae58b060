"""A model in another process answers as it does in this one, and is asked for no more than is wanted."""

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runner.conftest import (
    ENDLESS,
    GREEDY,
    LOADED,
    OPTIONS,
    Pretend,
    Started,
    answer,
    descriptors,
    until,
)
from tests.tiny_llama import BOS, write_tiny_llama

from puna.engine.events import Done, Event, TextChunk
from puna.engine.load import load_model
from puna.engine.request import GenerateRequest
from puna.errors import (
    ContextLengthExceeded,
    Interrupted,
    InvalidOption,
    OutOfMemory,
    PunaError,
    RunnerDied,
    UnsupportedModel,
)
from puna.gguf.writer import GGUFWriter
from puna.runner import mailbox
from puna.runner.process import Runner
from puna.runner.protocol import Stepped
from puna.sampling.grammar import Grammar
from puna.sampling.parameters import SamplingParameters

pytestmark = pytest.mark.anyio

REQUESTS = [
    GenerateRequest([BOS, 70, 71], GREEDY, num_predict=12),
    GenerateRequest([BOS, *range(60, 160)], SamplingParameters(temperature=1.2, seed=42), num_predict=20),
    GenerateRequest([BOS, 80, 81], GREEDY, num_predict=30, grammar=Grammar.choice(["red", "green"])),
]


def _here(path: Path, request: GenerateRequest) -> str:
    """What the model answers in this process."""
    with load_model(path, OPTIONS) as model:
        events = model.generate(
            request.prompt, request.sampling, num_predict=request.num_predict, grammar=request.grammar
        )
        return "".join(event.text for event in events if isinstance(event, TextChunk))


def _steps(runner: Runner) -> list[Stepped]:
    """The steps from now on."""
    steps: list[Stepped] = []
    runner.on_step = steps.append
    return steps


def _ends(steps: list[Stepped]) -> Callable[[], int]:
    """How many requests have ended in these steps."""
    return lambda: sum(isinstance(event, Done) for step in steps for _, event in step.events)


async def test_it_answers_as_in_process(started: Started, tiny_path: Path) -> None:
    async with started() as runner:
        for request in REQUESTS:
            text, done = await answer(runner, request)
            assert text == _here(tiny_path, request)
            assert done.prompt_tokens == len(request.prompt)
        assert runner.active == 0


async def test_a_load_tells_how_far_it_is_and_what_the_model_takes(started: Started, tiny_path: Path) -> None:
    told: list[float] = []
    async with started(progress=told.append) as runner:
        with load_model(tiny_path, OPTIONS) as model:
            assert runner.loaded.size == model.memory.size
            assert runner.loaded.num_ctx == model.num_ctx
    assert told[0] == 0.0
    assert told == sorted(told)
    assert [device.gpu for device in runner.loaded.devices] == [False]
    assert runner.loaded.devices[0].layers == runner.loaded.layers == 3


async def test_a_plan_is_what_a_load_takes(started: Started, tiny_path: Path) -> None:
    planned = await Runner.plan(tiny_path, OPTIONS)
    async with started() as runner:
        assert runner.loaded == planned


async def test_what_is_no_model_fails_as_in_process(tmp_path: Path) -> None:
    text, other = tmp_path / "text.gguf", tmp_path / "other.gguf"
    text.write_bytes(b"no model at all")
    with GGUFWriter(other) as writer:
        writer.add("general.architecture", "perceptron")
    for path, kind in ((text, PunaError), (other, UnsupportedModel), (tmp_path / "none.gguf", PunaError)):
        with pytest.raises(kind) as here:
            load_model(path)
        with pytest.raises(kind) as there:
            await Runner.start(path, OPTIONS)
        with pytest.raises(kind) as planned:
            await Runner.plan(path, OPTIONS)
        assert str(there.value) == str(planned.value) == str(here.value)
        assert type(there.value) is type(here.value)


async def test_several_requests_at_once_each_get_their_answer(started: Started, tiny_path: Path) -> None:
    async with started(options=replace(OPTIONS, num_parallel=2)) as runner:
        answers = await asyncio.gather(*(answer(runner, request) for request in REQUESTS * 2))
    assert [text for text, _ in answers] == [_here(tiny_path, request) for request in REQUESTS * 2]


async def test_a_request_that_fails_fails_alone(started: Started) -> None:
    async with started(options=replace(OPTIONS, num_ctx=64)) as runner:
        going = asyncio.create_task(answer(runner, ENDLESS))
        with pytest.raises(ContextLengthExceeded) as caught:
            await answer(runner, GenerateRequest([70] * 65))
        assert (caught.value.length, caught.value.limit) == (65, 64)
        with pytest.raises(InvalidOption, match="grammar"):
            await answer(runner, GenerateRequest([70], grammar=Grammar.gbnf("root ::= (")))
        assert (await going)[1].reason == "length"
        assert runner.active == 0


async def test_leaving_an_answer_ends_it(started: Started) -> None:
    async with started() as runner:
        steps = _steps(runner)
        async with aclosing(runner.generate(ENDLESS)) as events:
            assert isinstance(await anext(events), TextChunk)
            assert runner.active == 1
        assert runner.active == 0
        await until(lambda: _ends(steps)() == 1)
        assert (await answer(runner, REQUESTS[0]))[1].generated_tokens == 12
        assert runner.active == 0


async def test_an_answer_that_is_halted_is_counted_by_the_runner(started: Started) -> None:
    async with started() as runner:
        steps, read = _steps(runner), list[Event]()
        async for event in runner.generate(ENDLESS, lambda: len(read) == 3):
            read.append(event)
        *texts, done = read
        assert isinstance(done, Done)
        assert [type(text) for text in texts] == [TextChunk] * 3
        assert (done.reason, done.prompt_tokens) == ("stop", len(ENDLESS.prompt))
        # All that it has generated, read or not: a token a step.
        assert done.generated_tokens == sum(step.sequences for step in steps if step.tokens)
        assert runner.active == 0


@pytest.mark.parametrize("pause", [0.0, 0.05])
async def test_cancelling_who_waits_ends_the_request(started: Started, slow_path: Path, pause: float) -> None:
    async with started(slow_path) as runner:
        steps = _steps(runner)
        long = GenerateRequest([2 + i % 250 for i in range(1500)], GREEDY)
        task = asyncio.create_task(answer(runner, long))
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert runner.active == 0
        assert (await answer(runner, REQUESTS[0]))[1].generated_tokens == 12
        assert sum(len(step.events) for step in steps) < 100


async def test_an_answer_that_nobody_reads_is_given_up(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "LIMIT", 5000)
    async with started() as runner:
        steps = _steps(runner)
        events = runner.generate(ENDLESS)
        first = await anext(events)
        await until(lambda: runner.active == 0)
        await until(lambda: _ends(steps)() == 1)
        read = [first]
        with pytest.raises(Interrupted, match="not read"):
            while True:
                read.append(await anext(events))
        assert 40 < len(read) < 60
        assert (await answer(runner, REQUESTS[0]))[1].reason == "length"


async def test_another_size_of_context(started: Started) -> None:
    async with started(options=replace(OPTIONS, num_ctx=64)) as runner:
        assert (await answer(runner, ENDLESS))[1].generated_tokens == 61
        await runner.resize(replace(OPTIONS, num_ctx=128))
        assert runner.loaded.num_ctx == 128
        assert (await answer(runner, ENDLESS))[1].generated_tokens == 125


async def test_a_model_goes_on_where_another_cache_does_not_fit(started: Started) -> None:
    async with started(memory=200 << 20) as runner:
        expected, _ = await answer(runner, REQUESTS[0])
        with pytest.raises(OutOfMemory):
            await runner.resize(replace(OPTIONS, num_batch=4096, num_parallel=64))
        assert (await answer(runner, REQUESTS[0]))[0] == expected


async def test_a_model_is_not_resized_while_it_answers(started: Started) -> None:
    async with started() as runner, aclosing(runner.generate(ENDLESS)) as events:
        await anext(events)
        with pytest.raises(InvalidOption, match="while it answers"):
            await runner.resize(OPTIONS)
        assert isinstance(await anext(events), TextChunk)


async def test_vectors(started: Started, pretend: Pretend) -> None:
    async with started() as runner:
        one, two = await runner.embed([[1, 2], [3]])
        assert len(one) == len(two) > 0
        assert one != two
        assert (await answer(runner, REQUESTS[0]))[1].generated_tokens == 12
    pretend(
        LOADED
        + """
import struct
asked = hear()
say(Embedded(asked.id, [struct.pack("<2f", len(text), 0.5) for text in asked.inputs]))
hear()
"""
    )
    async with started() as runner:
        assert [[*vector] for vector in await runner.embed([[1, 2], [3]])] == [[2.0, 0.5], [1.0, 0.5]]


async def test_a_stop_ends_what_runs(started: Started) -> None:
    async with started() as runner:
        task = asyncio.create_task(answer(runner, ENDLESS))
        await until(lambda: runner.active == 1)
        await runner.stop()
        with pytest.raises(RunnerDied, match="was stopped"):
            await task
        assert runner.died.done()
        for asked in (answer(runner, ENDLESS), runner.embed([[1]]), runner.resize(OPTIONS)):
            with pytest.raises(RunnerDied, match="was stopped"):
                await asked
        await runner.stop()


async def test_a_load_that_is_cancelled_leaves_no_process(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "large.gguf", blocks=40, hidden=512)
    for pause in (0.0, 0.01, 0.1, 0.2):
        task = asyncio.create_task(Runner.start(path, OPTIONS))
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.slow)])
async def test_starting_and_stopping_uses_nothing_up(started: Started, rounds: int) -> None:
    async with started():
        pass
    before = descriptors()
    for index in range(rounds):
        async with started() as runner:
            if index % 2:
                await answer(runner, REQUESTS[0])
        assert descriptors() == before


async def test_no_stranger_can_connect(started: Started) -> None:
    async with started() as runner:
        opened = Path(f"/proc/{runner.pid}/fd")
        sockets = {os.readlink(file) for file in opened.iterdir()}
        inodes = {link[8:-1] for link in sockets if link.startswith("socket:[")}
        assert len(inodes) == 1
        for table in ("tcp", "tcp6", "udp", "udp6"):
            rows = Path(f"/proc/{runner.pid}/net/{table}").read_text().splitlines()[1:]
            assert not inodes & {row.split()[9] for row in rows}
        # A row of a socket without a name ends with its inode.
        rows = Path(f"/proc/{runner.pid}/net/unix").read_text().splitlines()[1:]
        assert [row.split()[6:] for row in rows if row.split()[6] in inodes] == [[inode] for inode in inodes]


async def test_what_a_runner_inherits(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {"PUNA_API_KEYS": "k", "HF_TOKEN": "t", "GGML_BACKEND_PATH": "/tmp/x.so", "HTTPS_PROXY": "p"}
    for name, value in (secret | {"PUNA_GGML_PATH": "", "LC_ALL": "C.UTF-8"}).items():
        monkeypatch.setenv(name, value)
    reading, writing = os.pipe()
    os.set_inheritable(reading, True)
    try:
        async with started() as runner:
            place = Path(f"/proc/{runner.pid}")
            names = {
                entry.partition(b"=")[0].decode() for entry in (place / "environ").read_bytes().split(b"\0")
            }
            kept = {os.readlink(file) for file in (place / "fd").iterdir()}
            ours = int(Path("/proc/self/oom_score_adj").read_text())
            assert int((place / "oom_score_adj").read_text()) > ours
            assert os.getsid(runner.pid) == runner.pid
    finally:
        inherited = os.readlink(f"/proc/self/fd/{reading}")
        os.close(reading)
        os.close(writing)
    assert {"PATH", "LC_ALL", "PUNA_GGML_PATH"} <= names
    assert not secret.keys() & names
    assert inherited not in kept


async def test_a_file_in_the_current_folder_is_not_run(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "msgspec", "queue"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file')")
    monkeypatch.chdir(tmp_path)
    async with started() as runner:
        assert (await answer(runner, REQUESTS[0]))[1].generated_tokens == 12


async def test_a_ceiling_on_memory(tiny_path: Path, started: Started) -> None:
    async with started(memory=2 << 30) as runner:
        assert (await answer(runner, REQUESTS[0]))[1].generated_tokens == 12
        limits = Path(f"/proc/{runner.pid}/limits").read_text()
        assert f"Max data size             {2 << 30}" in limits
    with pytest.raises(PunaError, match=r"[Mm]emory"):
        await Runner.start(tiny_path, replace(OPTIONS, num_batch=4096, num_parallel=64), memory=200 << 20)
