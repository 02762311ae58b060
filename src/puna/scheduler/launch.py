"""With which options a model is loaded, and whether one that is loaded does for a request. Pure functions."""

from dataclasses import fields, replace
from typing import Final, Literal, TypeAlias

from puna.engine.options import DEFAULT_PARALLEL, LoadOptions
from puna.errors import InvalidOption
from puna.scheduler.state import Resident, SchedulerOptions

Change: TypeAlias = Literal["none", "resize", "reload"]

AUTOMATIC_CONTEXT: Final = 4096
AUTOMATIC_PARALLEL: Final = 4

# What only the cache depends on: it is made anew, the weights stay.
_OF_THE_CACHE = {"num_ctx", "num_parallel", "kv_cache_type", "num_batch"}
# A model brings into memory what requests want of these.
_OF_REQUESTS = {"adapters"}
_CONTEXT_TIERS = (262144, 131072, 65536, 32768, 16384, 8192, 4096, 2048)


def check_asked(asked: LoadOptions, limits: SchedulerOptions) -> None:
    """Raises InvalidOption if a request may not ask for this."""
    if limits.max_ctx is not None and asked.num_ctx is not None and asked.num_ctx > limits.max_ctx:
        raise InvalidOption(f"num_ctx is {asked.num_ctx}; this server allows at most {limits.max_ctx}")


def launch_options(asked: LoadOptions, limits: SchedulerOptions) -> LoadOptions:
    """What to load a model with: as asked for, else as configured, else automatic."""
    context = limits.context_length or AUTOMATIC_CONTEXT
    usual = LoadOptions(
        num_ctx=context if limits.max_ctx is None else min(context, limits.max_ctx),
        num_parallel=limits.num_parallel or AUTOMATIC_PARALLEL,
        kv_cache_type=limits.kv_cache_type,
    )
    return over(usual, asked)


def over(options: LoadOptions, asked: LoadOptions) -> LoadOptions:
    """The options, with what was asked for in their place."""
    return replace(options, **{name: getattr(asked, name) for name in named(asked)})


def named(asked: LoadOptions) -> list[str]:
    """The fields that a request names."""
    return [field.name for field in fields(asked) if getattr(asked, field.name) is not None]


def change_for(resident: Resident, asked: LoadOptions) -> Change:
    """What must happen to a loaded model before it serves a request: what is not named matches anything."""
    different = {name for name in named(asked) if not _is_met(resident, asked, name)} - _OF_REQUESTS
    if not different:
        return "none"
    return "resize" if different <= _OF_THE_CACHE else "reload"


def _is_met(resident: Resident, asked: LoadOptions, name: str) -> bool:
    wanted = getattr(asked, name)
    if wanted == getattr(resident.options.filled(), name):
        return True
    loaded = resident.loaded
    if loaded is None:
        return False
    if name == "num_ctx":
        # A model that was trained on less than it was loaded with has no more to give.
        capped = loaded.num_ctx < (resident.options.num_ctx or 0)
        return bool(wanted == loaded.num_ctx or (capped and wanted > loaded.num_ctx))
    if name == "num_gpu_layers":
        return bool(wanted == sum(device.layers for device in loaded.devices if device.gpu))
    return False


def smaller(options: LoadOptions, asked: LoadOptions, limits: SchedulerOptions) -> LoadOptions | None:
    """The next smaller options to try where memory does not suffice; None if there are none.

    Only what neither the request nor the configuration names gets smaller: first how many requests are
    computed at once, then the context.
    """
    if (
        (options.num_parallel or DEFAULT_PARALLEL) > 1
        and limits.num_parallel is None
        and "num_parallel" not in named(asked)
    ):
        return replace(options, num_parallel=1)
    if asked.num_ctx is not None or limits.context_length is not None:
        return None
    tier = next((tier for tier in _CONTEXT_TIERS if tier < (options.num_ctx or AUTOMATIC_CONTEXT)), None)
    return None if tier is None else replace(options, num_ctx=tier)
