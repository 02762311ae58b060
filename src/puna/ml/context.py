"""Context: a graph under construction, and after `compute` a graph to run again."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from puna.ml.array import Array
from puna.ml.dtype import DType
from puna.ml.tensor import Tensor


class Context(ABC):
    """One graph: its inputs, its operations and its results.

    Operations on tensors that belong to a context add nodes to it; nothing is computed before `compute`.
    A computed context stays valid: write other values into its inputs and compute again. That costs
    neither graph building nor allocation, and is how a decoding step runs.

    Tensors made by `input()` contexts are inputs: they belong to this graph. Tensors made by `layer(i)` and
    `weights(i)` contexts are storage, such as a cache: they outlive graphs, carry no context, and enter a
    graph as the operand of a tensor that has one, or by `Tensor.on`. A context that made storage must stay
    open as long as the storage is used.
    """

    @abstractmethod
    def input(self) -> "Context":
        """The same graph, set to create inputs, in system memory."""

    @abstractmethod
    def layer(self, index: int) -> "Context":
        """The same graph, set to create storage on the device of layer `index`, booked as its cache."""

    @abstractmethod
    def weights(self, index: int) -> "Context":
        """The same graph, set to create storage on the device of layer `index`, booked as its weights.

        It is taken off the books when the context is closed.
        """

    @abstractmethod
    def empty(self, dtype: DType, *shape: int) -> Tensor:
        """A tensor of undefined content in memory of its own; shape slowest axis first, up to 4 axes.

        Raises:
            InvalidOption: the context was not set by `input`, `layer` or `weights`, or a size is below 1.
            InsufficientMemory: the device has not enough memory.
        """

    @abstractmethod
    def zeros(self, dtype: DType, *shape: int) -> Tensor:
        """`empty`, filled with zeros."""

    @abstractmethod
    def from_floats(self, values: Sequence[float] | Array, *shape: int) -> Tensor:
        """An F32 tensor of these values. Raises InvalidOption if their number does not fit the shape."""

    @abstractmethod
    def from_ints(self, values: Sequence[int] | Array, *shape: int) -> Tensor:
        """An I32 tensor of these values. Raises InvalidOption if their number does not fit the shape."""

    @abstractmethod
    def arange(self, start: float, stop: float, step: float, dtype: DType) -> Tensor:
        """start, start + step, … below stop, as an F32 or I32 vector."""

    @abstractmethod
    def forward(self, *tensors: Tensor) -> Self:
        """Adds the tensors, and what they depend on, to what `compute` runs, in this order.

        Order matters for operations with an effect: a write to a cache must come before reading it.

        Raises:
            InvalidOption: the graph was computed already.
            BackendError: it is full.
        """

    @abstractmethod
    def compute(self, *tensors: Tensor) -> None:
        """Runs everything that `forward` added; afterwards the `tensors` can be read.

        A later call runs the same graph on the inputs' present values; reading must happen before another
        context of the same backend computes.

        Raises:
            BackendError: nothing was added by `forward`, or the backend plans only.
            InsufficientMemory: no room for intermediate results.
        """

    @abstractmethod
    def reserve(self) -> None:
        """Makes room for this graph's intermediate results without running it.

        Call it with the largest graph that will ever run, so that memory is known to suffice.

        Raises:
            InsufficientMemory: it does not.
        """

    @abstractmethod
    def max_graph_nodes(self) -> int:
        """How many nodes the graph can hold."""

    @abstractmethod
    def close(self) -> None:
        """Frees the graph and all tensors made by it. Closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
