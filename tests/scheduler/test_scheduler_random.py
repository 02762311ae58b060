"""Many clients that do as they please, for many seeds: what must always hold, holds."""

import asyncio
import random

import pytest
from tests.scheduler.pretended_runners import MB, Machine, PretendedRunner, held
from tests.scheduler.virtual_time import run

from puna.engine.options import LoadOptions
from puna.errors import GGUFError, PunaError, RunnerDied
from puna.scheduler.scheduler import Scheduler
from puna.scheduler.state import SchedulerOptions

_ASKED = [
    LoadOptions(),
    LoadOptions(),
    LoadOptions(),
    LoadOptions(num_ctx=2048),
    LoadOptions(num_ctx=16384),
    LoadOptions(num_threads=2),
    LoadOptions(kv_cache_type="q8_0"),
]
_KEPT = [None, None, 0.0, 1.0, 20.0, float("inf")]


async def client(scheduler: Scheduler, dice: random.Random, served: list[str]) -> None:
    await asyncio.sleep(dice.uniform(0.0, 60.0))
    name = dice.choice("aaabbcd")
    try:
        async with held(scheduler, name, dice.choice(_ASKED), dice.choice(_KEPT)) as lease:
            served.append(name)
            runner = lease.runner
            assert isinstance(runner, PretendedRunner)
            await asyncio.sleep(dice.choice([0.0, 0.1, 1.0, 10.0]))
            if dice.random() < 0.03:
                runner.die()
            if not runner.alive:
                raise RunnerDied("it was killed")
    except PunaError as error:
        served.append(type(error).__name__)


async def impatient(task: "asyncio.Task[None]", dice: random.Random) -> None:
    """Gives some requests up at a random moment."""
    if dice.random() < 0.3:
        await asyncio.sleep(dice.choice([0.0, dice.uniform(0.0, 90.0)]))
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def watched(scheduler: Scheduler, machine: Machine) -> None:
    """What holds at every moment."""
    while True:
        told = scheduler.loaded()
        assert len(machine.running) + machine.starting <= machine.most
        assert machine.taken() <= machine.total
        assert len({model.digest for model in told}) == len(told)
        assert all(model.active >= 0 and model.expires >= 0 for model in told)
        assert all(
            runner.users == 0 or runner.path.name in [m.name for m in told] for runner in machine.running
        )
        await asyncio.sleep(0.05)


async def play(seed: int) -> None:
    dice = random.Random(seed)
    most = dice.choice([1, 2, 3])
    faults = [None] * 12 + [GGUFError("it is broken"), RunnerDied("it died of its load")]
    machine = Machine(
        weights={name: dice.choice([50, 200, 400]) * MB for name in "abcd"},
        total=dice.choice([450, 900, 5000]) * MB,
        hidden=dice.choice([0, 0, 100]) * MB,
        most=most,
        seconds=lambda: dice.choice([0.0, 0.5, 5.0]),
        fault=lambda: dice.choice(faults),
        resize_seconds=dice.choice([0.0, 0.7]),
        stop_seconds=dice.choice([0.0, 0.3]),
        plan_seconds=dice.choice([0.0, 0.2]),
    )
    options = SchedulerOptions(max_loaded=most, max_queue=dice.choice([5, 500]), keep_alive=5.0)
    scheduler = machine.scheduler(options)
    watch = asyncio.create_task(watched(scheduler, machine))
    served: list[str] = []
    tasks = [asyncio.create_task(client(scheduler, dice, served)) for _ in range(60)]
    if dice.random() < 0.3:
        await asyncio.sleep(dice.uniform(0.0, 60.0))
        machine.killing = True
        await scheduler.close(dice.choice([0.0, 2.0]))
    async with asyncio.timeout(3600.0):
        await asyncio.gather(*(impatient(task, dice) for task in tasks))
    assert [task.exception() for task in tasks if not task.cancelled() and task.exception()] == []
    assert scheduler.queued == 0
    assert all(model.active == 0 for model in scheduler.loaded())
    await scheduler.close(1.0)
    assert (machine.running, machine.starting, scheduler.loaded()) == ([], 0, [])
    assert len(served) > 5
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch


@pytest.mark.parametrize("seed", range(40))
def test_random_clients(seed: int) -> None:
    run(play(seed))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 3000, 100))
def test_many_random_clients(start: int) -> None:
    for seed in range(start, start + 100):
        run(play(seed))
