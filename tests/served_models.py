"""Small models in a store, as a server finds them."""

from pathlib import Path
from typing import Any

from tests.scripted_llama import START, write_scripted_llama
from tests.tiny_bert import write_tiny_bert
from tests.tiny_llama import write_tiny_llama

from puna.create.request import CreateRequest
from puna.progress import Progress
from puna.services.creation import create
from puna.store.library import Library
from puna.store.manifests import MODEL_LAYER
from puna.store.model import Message
from puna.store.name import parse_name

CHAT = "{{ range .Messages }}[{{ .Role }}]{{ .Content }}{{ end }}"
SAYS = (
    "{{ range .Messages }}[{{ .Role }}]{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}"
    "{{ .Content }}{{ end }}"
)
CALL = '{"name": "weather", "arguments": {"city": "Oslo"}}'
GREEDY = {"temperature": 0.0}


def add_model(library: Library, name: str, path: Path, **properties: Any) -> None:
    """Puts a GGUF file into the store under a name; see `CreateRequest` for the properties."""
    with library.session() as session:
        layer = session.adopt(MODEL_LAYER, path)
        request = CreateRequest(parse_name(name), files={"model.gguf": layer.content}, **properties)
        create(request, library, _unseen)


def _unseen(progress: Progress) -> None:
    pass


def fill(store: Path) -> None:
    """The models that tests of the server ask.

    - `tiny`: random weights; goes on for thousands of tokens.
    - `slow`: takes a hundredth of a second for each token, at least.
    - `said`: says "onetwothreefour".
    - `thinks`: thinks "Hmm…" and says "Blue."
    - `calls`: says "Let me see." and calls `weather`.
    - `twice`: calls `weather` for two cities.
    - `fills`: the same as `said`, where it fills a gap.
    - `told`: `said` with a system message and earlier messages of its own.
    - `vectors`: cannot generate.
    - `encodes`: an encoder, which makes vectors of words in small letters.
    - `ranks`: an encoder that says how well two such texts fit each other.
    """
    library = Library(store)
    folder = store.parent / "files"
    folder.mkdir()
    add_model(library, "tiny", write_tiny_llama(folder / "tiny.gguf"), template=CHAT, parameters=GREEDY)
    slow = write_tiny_llama(folder / "slow.gguf", blocks=12, hidden=512)
    add_model(library, "slow", slow, template=CHAT, parameters=GREEDY)
    said = write_scripted_llama(folder / "said.gguf", ("one", "two", "three", "four"))
    add_model(library, "said", said, template=CHAT + START, parameters=GREEDY)
    add_model(library, "fills", said, template="<pre>{{ .Prompt }}<suf>{{ .Suffix }}<mid>" + START)
    messages = (Message("user", "Hi."), Message("assistant", "Hello."))
    add_model(library, "told", said, template=CHAT + START, system="Be kind.", messages=messages)
    thought = ("<think>", "\nHmm", "…\n", "</think>", "\n\n", "Bl", "ue", ".")
    thinks = write_scripted_llama(folder / "thinks.gguf", thought)
    add_model(library, "thinks", thinks, template=SAYS + START, parameters=GREEDY)
    called = ("Let me see.", "<tool_call>", "\n", CALL, "</tool_call>")
    calls = write_scripted_llama(folder / "calls.gguf", called)
    with_tools = SAYS + "{{ if .Tools }}TOOLS{{ .Tools }}{{ end }}" + START
    add_model(library, "calls", calls, template=with_tools, parser="qwen3", parameters=GREEDY)
    tags = ("<tool_call>", CALL, "</tool_call>")
    again = ("<tool_call> ", CALL.replace("Oslo", "Rome"), " </tool_call>")
    twice = write_scripted_llama(folder / "twice.gguf", (*tags, *again))
    add_model(library, "twice", twice, template=with_tools, parser="qwen3", parameters=GREEDY)
    vectors = write_scripted_llama(folder / "vectors.gguf", ("a",), metadata={"llama.pooling_type": 1})
    add_model(library, "vectors", vectors)
    for name, ranks in (("encodes", False), ("ranks", True)):
        add_model(library, name, write_tiny_bert(folder / f"{name}.gguf", ranks=ranks))
