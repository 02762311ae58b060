"""What a server and a runner say to each other survives the way, and nothing else gets through."""

import msgspec
import pytest

from puna import errors
from puna.engine.events import Done, TextChunk, TokenLogprob
from puna.engine.options import LoadOptions
from puna.engine.request import GenerateRequest
from puna.runner.protocol import (
    LENGTH,
    MAX_MESSAGE,
    Cancel,
    Device,
    Embed,
    Embedded,
    Failure,
    Frames,
    FromRunner,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Loading,
    Resize,
    Stepped,
    Stop,
    ToRunner,
    encode,
    error_of,
    failure_of,
    from_runner,
    to_runner,
)
from puna.sampling.grammar import Grammar, Thinking
from puna.sampling.parameters import SamplingParameters

REQUEST = GenerateRequest(
    prompt=[1, 2, 3],
    sampling=SamplingParameters(temperature=0.5, seed=7, logit_bias={5: -1000.0}, logprobs=True),
    num_predict=9,
    stop=("###",),
    grammar=Grammar.choice(["red", "green"]),
    thinking=Thinking("<think>", "</think>"),
    shown=frozenset({4}),
    shift=True,
    scope="key",
)


@pytest.mark.parametrize(
    "message",
    [
        Load("/models/a.gguf", LoadOptions(num_ctx=512, tensor_split=(1.0, 2.0)), plan=True),
        Resize(LoadOptions()),
        Generate(3, REQUEST),
        Embed(4, [[1, 2], [3]]),
        Cancel(3),
        Stop(),
    ],
)
def test_what_a_server_says(message: ToRunner) -> None:
    framed = encode(message)
    assert LENGTH.unpack(framed[:4]) == (len(framed) - 4,)
    assert to_runner.decode(framed[4:]) == message


@pytest.mark.parametrize(
    "message",
    [
        Loading(0.5),
        Loaded(4096, 4, [Device("CPU", False, 100, 20, 3), Device("GPU", True, 1000, 200, 30, 12)], 13),
        LoadFailed(Failure("UnsupportedModel", "no such architecture")),
        Stepped(
            [
                (3, TextChunk("hel", (TokenLogprob(9, b"hel", -0.5, (TokenLogprob(8, b"\xff", -1.0),)),))),
                (3, Done("length", 3, 0.1, 9, 0.2, 1, 2)),
                (4, Failure("InvalidOption", "no")),
            ],
            tokens=12,
        ),
        Embedded(4, [b"\0\0\0\0"]),
    ],
)
def test_what_a_runner_says(message: FromRunner) -> None:
    assert from_runner.decode(encode(message)[4:]) == message


def test_sizes_are_summed() -> None:
    loaded = Loaded(4096, 1, [Device("CPU", False, 100, 20, 3), Device("GPU", True, 1000, 200, 30)])
    assert (loaded.size, loaded.gpu_size) == (1353, 1230)


@pytest.mark.parametrize(
    "body",
    [
        msgspec.msgpack.encode(["Delete", "/"]),
        msgspec.msgpack.encode(["Generate", 1, [[]]]),
        msgspec.msgpack.encode(["Load", "/x", [-5]]),
        b"",
    ],
)
def test_nothing_else_gets_through(body: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError)):
        to_runner.decode(body)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidOption("no"),
        errors.ContextLengthExceeded(5000, 4096),
        errors.MissingCapability(["vision", "tools"], "take another", "it"),
        errors.Overloaded("full", 7),
        errors.ServerError(None, "no"),
        errors.ServerError(404, "no"),
        errors.ModelfileError("no", 3, 4),
        errors.TemplateError("no", 3, 4, "{{ x\n   ^"),
    ],
)
def test_errors_cross_over(error: errors.PunaError) -> None:
    there = _across(error)
    assert type(there) is type(error)
    assert str(there) == str(error)
    assert vars(there) == vars(error)


def test_what_an_error_carries_is_plain_and_bounded() -> None:
    error = errors.OutOfMemory("no")
    vars(error).update({"open": object(), "list": ["a"], "large": 1 << 64, "long": "x" * 10_000})
    assert vars(_across(error)) == {"long": "x" * 4096}
    vars(error).update({f"value{number}": number for number in range(100)})
    assert len(vars(_across(error))) == 16


def _across(error: errors.PunaError) -> errors.PunaError:
    message = from_runner.decode(encode(LoadFailed(failure_of(error)))[4:])
    assert isinstance(message, LoadFailed)
    return error_of(message.failure)


def test_an_error_that_only_the_compute_half_knows_becomes_the_nearest_known() -> None:
    class Special(errors.OutOfMemory):
        pass

    assert failure_of(Special("2 GB are missing")) == Failure("OutOfMemory", "2 GB are missing")
    assert type(error_of(Failure("os", "x"))) is errors.PunaError


def test_messages_come_in_pieces_of_any_size() -> None:
    messages: list[ToRunner] = [Cancel(1), Generate(3, REQUEST), Stop(), Embed(4, [[1] * 5000])]
    stream = b"".join(encode(message) for message in messages)
    for size in (1, 3, 7, 100, 4096, len(stream)):
        frames = Frames()
        pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
        bodies = [body for piece in pieces for body in frames.feed(piece)]
        assert [to_runner.decode(body) for body in bodies] == messages


def test_a_message_that_is_too_long_is_refused_before_it_comes() -> None:
    assert Frames().feed(LENGTH.pack(MAX_MESSAGE)) == []
    with pytest.raises(errors.PunaError, match=f"{MAX_MESSAGE + 1} bytes"):
        Frames().feed(LENGTH.pack(MAX_MESSAGE + 1))
