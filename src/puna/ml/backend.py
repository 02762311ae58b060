"""Backend: a model file's weights on devices, and the contexts that compute with them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Self

from puna.errors import InvalidOption
from puna.gguf import Metadata
from puna.ml.context import Context
from puna.ml.dtype import DType
from puna.ml.memory import BackendMemory
from puna.ml.tensor import Tensor


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How a backend wants history handed to its attention kernel.

    Attributes:
        cache_padding: the number of cells shown to attention, and a cache's capacity, are multiples of this.
        permuted_v: values are stored as (kv_heads, d_v, cells) instead of (cells, kv_heads, d_v), which
            saves a copy where attention is not fused.
        mask_dtype: element type of the mask, F32 or F16.
        mask_batch_padding: the mask's rows are padded to a multiple of this; rows beyond the batch are -inf.
        copies: cells may be copied, which takes room for a graph that nobody has planned.
    """

    cache_padding: int = 1
    permuted_v: bool = False
    mask_dtype: DType = DType.F32
    mask_batch_padding: int = 1
    copies: bool = True


@dataclass(frozen=True, slots=True)
class BackendParams:
    """How a backend loads and runs a model.

    Attributes:
        num_threads: threads of the CPU; 0 takes one per physical core.
        main_gpu: index of the only device to use besides the CPU; -1 spreads the layers. `tensor_split`
            goes before it.
        num_gpu_layers: how many layers, counted from the output, lie on other devices than the CPU;
            -1 for all, the output layer included.
        tensor_split: share of the layers for each device; empty shares by free memory. A device with
            share 0 gets none.
        flash_attention: attention by the fused kernel.
        alloc_memory: False plans only: sizes are booked, nothing is allocated and nothing can be computed.
        fuse: store the weights of projections that share their input as one matrix.
        repack: store weights in the processor's preferred order: True wherever it has one, False nowhere,
            None where that is faster.
        transcode: file types without a fast kernel (Q4_1, Q5_0, …) become one that has, see docs/ml.md;
            None does so where they cannot be widened for prompts, while the model grows by less than a fifth,
            and lets `allow_rounding` have an effect.
        rpc_servers: `host:port` of ggml RPC servers, whose devices come after the local ones.
    """

    num_threads: int = 0
    main_gpu: int = -1
    num_gpu_layers: int = 0
    tensor_split: tuple[float, ...] = ()
    flash_attention: bool = True
    alloc_memory: bool = True
    fuse: bool = True
    repack: bool | None = None
    transcode: bool | None = None
    rpc_servers: tuple[str, ...] = ()


class Backend(ABC):
    """A model file opened on one or more devices.

    Life: `new_backend` opens the file; `get` declares the weights a model uses; `load` allocates and reads
    them; contexts compute with them; `close` gives everything back. Use as a context manager closes too.
    """

    @abstractmethod
    def allocate(self) -> None:
        """Makes room for every weight that `get` handed out, without reading it.

        `load` does it too; a caller who wants to know early that everything fits calls this, makes caches
        and reserves graphs, and loads at last.

        Raises:
            InsufficientMemory: a device has not enough memory.
        """

    @abstractmethod
    def load(self, progress: Callable[[float], None] = lambda done: None) -> None:
        """Reads every weight that `get` handed out from the file, after `allocate`.

        Args:
            progress: called with the share done, from 0.0 to 1.0, never less than before.

        Raises:
            InsufficientMemory: a device has not enough memory.
        """

    @abstractmethod
    def backend_memory(self) -> BackendMemory:
        """A copy of what has been allocated, or planned when `alloc_memory` is off."""

    @abstractmethod
    def forget_caches(self) -> None:
        """Takes caches and graphs off the books: they have been closed, and others will be made."""

    @abstractmethod
    def config(self) -> Metadata:
        """The model file's metadata."""

    @abstractmethod
    def names(self) -> Iterable[str]:
        """The names of all tensors in the file."""

    @abstractmethod
    def get(self, name: str, *, rows: bool = False) -> Tensor | None:
        """The weight called `name`, or None if the file has none.

        Args:
            rows: the weight is a table that is looked up row by row (an embedding) instead of a matrix or
                vector to compute with. The same weight can be asked for in both roles; a backend may then
                keep two copies, each where and how its role is fastest.

        After `allocate` only weights that were asked for before it are known.
        """

    @abstractmethod
    def allow_rounding(self) -> None:
        """Lets large matrices be kept in BF16 where that makes products faster; before any `get`.

        For models whose results bear it. Backends without such a way do nothing.
        """

    @abstractmethod
    def get_concatenated(self, names: Sequence[str]) -> Tensor | None:
        """One weight whose rows are those of all `names` in order, or None.

        None means that the backend keeps them apart (it does not fuse, or their types differ), or that
        one of them is not in the file: then ask for each by `get`.
        """

    @abstractmethod
    def new_context(self) -> Context:
        """A context for a graph of up to the backend's largest size."""

    @abstractmethod
    def new_context_size(self, nodes: int) -> Context:
        """A context for a graph of up to `nodes` nodes.

        Raises:
            InvalidOption: `nodes` is above the backend's largest size.
        """

    @abstractmethod
    def interrupt(self) -> None:
        """Ends the running computation and every later one with `Interrupted`, until `resume`.

        Callable from any thread. A backend that cannot stop in the middle finishes what is running.
        """

    @abstractmethod
    def resume(self) -> None:
        """Lets computations run again after `interrupt`."""

    def cache_config(self) -> CacheConfig:
        """What the backend's attention asks of a cache."""
        return CacheConfig()

    @abstractmethod
    def close(self) -> None:
        """Frees weights and devices. Contexts must be closed before; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


BackendFactory = Callable[[Path, BackendParams], Backend]

_factories: dict[str, BackendFactory] = {}

# Built-in backends are named by module so that importing puna.ml loads none of them.
_builtin = {"ggml": "puna.ml.backends.ggml", "reference": "puna.ml.backends.reference"}


def register_backend(name: str, factory: BackendFactory) -> None:
    """Makes `factory` available as `name` to `new_backend`.

    Raises:
        InvalidOption: the name is taken.
    """
    if name in _factories or name in _builtin:
        raise InvalidOption(f"backend {name!r} is already registered")
    _factories[name] = factory


def new_backend(path: Path, params: BackendParams | None = None, *, name: str = "ggml") -> Backend:
    """Opens the model file `path` on the backend called `name`.

    Raises:
        InvalidOption: no such backend.
        GGUFError: the file is no sound GGUF file.
    """
    return _factory(name)(path, params or BackendParams())


def _factory(name: str) -> BackendFactory:
    if name in _factories:
        return _factories[name]
    if name in _builtin:
        factory: BackendFactory = import_module(_builtin[name]).open_backend
        return factory
    raise InvalidOption(f"there is no backend {name!r}; known: {', '.join(sorted({*_builtin, *_factories}))}")
