"""Loading: a model file becomes a model in memory, on whatever devices it fits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

from puna.engine.embed import Embedder, Pooling, scored
from puna.engine.evaluator import Evaluator
from puna.engine.events import Event
from puna.engine.generate import Conversation, generate
from puna.engine.options import LoadOptions
from puna.engine.signals import interrupted_by_signals
from puna.errors import MissingCapability
from puna.gguf import Metadata
from puna.kvcache import Cache
from puna.ml import (
    AllocationStatus,
    BackendMemory,
    BackendParams,
    DeviceMemory,
    DType,
    InsufficientMemory,
    Tensor,
)
from puna.ml.array import Floats
from puna.ml.backend import Backend, new_backend
from puna.models.base import Encoder, Model, Step
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
        self.options = options
        self.num_ctx = num_ctx
        self.num_batch = min(options.num_batch, num_ctx)
        self.metadata: Metadata = backend.config()
        self.memory: BackendMemory = backend.backend_memory()
        self._conversation = Conversation()
        self._others: list[Evaluator] = []

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, built when it is first used."""
        return load_tokenizer(self.metadata)

    @cached_property
    def pooling(self) -> Pooling:
        """How a text's vector is made of its states. Raises GGUFError: the file names no known way."""
        return Pooling.of(self.metadata, self.evaluator.model)

    def embed(self, inputs: Sequence[Sequence[int]]) -> list[Floats]:
        """One vector F32 (width,) for each text, given as token ids with those that begin and end it.

        Vectors are not normalised. Any model makes them; they mean something if it was trained to.

        Raises:
            InvalidOption: a text has no tokens, or a number that is none.
            ContextLengthExceeded: a text is longer than the context.
            MissingCapability: the model gives scores instead.
        """
        if self.pooling is Pooling.RANK:
            raise MissingCapability(["embedding"], "it compares two texts", "the model")
        return self._embedder.embed(inputs)

    def rerank(self, inputs: Sequence[Sequence[int]]) -> list[Floats]:
        """Scores F32 (labels,) of pairs of texts, given as token ids: [CLS] query [SEP] document [SEP].

        Raises:
            MissingCapability: the model has no head that compares texts.
            InvalidOption, ContextLengthExceeded: as `embed`.
        """
        if self.pooling is not Pooling.RANK:
            raise MissingCapability(["rerank"], subject="the model")
        return self._embedder.embed(inputs)

    @cached_property
    def _embedder(self) -> Embedder:
        """What makes vectors; a decoder's has a cache of its own, so that no conversation is disturbed."""
        model, separator = self.evaluator.model, None
        evaluator, pooling, segments = self.evaluator, self.pooling, 0
        if isinstance(model, Encoder) and pooling is Pooling.RANK:
            evaluator, pooling = self._own_evaluator(scored(model)), Pooling.CLS
            segments, separator = model.segment_kinds, self.tokenizer.eos_id
        elif not isinstance(model, Encoder):
            evaluator = self._own_evaluator(model.hidden)
        return Embedder(
            evaluator, pooling, self.num_ctx, self.num_batch, self.tokenizer.vocab_size, segments, separator
        )

    def _own_evaluator(self, compute: Callable[[Step], Tensor]) -> Evaluator:
        model = self.evaluator.model
        cache = _new_cache(self.backend, model, replace(self.options, num_parallel=1), self.num_ctx)
        self._others.append(Evaluator(self.backend, model, cache, compute=compute))
        return self._others[-1]

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
            MissingCapability: the model only reads.
        """
        if isinstance(self.evaluator.model, Encoder):
            raise MissingCapability(["completion"], "it makes vectors of texts", "the model")
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
        for evaluator in self._others:
            evaluator.close()
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
    params = BackendParams(
        num_threads=options.num_threads or 0,
        main_gpu=options.main_gpu,
        num_gpu_layers=-1 if options.num_gpu_layers is None else options.num_gpu_layers,
        tensor_split=options.tensor_split,
        transcode=options.transcode,
        repack=options.repack,
        rpc_servers=options.rpc_servers,
    )
    limits: dict[int, int] = {}
    while True:
        try:
            return _load(path, params, options, progress, backend)
        except InsufficientMemory as error:
            shares = next_shares(error.memory, limits)
            if shares is None or options.num_gpu_layers is not None or any(options.tensor_split):
                raise
        params = replace(params, num_gpu_layers=sum(shares), tensor_split=tuple(map(float, shares)))


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
    num_ctx = context_length(backend.config(), options)
    backend.allocate()
    cache = _new_cache(backend, model, options, num_ctx)
    evaluator = Evaluator(backend, model, cache)
    try:
        evaluator.reserve(_largest_batch(model, options, num_ctx))
        backend.load(progress)
        return LoadedModel(backend, evaluator, options, num_ctx)
    except BaseException:
        evaluator.close()
        raise


def _new_cache(backend: Backend, model: Model, options: LoadOptions, num_ctx: int) -> Cache:
    cache = model.cache()
    dtype = DType[options.kv_cache_type.upper()]
    cache.init(backend, dtype, options.num_parallel, num_ctx, _largest_batch(model, options, num_ctx))
    return cache


def _largest_batch(model: Model, options: LoadOptions, num_ctx: int) -> int:
    """The most tokens of one batch: an encoder reads a text all at once."""
    return num_ctx if isinstance(model, Encoder) else min(options.num_batch, num_ctx)


def context_length(metadata: Metadata, options: LoadOptions) -> int:
    """Tokens of context: as asked for, within what the model was trained on."""
    trained = metadata.uint("context_length", DEFAULT_CONTEXT)
    return min(options.num_ctx or DEFAULT_CONTEXT, trained)
