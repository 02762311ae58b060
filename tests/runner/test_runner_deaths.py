"""However a runner ends, everybody who waits for it learns why, and nothing of it is left."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.runner.conftest import (
    ENDLESS,
    FALSE,
    LOADED,
    OPTIONS,
    Pretend,
    Started,
    answer,
    descriptors,
    exists,
    until,
)

from puna.engine.events import TextChunk
from puna.errors import PunaError, RunnerDied
from puna.runner.child import OUTPUT_KEPT
from puna.runner.ending import UNEXPECTED
from puna.runner.process import Runner

pytestmark = pytest.mark.anyio


async def _running(runner: Runner, requests: int = 4) -> list["asyncio.Task[object]"]:
    """Requests that have begun to be answered or wait for it, and do not end by themselves soon."""
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(answer(runner, ENDLESS)) for _ in range(requests)
    ]
    begun = asyncio.Event()
    runner.on_step = lambda step: begun.set()
    await begun.wait()
    return tasks


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL", "SIGTERM"])
async def test_a_signal_ends_every_request_with_its_name(started: Started, name: str) -> None:
    async with started() as runner:
        tasks = await _running(runner)
        os.kill(runner.pid, getattr(signal, name))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(end) for end in ends} == {RunnerDied}
        assert {str(end).startswith(f"{UNEXPECTED}: it was ended by {name}") for end in ends} == {True}
        assert ("memory runs out" in str(ends[0])) == (name == "SIGKILL")
        assert ("Segmentation fault" in str(ends[0])) == (name == "SIGSEGV")
        assert runner.died.done()
        with pytest.raises(RunnerDied, match=name):
            await answer(runner, ENDLESS)
    async with started() as runner:
        assert not runner.died.done()


async def test_ctrl_c_in_the_terminal_is_not_for_the_runner(started: Started) -> None:
    async with started() as runner:
        events = runner.generate(ENDLESS)
        await anext(events)
        os.kill(runner.pid, signal.SIGINT)
        for _ in range(500):
            assert isinstance(await anext(events), TextChunk)
        await events.aclose()


ABORTING = """
import sys
from puna.runner import worker
from puna.ggml import load
from puna.ggml.enums import Type
from puna.ggml.layouts import ggml_init_params

def step(self):
    library = load()
    context = library.ggml_init(ggml_init_params(1 << 20, None, True))
    a = library.ggml_new_tensor_2d(context, Type.F32, 64, 5)
    b = library.ggml_new_tensor_2d(context, Type.F32, 63, 5)
    library.ggml_mul_mat(context, a, b)

worker.Served._step = step
sys.exit(worker.main(sys.argv[1:]))
"""


async def test_what_the_compute_library_said_when_it_gave_up(started: Started, pretend: Pretend) -> None:
    pretend(ABORTING)
    async with started() as runner:
        with pytest.raises(RunnerDied, match=r"GGML_ASSERT\(ggml_can_mul_mat\(a, b\)\) failed"):
            await answer(runner, ENDLESS)


async def test_a_fault_in_python_is_named(started: Started, pretend: Pretend) -> None:
    pretend(LOADED + "hear()\nraise LookupError('the table has no such row')")
    async with started() as runner:
        with pytest.raises(RunnerDied, match=r"status 1; its last words: 'LookupError: the table has no"):
            await answer(runner, ENDLESS)


async def test_a_runner_that_ends_while_it_loads(tiny_path: Path, pretend: Pretend) -> None:
    pretend(FALSE + "hear()\nsay(Loading(0.5))\nprint('no room', flush=True)\nos._exit(3)")
    for start in (Runner.start(tiny_path, OPTIONS), Runner.plan(tiny_path, OPTIONS)):
        with pytest.raises(RunnerDied, match="status 3; its last words: 'no room'"):
            await start


async def test_a_runner_that_cannot_be_started(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RunnerDied, match=r"can be started: No such file"):
        await Runner.start(tiny_path, OPTIONS)


@pytest.mark.parametrize("left", range(6))
async def test_a_runner_for_which_no_file_can_be_opened(tiny_path: Path, left: int) -> None:
    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(before + left)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
    try:
        for descriptor in spare[-left:] if left else ():
            os.close(descriptor)
        with pytest.raises(RunnerDied, match="can be started: Too many open files"):
            await Runner.start(tiny_path, OPTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in spare[: len(spare) - left]:
            os.close(descriptor)
    assert descriptors() == before


async def test_a_load_that_stalls_is_given_up(tiny_path: Path, pretend: Pretend) -> None:
    for code in ("hear()", "hear()\nwhile True:\n    say(Loading(0.5))\n    time.sleep(0.01)"):
        pretend(FALSE + code + "\nhear()")
        with pytest.raises(RunnerDied, match=r"timed out waiting for the runner to load the model.* 0\.5 s"):
            await Runner.start(tiny_path, OPTIONS, stall=0.5)


async def test_a_slow_load_that_goes_on_is_waited_for(started: Started, pretend: Pretend) -> None:
    pretend(FALSE + "hear()\nfor i in range(20):\n    say(Loading(i / 20))\n    time.sleep(0.1)\n")
    told: list[float] = []
    with pytest.raises(RunnerDied, match="status 0"):
        async with started(stall=1.5, progress=told.append):
            pass
    assert told == [i / 20 for i in range(20)]


@pytest.mark.parametrize(
    "said",
    [
        "line.sendall(LENGTH.pack(MAX_MESSAGE + 1))",
        "line.sendall(LENGTH.pack(3) + b'\\xc1ab')",
        "say(Stop())",
        "line.sendall(LENGTH.pack(0))",
    ],
)
async def test_what_cannot_be_understood_ends_the_runner(
    started: Started, pretend: Pretend, said: str
) -> None:
    pretend(LOADED + f"hear()\n{said}\nhear()")
    async with started() as runner:
        with pytest.raises(RunnerDied, match="cannot be understood"):
            await answer(runner, ENDLESS)


async def test_a_runner_that_hangs_is_ended_after_a_while(started: Started) -> None:
    async with started(step_timeout=1.0) as runner:
        tasks = await _running(runner)
        os.kill(runner.pid, signal.SIGSTOP)
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert {str(end) for end in ends} == {f"{UNEXPECTED}: it did nothing for 1 seconds"}


async def test_a_runner_with_nothing_to_do_may_be_silent(started: Started) -> None:
    async with started(step_timeout=0.3) as runner:
        events = runner.generate(ENDLESS)
        await anext(events)
        await events.aclose()
        await asyncio.sleep(1.0)
        assert not runner.died.done()


TWICE = """
for pause in (0.0, 1.0):
    asked = hear()
    time.sleep(pause)
    say(Embedded(asked.id, [b"" for text in asked.inputs]))
