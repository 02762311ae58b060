"""Text as it is, and text after thinking in `<think>` tags."""

from puna.chat.parsers.answer import Format

PASSTHROUGH = Format(trims=False)
THINKING = Format(thinking=(("<think>",), "</think>"), trims=False)
