"""`puna.load`: a model in this process, with the methods and replies of the client."""

import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.scripted_llama import START, write_scripted_llama
from tests.tiny_llama import write_tiny_llama

import puna
from puna.chat import events
from puna.client import Client, Message
from puna.client.replies import ChatReply, Function, GenerateReply, ToolCall
from puna.errors import ContextLengthExceeded, InvalidOption, MissingCapability, ModelNotFound
from puna.inprocess import Model
from puna.inprocess.messages import read_message
from puna.sampling.grammar import Grammar

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if enable_thinking %}{{ '"
    + START
    + "' }}{% else %}{{ '<think>\\n\\n</think>"
    + START
    + "' }}{% endif %}"
)
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "thinker.gguf"
    script = ("<think>", "Hmm", "</think>", "\n\n", "Blue", " sky")
    return write_scripted_llama(path, script, metadata={"tokenizer.chat_template": TEMPLATE})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="module")
def model(thinker: Path) -> Iterator[Model]:
    with puna.load(thinker, num_thread=1, temperature=0) as model:
        yield model


def test_it_has_the_client_s_methods_without_the_model_s_name() -> None:
    def parameters(kind: type, name: str) -> list[str]:
        return list(inspect.signature(getattr(kind, name)).parameters)

    for name in ("generate", "chat", "embed", "tokenize", "detokenize"):
        assert parameters(Model, name) == [
            parameter for parameter in parameters(Client, name) if parameter != "model"
        ]


def test_a_whole_answer(model: Model, thinker: Path) -> None:
    reply = model.chat(HI)
    assert (reply.model, reply.done, reply.done_reason) == (str(thinker), True, "stop")
    assert reply.message == Message(role="assistant", content="Blue sky", thinking="Hmm")
    # <s>, [user], hi, and what the script begins after; the end token does not count.
    assert (reply.prompt_eval_count, reply.eval_count) == (1 + 6 + 2 + 1, 6)
    assert reply.total_duration > reply.eval_duration > 0


def test_an_answer_in_pieces(model: Model) -> None:
    pieces = list(model.chat(HI, stream=True))
    assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert "".join(piece.message.thinking for piece in pieces) == "Hmm"
    assert [piece.message.content for piece in pieces if piece.message.content] == ["Blue", " sky"]
    assert all(isinstance(piece, ChatReply) for piece in pieces)


def test_a_prompt(model: Model) -> None:
    whole = model.generate("hi")
    assert (whole.response, whole.thinking, whole.done_reason) == ("Blue sky", "Hmm", "stop")
    pieces = list(model.generate("hi", stream=True, think=False))
    assert (
        "".join(piece.response for piece in pieces) == "<think>Hmm</think>\n\nBlue sky".partition("\n\n")[2]
    )
    assert all(isinstance(piece, GenerateReply) for piece in pieces)
    assert model.generate(f"hi{START}", raw=True).response == "<think>Hmm</think>\n\nBlue sky"


def test_the_context_goes_on(model: Model) -> None:
    first = model.generate("hi", think=False)
    assert first.context is not None
    written = model._loaded.tokenizer.decode(first.context, render_special=True)
    assert written.endswith(f"{START}<think>Hmm</think>\n\nBlue sky")
    *_, last = model.generate("more", stream=True, context=first.context, think=False)
    assert last.context is not None
    assert last.context[: len(first.context)] == first.context
    assert last.prompt_eval_count > len(first.context)
    assert model.generate("hi", raw=True).context is None


def test_what_is_cut_off_a_text_to_embed_is_told(tiny: Path) -> None:
    with puna.load(tiny, num_ctx=16) as model:
        whole, cut = model.embed("x"), model.embed("x" * 40, truncate=True)
    assert (whole.dropped_tokens, cut.prompt_eval_count) == (0, 16)
    assert cut.dropped_tokens == whole.prompt_eval_count - 1 + 40 - 16


def test_the_first_answer_tells_how_long_loading_took(thinker: Path) -> None:
    with puna.load(thinker) as model:
        first, second = model.generate("hi"), model.generate("hi")
        assert first.load_duration > 0
        assert first.total_duration > first.load_duration
        assert second.load_duration == 0
        assert second.cached_tokens > 0


def test_options_of_a_call(model: Model) -> None:
    assert model.chat(HI, options={"num_predict": 2}).done_reason == "length"
    assert model.chat(HI, options={"stop": [" s"]}).message.content == "Blue"
    assert model.chat(HI, options={"num_ctx": model.num_ctx}).done
    with pytest.raises(InvalidOption, match=r"give them to puna\.load: num_ctx"):
        model.chat(HI, options={"num_ctx": 64})
    with pytest.raises(InvalidOption, match='option "seed" must be of type integer'):
        model.chat(HI, options={"seed": "x"})
    wrong: dict[str, Any] = {"temperature": 1}
    with pytest.raises(TypeError, match="unexpected argument 'temperature'"):
        model.chat(HI, **wrong)


