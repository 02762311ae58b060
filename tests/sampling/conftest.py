"""A trained BPE vocabulary for constraints, without a model."""

from collections.abc import Callable

import pytest
from tests.schema_corpus import trained_vocabulary
from tests.tiny_llama import write_tiny_llama

from puna.engine.load import token_table
from puna.errors import InvalidOption
from puna.gguf import GGUFFile
from puna.sampling.constraints import Constraints
from puna.sampling.grammar import Grammar, Thinking
from puna.tokenizer import Tokenizer, load_tokenizer

Accepts = Callable[..., bool]


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("models") / "bpe.gguf"
    write_tiny_llama(path, vocabulary=trained_vocabulary(600))
    with GGUFFile.open(path) as file:
        return load_tokenizer(file.metadata)


@pytest.fixture(scope="session")
def constraints(tokenizer: Tokenizer) -> Constraints:
    return Constraints(token_table(tokenizer))


@pytest.fixture(scope="session")
def accepts(constraints: Constraints, tokenizer: Tokenizer) -> Accepts:
    """Whether a grammar lets a model write this text and end there.

    Every byte is a token of its own. Masks would not do: where tokens are forced, they allow only those.
    """
    single = {piece: id for id, piece in enumerate(tokenizer.pieces) if len(piece) == 1}

    def accepts(grammar: Grammar, text: str, thinking: Thinking | None = None, opened: bool = False) -> bool:
        constraint = constraints.start(grammar, thinking, thinking_opened=opened)
        try:
            for byte in text.encode():
                constraint.advance(single[bytes([byte])], most=0)
        except InvalidOption:
            return False
        return constraint.accepting

    return accepts
