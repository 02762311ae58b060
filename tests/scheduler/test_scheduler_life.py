"""The scheduler with runners that pretend, on a clock that jumps: one story each."""

import asyncio
import math
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from tests.scheduler.pretended_runners import MB, Machine, PretendedRunner, held
from tests.scheduler.virtual_time import run

from puna.engine.options import LoadOptions
from puna.errors import (
    GGUFError,
    InternalError,
    InvalidOption,
    OutOfMemory,
    Overloaded,
    PunaError,
    RunnerDied,
)
from puna.runner.protocol import Device, Loaded
from puna.scheduler.scheduler import RunningModel, Scheduler
from puna.scheduler.state import ModelSource, SchedulerOptions


def story(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @wraps(test)
    def told() -> None:
        run(test())

    return told


def now() -> float:
    return asyncio.get_running_loop().time()


async def use(
    scheduler: Scheduler,
    name: str,
    seconds: float = 1.0,
    asked: LoadOptions | None = None,
    keep_alive: float | None = None,
) -> float:
    """Holds a lease; the moment when it was granted."""
    async with held(scheduler, name, asked, keep_alive):
        granted = now()
        await asyncio.sleep(seconds)
    return granted


def names(scheduler: Scheduler) -> list[str]:
    return [model.name for model in scheduler.loaded()]


@story
async def test_requests_of_one_model_share_one_load_and_run_side_by_side() -> None:
    machine = Machine()
    scheduler = machine.scheduler()
    assert await asyncio.gather(*(use(scheduler, "a", 5.0) for _ in range(8))) == [1.0] * 8
    assert now() == 6.0
    assert machine.loads == [("a", LoadOptions(num_ctx=4096, num_parallel=4))]
    async with held(scheduler, "a") as lease:
        assert lease.load_seconds == 0.0
    await scheduler.close(1.0)


@story
async def test_what_is_loaded_is_told_as_it_is() -> None:
    machine = Machine(weights={"a": 50 * MB})
    scheduler = machine.scheduler()
    task = asyncio.create_task(use(scheduler, "a", 10.0, keep_alive=60.0))
    await asyncio.sleep(0.5)
    (model,) = scheduler.loaded()
    assert (model.size, model.expires, model.pid) == (0, 60.0, 0)
    await asyncio.sleep(1.0)
    (model,) = scheduler.loaded()
    assert (model.digest, model.active, model.expires) == ("sha256-a", 1, 60.0)
    assert (model.size, model.gpu_size, model.num_ctx) == (51 * MB + 4 * 4096 * 1000, 0, 4096)
    await task
    await asyncio.sleep(20.0)
    (model,) = scheduler.loaded()
    assert (model.active, model.expires) == (0, 40.0)
    await asyncio.sleep(39.9)
    assert names(scheduler) == ["a"]
    await asyncio.sleep(0.2)
    assert names(scheduler) == []
    await asyncio.sleep(0.1)
    assert machine.running == []
    await scheduler.close(1.0)


@story
async def test_how_long_a_model_stays() -> None:
    machine = Machine()
    scheduler = machine.scheduler(SchedulerOptions(keep_alive=10.0))
    await use(scheduler, "a")
    await asyncio.sleep(9.0)
    assert names(scheduler) == ["a"]
    await use(scheduler, "a")  # starts the time anew
    await asyncio.sleep(9.0)
    assert names(scheduler) == ["a"]
    await use(scheduler, "a", keep_alive=100.0)  # the newest word counts
    await use(scheduler, "a")
    await asyncio.sleep(99.0)
    assert names(scheduler) == ["a"]
    await use(scheduler, "a", keep_alive=0.0)
    await asyncio.sleep(0.2)
    assert names(scheduler) == []
    assert machine.running == []
    await use(scheduler, "a", keep_alive=math.inf)
    await asyncio.sleep(1e7)
    assert names(scheduler) == ["a"]
    assert scheduler.loaded()[0].expires == math.inf
    await scheduler.close(1.0)


@story
async def test_ceilings_for_what_requests_may_ask_for() -> None:
    scheduler = Machine().scheduler(SchedulerOptions(max_keep_alive=60.0, max_ctx=8192))
    await use(scheduler, "a", keep_alive=math.inf)
    assert scheduler.loaded()[0].expires == 60.0
    with pytest.raises(InvalidOption, match="at most 8192"):
        await use(scheduler, "a", asked=LoadOptions(num_ctx=10**9))
    await asyncio.sleep(61.0)
    assert names(scheduler) == []
    await scheduler.close(1.0)


@story
async def test_unloading_waits_for_what_runs() -> None:
    machine = Machine()
    scheduler = machine.scheduler()
    assert not await scheduler.unload("sha256-a")
    await use(scheduler, "a", keep_alive=math.inf)
    assert await scheduler.unload("sha256-a")
    assert machine.running == []
    task = asyncio.create_task(use(scheduler, "a", 10.0, keep_alive=math.inf))
    await asyncio.sleep(0.5)
    assert await scheduler.unload("sha256-a")  # while it is loaded
    await asyncio.sleep(5.0)
    assert names(scheduler) == ["a"]
    await task
    await asyncio.sleep(0.2)
    assert machine.running == []
    task = asyncio.create_task(use(scheduler, "a", 10.0))
    await asyncio.sleep(5.0)
    assert await scheduler.unload("sha256-a")  # while it is used
    assert names(scheduler) == ["a"]
    await task
    await asyncio.sleep(0.2)
    assert machine.running == []
    await scheduler.close(1.0)


@story
async def test_unloading_at_once_waits_for_nobody() -> None:
    machine = Machine()
    scheduler = machine.scheduler()
    assert not await scheduler.unload("sha256-a", at_once=True)
    for moment in (0.5, 5.0):  # while it is loaded, and while it is used
        task = asyncio.create_task(use(scheduler, "a", 10.0, keep_alive=math.inf))
        await asyncio.sleep(moment)
        task.cancel()
        assert await scheduler.unload("sha256-a", at_once=True)
        assert machine.running == []
        assert names(scheduler) == []
        assert task.cancelled()
    # It was no crash, so it is loaded again when somebody wants it.
    await use(scheduler, "a")
    await scheduler.close(1.0)


@story
async def test_a_full_queue() -> None:
    scheduler = Machine(most=1).scheduler(SchedulerOptions(max_loaded=1, max_queue=2))
    async with held(scheduler, "a"):
        waiting = [asyncio.create_task(use(scheduler, "b")) for _ in range(2)]
        await asyncio.sleep(7.0)
        assert scheduler.queued == 2
        with pytest.raises(Overloaded) as caught:
            await use(scheduler, "b")
        assert str(caught.value) == "server busy, please try again.  maximum pending requests exceeded"
        assert caught.value.retry_after == 7
        assert scheduler.queued == 2
    await asyncio.gather(*waiting)
    # Who need not wait needs no place.
    async with held(scheduler, "b"):
        waiting = [asyncio.create_task(use(scheduler, "b", asked=LoadOptions(num_threads=i))) for i in (1, 2)]
        await asyncio.sleep(0)
        assert scheduler.queued == 2
    await asyncio.gather(*waiting)
    await scheduler.close(1.0)


@story
async def test_a_steady_stream_does_not_starve_another_model() -> None:
    scheduler = Machine(most=1).scheduler(SchedulerOptions(max_loaded=1))

    async def client(start: float) -> None:
        await asyncio.sleep(start)
        await use(scheduler, "a", 3.0)

    stream = [asyncio.create_task(client(float(i))) for i in range(100)]
    await asyncio.sleep(10.5)
    assert await use(scheduler, "b") < 20.0
    await asyncio.gather(*stream)
    await scheduler.close(1.0)


@story
async def test_who_goes_away_gives_up_its_place_and_what_only_it_waited_for() -> None:
    machine = Machine(seconds=lambda: 100.0)
    scheduler = machine.scheduler()
    first = asyncio.create_task(use(scheduler, "a"))
    second = asyncio.create_task(use(scheduler, "a"))
    third = asyncio.create_task(use(scheduler, "b"))
    await asyncio.sleep(5.0)
    assert scheduler.queued == 3
    first.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (scheduler.queued, machine.starting) == (2, 1)
    second.cancel()
    await asyncio.sleep(1.0)
    assert scheduler.queued == 1
    assert [name for name, _ in machine.loads] == ["a", "b"]
    assert await third == 105.0
    await scheduler.close(1.0)


@story
async def test_a_plan_that_nobody_waits_for_stops() -> None:
    machine = Machine(plan_seconds=100.0)
    scheduler = machine.scheduler()
    await use(scheduler, "a")
    task = asyncio.create_task(use(scheduler, "b"))
    await asyncio.sleep(1.0)
    assert machine.planning == 1
    task.cancel()
    await asyncio.sleep(1.0)
    assert machine.planning == 0
    await scheduler.close(1.0)


@story
async def test_a_resize_that_ends_while_all_ends_brings_nothing_back() -> None:
    machine = Machine(resize_seconds=1.0, stop_seconds=5.0)
    scheduler = machine.scheduler()
    await use(scheduler, "a")
    task = asyncio.create_task(use(scheduler, "a", asked=LoadOptions(num_batch=64)))
    await asyncio.sleep(0.5)
    closing = asyncio.create_task(scheduler.close(1.0))
    await asyncio.sleep(1.0)
    assert scheduler.loaded() == []
    await closing
    with pytest.raises(Overloaded):
        await task


@story
async def test_going_away_at_the_very_moment_of_each_event_leaves_nothing() -> None:
    for turns in range(12):
        machine = Machine(seconds=lambda: 0.0, plan_seconds=0.0)
        scheduler = machine.scheduler()
        task = asyncio.create_task(use(scheduler, "a", 0.0, keep_alive=0.0))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(1.0)
        assert (scheduler.queued, scheduler.loaded(), machine.running) == (0, [], []), turns
        await scheduler.close(1.0)


@story
async def test_another_context_remakes_the_cache_and_keeps_the_weights() -> None:
    machine = Machine()
    scheduler = machine.scheduler()
    first = asyncio.create_task(use(scheduler, "a", 10.0))
    await asyncio.sleep(2.0)
    larger = asyncio.create_task(use(scheduler, "a", 1.0, LoadOptions(num_ctx=8192)))
    await asyncio.sleep(1.0)
    later = asyncio.create_task(use(scheduler, "a"))
    await asyncio.sleep(1.0)
    assert await first == 1.0
    assert await larger == await later == 11.6  # a plan and the new cache after the first has ended
    assert scheduler.loaded()[0].num_ctx == 8192
    assert len(machine.loads) == 1
    await use(scheduler, "a")
    assert scheduler.loaded()[0].num_ctx == 8192
    await use(scheduler, "a", asked=LoadOptions(num_threads=1))
    assert len(machine.loads) == 2
    await scheduler.close(1.0)


@story
async def test_a_load_that_fails_fails_all_who_waited_and_the_next_tries_again() -> None:
    faults = [GGUFError("the file is broken"), None]
    machine = Machine(fault=lambda: faults.pop(0))
    scheduler = machine.scheduler()
    answers = await asyncio.gather(*(use(scheduler, "a") for _ in range(3)), return_exceptions=True)
    assert [str(answer) for answer in answers] == ["the file is broken"] * 3
    assert scheduler.loaded() == []
    await use(scheduler, "a")
    await scheduler.close(1.0)


@story
async def test_the_file_of_an_image_encoder_counts() -> None:
    """Where a file is large against the memory, a plan comes before the load."""
    with TemporaryDirectory() as folder:
        projector = Path(folder) / "mmproj.gguf"
        with projector.open("wb") as file:
            file.truncate(20_000 * MB)
        scheduler = Machine(total=30_000 * MB).scheduler()
        asked = LoadOptions(projector=str(projector))
        assert await use(scheduler, "a", asked=asked) == 1.1  # a plan, and the load
        await scheduler.close(1.0)


class Faulty(Machine):
    """Its plans fail of a fault of the program."""

    async def plan(self, path: Path, options: LoadOptions) -> Loaded:
        raise LookupError("no such row")


@story
async def test_a_fault_of_the_program_fails_who_waited_and_holds_nobody_else_up() -> None:
    faults = [OSError("no file left"), None, None]
    machine = Faulty(fault=lambda: faults.pop(0))
    scheduler = machine.scheduler()
    answers = await asyncio.gather(*(use(scheduler, "a") for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [InternalError] * 3
    with pytest.raises(InternalError, match="LookupError"):
        await use(scheduler, "b", asked=LoadOptions(num_ctx=8192))
    assert (scheduler.loaded(), scheduler.queued) == ([], 0)
    await use(scheduler, "a")
    await scheduler.close(1.0)


@story
async def test_a_fault_after_a_load_leaves_no_process() -> None:
    def fail(source: ModelSource, runner: RunningModel, seconds: float) -> None:
        raise LookupError("no such row")

    machine = Machine()
    scheduler = Scheduler(
        SchedulerOptions(),
        start=machine.start,
        plan=machine.plan,
        clock=now,
        memory=machine.memory,
        ready=fail,
    )
    with pytest.raises(InternalError):
        await use(scheduler, "a")
    await asyncio.sleep(1.0)
    assert (scheduler.loaded(), machine.running) == ([], [])
    await scheduler.close(1.0)


@story
async def test_a_resize_that_fails_of_a_fault_of_the_program() -> None:
    async def resize(self: PretendedRunner, options: LoadOptions) -> None:
        raise LookupError("no such row")

    machine = Machine()
    scheduler = machine.scheduler()
    await use(scheduler, "a")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(PretendedRunner, "resize", resize)
        with pytest.raises(InternalError):
            await use(scheduler, "a", asked=LoadOptions(num_ctx=8192))
    await use(scheduler, "a", asked=LoadOptions(num_ctx=8192))
    assert len(machine.loads) == 2
    await scheduler.close(1.0)


class TwoGPUs(Machine):
    def report(self, path: Path, options: LoadOptions) -> Loaded:
        loaded = super().report(path, options)
        gpus = [] if options.num_gpu_layers == 0 else [Device(f"G{i}", True, MB, 0, 0) for i in range(2)]
        return Loaded(loaded.num_ctx, loaded.num_parallel, [*loaded.devices, *gpus], loaded.layers)


@story
async def test_a_model_without_gpus_does_not_make_them_forgotten() -> None:
    scheduler = TwoGPUs(most=6).scheduler()
    await use(scheduler, "a")
    await use(scheduler, "b")
    await use(scheduler, "c", asked=LoadOptions(num_gpu_layers=0))
    await use(scheduler, "d")
    # Three for each GPU.
    assert sorted(names(scheduler)) == ["a", "b", "c", "d"]
    await scheduler.close(1.0)


@story
async def test_a_runner_that_dies_idle_is_no_longer_told_of() -> None:
    machine = Machine()
    scheduler = machine.scheduler()
    await use(scheduler, "a")
    machine.running[0].die()
    await asyncio.sleep(0)
    assert scheduler.loaded() == []
    await use(scheduler, "a")
    assert len(machine.loads) == 2
    await scheduler.close(1.0)


@pytest.mark.parametrize("told_first", [True, False])
def test_a_runner_that_keeps_dying_is_left_alone_for_longer_and_longer(told_first: bool) -> None:
    run(crashes(told_first))


async def crashes(told_first: bool) -> None:
    """`told_first`: the request hears of it before the scheduler does."""
    machine = Machine()
    scheduler = machine.scheduler()

    async def crash() -> None:
        async with held(scheduler, "a") as lease:
            assert isinstance(lease.runner, PretendedRunner)
            lease.runner.die()
            if not told_first:
                await asyncio.sleep(0.1)
            raise RunnerDied("it was killed by signal 11")

    for _ in range(2):
        # Loaded again at once after the first time.
        with pytest.raises(RunnerDied, match=r"^it was killed"):
            await crash()
    with pytest.raises(RunnerDied, match=r"died 2 times .* try again in 1 s; .* killed by signal 11"):
        await crash()
    assert len(machine.loads) == 2
    await asyncio.sleep(1.0)
    await use(scheduler, "a")
    await scheduler.close(1.0)


@story
async def test_a_load_that_dies_counts_as_a_crash() -> None:
    machine = Machine(fault=lambda: RunnerDied("exit status 139"))
    scheduler = machine.scheduler()
    for _ in range(2):
        with pytest.raises(RunnerDied, match="139"):
            await use(scheduler, "a")
    with pytest.raises(RunnerDied, match="died 2 times"):
        await use(scheduler, "a")
    assert len(machine.loads) == 2
    await scheduler.close(1.0)


@story
async def test_memory_that_is_short_only_when_it_is_taken() -> None:
    machine = Machine(weights={"a": 400 * MB, "b": 400 * MB}, total=1000 * MB, hidden=170 * MB)
    scheduler = machine.scheduler()
    await use(scheduler, "a")
    await use(scheduler, "b")  # the plan fits, the load does not: the other has to go
    assert names(scheduler) == ["b"]
    assert [name for name, _ in machine.loads] == ["a", "b", "b"]
    machine.hidden = 590 * MB
    await scheduler.unload("sha256-b")
    await use(scheduler, "b")
    # 400 MB of weights and 16.4 MB of cache did not go into 410 MB, 4.1 MB did.
    assert [options.num_parallel for _, options in machine.loads[3:]] == [4, 1]
    machine.hidden = 598 * MB
    await scheduler.unload("sha256-b")
    with pytest.raises(OutOfMemory, match=r"'b' with 2048 tokens of context needs 403 MB"):
        await use(scheduler, "b")
    assert [options.num_ctx for _, options in machine.loads[5:]] == [4096, 4096, 2048]
    with pytest.raises(OutOfMemory):
        await use(scheduler, "b", asked=LoadOptions(num_ctx=4096))
    assert scheduler.loaded() == []
    await scheduler.close(1.0)


@story
async def test_a_resize_that_does_not_fit_ends_in_an_error_and_the_model_goes_on() -> None:
    machine = Machine(weights={"a": 400 * MB}, total=1000 * MB)
    scheduler = machine.scheduler(SchedulerOptions(num_parallel=1))
    await use(scheduler, "a")
    with pytest.raises(OutOfMemory, match="'a' with 800000 tokens"):
        await use(scheduler, "a", asked=LoadOptions(num_ctx=800_000))
    assert names(scheduler) == ["a"]
    machine.hidden = 550 * MB
    with pytest.raises(OutOfMemory):
        await use(scheduler, "a", asked=LoadOptions(num_ctx=100_000))
    await use(scheduler, "a")
    assert (scheduler.loaded()[0].num_ctx, len(machine.loads)) == (4096, 1)
    machine.hidden = 0
    await use(scheduler, "a", asked=LoadOptions(num_ctx=100_000))
    assert (scheduler.loaded()[0].num_ctx, len(machine.loads)) == (100_000, 1)
    await scheduler.close(1.0)


@story
async def test_a_process_is_expected_where_a_model_is_not_there() -> None:
    machine = Machine()
    asked = []
    scheduler = Scheduler(
        SchedulerOptions(),
        start=machine.start,
        plan=machine.plan,
        expect=lambda: asked.append(now()),
        clock=now,
        memory=machine.memory,
    )
    scheduler.expect("sha256-a")
    await use(scheduler, "a")
    scheduler.expect("sha256-a")
    assert len(asked) == 1
    await scheduler.close(1.0)
    scheduler.expect("sha256-b")
    assert len(asked) == 1


@story
async def test_closing_gives_what_runs_its_time_and_then_ends_it() -> None:
    machine = Machine()
    scheduler = machine.scheduler()
    quick = asyncio.create_task(use(scheduler, "a", 5.0))
    await asyncio.sleep(2.0)
    waiting = asyncio.create_task(use(scheduler, "b"))
    planned = asyncio.create_task(use(scheduler, "c"))
    await asyncio.sleep(0.5)
    await scheduler.close(10.0)
    assert await quick == 1.0
    assert now() < 7.0
    for task in (waiting, planned):
        with pytest.raises(Overloaded, match="shutting down"):
            await task
    with pytest.raises(Overloaded, match="shutting down"):
        await use(scheduler, "a")
    assert machine.running == []
    assert machine.starting == 0


@story
async def test_closing_does_not_wait_for_ever() -> None:
    machine = Machine()
    scheduler = machine.scheduler()
    slow = asyncio.create_task(use(scheduler, "a", 1000.0))
    await asyncio.sleep(2.0)
    machine.killing = True
    await scheduler.close(10.0)
    assert now() == 12.0
    assert machine.running == []
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


@story
async def test_an_error_of_the_request_itself_leaves_the_model_where_it_is() -> None:
    scheduler = Machine().scheduler()
    with pytest.raises(PunaError, match="too long"):
        async with held(scheduler, "a"):
            raise PunaError("too long")
    assert names(scheduler) == ["a"]
    assert scheduler.loaded()[0].active == 0
    await scheduler.close(1.0)
