"""Loading: a model file becomes a model in memory, on whatever devices it fits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Self

import msgspec

from puna.engine.activations import Activations
from puna.engine.adapters import Adapter, Adapters, ordered
from puna.engine.embed import Embedder, pooling_of, scored, texts_together
from puna.engine.evaluator import Evaluator
from puna.engine.events import Done, Event
from puna.engine.loop import Engine
from puna.engine.options import (
    ALL_DEVICES,
    DEFAULT_BATCH,
    DEFAULT_CACHE_TYPE,
    DEFAULT_PARALLEL,
    LoadOptions,
)
from puna.engine.pictures import Gallery
from puna.engine.request import AdapterUse, GenerateRequest, Image, uses
from puna.engine.signals import interrupted_by_signals
from puna.engine.speculation.depth import LARGEST
from puna.engine.thinking import ends_with
from puna.errors import InternalError, InvalidOption, PunaError, UnsupportedModel
from puna.gguf import Metadata
from puna.gguf.keys import Pooling
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
from puna.models.base import Decoder, Encoder, Model, Step
from puna.models.registry import build_model
from puna.sampling.constraints import Constraint, Constraints, TokenTable
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters
from puna.tokenizer import Tokenizer, load_tokenizer

DEFAULT_CONTEXT = 4096


class LoadedModel:
    """A model in memory with its tokenizer and cache; a context manager.

    Attributes:
        metadata: the file's metadata.
        tokenizer: its tokenizer.
        options: what it was loaded with, or resized to.
        num_ctx: tokens of context of one request.
        num_batch: most tokens evaluated at once.
    """

    def __init__(
        self,
        backend: Backend,
        model: Model,
        evaluator: Evaluator,
        options: LoadOptions,
        adapters: Adapters,
        eyes: Backend | None = None,
    ) -> None:
        """
        Args:
            adapters: those in memory.
            eyes: what has the image encoder's weights, where it is not `backend`.
        """
        self.backend = backend
        self._eyes = eyes
        self._adapters = adapters
        adapters.attempt, adapters.unused = self._attempt, self._forget_graphs
        self.metadata: Metadata = backend.config()
        self._model = model
        self._ids = count()
        self._inboxes: dict[int, deque[Event | PunaError]] = {}
        self._use(evaluator, options)

    def _use(self, evaluator: Evaluator, options: LoadOptions) -> None:
        self.evaluator = evaluator
        self.options = options
        self.num_ctx = context_length(self.metadata, options)
        self.num_batch = batch_size(self._model, self.num_ctx, options)
        self._embedder: Embedder | None = None
        self._gallery = Gallery.of(self._eyes or self.backend, self._model, evaluator.cache)
        self._engine: Engine | None = None

    @property
    def memory(self) -> BackendMemory:
        """What it takes of each device."""
        return memory_of(self.backend, self._eyes)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, built when it is first used."""
        return load_tokenizer(self.metadata)

    @cached_property
    def constraints(self) -> Constraints:
        """Grammars for the model's vocabulary; costs nothing until one is used."""
        return Constraints(token_table(self.tokenizer))

    @property
    def engine(self) -> Engine:
        """What answers requests; another one after `resize`."""
        if self._engine is None:
            self._engine = Engine(
                self.evaluator,
                self.tokenizer,
                self._constrained,
                num_ctx=self.num_ctx,
                num_batch=self.num_batch,
                limit=self.options.num_parallel or DEFAULT_PARALLEL,
                gallery=self._gallery,
                adapters=self._adapters,
                usual=self.usual,
            )
        return self._engine

    @property
    def usual(self) -> tuple[AdapterUse, ...]:
        """The adapters that the model was loaded with."""
        return uses(self.options.adapters or ())

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
        shift: bool = False,
        num_keep: int = 4,
        images: Sequence[Image] = (),
        draft: int = -1,
        adapters: Sequence[AdapterUse] | None = None,
        halted: Callable[[], bool] = lambda: False,
    ) -> Generator[Event, None, None]:
        """Yields the answer to the prompt's tokens piece by piece, and at last `Done`.

        What the prompt has in common with earlier ones, and their answers, is not evaluated again while the
        cache has it. Several answers may be asked for by turns. See `GenerateRequest` for the arguments.

        Args:
            halted: asked after each piece of text whether it was the last that is wanted; then the answer
                has stopped.

        Raises:
            InvalidOption: the prompt is empty, or the grammar is refused.
            MissingCapability: the model only reads, or sees no pictures.
            PunaError: as `Engine`, while the answer is read.
        """
        if grammar is not None:
            self.constraint(grammar, thinking, prompt)
        request = GenerateRequest(
            list(prompt),
            sampling,
            num_predict=num_predict,
            stop=tuple(stop),
            grammar=grammar,
            thinking=thinking,
            shown=frozenset(shown),
            shift=shift,
            num_keep=num_keep,
            images=tuple(images),
            draft=draft,
            adapters=None if adapters is None else tuple(adapters),
        )
        return self._answer(request, halted)

    def _answer(self, request: GenerateRequest, halted: Callable[[], bool]) -> Generator[Event, None, None]:
        id, engine = next(self._ids), self.engine
        engine.submit(id, request)
        self._inboxes[id] = deque()
        stopped = False
        try:
            while True:
                event = self._next(id)
                if isinstance(event, PunaError):
                    raise event
                if isinstance(event, Done):
                    yield msgspec.structs.replace(event, reason="stop") if stopped else event
                    return
                if stopped:
                    continue
                yield event
                if stopped := halted():
                    engine.cancel(id)
        finally:
            engine.cancel(id)
            del self._inboxes[id]

    def _next(self, id: int) -> Event | PunaError:
        """The next event of a request. Those of others that come on the way are kept for them."""
        inbox = self._inboxes[id]
        while not inbox:
            for other, event in self.engine.step().events:
                if other in self._inboxes:
                    self._inboxes[other].append(event)
        return inbox.popleft()

    @cached_property
    def pooling(self) -> Pooling:
        """How a text's vector is made of its states. Raises GGUFError: the file names no known way."""
        return pooling_of(self.metadata, self._model)

    def embed(
        self, inputs: Sequence[Sequence[int]], adapters: Sequence[AdapterUse] | None = None
    ) -> list[Floats]:
        """One vector F32 (width,) for each text, given as token ids with those that begin and end it.

        Vectors are not normalised. Any model makes them; they mean something if it was trained to. A model
        that compares two texts, [CLS] query [SEP] document [SEP], gives its scores instead.

        Args:
            adapters: what they are made with; None for those that the model was loaded with.

        Raises:
            InvalidOption: a text has no tokens, or a number that is none.
            ContextLengthExceeded: a text is longer than the context.
            PunaError: an adapter is not for this model, or does not fit.
        """
        used = ordered(self.usual if adapters is None else adapters)
        self._adapters.bring([one.path for one in used], self.engine.adapters)
        return self.embedder.embed(inputs, [(self._adapters[one.path], one.scale) for one in used])

    @property
    def embedder(self) -> Embedder:
        """What makes vectors; a decoder's has a cache of its own, so that no request is disturbed."""
        if self._embedder is None:
            self._embedder = self._new_embedder(self._model)
        return self._embedder

    def _new_embedder(self, model: Model) -> Embedder:
        evaluator, pooling, segments, separator = self.evaluator, self.pooling, 0, None
        if isinstance(model, Encoder) and pooling is Pooling.RANK:
            evaluator, pooling = self._second_evaluator(scored(model)), Pooling.CLS
            segments, separator = model.segment_kinds, self.tokenizer.eos_id
        elif not isinstance(model, Encoder):
            evaluator = self._second_evaluator(model.hidden)
        budget = texts_together(model, self.num_batch)
        vocabulary = self.tokenizer.vocab_size
        return Embedder(evaluator, pooling, self.num_ctx, budget, vocabulary, segments, separator)

    def activations(self) -> Activations:
        """What sums up what the model's matrices are multiplied with, with a cache of its own."""
        names = frozenset(self.backend.names())
        return Activations(self._model, names, self._second_evaluator, self.num_batch)

    def _second_evaluator(self, compute: Callable[[Step], Tensor]) -> Evaluator:
        """One with room for one request, made without reserving, for it may never be needed."""
        options = replace(self.options, num_parallel=1)
        return unreserved_evaluator(self.backend, self._model, options, compute)

    def _constrained(self, request: GenerateRequest) -> Constraint | None:
        if request.grammar is None:
            return None
        return self.constraint(request.grammar, request.thinking, request.prompt)

    def constraint(self, grammar: Grammar, thinking: Thinking | None, prompt: Sequence[int]) -> Constraint:
        """The constraint of one answer to the prompt; its warnings tell what of the grammar has no effect.

        Raises:
            InvalidOption: the grammar is refused.
        """
        opened = thinking is not None and ends_with(self.tokenizer, prompt, thinking.opening)
        return self.constraints.start(grammar, thinking, thinking_opened=opened)

    def resize(self, options: LoadOptions) -> None:
        """Makes the cache anew for other num_ctx, num_parallel, num_batch and kv_cache_type.

        The weights stay where they are, and what the old cache held is gone. If there is no room for the new
        one, the model goes on with one like the old.

        Raises:
            InvalidOption: requests are under way, or the cache type does not suit the model.
            InsufficientMemory: the new cache does not fit.
            InternalError: nor does the old one any more; the model is of no use.
        """
        if self._engine is not None and not self._engine.idle:
            raise InvalidOption("the cache cannot be resized while requests are under way")
        self._close_evaluators()
        try:
            self._use(self._new_evaluator(options), options)
        except PunaError:
            try:
                self._use(self._new_evaluator(self.options), self.options)
            except PunaError as error:
                raise InternalError(f"the model has lost its cache: {error}") from error
            raise

    def _new_evaluator(self, options: LoadOptions) -> Evaluator:
        self.backend.forget_caches()
        return new_evaluator(self.backend, self._model, options, self._eyes, self._adapters.all)

    def interrupted_by_signals(self) -> AbstractContextManager[None]:
        """While inside, Ctrl-C ends a computation at once; see `puna.engine.signals`."""
        return interrupted_by_signals(self.backend)

    def _attempt(self, adapter: Adapter) -> None:
        """Makes room for the largest graph with an adapter. Raises: as `Evaluator.reserve`."""
        outputs = most_outputs(self._model, self.num_batch, self.options)
        self.evaluator.reserve(self.num_batch, outputs, [adapter])

    def _forget_graphs(self) -> None:
        self.evaluator.forget_graphs()
        if self._embedder is not None:
            self._embedder.evaluator.forget_graphs()

    def close(self) -> None:
        """Frees everything. Closing twice is harmless."""
        self._close_evaluators()
        self._adapters.close()
        if self._eyes is not None:
            self._eyes.close()
        self.backend.close()

    def _close_evaluators(self) -> None:
        if self._embedder is not None:
            self._embedder.evaluator.close()
        self.evaluator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def token_table(tokenizer: Tokenizer) -> TokenTable:
    """What constraints need to know of a tokenizer."""
    special = [id for id in range(tokenizer.vocab_size) if tokenizer.is_special(id)]
    return TokenTable(tokenizer.pieces, special, tokenizer.end_ids, tokenizer.encode_continuation)


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
        GGUFError: the file, or that of an adapter, is no sound GGUF file.
        UnsupportedModel: its architecture or tokenizer is not implemented, or an adapter is for another.
        WeightError: its tensors do not fit its architecture, or those of an adapter do not fit it.
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
            if shares is None or options.num_gpu_layers is not None or any(options.tensor_split or ()):
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
    with ExitStack() as opened:
        planned = opened.enter_context(new_backend(path, params, name=backend))
        model = build_model(planned)
        eyes = opened_eyes(model, options, params, backend)
        if eyes is not None:
            opened.enter_context(eyes)
        planned.allocate()
        with closing(Adapters(planned, model)) as adapters:
            reserved = adapters.reserve(options.adapters or ())
            new_evaluator(planned, model, options, eyes, reserved).close()
            memory = memory_of(planned, eyes)
        metadata = planned.config()
        return memory, context_length(metadata, options), metadata.uint("block_count", 0)


