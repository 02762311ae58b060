"""Graphs: memory, and the steps that fill it in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from puna.errors import BackendError, Interrupted, InvalidOption
from puna.ml.array import Array
from puna.ml.backends.reference.booking import Booking


@dataclass(slots=True, eq=False)
class Memory:
    """Bytes that tensors lie in; views share it.

    Attributes:
        nbytes: its size.
        data: uint8 (nbytes,), None while there is nothing.
        fixed: a weight: it must not be written.
    """

    nbytes: int
    data: Array | None = None
    fixed: bool = False

    def content(self) -> Array:
        """The bytes. Raises BackendError if there are none."""
        if self.data is None:
            raise BackendError("the tensor has no content to read: compute it, or load the model, first")
        return self.data


@dataclass(slots=True, eq=False)
class Step:
    """One operation: fills memory from the operands' memory whenever it runs."""

    run: Callable[[], None]
    sources: tuple[Step, ...]
    nbytes: int


@dataclass(slots=True, eq=False)
class Graph:
    """The steps of one context in the order in which they run.

    Attributes:
        booking: where memory is booked; knows whose results are readable.
        limit: how many steps fit.
        order: the steps, each after its sources.
        results: the steps whose memory may be read after the last run.
        has_run: whether it was run; then it cannot grow.
        owned: memory of the tensors that this graph's context made.
        closing: what is done when it is closed.
    """

    booking: Booking
    limit: int
    order: list[Step] = field(default_factory=list)
    known: set[Step] = field(default_factory=set)
    results: set[Step] = field(default_factory=set)
    has_run: bool = False
    owned: list[Memory] = field(default_factory=list)
    closing: list[Callable[[], None]] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Appends a step and, before it, whatever it depends on."""
        if self.has_run:
            raise InvalidOption("a graph that was computed cannot grow; open another context")
        pending = [step]
        while pending:
            current = pending[-1]
            missing = [source for source in current.sources if source not in self.known]
            if current in self.known or not missing:
                pending.pop()
                self._append(current)
            else:
                pending.extend(reversed(missing))

    def _append(self, step: Step) -> None:
        if step in self.known:
            return
        if len(self.order) == self.limit:
            raise BackendError("the graph is full: open its context with more nodes")
        self.order.append(step)
        self.known.add(step)

    def run(self, results: set[Step]) -> None:
        """Runs every step; afterwards `results` are readable, and those of other graphs are not."""
        if not self.order:
            raise BackendError("there is nothing to compute: call forward first")
        if not results <= self.known:
            raise InvalidOption("compute was given a tensor that forward was not")
        if not self.booking.allocating:
            raise BackendError("the backend only plans memory: nothing can be computed")
        self.reserve()
        try:
            self._run_steps()
        except MemoryError as error:
            raise self.booking.refused(self.booking.report.cpu.graph) from error
        self.has_run = True
        self.results = results
        self.booking.latest = self

    def _run_steps(self) -> None:
        with np.errstate(all="ignore"):
            for step in self.order:
                if self.booking.interrupted.is_set():
                    raise Interrupted("the computation was interrupted")
                step.run()

    def reserve(self) -> None:
        """Books the memory of all steps' results."""
        self.booking.book_graph(sum(step.nbytes for step in self.order))

    def close(self) -> None:
        """Gives the memory of this graph's tensors back."""
        for memory in self.owned:
            memory.data = None
        self.owned.clear()
        while self.closing:
            self.closing.pop()()
        self.order.clear()
        self.results = set()
