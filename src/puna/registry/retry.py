"""When to try again, and after how long."""

import random

from puna.errors import AddressRefused, FetchError, ModelNotFound, Unauthorized
from puna.registry.client import Busy, StatusError

_LONGEST = 32.0
# Request timeout, too early, too many requests: the only client errors that pass by themselves.
_PASSING = {408, 425, 429}


def is_permanent(error: FetchError) -> bool:
    """Whether trying again would give the same answer."""
    if isinstance(error, StatusError):
        return 400 <= error.status < 500 and error.status not in _PASSING
    return isinstance(error, AddressRefused | ModelNotFound | Unauthorized)


def delay(failures: int, first: float, error: FetchError) -> float:
    """Seconds to wait after so many failures in a row: what the registry asks for, else twice as long each.

    Args:
        first: seconds after the first failure.
    """
    if isinstance(error, Busy) and error.seconds is not None:
        return error.seconds
    return float(min(first * 2 ** (failures - 1), _LONGEST) * random.uniform(0.5, 1.5))


def given_up(error: FetchError) -> FetchError:
    """The error for one failure too many."""
    return FetchError(f"max retries exceeded: {error}")
