"""Loading: a model file becomes a model in memory, on whatever devices it fits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from puna.engine.evaluator import Evaluator
from puna.engine.events import Event
from puna.engine.generate import Conversation, generate
from puna.engine.options import LoadOptions
from puna.engine.signals import interrupted_by_signals
from puna.gguf import Metadata
from puna.ml import (
    AllocationStatus,
    BackendMemory,
    BackendParams,
    DeviceMemory,
    DType,
    InsufficientMemory,
)
from puna.ml.backend import Backend, new_backend
from puna.models.base import Model
from puna.models.registry import build_model
from puna.sampling.constraints import Constraint, Constraints, TokenTable
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters
from puna.sampling.sampler import Sampler
from puna.tokenizer import Tokenizer, load_tokenizer

DEFAULT_CONTEXT = 4096


class LoadedModel:
    """A model in memory with its tokenizer and cache; a context manager.

    Attributes:
        metadata: the file's metadata.
        tokenizer: its tokenizer.
        num_ctx: tokens of context.
        memory: what it takes of each device.
    """

    def __init__(self, backend: Backend, evaluator: Evaluator, options: LoadOptions, num_ctx: int) -> None:
        self.backend = backend
        self.evaluator = evaluator
        self.num_ctx = num_ctx
        self.num_batch = min(options.num_batch, num_ctx)
        self.metadata: Metadata = backend.config()
        self.memory: BackendMemory = backend.backend_memory()
        self._conversation = Conversation()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, built when it is first used."""
        return load_tokenizer(self.metadata)

    @cached_property
    def constraints(self) -> Constraints:
        """Grammars for the model's vocabulary; costs nothing until one is used."""
        return Constraints(token_table(self.tokenizer))

    def generate(
        self,
        prompt: Sequence[int],
        sampling: SamplingParameters,
        *,
        num_predict: int = -1,
        stop: Sequence[str] = (),
        grammar: Grammar | None = None,
        thinking: Thinking | None = None,
        shown: Collection[int] = (),
        halted: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Yields the answer to the prompt's tokens; see `puna.engine.generate.generate`.

        What the prompt has in common with the last one, and its answer, is not evaluated again.

        Args:
            grammar: what the answer is kept to.
            thinking: tags of thoughts before the answer, which the grammar leaves alone.
            shown: ids of control tokens that the text shows.
            halted: asked after each piece of text whether it was the last that is wanted.

        Raises:
            InvalidOption: the grammar is refused.
        """
        sampler = Sampler(sampling, self.tokenizer.vocab_size, prompt)
        constraint = self.constraint(grammar, thinking, prompt) if grammar else None
        return generate(
            self.evaluator,
            self._conversation,
            self.tokenizer,
            prompt,
            sampler,
            constraint,
            num_ctx=self.num_ctx,
            num_batch=self.num_batch,
            num_predict=num_predict,
            stop=stop,
            shown=shown,
            halted=halted,
        )

    def constraint(self, grammar: Grammar, thinking: Thinking | None, prompt: Sequence[int]) -> Constraint:
        """The constraint of one answer to the prompt; its warnings tell what of the grammar has no effect.

        Raises:
            InvalidOption: the grammar is refused.
        """
        opened = thinking is not None and ends_with(self.tokenizer, prompt, thinking.opening)
        return self.constraints.start(grammar, thinking, thinking_opened=opened)

    def interrupted_by_signals(self) -> AbstractContextManager[None]:
        """While inside, Ctrl-C ends a computation at once; see `puna.engine.signals`."""
        return interrupted_by_signals(self.backend)

    def close(self) -> None:
        """Frees everything. Closing twice is harmless."""
        self.evaluator.close()
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def token_table(tokenizer: Tokenizer) -> TokenTable:
    """What constraints need to know of a tokenizer."""
    special = [id for id in range(tokenizer.vocab_size) if tokenizer.is_special(id)]
    return TokenTable(tokenizer.pieces, special, tokenizer.end_ids, tokenizer.encode_continuation)


def ends_with(tokenizer: Tokenizer, prompt: Sequence[int], text: str) -> bool:
    """Whether the prompt's text, but for white space, ends with this."""
    # Each byte is at most one token, and templates put a line end or two behind.
    tail = b"".join(tokenizer.pieces[id] for id in prompt[-len(text.encode()) - 8 :])
    return tail.rstrip().endswith(text.encode())


def load_model(
    path: Path,
    options: LoadOptions | None = None,
    progress: Callable[[float], None] = lambda done: None,
    *,
    backend: str = "ggml",
) -> LoadedModel:
    """Loads a GGUF file.

    If a device has not enough memory and the number of layers was left open, fewer layers go to the
    devices, until the rest fits.

    Raises:
        GGUFError: the file is no sound GGUF file.
        UnsupportedModel: its architecture or tokenizer is not implemented.
        WeightError: its tensors do not fit its architecture.
        InsufficientMemory: it does not fit.
    """
    options = options or LoadOptions()
    params = backend_params(options)
    limits: dict[int, int] = {}
    while True:
        try:
            return _load(path, params, options, progress, backend)
        except InsufficientMemory as error:
            shares = next_shares(error.memory, limits)
            if shares is None or options.num_gpu_layers is not None or any(options.tensor_split):
                raise
        params = replace(params, num_gpu_layers=sum(shares), tensor_split=tuple(map(float, shares)))


def plan_model(
    path: Path, options: LoadOptions | None = None, *, backend: str = "ggml"
) -> tuple[BackendMemory, int, int]:
    """What a model would take, by the sizes that loading it would allocate; no weights are read.

    Returns:
        Its memory, the tokens of context of one request, and the number of its layers.

    Raises:
        GGUFError, UnsupportedModel, WeightError: as `load_model`.
    """
    options = options or LoadOptions()
    params = replace(backend_params(options), alloc_memory=False)
    with new_backend(path, params, name=backend) as planned:
        model = build_model(planned)
        planned.allocate()
        new_evaluator(planned, model, options).close()
        metadata = planned.config()
        return planned.backend_memory(), context_length(metadata, options), metadata.uint("block_count", 0)


def backend_params(options: LoadOptions) -> BackendParams:
    """The options as backends take them."""
    return BackendParams(
        num_threads=options.num_threads or 0,
        main_gpu=options.main_gpu,
        num_gpu_layers=-1 if options.num_gpu_layers is None else options.num_gpu_layers,
        tensor_split=options.tensor_split,
        transcode=options.transcode,
        repack=options.repack,
        rpc_servers=options.rpc_servers,
    )


def next_shares(memory: BackendMemory, limits: dict[int, int]) -> list[int] | None:
    """How many layers to try on each device after an attempt failed; None if the CPU failed.

    A device that failed gets about an eighth less than it was given, for good; what it loses goes to
    devices that have not failed yet, and to the CPU when there is none.

    Args:
        memory: the attempt, with the failed allocation.
        limits: the most layers that each device which failed can hold; updated.
    """
    given = [sum(weight.size > 0 for weight in device.weights) for device in memory.gpus]
    failed = [index for index, device in enumerate(memory.gpus) if _has_failed(device)]
    if not failed:
        return None
    for index in failed:
        limits[index] = max(0, given[index] - max(1, given[index] // 8))
    shares = [min(count, limits.get(index, count)) for index, count in enumerate(given)]
    sound = [index for index in range(len(given)) if index not in limits]
    if sound:
        shares[sound[0]] += sum(given) - sum(shares)
    return shares


def _has_failed(device: DeviceMemory) -> bool:
    entries = (*device.weights, *device.cache, device.graph)
    return any(entry.status is AllocationStatus.FAILED for entry in entries)


def _load(
    path: Path, params: BackendParams, options: LoadOptions, progress: Callable[[float], None], name: str
) -> LoadedModel:
    backend = new_backend(path, params, name=name)
    try:
        return _build(backend, options, progress)
    except BaseException:
        backend.close()
        raise


def _build(backend: Backend, options: LoadOptions, progress: Callable[[float], None]) -> LoadedModel:
    model = build_model(backend)
    backend.allocate()
    evaluator = new_evaluator(backend, model, options)
    try:
        backend.load(progress)
        return LoadedModel(backend, evaluator, options, context_length(backend.config(), options))
    except BaseException:
        evaluator.close()
        raise


def new_evaluator(backend: Backend, model: Model, options: LoadOptions) -> Evaluator:
    """An evaluator with a cache, and with room for its largest graph; planned, where the backend only plans.

    Raises:
        InsufficientMemory: there is no room.
    """
    num_ctx = context_length(backend.config(), options)
    num_batch = min(options.num_batch, num_ctx)
    cache = model.cache()
    cache.init(backend, DType[options.kv_cache_type.upper()], options.num_parallel, num_ctx, num_batch)
    evaluator = Evaluator(backend, model, cache)
    try:
        evaluator.reserve(num_batch)
    except BaseException:
        evaluator.close()
        raise
    return evaluator


def context_length(metadata: Metadata, options: LoadOptions) -> int:
    """Tokens of context: as asked for, within what the model was trained on."""
    trained = metadata.uint("context_length", DEFAULT_CONTEXT)
    return min(options.num_ctx or DEFAULT_CONTEXT, trained)
