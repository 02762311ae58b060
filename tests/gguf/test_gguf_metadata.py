"""Typed access to metadata, and the checks on hyper-parameters."""

from collections.abc import Callable
from typing import Any

import pytest

from puna.errors import GGUFError
from puna.gguf import Metadata, ValueType, metadata_of
from puna.gguf.hyperparameters import read_hyperparameters

LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 4,
    "llama.context_length": 2048,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 8,
    "llama.attention.head_count_kv": 2,
    "llama.rope.dimension_count": 8,
    "llama.vocab_size": 100,
}


@pytest.fixture(scope="module")
def metadata() -> Metadata:
    return metadata_of(
        LLAMA
        | {
            "llama.eps": 1e-5,
            "llama.minus": -3,
            "llama.flag": True,
            "llama.layers": [4, 5, 6, 7],
            "llama.flags": [True, False],
            "llama.scales": [1.0, 2.0],
            "llama.llama.nested": 5,
            "tokenizer.ggml.tokens": ["a", "b", "c"],
            "tokenizer.chat_template": b"\xff{{ x }}",
            "other.block_count": 9,
        }
    )


def test_short_and_full_names(metadata: Metadata) -> None:
    assert metadata.architecture == "llama"
    assert metadata.uint("block_count") == metadata.uint("llama.block_count") == 4
    assert metadata.length("tokenizer.ggml.tokens") == 3
    assert metadata.string("general.architecture") == "llama"
    assert metadata["other.block_count"] == 9
    assert (len(metadata), next(iter(metadata)), "llama.eps" in metadata) == (
        19,
        "general.architecture",
        True,
    )


def test_values(metadata: Metadata) -> None:
    assert metadata.float("eps") == pytest.approx(1e-5)
    assert metadata.float("block_count") == 4.0
    assert metadata.bool("flag") is True
    assert metadata.ints("layers") == [4, 5, 6, 7]
    assert metadata.bools("flags") == [True, False]
    assert metadata.floats("layers") == [4.0, 5.0, 6.0, 7.0]
    assert metadata.strings("tokenizer.ggml.tokens") == ["a", "b", "c"]
    assert metadata.strings_bytes("tokenizer.ggml.tokens") == [b"a", b"b", b"c"]
    assert metadata.first("tokenizer.ggml.tokens", 2) == ["a", "b"]
    assert metadata.first("llama.layers", 9) == [4, 5, 6, 7]
    assert metadata.per_layer("layers", 3) == [4, 5, 6]
    assert metadata.per_layer("block_count", 3) == [4, 4, 4]
    assert metadata.string("tokenizer.chat_template") == "\ufffd{{ x }}"


def test_arrays_have_the_stored_type(metadata: Metadata) -> None:
    layers = metadata.array("layers")
    assert (layers.typecode, layers.tolist()) == ("i", [4, 5, 6, 7])
    assert metadata.array("scales").typecode == "f"
    with pytest.raises(GGUFError, match="must be an array of numbers"):
        metadata.array("flags")


def test_defaults(metadata: Metadata) -> None:
    assert metadata.uint("none", 3) == 3
    assert metadata.uint("none", None) is None
    assert metadata.float("none", 1.5) == 1.5
    assert metadata.bool("none", False) is False
    assert metadata.string("none", "x") == "x"
    assert metadata.ints("none", []) == []
    assert metadata.floats("none", None) is None
    assert metadata.bools("none", [True]) == [True]
    assert metadata.strings("none", None) is None
    assert metadata.per_layer("none", 4, None) is None


ACCESS: list[tuple[Callable[[Metadata, str], object], str]] = [
    (Metadata.uint, "an unsigned integer"),
    (Metadata.float, "a number"),
    (Metadata.bool, "a bool"),
    (Metadata.string, "a string"),
    (Metadata.ints, "an array of integers"),
    (Metadata.floats, "an array of numbers"),
    (Metadata.bools, "an array of bools"),
    (Metadata.strings, "an array of strings"),
    (Metadata.strings_bytes, "an array of strings"),
    (Metadata.array, "an array of numbers"),
    (Metadata.length, "an array"),
]