hear()
"""


async def test_silence_between_requests_does_not_count(started: Started, pretend: Pretend) -> None:
    pretend(LOADED + TWICE)
    async with started(step_timeout=2.0) as runner:
        assert len(await runner.embed([[1]])) == 1
        await asyncio.sleep(1.5)
        # It comes while the time of the one before is not up, and ends after that.
        assert len(await runner.embed([[2]])) == 1


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsay(Loaded(64, 1, []))\nwhile True:\n    time.sleep(1)"


async def test_a_runner_that_does_not_want_to_end_is_made_to(started: Started, pretend: Pretend) -> None:
    async with started() as runner:
        os.kill(runner.pid, signal.SIGSTOP)
        await runner.stop(0.2)
        assert not exists(runner.pid)
    pretend(FALSE + DEAF)
    async with started() as runner:
        await runner.stop(0.2)
        assert not exists(runner.pid)


async def test_a_stop_that_is_cancelled_ends_the_runner_all_the_same(started: Started) -> None:
    async with started() as runner:
        os.kill(runner.pid, signal.SIGSTOP)
        stop = asyncio.create_task(runner.stop(60.0))
        await asyncio.sleep(0.05)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop
        await until(lambda: runner.died.done())


async def test_a_runner_that_hangs_up_is_not_left_running(started: Started, pretend: Pretend) -> None:
    pretend(LOADED + "hear()\nline.close()\nwhile True:\n    time.sleep(1)")
    async with started() as runner:
        with pytest.raises(RunnerDied, match="SIGKILL"):
            await answer(runner, ENDLESS)


async def test_only_the_end_of_what_a_runner_writes_is_kept(started: Started, pretend: Pretend) -> None:
    pretend(LOADED + "hear()\nfor i in range(4000):\n    print('x' * 1000)\nprint('the end')")
    async with started() as runner:
        with pytest.raises(RunnerDied, match="'the end'"):
            await answer(runner, ENDLESS)
        assert runner._child is not None
        assert len(runner._child.ended.result().output) == OUTPUT_KEPT


async def test_what_a_runner_writes_is_logged(
    started: Started, pretend: Pretend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "puna.runner")
    pretend(LOADED + "os.write(1, b'one\\ntwo\\x1b[2Jthree\\xff\\nand')\nhear()")
    async with started() as runner:
        await runner.stop()
        said = [f"runner {runner.pid}: {text}" for text in ("one", "two�[2Jthree�", "and")]
        assert [record.message for record in caplog.records if record.name == "puna.runner"] == said


async def test_who_is_told_of_a_failed_load_gets_no_other_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 16)
    for _ in range(5):
        with pytest.raises(PunaError) as caught:
            await Runner.start(path, OPTIONS)
        assert str(path) in str(caught.value)


PARENT = """
import asyncio, os, sys, time
from pathlib import Path
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.runner.process import Runner

async def main():
    runner = await Runner.start(Path(sys.argv[1]), LoadOptions(num_threads=1))
    events = [runner.generate(GenerateRequest([2 + i % 250 for i in range(1500)])) for _ in range(2)]
    waiting = [asyncio.ensure_future(anext(event)) for event in events]
    await asyncio.sleep(0.05)
    if sys.argv[2] == "answering":
        await waiting[0]
    print(runner.pid, flush=True)
    time.sleep(600)     # reads nothing more of what the runner says

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["computing", "answering", "stopped"])
def test_a_runner_ends_with_its_server(slow_path: Path, tiny_path: Path, when: str) -> None:
    path = slow_path if when == "computing" else tiny_path
    command = [sys.executable, "-c", PARENT, str(path), when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.2)
        assert exists(pid)
        if when == "stopped":
            os.kill(pid, signal.SIGSTOP)
        parent.kill()
    if when == "stopped" and sys.platform != "linux":
        os.kill(pid, signal.SIGCONT)
    deadline = time.monotonic() + 30
    while exists(pid):
        assert time.monotonic() < deadline, "the runner goes on without its server"
        time.sleep(0.02)


def test_it_is_of_no_use_by_hand() -> None:
    done = subprocess.run([sys.executable, "-m", "puna.runner"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"puna\.runner is started by the server: .*\n", done.stderr)
