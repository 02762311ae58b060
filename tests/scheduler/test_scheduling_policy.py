"""The decisions, case by case: what is in memory and who waits on the left, what is done on the right."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.engine.options import LoadOptions
from puna.errors import InvalidOption, OutOfMemory, RunnerDied
from puna.runner.protocol import Device, Loaded
from puna.scheduler.launch import change_for, check_asked, launch_options, smaller
from puna.scheduler.memory import HostMemory
from puna.scheduler.policy import after_crash, loads_again, schedule
from puna.scheduler.state import (
    Abort,
    Action,
    Crashes,
    Load,
    ModelSource,
    Plan,
    Refuse,
    Resident,
    Resize,
    SchedulerOptions,
    Serve,
    State,
    Unload,
    Waiting,
)

GB = 10**9
PLENTY = HostMemory(64 * GB, 60 * GB)
USUAL = LoadOptions(num_ctx=4096, num_parallel=4)
LIMITS = SchedulerOptions()


def source(name: str) -> ModelSource:
    return ModelSource(name, Path(f"/{name}.gguf"), name)


def report(cpu: int = GB, gpus: tuple[tuple[int, int], ...] = (), num_ctx: int = 4096) -> Loaded:
    """`gpus`: bytes taken and bytes free of each."""
    devices = [Device("CPU", False, cpu, 0, 0)]
    devices += [Device(f"G{i}", True, size, 0, 0, 32, free, 24 * GB) for i, (size, free) in enumerate(gpus)]
    return Loaded(num_ctx, 4, devices, 32)


def resident(name: str, stage: Any = "ready", active: int = 0, **more: Any) -> Resident:
    fields = {"options": USUAL, "loaded": None if stage == "loading" else report(), **more}
    return Resident(source(name), stage, active=active, **fields)


def waits(id: int, name: str, asked: LoadOptions | None = None, **more: Any) -> Waiting:
    return Waiting(id, source(name), asked or LoadOptions(), GB, **more)


def decided(
    *entries: Resident | Waiting, now: float = 100.0, memory: HostMemory | None = PLENTY, **more: Any
) -> list[Action]:
    """`memory`: None where nobody may ask for it."""

    def read() -> HostMemory:
        assert memory is not None
        return memory

    fields = {"limits": LIMITS, "memory": read, **more}
    residents = tuple(entry for entry in entries if isinstance(entry, Resident))
    waiting = tuple(entry for entry in entries if isinstance(entry, Waiting))
    return schedule(State(now, residents=residents, waiting=waiting, **fields))


# -- serving and loading --------------------------------------------------------------------------------


def test_a_model_that_is_ready_serves_everybody() -> None:
    assert decided(resident("a", active=3), waits(1, "a"), waits(2, "a"), memory=None) == [
        Serve(1),
        Serve(2),
    ]


def test_a_model_that_is_not_there_is_loaded_at_once_where_there_is_plenty_of_room() -> None:
    assert decided(waits(1, "a"), waits(2, "a")) == [Load(1, USUAL)]


def test_everybody_who_wants_a_model_waits_for_the_same_load() -> None:
    assert decided(resident("a", "loading"), waits(1, "a"), waits(2, "a")) == []


def test_models_load_one_after_another_and_meanwhile_others_serve() -> None:
    assert decided(resident("a", "loading"), resident("b"), waits(1, "a"), waits(2, "c"), waits(3, "b")) == [
        Serve(3)
    ]


def test_no_load_overtakes_one_that_waits_for_room() -> None:
    large = waits(1, "b", need=report(60 * GB))
    small = waits(2, "c", need=report(GB))
    assert decided(resident("a", active=1, loaded=report(9 * GB)), large, small) == []


def test_a_model_on_its_way_out_comes_back_in_its_turn() -> None:
    assert decided(resident("a", "stopping"), waits(1, "a"), waits(2, "b")) == []


def test_a_load_that_nobody_waits_for_stops() -> None:
    assert decided(resident("a", "loading"), waits(1, "b")) == [Abort("a")]
    other = waits(1, "a", LoadOptions(num_gpu_layers=7))
    assert decided(resident("a", "loading"), other) == [Abort("a")]
    assert decided(resident("a", "resizing")) == []


def test_a_plan_comes_first_where_memory_could_be_short() -> None:
    assert decided(resident("b"), waits(1, "a")) == [Plan(1, USUAL)]
    assert decided(waits(1, "a"), memory=HostMemory(8 * GB, 2 * GB)) == [Plan(1, USUAL)]
    assert decided(waits(1, "a", LoadOptions(num_ctx=100_000))) == [
        Plan(1, LoadOptions(num_ctx=100_000, num_parallel=4))
    ]
    assert decided(resident("b"), waits(1, "a", planning=True), waits(2, "c")) == []
    assert decided(waits(1, "a", LoadOptions(num_ctx=2048))) == [Load(1, replace(USUAL, num_ctx=2048))]


# -- making room ----------------------------------------------------------------------------------------


def test_the_most_models_that_may_be_loaded() -> None:
    three = [resident(name, idle_since=float(i)) for i, name in enumerate("abc")]
    assert decided(*three, waits(1, "d")) == [Unload("a")]
    assert decided(*three[:2], resident("c", "stopping"), waits(1, "d")) == []
    two = SchedulerOptions(max_loaded=2)
    assert decided(*three[:2], waits(1, "d"), limits=two) == [Unload("a")]
    planned = waits(1, "d", need=report())
    assert decided(*three, planned, gpus=2) == [Load(1, USUAL)]


@pytest.mark.parametrize(
    ("first", "second", "goes"),
    [
        ({"idle_since": 5.0}, {"idle_since": 3.0}, "b"),
        ({"idle_since": 5.0, "keep_alive": 60.0}, {"idle_since": 3.0, "keep_alive": 600.0}, "a"),
        ({"active": 1}, {"idle_since": 99.0}, "b"),
        ({"keep_alive": float("inf")}, {"keep_alive": 1e6, "idle_since": 99.0}, "b"),
    ],
)
def test_who_goes_first(first: dict[str, Any], second: dict[str, Any], goes: str) -> None:
    two = SchedulerOptions(max_loaded=2)
    action = decided(resident("a", **first), resident("b", **second), waits(1, "c"), limits=two)
    assert action == [Unload(goes)]


def test_where_all_are_busy_one_takes_no_more_requests_until_it_is_idle() -> None:
    one = SchedulerOptions(max_loaded=1)
    assert decided(resident("a", active=1), waits(1, "b"), waits(2, "a"), limits=one) == []
    assert decided(resident("a"), waits(1, "b"), waits(2, "a"), limits=one) == [Unload("a")]
    before = decided(resident("a", active=1), waits(1, "a"), waits(2, "b"), limits=one)
    assert before == [Serve(1)]


def test_one_model_goes_at_a_time_until_there_is_room() -> None:
    three = [resident(name, loaded=report(20 * GB), idle_since=float(i)) for i, name in enumerate("abc")]
    four = SchedulerOptions(max_loaded=4)
    new = waits(1, "d", need=report(30 * GB))
    memory = HostMemory(64 * GB, 3 * GB)
    assert decided(*three, new, memory=memory, limits=four) == [Unload("a")]
    memory = HostMemory(64 * GB, 23 * GB)
    assert decided(*three[1:], new, memory=memory, limits=four) == [Unload("b")]
    memory = HostMemory(64 * GB, 43 * GB)
    assert decided(three[2], new, memory=memory, limits=four) == [Load(1, USUAL)]


def test_weights_in_mapped_files_are_not_free_although_the_system_says_so() -> None:
    new = waits(1, "b", need=report(40 * GB))
    assert decided(resident("a", loaded=report(30 * GB)), new) == [Unload("a")]


def test_nothing_is_unloaded_for_what_will_never_fit() -> None:
    asked = LoadOptions(num_ctx=8192, num_parallel=2)
    new = waits(1, "b", asked, need=report(70 * GB, num_ctx=8192))
    (action,) = decided(resident("a"), new)
    assert isinstance(action, Refuse)
    assert isinstance(action.error, OutOfMemory)
    assert "'b' with 4 times 8192 tokens" in str(action.error)
    assert "70 GB on CPU, where 61 GB are free" in str(action.error)


def test_what_will_never_fit_does_not_hold_up_those_behind_it() -> None:
    asked = LoadOptions(num_ctx=8192, num_parallel=2)
    new = [waits(id, name, asked, need=report(70 * GB)) for id, name in enumerate("abba")]
    actions = decided(*new, waits(4, "c"))
    assert [type(action) for action in actions] == [*[Refuse] * 4, Load]


def test_what_nobody_named_gets_smaller_first() -> None:
    def next_plan(options: LoadOptions | None, asked: LoadOptions | None = None, **more: Any) -> list[Action]:
        waiting = waits(1, "b", asked, options=options, need=report(70 * GB))
        return decided(waiting, **more)

    one, less = LoadOptions(num_ctx=4096, num_parallel=1), LoadOptions(num_ctx=2048, num_parallel=1)
    assert next_plan(None) == [Plan(1, one)]
    assert next_plan(one) == [Plan(1, less)]
    assert isinstance(next_plan(less)[0], Refuse)
    assert isinstance(next_plan(one, LoadOptions(num_ctx=4096))[0], Refuse)
    fixed = SchedulerOptions(context_length=4096, num_parallel=4)
    assert isinstance(next_plan(None, limits=fixed)[0], Refuse)


def test_a_gpu_that_is_too_small_is_first_freed_and_then_filled_as_far_as_it_goes() -> None:
    new = waits(1, "b", need=report(GB, ((20 * GB, 10 * GB),)))
    there = resident("a", loaded=report(GB, ((12 * GB, 24 * GB),)))
    elsewhere = resident("c")
    assert decided(there, elsewhere, new) == [Unload("a")]
    assert decided(elsewhere, new) == [Load(1, USUAL)]
    asked = LoadOptions(num_gpu_layers=32)
    refused = decided(
        elsewhere, replace(new, asked=asked, options=LoadOptions(num_gpu_layers=32, num_ctx=4096))
    )
    assert isinstance(refused[0], Plan), refused
    least = LoadOptions(num_gpu_layers=32, num_ctx=2048)
    (refusal,) = decided(elsewhere, replace(new, asked=asked, options=least))
    assert isinstance(refusal, Refuse)
    assert "20 GB on G0, where 10 GB are free" in str(refusal.error)


def test_memory_that_is_left_free_on_gpus() -> None:
    new = waits(1, "b", need=report(GB, ((9 * GB, 10 * GB),)))
    there = resident("a", loaded=report(GB, ((12 * GB, 24 * GB),)))
    assert decided(there, new) == [Load(1, USUAL)]
    assert decided(there, new, limits=SchedulerOptions(gpu_overhead=2 * GB)) == [Unload("a")]


def test_one_gpu_that_has_room_gets_the_whole_model() -> None:
    two = ((5 * GB, 11 * GB), (6 * GB, 23 * GB))
    new = waits(1, "b", need=report(GB, two))
    assert decided(new, gpus=2) == [Load(1, replace(USUAL, main_gpu=1))]
    assert decided(new, gpus=2, limits=SchedulerOptions(spread=True)) == [Load(1, USUAL)]
    large = waits(1, "b", need=report(GB, ((9 * GB, 11 * GB), (15 * GB, 23 * GB))))
    assert decided(large, gpus=2) == [Load(1, USUAL)]
    assert decided(waits(1, "b"), gpus=2) == [Plan(1, USUAL)]
    spread = LoadOptions(main_gpu=-1)
    assert decided(replace(new, asked=spread), gpus=2) == [Load(1, replace(USUAL, main_gpu=-1))]


# -- other options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "loaded", "change"),
    [
        ({}, {"num_ctx": 8192}, "none"),
        ({"num_ctx": 4096}, {}, "none"),
        ({"num_ctx": 2048}, {}, "resize"),
        ({"num_ctx": 8192}, {}, "resize"),
        ({"kv_cache_type": "q8_0"}, {}, "resize"),
        ({"num_batch": 64}, {}, "resize"),
        ({"num_parallel": 2}, {}, "resize"),
        ({"num_threads": 2}, {}, "reload"),
        ({"num_threads": 2}, {"num_threads": 2}, "none"),
        ({"num_gpu_layers": 5}, {}, "reload"),
        ({"main_gpu": 0}, {}, "reload"),
        ({"tensor_split": (1.0, 2.0)}, {}, "reload"),
        ({"transcode": False}, {}, "reload"),
        ({"repack": True}, {}, "reload"),
        ({"rpc_servers": ("a:1",)}, {}, "reload"),
        ({"num_ctx": 8192, "num_threads": 2}, {}, "reload"),
        # Naming what is meant without a name is no change, and a change where something else is loaded.
        ({"kv_cache_type": "f16"}, {}, "none"),
        ({"kv_cache_type": "f16"}, {"kv_cache_type": "q8_0"}, "resize"),
        ({}, {"kv_cache_type": "q8_0"}, "none"),
        ({"num_batch": 512}, {}, "none"),
        ({"num_batch": 512}, {"num_batch": 64}, "resize"),
        ({"num_parallel": 1}, {}, "resize"),
        ({"num_parallel": 1}, {"num_parallel": None}, "none"),
        ({"main_gpu": -1}, {}, "none"),
        ({"main_gpu": -1}, {"main_gpu": 1}, "reload"),
        ({"tensor_split": ()}, {}, "none"),
        ({"tensor_split": ()}, {"tensor_split": (1.0, 2.0)}, "reload"),
        ({"rpc_servers": ()}, {"rpc_servers": ("a:1",)}, "reload"),
    ],
)
def test_what_must_change(asked: dict[str, Any], loaded: dict[str, Any], change: str) -> None:
    there = resident("a", options=replace(USUAL, **loaded))
    assert change_for(there, LoadOptions(**asked)) == change


def test_a_context_as_large_as_the_model_was_trained_on_serves_larger_wishes() -> None:
    there = resident("a", options=replace(USUAL, num_ctx=100_000), loaded=report(num_ctx=8192))
    for num_ctx, change in ((200_000, "none"), (100_000, "none"), (8192, "none"), (4096, "resize")):
        assert change_for(there, LoadOptions(num_ctx=num_ctx)) == change


def test_layers_that_are_where_they_are_wanted_anyway() -> None:
    there = resident("a", loaded=report(GB, ((9 * GB, 10 * GB),)))
    assert change_for(there, LoadOptions(num_gpu_layers=32)) == "none"
    assert change_for(resident("a"), LoadOptions(num_gpu_layers=0)) == "none"


def test_a_change_waits_until_requests_have_ended_and_later_ones_wait_for_it() -> None:
    larger = waits(1, "a", LoadOptions(num_batch=64))
    changed = replace(USUAL, num_batch=64)
    assert decided(resident("a", active=1), larger, waits(2, "a")) == []
    assert decided(resident("a"), larger, waits(2, "a")) == [Resize(1, changed)]
    assert decided(resident("a"), resident("b", "loading"), waits(0, "b"), larger) == []
    assert decided(resident("a", "resizing", options=changed), larger, waits(2, "a")) == []
    assert decided(resident("a", options=changed), larger, waits(2, "a")) == [Serve(1), Serve(2)]


def test_only_a_larger_cache_is_planned_first_and_keeps_what_else_was_asked_for() -> None:
    there = resident("a", options=replace(USUAL, num_threads=2))
    smaller_one, larger = LoadOptions(num_ctx=2048), LoadOptions(num_ctx=8192)
    assert decided(there, waits(1, "a", smaller_one)) == [Resize(1, replace(there.options, num_ctx=2048))]
    assert decided(there, waits(1, "a", larger)) == [Plan(1, replace(there.options, num_ctx=8192))]
    planned = waits(1, "a", larger, need=report(2 * GB))
    assert decided(there, planned) == [Resize(1, replace(there.options, num_ctx=8192))]
    short = HostMemory(64 * GB, GB // 2)
    assert decided(there, planned, memory=short) == [
        Plan(1, replace(there.options, num_ctx=8192, num_parallel=1))
    ]
    assert decided(there, resident("b"), planned, memory=short) == [Unload("b")]
    # What the old cache and the weights take is there for the new ones.
    enough = HostMemory(64 * GB, 3 * GB // 2)
    assert decided(there, resident("b"), planned, memory=enough) == [
        Resize(1, replace(there.options, num_ctx=8192))
    ]


def test_a_reload_is_an_unload_and_then_a_load() -> None:
    other = waits(1, "a", LoadOptions(num_threads=2))
    assert decided(resident("a"), other, waits(2, "c")) == [Unload("a")]
    assert decided(other) == [Load(1, replace(USUAL, num_threads=2))]


def test_the_options_of_a_load() -> None:
    limits = SchedulerOptions(context_length=8192, num_parallel=2, kv_cache_type="q8_0")
    assert launch_options(LoadOptions(), limits) == LoadOptions(
        num_ctx=8192, num_parallel=2, kv_cache_type="q8_0"
    )
    asked = LoadOptions(num_ctx=512, num_threads=3, kv_cache_type="q4_0")
    assert launch_options(asked, limits) == replace(asked, num_parallel=2)
    named = LoadOptions(num_ctx=4096, num_parallel=1, kv_cache_type="f16", num_batch=512)
    assert launch_options(named, limits) == named
    assert launch_options(LoadOptions(), SchedulerOptions(max_ctx=1000)).num_ctx == 1000
    assert launch_options(LoadOptions(), LIMITS) == USUAL


def test_a_ceiling_for_contexts() -> None:
    limits = SchedulerOptions(max_ctx=8192)
    check_asked(LoadOptions(num_ctx=8192), limits)
    with pytest.raises(InvalidOption, match="num_ctx is 8193; this server allows at most 8192"):
        check_asked(LoadOptions(num_ctx=8193), limits)


def test_contexts_get_smaller_in_steps() -> None:
    steps, options = [], LoadOptions(num_ctx=32768)
    while (less := smaller(options, LoadOptions(), LIMITS)) is not None:
        steps.append(less.num_ctx)
        options = less
    assert steps == [16384, 8192, 4096, 2048]


# -- time and crashes -----------------------------------------------------------------------------------


def test_an_idle_model_goes_when_its_time_is_up() -> None:
    there = resident("a", keep_alive=60.0, idle_since=40.0)
    assert decided(there, now=99.9) == []
    assert decided(there, now=100.0) == [Unload("a")]
    assert decided(replace(there, active=1)) == []
    assert decided(there, waits(1, "a")) == [Serve(1)]
    loading = resident("b", "loading")
    assert decided(there, loading, waits(1, "b"), waits(2, "a", LoadOptions(num_batch=64))) == []
    assert decided(replace(there, keep_alive=float("inf")), now=1e12) == []
    assert decided(replace(there, keep_alive=0.0, idle_since=100.0)) == [Unload("a")]


def test_after_several_crashes_a_load_is_put_off() -> None:
    crashes = {"a": Crashes(3, 99.0, "it was killed")}
    (action,) = decided(waits(1, "a"), crashes=crashes, now=99.5)
    assert isinstance(action, Refuse)
    assert isinstance(action.error, RunnerDied)
    assert "died 3 times" in str(action.error)
    assert "it was killed" in str(action.error)
    assert decided(waits(1, "a"), crashes=crashes, now=101.0) == [Load(1, USUAL)]
    assert decided(waits(1, "b"), crashes=crashes, now=99.5) == [Load(1, USUAL)]


def test_how_long_loads_are_put_off() -> None:
    crashes, delays = None, []
    for now in range(0, 400, 40):
        crashes = after_crash(crashes, float(now), "x")
        delays.append(loads_again(crashes) - now)
    assert delays == [0, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert after_crash(crashes, 500.0, "y") == Crashes(1, 500.0, "y")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_queue": 0},
        {"keep_alive": -1},
        {"keep_alive": float("nan")},
        {"max_ctx": 0},
        {"kv_cache_type": "x"},
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        SchedulerOptions(**fields)