@pytest.mark.parametrize(("access", "expected"), ACCESS)
def test_missing_keys_and_wrong_types(
    metadata: Metadata, access: Callable[[Metadata, str], object], expected: str
) -> None:
    with pytest.raises(GGUFError, match=r"the key 'llama\.none' is missing"):
        access(metadata, "none")
    wrong = "general.architecture" if "string" not in expected else "flag"
    found = "a string" if "string" not in expected else "a bool"
    with pytest.raises(GGUFError, match=f"at byte .* must be {expected}, but is {found}"):
        access(metadata, wrong)


def test_numbers_below_zero(metadata: Metadata) -> None:
    with pytest.raises(GGUFError, match=r"'llama\.minus' .* must be an unsigned integer, but is -3"):
        metadata.uint("minus", -3)
    negative = metadata_of(LLAMA | {"llama.n": [1, -1]})
    with pytest.raises(GGUFError, match=r"'llama\.n' .* holds -1"):
        negative.per_layer("n", 2)


@pytest.mark.parametrize("name", [None, 5, "", "a b", "x" * 1_000_000, "../x", ["llama"], b"\xff"])
def test_architecture(name: Any) -> None:
    values = {} if name is None else {"general.architecture": name}
    with pytest.raises(GGUFError, match=r"'general\.architecture'") as caught:
        metadata_of(values).uint("block_count")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("template", [5, ["a"], True, 0.5])
def test_a_chat_template_of_an_odd_type_is_data_until_it_is_used(template: Any) -> None:
    metadata = metadata_of(LLAMA | {"tokenizer.chat_template": template})
    assert metadata["tokenizer.chat_template"] == template
    assert read_hyperparameters(metadata).block_count == 4
    with pytest.raises(GGUFError, match=r"'tokenizer\.chat_template' at byte \d+ must be a string, but is"):
        metadata.string("tokenizer.chat_template")


# Hyper-parameters


def test_hyperparameters() -> None:
    sizes = read_hyperparameters(metadata_of(LLAMA))
    assert (sizes.architecture, sizes.block_count, sizes.context_length) == ("llama", 4, 2048)
    assert (sizes.embedding_length, sizes.feed_forward_length) == (64, (128,) * 4)
    assert (sizes.head_count, sizes.head_count_kv) == ((8,) * 4, (2,) * 4)
    assert (sizes.key_length, sizes.value_length, sizes.rope_dimension_count) == (8, 8, 8)
    assert (sizes.expert_count, sizes.expert_used_count, sizes.vocab_size) == (0, 0, 100)
    assert (sizes.sliding_window, sizes.windowed) == (0, (False,) * 4)


def test_defaults_of_hyperparameters() -> None:
    values = {key: LLAMA[key] for key in LLAMA if key.count(".") == 1 or key == "llama.attention.head_count"}
    del values["llama.vocab_size"], values["llama.feed_forward_length"]
    sizes = read_hyperparameters(metadata_of(values | {"tokenizer.ggml.tokens": ["a", "b"]}))
    assert (sizes.head_count_kv, sizes.rope_dimension_count, sizes.vocab_size) == ((8,) * 4, 8, 2)
    assert sizes.feed_forward_length == (0,) * 4


def test_experts_and_arrays() -> None:
    more = {
        "llama.expert_count": 8,
        "llama.expert_used_count": 2,
        "llama.attention.head_count": [8, 4, 8, 8],
        "llama.attention.head_count_kv": [4, 2, 8, 0],
        "llama.attention.key_length": 16,
        "llama.feed_forward_length": [1, 2, 3, 0],
    }
    sizes = read_hyperparameters(metadata_of(LLAMA | more))
    assert (sizes.expert_count, sizes.expert_used_count, sizes.key_length, sizes.value_length) == (
        8,
        2,
        16,
        8,
    )
    assert (sizes.head_count_kv, sizes.feed_forward_length) == ((4, 2, 8, 0), (1, 2, 3, 0))


@pytest.mark.parametrize(
    "told",
    [
        {"attention.recurrent_layers": [True, True, False, True]},
        {"full_attention_interval": 3},
        {"attention.head_count_kv": [0, 0, 2, 0], "shortconv.l_cache": 3},
    ],
)
def test_blocks_that_carry_a_state(told: dict[str, Any]) -> None:
    keys = {"llama.attention.head_count_kv": 2} | {f"llama.{key}": value for key, value in told.items()}
    assert read_hyperparameters(metadata_of(LLAMA | keys)).head_count_kv == (0, 0, 2, 0)
    short = {"llama.attention.recurrent_layers": [True]}
    with pytest.raises(GGUFError, match=r"must have an element for each of 4 blocks, not 1$"):
        read_hyperparameters(metadata_of(LLAMA | keys | short))


