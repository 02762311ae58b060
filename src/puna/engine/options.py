"""How a model is loaded; plain data, shared with parts that never compute."""

from dataclasses import dataclass, replace
from typing import Final

from puna.errors import InvalidOption

# As many as ggml can have; with more it ends the process.
MAX_THREADS = 512
KV_CACHE_TYPES = ("f16", "q8_0", "q4_0", "f32")

DEFAULT_CACHE_TYPE: Final = "f16"
DEFAULT_BATCH: Final = 512
DEFAULT_PARALLEL: Final = 1
ALL_DEVICES: Final = -1


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How a model is loaded. None, everywhere, is what nobody named.

    Attributes:
        num_ctx: tokens of context; None takes 4096, or what the model was trained on if that is less.
        num_threads: threads; None takes one per physical core.
        num_gpu_layers: layers on other devices than the CPU; None offloads as many as fit.
        kv_cache_type: element type of the KV cache: f16, q8_0, q4_0 or f32; None takes f16.
        main_gpu: index of the only device to use; -1, as None, spreads the layers over all.
        tensor_split: share of the layers for each device; none shares by free memory.
        num_batch: tokens of a prompt evaluated at once; None takes 512.
        num_parallel: sequences that can be in the cache at once, each with num_ctx tokens; None takes 1.
        transcode: store types without a fast kernel as one that has; None does so where it costs little.
        repack: store weights in the processor's preferred order; None does so where that is faster.
        rpc_servers: `host:port` of ggml RPC servers to use as devices.
        projector: path of a GGUF file with the image encoder, where the model's own has none.
        adapters: paths of GGUF files of LoRA adapters, which apply where a request names none of its own.

    Raises:
        InvalidOption: a number is out of its range, or the cache type is unknown.
    """

    num_ctx: int | None = None
    num_threads: int | None = None
    num_gpu_layers: int | None = None
    kv_cache_type: str | None = None
    main_gpu: int | None = None
    tensor_split: tuple[float, ...] | None = None
    num_batch: int | None = None
    num_parallel: int | None = None
    transcode: bool | None = None
    repack: bool | None = None
    rpc_servers: tuple[str, ...] | None = None
    projector: str | None = None
    adapters: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _at_least("num_ctx", self.num_ctx, 1)
        _at_least("num_threads", self.num_threads, 1)
        if self.num_threads is not None and self.num_threads > MAX_THREADS:
            raise InvalidOption(f"num_threads is {self.num_threads}; it must be at most {MAX_THREADS}")
        _at_least("num_gpu_layers", self.num_gpu_layers, 0)
        _at_least("num_batch", self.num_batch, 1)
        _at_least("num_parallel", self.num_parallel, 1)
        if self.kv_cache_type is not None and self.kv_cache_type not in KV_CACHE_TYPES:
            known = ", ".join(KV_CACHE_TYPES)
            raise InvalidOption(f"kv_cache_type is {self.kv_cache_type!r}; it can be {known}")

    def filled(self) -> "LoadOptions":
        """The same, with what None stands for where that is one value for every model and machine."""
        return replace(
            self,
            kv_cache_type=self.kv_cache_type or DEFAULT_CACHE_TYPE,
            main_gpu=ALL_DEVICES if self.main_gpu is None else self.main_gpu,
            tensor_split=self.tensor_split or (),
            num_batch=self.num_batch or DEFAULT_BATCH,
            num_parallel=self.num_parallel or DEFAULT_PARALLEL,
            rpc_servers=self.rpc_servers or (),
        )


def _at_least(name: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise InvalidOption(f"{name} is {value}; it must be at least {least}")
