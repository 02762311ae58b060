"""What the scheduler decides over: models in memory, requests that wait, limits; and what it decides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from puna.engine.options import LoadOptions
from puna.errors import InvalidOption, PunaError
from puna.runner.protocol import Loaded
from puna.scheduler.memory import HostMemory


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model as the store has it.

    Attributes:
        digest: of the GGUF file, or its path; models with the same digest share a runner.
        path: of the file.
        name: what to call it.
    """

    digest: str
    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """Limits and defaults; see docs/scheduling.md.

    Attributes:
        max_loaded: most models in memory; 0 takes three for each GPU, three without one.
        max_queue: most requests that wait.
        keep_alive: seconds a model stays after its last request; infinite for good.
        load_timeout: seconds without progress after which a load is given up; None waits on.
        num_parallel: requests that a model computes at once, each with a whole context; None takes 4, or 1
            where memory does not suffice for 4.
        context_length: tokens of context where a request does not say; None takes 4096, or less where memory
            does not suffice.
        kv_cache_type: element type of the KV cache where a request does not say; None takes f16.
        gpu_overhead: bytes to leave free on each GPU.
        spread: spread a model over all GPUs even where one has room for it.
        max_keep_alive: most seconds that a request can keep a model; None for no limit.
        max_ctx: most tokens of context that a request can ask for; None for no limit.

    Raises:
        InvalidOption: a number is out of its range.
    """

    max_loaded: int = 0
    max_queue: int = 512
    keep_alive: float = 300.0
    load_timeout: float | None = 300.0
    num_parallel: int | None = None
    context_length: int | None = None
    kv_cache_type: str | None = None
    gpu_overhead: int = 0
    spread: bool = False
    max_keep_alive: float | None = None
    max_ctx: int | None = None

    def __post_init__(self) -> None:
        least = {"max_loaded": 0, "max_queue": 1, "num_parallel": 1, "context_length": 1, "max_ctx": 1}
        for name, lowest in (least | {"gpu_overhead": 0, "keep_alive": 0, "max_keep_alive": 0}).items():
            value = getattr(self, name)
            if value is not None and not value >= lowest:
                raise InvalidOption(f"{name} is {value}; it must be at least {lowest}")
        LoadOptions(kv_cache_type=self.kv_cache_type)


Stage: TypeAlias = Literal["loading", "resizing", "ready", "stopping"]


@dataclass(frozen=True, slots=True)
class Resident:
    """A model in memory, on its way there, or on its way out.

    Attributes:
        options: what it is or was loaded with.
        loaded: its runner's report; None while it is loaded.
        active: requests that use it.
        keep_alive: seconds it stays when none does.
        idle_since: when the last one ended; only while none uses it.
    """

    source: ModelSource
    stage: Stage
    options: LoadOptions
    loaded: Loaded | None = None
    active: int = 0
    keep_alive: float = 300.0
    idle_since: float = 0.0

    @property
    def digest(self) -> str:
        """Of its source."""
        return self.source.digest

    @property
    def idle(self) -> bool:
        """Nobody uses it, and it could go."""
        return self.stage == "ready" and self.active == 0

    @property
    def expires(self) -> float:
        """When it goes, if nobody uses it until then."""
        return self.idle_since + self.keep_alive

    @property
    def host_size(self) -> int:
        """Bytes of the machine's own memory."""
        return self.loaded.size - self.loaded.gpu_size if self.loaded else 0

    def size_on(self, device: str) -> int:
        """Bytes on a device."""
        devices = self.loaded.devices if self.loaded else []
        return sum(entry.size for entry in devices if entry.name == device)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that waits for its model.

    Attributes:
        id: larger than that of any earlier request.
        asked: the options that the request names.
        file_size: bytes of the model's file, and of that of its image encoder, if it has one.
        options: what was last planned to load the model with; None before any plan.
        need: what that takes; None if nobody has found out yet.
        planning: somebody is finding out.
    """

    id: int
    source: ModelSource
    asked: LoadOptions
    file_size: int = 0
    options: LoadOptions | None = None
    need: Loaded | None = None
    planning: bool = False

    @property
    def digest(self) -> str:
        """Of its source."""
        return self.source.digest


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often a model's runner died, each time within a minute of the time before.

    Attributes:
        last: when it died last.
        reason: why.
    """

    count: int
    last: float
    reason: str


@dataclass(frozen=True, slots=True)
class State:
    """All that a decision depends on.

    Attributes:
        now: seconds of the clock that all moments here are told by.
        residents: in no order; no digest twice.
        waiting: in the order in which they came.
        memory: tells that of the machine, as it is now; asked where a load or a resize is decided.
        gpus: how many the machine has, as far as is known.
        crashes: by digest.
    """

    now: float
    limits: SchedulerOptions
    residents: tuple[Resident, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    memory: Callable[[], HostMemory] = HostMemory
    gpus: int = 0
    crashes: Mapping[str, Crashes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Serve:
    """The model is there and as the request wants it."""

    id: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Find out what loading the request's model with these options takes."""

    id: int
    options: LoadOptions


@dataclass(frozen=True, slots=True)
class Load:
    """Load the request's model."""

    id: int
    options: LoadOptions


@dataclass(frozen=True, slots=True)
class Resize:
    """Make the model's cache anew; nobody uses it."""

    id: int
    options: LoadOptions


@dataclass(frozen=True, slots=True)
class Unload:
    """Take a model that nobody uses out of memory."""

    digest: str


@dataclass(frozen=True, slots=True)
class Abort:
    """Stop a load that nobody waits for any more."""

    digest: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The request cannot be served."""

    id: int
    error: PunaError


Action: TypeAlias = Serve | Plan | Load | Resize | Unload | Abort | Refuse