def test_blocks_without_attention() -> None:
    values = {key: value for key, value in LLAMA.items() if "attention" not in key and "rope" not in key}
    assert read_hyperparameters(metadata_of(values | {"llama.ssm.state_size": 16})).head_count == (0,) * 4
    with pytest.raises(GGUFError, match=r"'llama\.attention\.head_count' is missing"):
        read_hyperparameters(metadata_of(values))


@pytest.mark.parametrize(
    ("architecture", "pattern", "expected"),
    [
        ("gemma3", None, "WWWWWFWW"),
        ("gemma2", None, "WFWFWFWF"),
        ("llama", None, "FFFFFFFF"),
        ("gemma3", 4, "WWWFWWWF"),
        ("gemma3", [True, False] * 4, "WFWFWFWF"),
        ("llama", 1, "FFFFFFFF"),
    ],
)
def test_windows(architecture: str, pattern: Any, expected: str) -> None:
    values = {key.replace("llama.", architecture + "."): value for key, value in LLAMA.items()}
    values |= {"general.architecture": architecture, f"{architecture}.block_count": 8}
    values[f"{architecture}.attention.sliding_window"] = 512
    if pattern is not None:
        values[f"{architecture}.attention.sliding_window_pattern"] = pattern
    sizes = read_hyperparameters(metadata_of(values))
    assert sizes.sliding_window == 512
    assert "".join("W" if windowed else "F" for windowed in sizes.windowed) == expected


WRONG: list[tuple[str, Any]] = [
    ("block_count", 0),
    ("block_count", "4"),
    ("block_count", 4.0),
    ("block_count", [4]),
    ("block_count", 2**31),
    ("block_count", -1),
    ("block_count", True),
    ("attention.head_count", 0),
    ("attention.head_count", [8, 8]),
    ("attention.head_count", 2**31),
    ("attention.head_count", 7),
    ("attention.head_count", "8"),
    ("attention.head_count_kv", 0),
    ("attention.head_count_kv", 3),
    ("attention.head_count_kv", [2, 2]),
    ("attention.head_count_kv", [2, 2, 2, -2]),
    ("attention.head_count_kv", [0, 0, 0, 0]),
    ("attention.head_count_kv", [0.5] * 4),
    ("embedding_length", 0),
    ("embedding_length", 2**40),
    ("context_length", 0),
    ("context_length", 2**40),
    ("rope.dimension_count", 7),
    ("rope.dimension_count", 10),
    ("expert_count", 2**31),
    ("expert_count", 4),
    ("expert_used_count", 5),
    ("attention.key_length", 0),
    ("attention.key_length", 2**40),
    ("attention.value_length", 0),
    ("feed_forward_length", 2**31),
    ("feed_forward_length", [1, 2]),
    ("vocab_size", 2**31),
    ("vocab_size", 0),
    ("attention.sliding_window", 2**40),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrong_hyperparameters_are_named(key: str, value: Any) -> None:
    with pytest.raises(GGUFError, match=rf"'llama\.{key}'"):
        read_hyperparameters(metadata_of(LLAMA | {f"llama.{key}": value}))


@pytest.mark.parametrize("key", ["block_count", "embedding_length", "context_length", "attention.head_count"])
def test_missing_hyperparameters_are_named(key: str) -> None:
    values = {name: value for name, value in LLAMA.items() if name != f"llama.{key}"}
    with pytest.raises(GGUFError, match=rf"'llama\.{key}' is missing"):
        read_hyperparameters(metadata_of(values))


@pytest.mark.parametrize("pattern", [0, 2**31, [True], "x", [1, 2, 3, 4]])
def test_wrong_window_patterns_are_named(pattern: Any) -> None:
    windowed = {"llama.attention.sliding_window": 16, "llama.attention.sliding_window_pattern": pattern}
    with pytest.raises(GGUFError, match=r"'llama\.attention\.sliding_window_pattern'"):
        read_hyperparameters(metadata_of(LLAMA | windowed))


def test_the_number_types_a_size_may_have() -> None:
    for type_ in (ValueType.UINT8, ValueType.INT8, ValueType.UINT16, ValueType.INT64, ValueType.UINT64):
        metadata = metadata_of(LLAMA, types={"llama.block_count": type_})
        assert read_hyperparameters(metadata).block_count == 4