def test_formats(model: Model) -> None:
    schema = {"const": {"sky": "blue"}}
    assert json.loads(model.chat(HI, format=schema, think=False).message.content) == {"sky": "blue"}
    reply = model.generate("hi", grammar=Grammar.choice(["yes"]), think=False)
    assert reply.response == "yes"
    described = {"type": "regex", "regex": "[a-c]{3}"}
    assert re.fullmatch("[a-c]{3}", model.chat(HI, grammar=described, think=False).message.content)
    with pytest.raises(InvalidOption, match="only one of format and grammar"):
        model.generate("hi", format="json", grammar=Grammar.choice(["yes"]))


def test_log_probabilities(model: Model) -> None:
    pieces = list(model.generate("hi", stream=True, logprobs=True, top_logprobs=2))
    tokens = [token for piece in pieces for token in piece.logprobs or ()]
    assert [token.token for token in tokens][:6] == ["<think>", "Hmm", "</think>", "\n\n", "Blue", " sky"]
    first = tokens[0]
    assert first.bytes == list(b"<think>")
    assert first.top_logprobs is not None and len(first.top_logprobs) == 2
    assert first.top_logprobs[0].token == "<think>"
    whole = model.generate("hi", logprobs=True).logprobs
    assert whole is not None
    assert [token.token for token in whole] == [token.token for token in tokens]
    assert model.generate("hi").logprobs is None


def test_two_answers_by_turns(model: Model) -> None:
    with model.generate("hi", stream=True) as first, model.chat(HI, stream=True) as second:
        assert next(first).thinking == "Hmm"
        assert next(second).message.thinking == "Hmm"
        assert "".join(piece.response for piece in first) == "Blue sky"
    with pytest.raises(StopIteration):
        next(second)


def test_tokens(model: Model) -> None:
    tokens = model.tokenize("hi").tokens
    assert len(tokens) == 2
    assert model.detokenize(tokens).text == "hi"
    with pytest.raises(InvalidOption, match=r"tokens\[0\] must be a token id"):
        model.detokenize([10**6])


def test_what_the_model_cannot_do(model: Model) -> None:
    with pytest.raises(MissingCapability, match="does not support vision"):
        model.chat([{"role": "user", "content": "hi", "images": [b"\x89PNG"]}])
    with pytest.raises(MissingCapability, match="does not support tools"):
        model.chat(HI, tools=[{"type": "function", "function": {"name": "f"}}])
    assert model.capabilities == ("completion", "thinking")


def test_prompts_that_are_too_long(tiny: Path) -> None:
    with puna.load(tiny, num_ctx=32) as model:
        with pytest.raises(ContextLengthExceeded, match="the context holds 32"):
            model.generate("x" * 100)
        reply = model.generate("x" * 20, shift=True, options={"num_predict": 40})
        assert reply.dropped_tokens > 0
        assert reply.eval_count == 40
        assert model.generate("x" * 20, options={"num_predict": 40}).done_reason == "length"


@pytest.mark.parametrize(
    "message",
    [{"content": "x"}, {"role": 1}, {"role": "user", "content": 1}, {"role": "user", "tool_calls": [{}]}],
)
def test_malformed_messages(model: Model, message: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=r"message|tool call"):
        model.chat([message])


def test_messages_are_read_as_a_server_reads_them() -> None:
    """Keys in any case, null for left out, an index as given and else 0, calls of earlier replies."""
    call = ToolCall(function=Function(name="f", arguments={"x": None}, index=3), id="c")
    given = {"Role": "Assistant", "content": None, "tool_calls": [call, {"function": {"name": "g"}}]}
    message = read_message(given)
    assert (message.role, message.content) == ("assistant", "")
    assert message.tool_calls == (events.ToolCall(3, "f", {"x": None}, "c"), events.ToolCall(0, "g", {}))
    whole = read_message(Message(role="user", content="hi", images=["AAAA"]))
    assert whole.images == (bytes(3),)
    for wrong in ([b""], [""], ["!"], [None]):
        with pytest.raises(InvalidOption, match=r"invalid image: images\[0\] is empty|picture"):
            read_message({"role": "user", "images": wrong})


def test_nothing_to_answer(model: Model) -> None:
    assert model.generate().done_reason == "load"
    assert model.chat().done_reason == "load"
    assert model.embed("").embeddings == []


def test_what_cannot_be_loaded(tmp_path: Path, thinker: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        puna.load(tmp_path / "none.gguf")
    with pytest.raises(TypeError, match=r"^unknown option 'num_context'; did you mean num_ctx\?$"):
        puna.load(thinker, num_context=1)
    with pytest.raises(InvalidOption, match="num_ctx must be"):
        puna.load(thinker, num_ctx=0)


def test_importing_puna_imports_nothing_else() -> None:
    code = "import sys, puna; print(*sorted(name for name in sys.modules if name.startswith('puna')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["puna"]