def backend_params(options: LoadOptions) -> BackendParams:
    """The options as backends take them."""
    return BackendParams(
        num_threads=options.num_threads or 0,
        main_gpu=ALL_DEVICES if options.main_gpu is None else options.main_gpu,
        num_gpu_layers=-1 if options.num_gpu_layers is None else options.num_gpu_layers,
        tensor_split=options.tensor_split or (),
        transcode=options.transcode,
        repack=options.repack,
        rpc_servers=options.rpc_servers or (),
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
    eyes: Backend | None = None
    try:
        model = build_model(backend)
        eyes = opened_eyes(model, options, params, name)
        return _build(backend, eyes, model, options, progress)
    except BaseException:
        if eyes is not None:
            eyes.close()
        backend.close()
        raise


def opened_eyes(model: Model, options: LoadOptions, params: BackendParams, name: str) -> Backend | None:
    """What has the weights of the image encoder that the options name, on the CPU; the model sees through it.

    Raises:
        UnsupportedModel: the model takes none, or not this one.
        GGUFError, WeightError: the file makes no sense, or is not what it says.
        InsufficientMemory: it does not fit.
    """
    if options.projector is None:
        return None
    if not isinstance(model, Decoder):
        raise UnsupportedModel("a model that only reads has no image encoder")
    params = replace(params, num_gpu_layers=0, tensor_split=(), rpc_servers=())
    eyes = new_backend(Path(options.projector), params, name=name)
    try:
        model.see_through(eyes)
        eyes.allocate()
    except BaseException:
        eyes.close()
        raise
    return eyes


def memory_of(backend: Backend, eyes: Backend | None) -> BackendMemory:
    """What a model takes, with its image encoder of another file."""
    memory = backend.backend_memory()
    if eyes is not None:
        own = eyes.backend_memory()
        for entry in (own.input_weights, *own.cpu.weights):
            memory.input_weights.add(entry.size, entry.status)
        memory.cpu.graph.add(own.cpu.graph.size, own.cpu.graph.status)
    return memory


def _build(
    backend: Backend,
    eyes: Backend | None,
    model: Model,
    options: LoadOptions,
    progress: Callable[[float], None],
) -> LoadedModel:
    with ExitStack() as undone:
        backend.allocate()
        adapters = undone.enter_context(closing(Adapters(backend, model)))
        reserved = adapters.reserve(options.adapters or ())
        evaluator = undone.enter_context(closing(new_evaluator(backend, model, options, eyes, reserved)))
        if eyes is not None:
            eyes.load()
        backend.load(progress)
        adapters.load()
        loaded = LoadedModel(backend, model, evaluator, options, adapters, eyes)
        undone.pop_all()
        return loaded


def new_evaluator(
    backend: Backend,
    model: Model,
    options: LoadOptions,
    eyes: Backend | None = None,
    adapters: Sequence[Adapter] = (),
) -> Evaluator:
    """An evaluator with a cache and room for the largest graph.

    Args:
        eyes: what has the image encoder's weights, where it is not `backend`.
        adapters: those that the graph has.

    Raises:
        InsufficientMemory: there is not enough.
        InvalidOption: the cache type does not suit the model.
    """
    evaluator = unreserved_evaluator(backend, model, options)
    try:
        num_batch = batch_size(model, context_length(backend.config(), options), options)
        evaluator.reserve(num_batch, most_outputs(model, num_batch, options), adapters)
        if gallery := Gallery.of(eyes or backend, model, evaluator.cache):
            gallery.reserve()
    except BaseException:
        evaluator.close()
        raise
    return evaluator


def unreserved_evaluator(
    backend: Backend,
    model: Model,
    options: LoadOptions,
    compute: Callable[[Step], Tensor] | None = None,
) -> Evaluator:
    """An evaluator whose memory is taken when it is first used. Raises: InvalidOption, as `new_evaluator`."""
    model.context = num_ctx = context_length(backend.config(), options)
    evaluator = Evaluator(backend, model, model.cache(), compute=compute)
    kind = DType[(options.kv_cache_type or DEFAULT_CACHE_TYPE).upper()]
    parallel = options.num_parallel or DEFAULT_PARALLEL
    num_batch = batch_size(model, num_ctx, options)
    evaluator.cache.init(backend, kind, parallel, num_ctx, num_batch)
    return evaluator


def most_outputs(model: Model, num_batch: int, options: LoadOptions) -> int:
    """Of how many tokens of a batch results are wanted at most."""
    if isinstance(model, Encoder):
        return num_batch
    return max(options.num_parallel or DEFAULT_PARALLEL, LARGEST)


def batch_size(model: Model, num_ctx: int, options: LoadOptions) -> int:
    """Most tokens evaluated at once: an encoder reads a text as a whole, a decoder a picture."""
    if isinstance(model, Encoder):
        return num_ctx
    placement = model.vision.placement if isinstance(model, Decoder) and model.vision else None
    seen = placement.count if placement and placement.whole else 1
    return min(max(options.num_batch or DEFAULT_BATCH, seen), num_ctx)


def context_length(metadata: Metadata, options: LoadOptions) -> int:
    """Tokens of context: as asked for, within what the model was trained on."""
    trained = metadata.uint("context_length", DEFAULT_CONTEXT)
    return min(options.num_ctx or DEFAULT_CONTEXT, trained)
