"""What the server counts while it runs. Without metrics these methods do nothing.

Whatever part has something to tell calls them; `puna.server.prometheus` keeps the figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """A loaded model, as a scrape sees it.

    Attributes:
        name: as it was asked for.
        size: bytes on all devices.
        gpu_size: of these, bytes on other devices than the machine's own memory.
    """

    name: str
    size: int
    gpu_size: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """How busy the server is, as a scrape sees it.

    Attributes:
        queued: requests that wait for a model.
        models: those that are loaded.
    """

    queued: int = 0
    models: tuple[ModelMemory, ...] = ()


class Metrics:
    """Counts nothing; the base of what does. All methods are quick and may be called on the event loop."""

    def request_began(self) -> None:
        """A request has come."""

    def request_ended(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request has been answered.

        Args:
            route: the path's template, such as `/api/blobs/{digest}`; empty where no route fits.
        """

    def error(self, kind: str) -> None:
        """A request has failed; `kind` is the name of the error's class."""

    def tokens(self, model: str, counts: Mapping[str, int]) -> None:
        """A request has ended; see `puna.services.inference.Watcher`."""

    def first_token(self, model: str, seconds: float) -> None:
        """How long a request waited for its first token."""

    def token_gap(self, model: str, seconds: float) -> None:
        """The time between two tokens of an answer."""

    def step(
        self, model: str, *, sequences: int, waiting: int, tokens: int, cells: int, seconds: float
    ) -> None:
        """A step of a model's engine.

        Args:
            sequences: requests in it.
            waiting: requests that wait for room.
            tokens: how many it evaluated; a step of 0 only ended requests.
            cells: of the cache that are taken.
        """

    def loaded(self, model: str, seconds: float) -> None:
        """A model has been loaded."""

    def unloaded(self, model: str) -> None:
        """A model's process has ended."""

    def watch(self, load: Callable[[], Load]) -> None:
        """Ask `load` at each scrape."""

    def exposition(self) -> tuple[bytes, str] | None:
        """The figures in Prometheus' text format, and its content type; None where nothing is counted."""
        return None
