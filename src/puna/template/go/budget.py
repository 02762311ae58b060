"""What one execution may spend: a stranger's template must not run for ever or fill the memory."""

MAX_STEPS = 2_000_000
MAX_OUTPUT = 32 << 20
MAX_TOTAL = 128 << 20
_CHARACTERS_PER_STEP = 256


class Overspent(Exception):
    """The template asks for more than it may have; the text says of what."""


class Budget:
    """Counts steps and characters. Every method raises Overspent when it is too much."""

    def __init__(self) -> None:
        self._steps = 0
        self._characters = 0
        self._written = 0

    def step(self, count: int = 1) -> None:
        """One action, loop turn or call."""
        self._steps += count
        if self._steps > MAX_STEPS:
            raise Overspent(f"it takes more than {MAX_STEPS} steps")

    def make(self, characters: int) -> None:
        """A text of that length, made or looked through."""
        self._characters += characters
        if self._characters > MAX_TOTAL:
            raise Overspent(f"it makes texts of more than {MAX_TOTAL} characters")

    def write(self, characters: int) -> None:
        """A text of that length, written."""
        self._written += characters
        if self._written > MAX_OUTPUT:
            raise Overspent(f"it writes more than {MAX_OUTPUT} characters")

    def look(self, characters: int) -> None:
        """A text of that length, compared or measured, which is quick."""
        self.step(characters // _CHARACTERS_PER_STEP)
