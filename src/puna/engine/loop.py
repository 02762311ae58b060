"""The engine: many requests to one loaded model, evaluated together.

A step is plan, run, commit: which tokens are evaluated next (`puna.engine.plan`), their evaluation in one
batch (`puna.engine.evaluator`), and what follows from the logits (`puna.engine.commit`). Between steps
requests come and go. There are no threads here and no locks: one caller drives it.

All sequences share one pool of cells. Those that have ended stay as prefixes (`puna.engine.prefixes`) until
their cells or numbers are wanted. Should the pool still be too small, the youngest sequence gives up its
cells and is evaluated again when another has ended.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from puna.engine.adapters import Adapters, in_batch, ordered
from puna.engine.choose import Chooser
from puna.engine.commit import commit
from puna.engine.evaluator import Batch, Evaluator, Pictures
from puna.engine.events import Done, Event
from puna.engine.pictures import Gallery, Placed, coordinates, expanded, without_content
from puna.engine.plan import Need, plan, undivided
from puna.engine.prefixes import Prefix, Prefixes, longest
from puna.engine.request import MAX_ADAPTERS, AdapterUse, GenerateRequest
from puna.engine.scores import PromptScores
from puna.engine.sequence import (
    NOWHERE,
    Sequence,
    fitted_prompt,
    kept,
    outside,
    shift_length,
    shifts,
    without,
)
from puna.engine.speculation.depth import LARGEST
from puna.engine.speculation.drafter import agreeing
from puna.engine.speculation.lookup import Lookup
from puna.engine.text import TextStream, Transcript
from puna.engine.thinking import ThinkingLimit, ends_with
from puna.errors import InternalError, Interrupted, InvalidOption, MissingCapability, PunaError
from puna.kvcache import MAX_SEQUENCES, CacheFull, ShiftRefused
from puna.ml.array import Floats
from puna.models.base import Encoder
from puna.sampling.constraints import Constraint
from puna.sampling.sampler import Sampler
from puna.tokenizer import Tokenizer

# Tokens for which room is made beside a prompt; a longer answer may have to go on elsewhere.
_USUAL_ANSWER = 512

Constrain = Callable[[GenerateRequest], Constraint | None]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step brought.

    Attributes:
        events: pieces and ends of answers, by request; a request that failed ends with its error.
        tokens: how many were evaluated.
        sequences: how many requests took part.
        waiting: how many wait for room.
        cells: how many cells of the cache are taken.
    """

    events: list[tuple[int, Event | PunaError]]
    tokens: int
    sequences: int
    waiting: int
    cells: int


class _Part(NamedTuple):
    """A sequence's share of a batch.

    Attributes:
        tokens: how many of its own, from those the cache has on.
        draft: tokens that may come next, evaluated behind these.
    """

    sequence: Sequence
    tokens: int
    draft: tuple[int, ...] = ()

    @property
    def is_last(self) -> bool:
        """Whether nothing is left to evaluate after it, so that the logits are wanted."""
        return self.tokens == self.sequence.pending

    @property
    def outputs(self) -> range:
        """Which of its tokens have logits that are wanted: the last of all, or those whose next is told."""
        scores = self.sequence.scores
        if scores is not None:
            return scores.wanted(self.sequence.held, self.tokens)
        return range(self.tokens - self.is_last, self.tokens)


