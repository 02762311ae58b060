"""How many parts to fetch at once: one more as long as that pays, fewer when the registry complains."""

from dataclasses import dataclass

_GAIN = 1.1
_REST = 10


@dataclass(slots=True)
class Pace:
    """Climbs towards the number of streams with the best speed. Tell it the speed in equal intervals.

    Attributes:
        most: streams that may be used.
        streams: those to use now.
        rate: the last speed, in bytes per second.
    """

    most: int
    streams: int = 1
    rate: float = 0.0
    _before: float = 0.0
    _climbed: bool = False
    _rest: int = 0

    def observe(self, rate: float) -> None:
        """Take in the speed of the last interval, in bytes per second."""
        self.rate = rate
        if self._rest:
            self._rest -= 1
            return
        if self._climbed and rate < self._before * _GAIN:
            self.streams -= 1
            self._climbed = False
            self._rest = _REST
            return
        self._climbed = self.streams < self.most
        self.streams += self._climbed
        self._before = rate

    def slow_down(self) -> None:
        """Use half as many for a while: the registry, or what lies between, does not bear them."""
        self.streams = max(1, self.streams // 2)
        self._climbed = False
        self._rest = _REST

    def part(self, smallest: int, largest: int, seconds: float = 4.0) -> int:
        """Bytes of a part that one stream fetches in about that many seconds."""
        return int(min(max(self.rate / self.streams * seconds, smallest), largest))
