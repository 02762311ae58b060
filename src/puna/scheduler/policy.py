"""What to do next, decided over plain data: which request is served, what is loaded, changed or unloaded.

`schedule` walks through the waiting requests in the order in which they came. A request whose model is
ready, and as it wants it, is served. The first that needs memory gets it, and none behind it can load before
it does; a model that it needs changed, or gone, takes no new requests, so that it becomes idle.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from puna.engine.options import DEFAULT_PARALLEL, LoadOptions
from puna.errors import RunnerDied
from puna.scheduler.fit import (
    Shortage,
    is_automatic,
    is_plenty,
    main_gpu,
    out_of_memory,
    shortages,
    shortages_alone,
)
from puna.scheduler.launch import AUTOMATIC_CONTEXT, Change, change_for, launch_options, over, smaller
from puna.scheduler.state import (
    Abort,
    Action,
    Crashes,
    Load,
    Plan,
    Refuse,
    Resident,
    Resize,
    Serve,
    State,
    Unload,
    Waiting,
)

CRASH_MEMORY: Final = 60.0
"""Seconds after which a crash is forgotten."""
_LONGEST_DELAY: Final = 30.0
_MODELS_PER_GPU: Final = 3


@dataclass(slots=True)
class _Walk:
    """One pass through the queue: the residents as the decisions so far leave them.

    Attributes:
        claimed: digests that take no further requests, because an earlier one needs them changed or gone.
        busy: a load is under way or an earlier request waits for room.
    """

    state: State
    residents: dict[str, Resident]
    busy: bool
    claimed: set[str] = field(default_factory=set)


def schedule(state: State) -> list[Action]:
    """All that can be done now, in order."""
    residents = {resident.digest: resident for resident in state.residents}
    busy = any(resident.stage in ("loading", "resizing") for resident in state.residents)
    walk = _Walk(state, residents, busy)
    actions = [action for request in state.waiting for action in _decide(walk, request)]
    return [*actions, *_unwanted_loads(state), *_expired(walk)]


def max_loaded(state: State) -> int:
    """Most models in memory at once."""
    return state.limits.max_loaded or _MODELS_PER_GPU * max(1, state.gpus)


def after_crash(before: Crashes | None, now: float, reason: str) -> Crashes:
    """The count with one crash more."""
    recent = before is not None and now - before.last < CRASH_MEMORY
    return Crashes(before.count + 1 if before and recent else 1, now, reason)


def loads_again(crashes: Crashes) -> float:
    """When a model that crashed may be loaded again: at once after the first crash, then 1, 2, 4 … 30 s."""
    return crashes.last + (
        0.0 if crashes.count < 2 else min(_LONGEST_DELAY, 2.0 ** min(crashes.count - 2, 9))
    )


def _decide(walk: _Walk, request: Waiting) -> list[Action]:
    resident = walk.residents.get(request.digest)
    if resident is None:
        return _refusal(walk.state, request) or _bring_in(walk, request, None)
    if resident.stage == "stopping":
        # It comes back in its turn.
        walk.busy = True
        return []
    if request.digest in walk.claimed:
        return []
    change = change_for(resident, request.asked)
    if change != "none":
        walk.claimed.add(request.digest)
        return _change(walk, request, resident, change) if resident.idle else []
    if resident.stage != "ready":
        return []
    walk.residents[request.digest] = replace(resident, active=resident.active + 1)
    return [Serve(request.id)]


def _refusal(state: State, request: Waiting) -> list[Action]:
    crashes = state.crashes.get(request.digest)
    if crashes is None or state.now >= (again := loads_again(crashes)):
        return []
    text = (
        f"{request.source.name[:100]!r} is not loaded: its runner died {crashes.count} times in short order; "
        f"try again in {math.ceil(again - state.now)} s; the last time: {crashes.reason[:300]}"
    )
    return [Refuse(request.id, RunnerDied(text))]


def _change(walk: _Walk, request: Waiting, resident: Resident, change: Change) -> list[Action]:
    if change == "resize":
        return _bring_in(walk, request, resident)
    walk.residents[request.digest] = replace(resident, stage="stopping")
    walk.busy = True
    return [Unload(request.digest)]


def _bring_in(walk: _Walk, request: Waiting, own: Resident | None) -> list[Action]:
    """Load the request's model, or resize `own`; or first what has to be done for it."""
    if walk.busy:
        return []
    walk.busy = True
    state = walk.state
    usual = over(own.options, request.asked) if own else launch_options(request.asked, state.limits)
    options = request.options or usual
    others = [resident for resident in walk.residents.values() if resident is not own]
    if own is None and len(others) >= max_loaded(state):
        return _make_room(walk, others)
    if request.planning:
        return []
    if request.need is None and _must_plan(state, request, own, others):
        return [Plan(request.id, options)]
    return _start_or_make_room(walk, request, options, own, others)