class Engine:
    """Answers requests with one model and one cache.

    Args:
        constrain: the constraint of a request, None where it asks for none.
        num_ctx: tokens of context of each request.
        num_batch: most tokens in one batch.
        limit: most requests that are computed at once.
        gallery: what the model sees pictures with.
        adapters: those of the model that are in memory.
        usual: the adapters of requests that name none.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        tokenizer: Tokenizer,
        constrain: Constrain,
        *,
        num_ctx: int,
        num_batch: int,
        limit: int,
        gallery: Gallery | None = None,
        adapters: Adapters | None = None,
        usual: tuple[AdapterUse, ...] = (),
    ) -> None:
        self.prefixes = Prefixes()
        self._evaluator = evaluator
        self._cache = evaluator.cache
        self._tokenizer = tokenizer
        self._constrain = constrain
        self._gallery = gallery
        self._adapters = adapters or Adapters(evaluator.backend, evaluator.model)
        self._usual = usual
        self._num_ctx = num_ctx
        self._num_batch = num_batch
        self._limit = min(limit, MAX_SEQUENCES)
        self._numbers = set(range(MAX_SEQUENCES))
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._outbox: list[tuple[int, Event | PunaError]] = []
        self._submitted = 0
        # Whoever is first in line has no room; asking again would be in vain until something has changed.
        self._full = False

    # -- requests come and go -------------------------------------------------------------------------

    def submit(self, id: int, request: GenerateRequest) -> None:
        """Queues a request; its events come with the steps that follow.

        Raises:
            InvalidOption: a token, option or picture makes no sense, the grammar is refused, or the id is in
                use.
            ContextLengthExceeded: the prompt does not fit the context.
            MissingCapability: the model only reads, or sees no pictures.
        """
        if isinstance(self._evaluator.model, Encoder):
            raise MissingCapability(["completion"], "it makes vectors of texts", "the model")
        if any(sequence.id == id for sequence in (*self._running, *self._waiting)):
            raise InvalidOption(f"a request with id {id} is under way already")
        self._waiting.append(self._sequence(id, request))
        self._submitted += 1

    def _sequence(self, id: int, request: GenerateRequest) -> Sequence:
        vocabulary = self._tokenizer.vocab_size
        wrong = outside(request.prompt, vocabulary)
        if wrong is not None:
            raise InvalidOption(f"the prompt has token {wrong}; this model's are 0 to {vocabulary - 1}")
        prompt, pictures = self._pictured(request)
        tokens, dropped = fitted_prompt(request, prompt, self._num_ctx)
        sampler = Sampler(request.sampling, vocabulary, request.prompt)
        stream = TextStream(self._tokenizer.decoder(shown=request.shown), request.stop)
        return Sequence(
            id,
            self._submitted,
            request,
            tokens,
            prompt_tokens=len(tokens),
            limit=self._most_generated(request, len(tokens)),
            keep=kept(request.num_keep, len(tokens), self._num_ctx),
            chooser=Chooser(sampler, self._constrain(request), self._thinking_limit(request)),
            transcript=Transcript(stream),
            shifted=dropped,
            scores=PromptScores(request.prompt, request.sampling.top_logprobs)
            if request.prompt_logprobs
            else None,
            pictures=pictures,
            drafter=Lookup() if request.draft else None,
            adapters=ordered(self._usual if request.adapters is None else request.adapters),
        )

    def _pictured(self, request: GenerateRequest) -> tuple[array[int], tuple[Placed, ...]]:
        """The prompt with its pictures' tokens, and where these stand."""
        if not request.images:
            return array("i", request.prompt), ()
        if self._gallery is None:
            raise MissingCapability(["vision"], subject="the model")
        return expanded(request.prompt, request.images, self._gallery.placement)

    def _thinking_limit(self, request: GenerateRequest) -> ThinkingLimit | None:
        if request.thinking is None or request.thinking_budget < 0:
            return None
        tokenizer, tags = self._tokenizer, request.thinking
        return ThinkingLimit(
            tags,
            request.thinking_budget,
            opened=ends_with(tokenizer, request.prompt, tags.opening),
            ending=tokenizer.encode_continuation(tags.closing, parse_special=True),
            pieces=tokenizer.pieces,
        )

    def _most_generated(self, request: GenerateRequest, prompt_tokens: int) -> int:
        room = 2**63 if shifts(request) else self._num_ctx - prompt_tokens
        return room if request.num_predict < 0 else min(request.num_predict, room)

    def cancel(self, id: int) -> None:
        """Ends a request now; its Done comes with the next step. Unknown ids are passed over."""
        for sequence in (*self._running, *self._waiting):
            if sequence.id == id:
                self._leave(sequence)
                self._outbox.append((id, sequence.done("cancelled", time.perf_counter())))

    @property
    def idle(self) -> bool:
        """Whether a step would bring nothing."""
        return not (self._running or self._waiting or self._outbox)

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return len(self._waiting)

    @property
    def cells(self) -> int:
        """How many cells of the cache are taken."""
        return self._cache.taken

    def forget(self) -> None:
        """Lets go of all that the cache holds of requests that have ended."""
        while self._evict():
            pass

    # -- a step ---------------------------------------------------------------------------------------

    def step(self) -> StepReport:
        """Evaluates one batch and tells what came of it.

        Raises:
            Interrupted: the computation was stopped; requests stand where they stood, and may go on.
        """
        self._admit()
        parts = self._evaluate()
        tokens = sum([part.tokens + len(part.draft) for part in parts])
        events, self._outbox = self._outbox, []
        return StepReport(events, tokens, len(parts), self.waiting, self.cells)

    def _evaluate(self) -> list[_Part]:
        """Runs a batch, puts what came of it into the outbox, and returns the batch; it may be empty."""
        while self._running:
            for sequence in self._running:
                if len(sequence.tokens) > self._num_ctx:
                    self._shift(sequence)
            parts: list[_Part] = []
            try:
                parts = self._planned(self._seeing())
                if parts and parts[0].draft:
                    self._run_drafted(parts[0])
                elif parts:
                    self._run(parts)
            except CacheFull as error:
                self._make_room(error)
                continue
            except Interrupted:
                raise
            except PunaError as error:
                for part in parts:
                    self._fail(part.sequence, error)
            return parts
        return []

    def _planned(self, running: list[Sequence]) -> list[_Part]:
        if len(running) == 1 and (draft := self._draft(running[0])):
            return [_Part(running[0], running[0].pending, draft)]
        if sum([one.ready for one in running]) <= self._num_batch:
            return [_Part(one, one.ready) for one in running]
        counts = plan([Need(one.ready, one.prefilling) for one in running], self._num_batch)
        if any(one.pictures for one in running):
            counts = undivided(counts, [one.undivided for one in running], self._num_batch)
        parts = [_Part(one, count) for one, count in zip(running, counts, strict=True) if count]
        if len(parts) < len(running):
            # Who went without comes first next time.
            served = [part.sequence for part in parts]
            self._running = [one for one in self._running if one not in served] + served
        return parts

    def _draft(self, sequence: Sequence) -> tuple[int, ...]:
        """Tokens that may come next and can be tried: those that are wrong must be taken back."""
        if sequence.drafter is None or sequence.prefilling or not self._cache.rewinds:
            return ()
        held, pending = sequence.held, sequence.pending
        # The last token that may come needs no draft.
        wanted, limit = sequence.room - 1, sequence.request.draft
        if limit >= 0:
            wanted = min(wanted, limit)
        most = min(pending + wanted, LARGEST, self._num_batch, self._num_ctx - held)
        draft = sequence.drafter.draft(sequence.tokens, pending, most)
        fits = draft and self._cache.fits([(sequence.number, pending + len(draft))])
        return tuple(draft) if fits else ()

    def _seeing(self) -> list[Sequence]:
        """Those that have the pictures of their next tokens; one whose picture is none is out.

        One picture at most is encoded, so that those go on which wait for none.
        """
        gallery = self._gallery
        if gallery is None or not any(one.pictures for one in self._running):
            return self._running
        seeing: list[Sequence] = []
        served: Sequence | None = None
        for sequence in [*self._running]:
            try:
                for picture in sequence.due:
                    if not gallery.knows(sequence.number, picture):
                        if served is not None:
                            break
                        served = sequence
                    gallery.show(sequence.number, picture)
                else:
                    seeing.append(sequence)
            except (CacheFull, Interrupted):
                raise
            except PunaError as error:
                self._fail(sequence, error)
        if served in self._running:
            # The others' pictures come first next time.
            self._running.remove(served)
            self._running.append(served)
        return seeing

    def _run(self, parts: list[_Part]) -> None:
        for part in parts:
            if part.is_last:
                part.sequence.chooser.prepare()
        logits = self._evaluator.evaluate(self._batch(parts))
        if any(part.sequence.scores is not None for part in parts):
            logits = self._score(parts, logits)
        if any(part.is_last and part.sequence.prefilling for part in parts):
            # Of a prompt that is read a window needs less than while it was to come.
            self._full = False
        now = time.perf_counter()
        complete = [part.sequence for part in parts if part.sequence.advance(part.tokens, now)]
        for sequence, row in zip(complete, logits, strict=True):
            self._commit(sequence, row)

    def _run_drafted(self, part: _Part) -> None:
        sequence, draft = part.sequence, part.draft
        sequence.chooser.prepare()
        held = sequence.held
        tokens = [*sequence.tokens[held:], *draft]
        shares = [(len(tokens), sequence)]
        batch = Batch.of(tokens, held, sequence.number, all_outputs=True)
        if sequence.pictures:
            batch = replace(batch, coordinates=self._coordinates(shares))
        logits = self._evaluator.evaluate(self._adapted(batch, shares))
        sequence.advance(part.tokens, time.perf_counter())
        sequence.drafted += len(draft)
        self._accept(sequence, draft, logits[part.tokens - 1 :])

    def _accept(self, sequence: Sequence, draft: tuple[int, ...], logits: Floats) -> None:
        """Chooses tokens as long as they are the drafted ones; the cache lets go of the others.

        Args:
            logits: F32 (drafted + 1, vocabulary), those before each drafted token and behind the last.
        """
        accepted, chosen = 0, 0
        while chosen == accepted:
            known = len(sequence.tokens)
            if not self._commit(sequence, logits[accepted]):
                return
            agreed = agreeing(sequence.tokens[known:], draft[accepted:])
            chosen += len(sequence.tokens) - known
            accepted += agreed
            sequence.held += agreed
            sequence.accepted += agreed
        self._cache.remove(sequence.number, sequence.held)

    def _score(self, parts: list[_Part], logits: Floats) -> Floats:
        """Notes the log-probabilities of prompts that are told of; gives the logits of last tokens back."""
        pieces = self._tokenizer.pieces
        last: list[int] = []
        begin = 0
        for part in parts:
            end = begin + len(part.outputs)
            sequence = part.sequence
            if sequence.scores is not None:
                sequence.scores.take(logits[begin:end], pieces)
                if told := sequence.scores.told(pieces):
                    self._outbox.append((sequence.id, told))
                    sequence.scores = None
            if part.is_last:
                last.append(end - 1)
            begin = end
        return logits[last]

    def _batch(self, parts: list[_Part]) -> Batch:
        batch, gallery = _batch(parts), self._gallery
        batch = self._adapted(batch, [(part.tokens, part.sequence) for part in parts])
        if gallery is None or not any(part.sequence.pictures for part in parts):
            return batch
        standing, first = [], 0
        for part in parts:
            held = part.sequence.held
            for picture in part.sequence.due:
                begin, end = max(picture.begin, held), min(picture.end, held + part.tokens)
                rows = gallery.embedded(picture)
                if rows is not None and begin < end:
                    standing.append((first + begin - held, rows[begin - picture.begin : end - picture.begin]))
            first += part.tokens
        return replace(
            batch,
            pictures=Pictures.of(batch.positions, standing, whole=gallery.whole),
            coordinates=self._coordinates([(part.tokens, part.sequence) for part in parts]),
        )

    def _coordinates(self, shares: list[tuple[int, Sequence]]) -> NDArray[np.int32] | None:
        """The places of a batch's tokens, for models in which pictures have rows and columns.

        Args:
            shares: each sequence with the number of its tokens there.
        """
        if self._evaluator.model.coordinates == 1:
            return None
        return np.concatenate(
            [coordinates(one.held, one.held + tokens, one.pictures) for tokens, one in shares], axis=1
        )

    def _adapted(self, batch: Batch, shares: list[tuple[int, Sequence]]) -> Batch:
        """A batch with the adapters of its sequences. Args: as `_coordinates`."""
        if not any(sequence.adapters for _, sequence in shares):
            return batch
        used = [(tokens, sequence.adapters) for tokens, sequence in shares]
        return replace(batch, adapters=in_batch(used, self._adapters))

    def _commit(self, sequence: Sequence, logits: Floats) -> bool:
        """Chooses what follows, and returns whether the sequence goes on behind it."""
        tokenizer = self._tokenizer
        try:
            events = commit(
                sequence, logits, tokenizer.end_ids, tokenizer.pieces, self._num_ctx, time.perf_counter()
            )
        except PunaError as error:
            self._fail(sequence, error)
            return False
        self._outbox += [(sequence.id, event) for event in events]
        if events and isinstance(events[-1], Done):
            self._leave(sequence)
            return False
        return True

    # -- room -----------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Lets requests in, first come, first served, as long as there is room."""
        while self._waiting and len(self._running) < self._limit and not self._full:
            sequence = self._waiting[0]
            try:
                equipped = self._equip(sequence)
            except PunaError as error:
                self._waiting.popleft()
                sequence.chooser.close()
                self._outbox.append((sequence.id, error))
                continue
            if equipped and self._place(sequence):
                self._running.append(self._waiting.popleft())
            else:
                self._full = True

    def _equip(self, sequence: Sequence) -> bool:
        """Brings its adapters into memory; False while there are too many others in use."""
        paths, used = {one.path for one in sequence.adapters}, self.adapters
        if len(paths | used) > MAX_ADAPTERS:
            return False
        self._adapters.bring(paths, used)
        return True

    @property
    def adapters(self) -> set[str]:
        """The paths of those with which requests are computed now."""
        return {one.path for sequence in self._running for one in sequence.adapters}

    def _place(self, sequence: Sequence) -> bool:
        """Finds a number and cells for a sequence, with as much of it as the cache has."""
        wanted = Prefix(NOWHERE, sequence.tokens, sequence.scope, sequence.pictures)
        # Whose prompt's tokens are told of has all of it evaluated.
        found = (
            longest(self._candidates(), wanted, self._cache.resumable) if sequence.scores is None else None
        )
        self._gather(sequence, found)
        number, held = self._seat(found)
        sequence.place(number, held, time.perf_counter())
        while not self._fits(sequence):
            if self._evict():
                continue
            if not self._running:
                break
            self._keep(sequence)
            sequence.displace()
            return False
        return True

    def _gather(self, sequence: Sequence, found: tuple[Prefix, int] | None) -> None:
        """Lets texts go until what a sequence still needs lies together, but not the one that was found.

        A graph computes all cells between a sequence's first and its last.
        """
        tokens = len(sequence.tokens) - (found[1] if found else 0) + min(sequence.room, _USUAL_ANSWER)
        while not self._cache.lies_together(tokens):
            oldest = self.prefixes.oldest()
            if found is not None and oldest is not None and oldest.number == found[0].number:
                self.prefixes.used(oldest.number)
                oldest = None if len(self.prefixes) == 1 else oldest
            if oldest is None:
                return
            self._evict()

    def _candidates(self) -> Iterator[Prefix]:
        """The first of those that have as much is taken: with one that runs, cells are best shared."""
        for one in self._running:
            if one.reusable:
                pictures = without_content(one.pictures, one.reusable)
                yield Prefix(one.number, one.tokens[: one.reusable], one.scope, pictures)
        yield from self.prefixes

    def _seat(self, found: tuple[Prefix, int] | None) -> tuple[int, int]:
        """A number whose sequence is what was found, and how much that is."""
        if found is None:
            return self._free_number(), 0
        prefix, length = found
        apart = prefix.number in self.prefixes
        alone = not self._numbers and len(self.prefixes) == 1
        if apart and (alone or length == len(prefix.tokens)):
            self.prefixes.take(prefix.number)
            self._cache.remove(prefix.number, length)
            return prefix.number, length
        if not self._numbers:
            # Another goes for its number: what begins in the cells of this one would lie apart.
            self.prefixes.used(prefix.number)
        number = self._free_number()
        try:
            self._cache.copy_prefix(prefix.number, number, length, apart=apart)
        except BaseException:
            self._drop(number)
            raise
        return number, length

    def _free_number(self) -> int:
        """Fewer sequences run than there are numbers, so one is free or kept."""
        if not self._numbers:
            self._evict()
        number = min(self._numbers)
        self._numbers.remove(number)
        return number

    def _fits(self, sequence: Sequence) -> bool:
        return self._cache.fits([(one.number, one.pending) for one in (*self._running, sequence)])

    def _evict(self) -> bool:
        """Lets go of the prefix that was used longest ago; False if there is none."""
        oldest = self.prefixes.oldest()
        if oldest is not None:
            self._drop(self.prefixes.take(oldest.number).number)
        return oldest is not None

    def _drop(self, number: int) -> None:
        self._cache.remove(number, 0)
        self._numbers.add(number)
        self._full = False

    def _make_room(self, error: CacheFull) -> None:
        """After a batch did not fit: fewer prefixes, or else one sequence less."""
        if self._evict():
            return
        youngest = max(self._running, key=lambda one: one.order)
        if len(self._running) == 1:
            self._fail(youngest, error)
            return
        self._running.remove(youngest)
        self._drop(youngest.number)
        youngest.displace()
        self._waiting.appendleft(youngest)
        self._full = True

    def _shift(self, sequence: Sequence) -> None:
        """Drops old tokens of a sequence that is longer than the context."""
        keep = sequence.keep
        count = shift_length(len(sequence.tokens), keep, self._num_ctx)
        try:
            if keep + count > sequence.held:
                raise ShiftRefused("some of these tokens have not been evaluated")
            self._cache.remove(sequence.number, keep, keep + count)
            sequence.held -= count
            sequence.turned = True
        except BaseException as error:
            # An interrupt may have left keys at their old positions.
            sequence.cut(self._cache.resumable(sequence.number, keep))
            self._cache.remove(sequence.number, sequence.held)
            if not isinstance(error, ShiftRefused):
                raise
        sequence.tokens = without(sequence.tokens, keep, count)
        sequence.shifted += count

    # -- leaving --------------------------------------------------------------------------------------

    def _leave(self, sequence: Sequence) -> None:
        """Takes a sequence out; what the cache has of it stays as a prefix."""
        sequence.chooser.close()
        self._full = False
        if sequence in self._waiting:
            self._waiting.remove(sequence)
            return
        self._running.remove(sequence)
        self._keep(sequence)

    def _fail(self, sequence: Sequence, error: PunaError) -> None:
        """Takes a sequence out whose answer cannot go on; nothing of it stays."""
        sequence.chooser.close()
        self._running.remove(sequence)
        self._drop(sequence.number)
        self._outbox.append((sequence.id, error))

    def _keep(self, sequence: Sequence) -> None:
        """Makes a sequence's cells a prefix, unless another has all of it; what it has all of goes."""
        length = sequence.reusable if self._cache.can_resume(sequence.number, sequence.reusable) else 0
        pictures = without_content(sequence.pictures, length)
        prefix = Prefix(sequence.number, sequence.tokens[:length], sequence.scope, pictures)
        self._cache.remove(prefix.number, length)
        if not length:
            self._drop(prefix.number)
            return
        for other, length in list(self.prefixes.alike(prefix)):
            if length == len(prefix.tokens) and self._cache.can_resume(other.number, length):
                self._drop(prefix.number)
                self.prefixes.used(other.number)
                return
            if length == len(other.tokens) and self._cache.can_resume(prefix.number, length):
                self._drop(self.prefixes.take(other.number).number)
        self.prefixes.keep(prefix)

    # -- the books ------------------------------------------------------------------------------------

    def check(self) -> None:
        """Checks that every cell belongs to a sequence that runs or is kept, and that each has all of its.

        Raises:
            InternalError: one does not.
        """
        lengths = {one.number: one.held for one in self._running}
        lengths |= {prefix.number: len(prefix.tokens) for prefix in self.prefixes}
        for number in self._cache.owners() - lengths.keys():
            raise InternalError(f"sequence {number} has cells, but neither runs nor is kept")
        for number, length in lengths.items():
            if not self._cache.is_whole(number, length):
                raise InternalError(f"sequence {number} should have {length} tokens, and has others")
        if lengths.keys() != set(range(MAX_SEQUENCES)) - self._numbers:
            raise InternalError("a sequence number is free and in use at once, or neither")
        if not lengths and self._cache.taken:
            raise InternalError(f"{self._cache.taken} cells are taken and belong to nobody")


def _batch(parts: list[_Part]) -> Batch:
    """The parts one after the other."""
    if all(part.sequence.pending == 1 for part in parts):
        sequences = [part.sequence for part in parts]
        return Batch.next(
            [one.tokens[-1] for one in sequences],
            [one.held for one in sequences],
            [one.number for one in sequences],
        )
    tokens: list[int] = []
    positions: list[int] = []
    numbers: list[int] = []
    outputs: list[int] = []
    for part in parts:
        held, end = part.sequence.held, part.sequence.held + part.tokens
        tokens += part.sequence.tokens[held:end]
        positions += range(held, end)
        numbers += [part.sequence.number] * part.tokens
        outputs += [len(tokens) - part.tokens + index for index in part.outputs]
    columns = [np.asarray(values, np.int32) for values in (tokens, positions, numbers, outputs)]
    return Batch(columns[0], columns[1], columns[2], columns[3])
