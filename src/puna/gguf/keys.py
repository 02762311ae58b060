"""Names and numbers of a file's metadata that more than one part of the program needs."""

from enum import IntEnum
from typing import Final

CHAT_TEMPLATE_KEY: Final = "tokenizer.chat_template"


class Pooling(IntEnum):
    """How the states of a text's tokens become one vector; the numbers are those of `<arch>.pooling_type`.

    Source: `enum llama_pooling_type` of llama.cpp's llama.h.
    """

    NONE = 0
    MEAN = 1
    CLS = 2
    LAST = 3
    RANK = 4