def _start_or_make_room(
    walk: _Walk, request: Waiting, options: LoadOptions, own: Resident | None, others: list[Resident]
) -> list[Action]:
    state, start = walk.state, _start(walk.state, request, options, own)
    if request.need is None:
        return [start]
    memory, overhead = state.memory(), state.limits.gpu_overhead
    missing = shortages(request.need, memory, overhead, own, others)
    blockers = [other for other in others if _holds(other, missing)]
    if missing and not blockers and is_automatic(options):
        # Nobody else has what is missing on the GPUs: the loader puts fewer layers there.
        missing = shortages_alone(request.need, options, memory, overhead, own, ())
    if not missing:
        return [start]
    hopeless = shortages_alone(request.need, options, memory, overhead, own, others)
    if blockers and not hopeless:
        return _make_room(walk, blockers)
    less = smaller(options, request.asked, state.limits)
    if less is not None:
        return [Plan(request.id, less)]
    # It keeps nobody waiting: no later event would look at those behind it.
    walk.busy = False
    return [Refuse(request.id, out_of_memory(request.source.name, request.need, hopeless or missing))]


def _start(state: State, request: Waiting, options: LoadOptions, own: Resident | None) -> Action:
    if own is not None:
        return Resize(request.id, options)
    if request.need is not None and not state.limits.spread:
        options = replace(options, main_gpu=main_gpu(request.need, options, state.limits.gpu_overhead))
    return Load(request.id, options)


def _must_plan(state: State, request: Waiting, own: Resident | None, others: list[Resident]) -> bool:
    """Whether a load could fail for want of memory: otherwise it need not wait for a plan."""
    usual = own.options if own else launch_options(LoadOptions(), state.limits)
    wanted = over(usual, request.asked)
    if _cells(wanted) > _cells(usual) or wanted.filled().kv_cache_type != usual.filled().kv_cache_type:
        return True
    several = state.gpus > 1 and not state.limits.spread
    return own is None and (bool(others) or several or not is_plenty(request.file_size, state.memory()))


def _cells(options: LoadOptions) -> int:
    """Tokens that the cache has room for."""
    return (options.num_ctx or AUTOMATIC_CONTEXT) * (options.num_parallel or DEFAULT_PARALLEL)


def _holds(resident: Resident, missing: list[Shortage]) -> bool:
    """Whether its end would leave more of what is missing."""
    return any(resident.size_on(short.device) if short.gpu else resident.host_size for short in missing)


def _make_room(walk: _Walk, candidates: list[Resident]) -> list[Action]:
    """One step towards room: wait for what is going, unload what is idle, or let one become idle.

    One model at a time, for what its end really gives back is known only after it.
    """
    if any(resident.stage == "stopping" for resident in candidates):
        return []
    ready = [r for r in candidates if r.stage == "ready" and r.digest not in walk.claimed]
    victim = min(ready, key=_staying, default=None)
    if victim is None:
        return []
    walk.claimed.add(victim.digest)
    if not victim.idle:
        return []
    walk.residents[victim.digest] = replace(victim, stage="stopping")
    return [Unload(victim.digest)]


def _staying(resident: Resident) -> tuple[int, float, float, str]:
    """What goes first: what is least used now, was to stay the shortest, and has been idle the longest."""
    return resident.active, resident.keep_alive, resident.idle_since, resident.digest


def _unwanted_loads(state: State) -> list[Action]:
    return [
        Abort(resident.digest)
        for resident in state.residents
        if resident.stage == "loading"
        and not any(
            request.digest == resident.digest and change_for(resident, request.asked) == "none"
            for request in state.waiting
        )
    ]


def _expired(walk: _Walk) -> list[Action]:
    wanted = {request.digest for request in walk.state.waiting}
    return [
        Unload(resident.digest)
        for resident in walk.residents.values()
        if resident.idle and resident.expires <= walk.state.now and resident.digest not in wanted
    ]
