"""How long to wait for a registry, which failures pass by themselves, and when to ask again."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from puna.cancellation import Cancellation
from puna.errors import AddressRefused, FetchError, ModelNotFound, Unauthorized
from puna.registry.http import DEADLINE, IDLE_TIMEOUT
from puna.registry.network import Unreachable
from puna.registry.wire import Untrusted

_LONGEST_PAUSE = 32.0
# Request timeout, too early, too many requests: the only client errors that pass by themselves.
_PASSING = {408, 425, 429}

T = TypeVar("T")


class StatusError(FetchError):
    """An answer that is a failure.

    Attributes:
        status: of the HTTP answer, 400 or more.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Busy(StatusError):
    """The registry asks to come back later.

    Attributes:
        seconds: how long it wants to be left alone; None when it does not say.
    """

    def __init__(self, message: str, status: int, seconds: float | None) -> None:
        super().__init__(message, status)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Patience:
    """When to give up.

    Attributes:
        deadline: seconds for the head of an answer, and for small answers as a whole.
        idle: seconds between two bytes of a blob.
        tries: failures in a row, with nothing gained between them, after which it is given up.
        contacts: tries to reach a registry at all, where nothing has been gained that could be lost.
        delay: seconds of the first pause after a failure; each next one is twice as long.
        cancellation: ends the waiting.
    """

    deadline: float = DEADLINE
    idle: float = IDLE_TIMEOUT
    tries: int = 6
    contacts: int = 2
    delay: float = 1.0
    cancellation: Cancellation = field(default_factory=Cancellation)

    def pause(self, failures: int, error: FetchError) -> float:
        """Seconds to wait after so many failures in a row: as long as the registry asks for, if it does.

        Raises:
            FetchError: the last of them was one too many, or one that trying again would only repeat.
        """
        if is_permanent(error):
            raise error
        if failures >= self.tries:
            raise FetchError(f"max retries exceeded: {error}") from error
        if isinstance(error, Busy) and error.seconds is not None:
            return error.seconds
        return float(min(self.delay * 2 ** (failures - 1), _LONGEST_PAUSE) * random.uniform(0.5, 1.5))

    def insist(self, ask: Callable[[], T], *, contact: bool = False) -> T:
        """What `ask` returns, which is called again after failures that may pass.

        Args:
            contact: this is how the registry is got in touch with. Without a network, or with a mistake in
                its name, nobody should wait long to be told.

        Raises:
            FetchError: the last failure.
            Interrupted: the operation was cancelled.
        """
        failures = 0
        while True:
            try:
                return ask()
            except FetchError as error:
                failures += 1
                if contact and isinstance(error, Unreachable) and failures >= self.contacts:
                    raise
                self.cancellation.sleep(self.pause(failures, error))


def is_permanent(error: FetchError) -> bool:
    """Whether trying again would give the same answer."""
    if isinstance(error, StatusError):
        return 400 <= error.status < 500 and error.status not in _PASSING
    return isinstance(error, AddressRefused | ModelNotFound | Unauthorized | Untrusted)
