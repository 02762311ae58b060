'''Messages of several lines: what is between `"""` and `"""`.'''

MARK = '"""'
_BEFORE = ("/set system ",)


class Multiline:
    """Puts lines together into one text, which is what was typed where no mark begins it."""

    def __init__(self) -> None:
        self._head = ""
        self._lines: list[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether more lines are expected."""
        return self._lines is not None

    def feed(self, line: str) -> str | None:
        """The text that this line completes; None when more lines are to come."""
        if self._lines is None:
            head = next((head for head in _BEFORE if line.startswith(head)), "")
            rest = line[len(head) :]
            if not rest.startswith(MARK):
                return line
            self._head, self._lines = head, []
            line = rest[len(MARK) :]
        if MARK not in line:
            self._lines.append(line)
            return None
        self._lines.append(line.partition(MARK)[0])
        text = self._head + "\n".join(self._lines).strip("\n")
        self._lines = None
        return text
