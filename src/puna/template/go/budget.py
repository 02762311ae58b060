"""What one execution may spend: a stranger's template must not run for ever or fill the memory."""

MAX_STEPS = 1_000_000
MAX_OUTPUT = 32 << 20
# What a step pays for.
_CHARACTERS_MADE = 8
_CHARACTERS_SEEN = 256


class Overspent(Exception):
    """The template asks for more than it may have; the text says of what."""


class Budget:
    """Counts steps and characters. Every method raises Overspent when it is too much."""

    def __init__(self) -> None:
        self._steps = 0
        self._written = 0

    def step(self, count: int = 1) -> None:
        """One action, loop turn or call."""
        self._steps += count
        if self._steps > MAX_STEPS:
            raise Overspent(f"it takes more than {MAX_STEPS} steps")

    def make(self, characters: int) -> None:
        """A text of that length, made or rewritten."""
        self.step(characters // _CHARACTERS_MADE)

    def look(self, characters: int) -> None:
        """A text of that length, compared or measured."""
        self.step(characters // _CHARACTERS_SEEN)

    def write(self, characters: int) -> None:
        """A text of that length, written."""
        self._written += characters
        if self._written > MAX_OUTPUT:
            raise Overspent(f"it writes more than {MAX_OUTPUT} characters")
