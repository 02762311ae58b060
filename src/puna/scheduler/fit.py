"""Whether a model fits into memory, and what is missing. Pure functions.

A model with layers on GPUs is planned as if nothing else needed them. If the layers' place was not asked for,
the loader puts fewer there, so a GPU that is too small is only a reason to unload others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from puna.engine.options import LoadOptions
from puna.errors import OutOfMemory
from puna.humanize import bytes_text
from puna.runner.protocol import Device, Loaded
from puna.scheduler.memory import HostMemory
from puna.scheduler.state import Resident

# A file that takes less than this share of the free memory is loaded without planning first.
_PLENTY = 3


@dataclass(frozen=True, slots=True)
class Shortage:
    """A device that has not what a model needs.

    Attributes:
        device: its name.
        gpu: it is not the machine's own memory.
        needed, free: bytes.
    """

    device: str
    gpu: bool
    needed: int
    free: int

    def __str__(self) -> str:
        return f"{bytes_text(self.needed)} on {self.device}, where {bytes_text(self.free)} are free"


def is_plenty(file_size: int, memory: HostMemory) -> bool:
    """Whether the machine has so much memory that a model of usual context fits for sure."""
    return memory.total == 0 or file_size * _PLENTY < memory.available


def shortages(
    need: Loaded, memory: HostMemory, overhead: int, own: Resident | None, others: Sequence[Resident]
) -> list[Shortage]:
    """The devices that are too small for `need` now.

    Args:
        overhead: bytes to leave free on each GPU.
        own: what gives its memory back for this.
        others: what else is in memory, and stays.
    """
    # Weights that are mapped from a file count as available although they are in use.
    unclaimed = memory.total - sum(other.host_size for other in others)
    available = min(memory.available + (own.host_size if own else 0), unclaimed)
    found = [gpu_shortage for device in need.devices if (gpu_shortage := _on_gpu(device, overhead, own, ()))]
    if memory.total and need.size - need.gpu_size > available:
        found.append(_on_host(need, available))
    return found


def shortages_alone(
    need: Loaded,
    options: LoadOptions,
    memory: HostMemory,
    overhead: int,
    own: Resident | None,
    others: Sequence[Resident],
) -> list[Shortage]:
    """The devices that would be too small even if nothing else were in memory."""
    everything = (*others, own) if own else others
    host = min(memory.total, memory.available + sum(resident.host_size for resident in everything))
    gpus = [short for device in need.devices if (short := _on_gpu(device, overhead, own, others))]
    # What does not fit on GPUs goes to the machine's own memory, where that is left open.
    spilled = sum(short.needed - short.free for short in gpus) if is_automatic(options) else 0
    found = [] if is_automatic(options) else gpus
    if memory.total and need.size - need.gpu_size + spilled > host:
        found = [*gpus, _on_host(need, host)]
    return found


def main_gpu(need: Loaded, options: LoadOptions, overhead: int) -> int | None:
    """The GPU that a model goes to: the one with most free memory, if all of it fits there.

    Otherwise what the options say; None spreads it over all.
    """
    gpus = [device for device in need.devices if device.gpu]
    if len(gpus) < 2 or options.main_gpu is not None or not is_automatic(options):
        return options.main_gpu
    best = max(range(len(gpus)), key=lambda index: (gpus[index].free, -index))
    return best if need.gpu_size + overhead <= gpus[best].free else None


def is_automatic(options: LoadOptions) -> bool:
    """Whether the loader may put layers where there is room."""
    return options.num_gpu_layers is None and not any(options.tensor_split or ())


def _on_gpu(device: Device, overhead: int, own: Resident | None, gone: Iterable[Resident]) -> Shortage | None:
    # A device that does not tell its free memory is tried.
    if not device.gpu or not device.total:
        return None
    given_back = sum(resident.size_on(device.name) for resident in gone)
    given_back += own.size_on(device.name) if own else 0
    free = max(0, min(device.free + given_back, device.total) - overhead)
    return Shortage(device.name, True, device.size, free) if device.size > free else None


def _on_host(need: Loaded, free: int) -> Shortage:
    name = next((device.name for device in need.devices if not device.gpu), "CPU")
    return Shortage(name, False, need.size - need.gpu_size, max(0, free))


def out_of_memory(name: str, need: Loaded, found: Sequence[Shortage]) -> OutOfMemory:
    """The error that says what is missing."""
    contexts = f"{need.num_ctx} tokens of context"
    if need.num_parallel > 1:
        contexts = f"{need.num_parallel} times {contexts}"
    places = "; ".join(map(str, found)) or f"{bytes_text(need.size)} of memory, more than there is"
    return OutOfMemory(
        f"{name[:100]!r} with {contexts} needs {places}; lower num_ctx, or take a smaller model"
    )
