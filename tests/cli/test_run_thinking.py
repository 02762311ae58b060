"""`puna run` with a model that thinks: what is shown, what is asked for, what the model sees again."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.test_run import terminal
from tests.scripted_llama import START, write_scripted_llama

Puna = Callable[..., "subprocess.CompletedProcess[str]"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% if m.reasoning_content and "
    "loop.index0 > messages | length - 2 %}<think>{{ m.reasoning_content }}</think>{% endif %}{% endfor %}"
    "{% if enable_thinking %}{{ reasoning_effort }}{{ '" + START + "' }}"
    "{% else %}{{ '<think>\\n\\n</think>" + START + "' }}{% endif %}"
)
SCHEMA = '{"const": {"sky": "blue"}}'


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "thinker.gguf"
    script = ("<think>", "Hmm", "</think>", "\n\n", "Blue")
    return write_scripted_llama(path, script, metadata={"tokenizer.chat_template": TEMPLATE})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "plain.gguf"
    text = "{% for m in messages %}{{ m.content }}{% endfor %}{{ '" + START + "' }}"
    return write_scripted_llama(path, ("Blue",), metadata={"tokenizer.chat_template": text})


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ([], "Thinking...\nHmm\n...done thinking.\n\nBlue\n"),
        (["--think"], "Thinking...\nHmm\n...done thinking.\n\nBlue\n"),
        (["--think=true"], "Thinking...\nHmm\n...done thinking.\n\nBlue\n"),
        (["--think=max"], "Thinking...\nHmm\n...done thinking.\n\nBlue\n"),
        (["--hidethinking"], "Blue\n"),
        (["--think", "--hidethinking"], "Blue\n"),
        (["-o", "num_predict=2"], "Thinking...\nHmm\n...done thinking.\n\n\n"),
    ],
)
def test_thinking_is_shown_before_the_answer(
    puna: Puna, thinker: Path, options: list[str], shown: str
) -> None:
    result = puna("run", thinker, "--temperature", "0", *options, "hi")
    assert (result.returncode, result.stdout, result.stderr) == (0, shown, "")


def test_a_raw_answer_is_shown_as_it_is(puna: Puna, thinker: Path) -> None:
    result = puna("run", thinker, "--temperature", "0", "--raw", f"hi{START}")
    assert result.stdout == "<think>Hmm</think>\n\nBlue\n"


def test_the_value_of_think_needs_its_sign(puna: Puna, thinker: Path) -> None:
    result = puna("run", thinker, "--temperature", "0", "--think", "false")
    assert result.stdout.endswith("Blue\n")
    assert result.stdout.startswith("Thinking...\n")
    result = puna("run", thinker, "--temperature", "0", "--verbose", "--", "--think")
    # <s>, [user], the prompt, and what the script begins after.
    assert f"prompt eval count:    {1 + 6 + len('--think') + 1} token(s)" in result.stderr


def test_how_hard_to_think_reaches_the_template(puna: Puna, thinker: Path) -> None:
    def prompt_tokens(*options: str) -> int:
        result = puna("run", thinker, "--temperature", "0", "--verbose", *options, "hi")
        found = re.search(r"prompt eval count: +(\d+) token", result.stderr)
        assert found is not None
        return int(found[1])

    bare = prompt_tokens("--think")
    assert prompt_tokens() == bare
    assert prompt_tokens("--think=low") == bare + len("low")
    assert prompt_tokens("--think=medium") == bare + len("medium")
    # Both tags, and the two line ends between them, which are one token.
    assert prompt_tokens("--think=false") == bare + 3


@pytest.mark.parametrize("value", ["yes", "", "HIGH"])
def test_an_unknown_level(puna: Puna, thinker: Path, value: str) -> None:
    result = puna("run", thinker, f"--think={value}", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f'Error: invalid think value: "{value}" (must be "high", "medium", "low", "max", true, or false)\n'
    )


def test_a_model_that_cannot_think(puna: Puna, plain: Path) -> None:
    assert puna("run", plain, "--temperature", "0", "hi").stdout == "Blue\n"
    assert puna("run", plain, "--temperature", "0", "--think=false", "hi").stdout == "Blue\n"
    result = puna("run", plain, "--think", "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f'Error: "{plain}" does not support thinking\n'


def test_a_format_holds_after_thinking(puna: Puna, thinker: Path) -> None:
    result = puna("run", thinker, "--temperature", "0", "--format", SCHEMA, "hi")
    thinking, _, answer = result.stdout.partition("...done thinking.\n\n")
    assert thinking == "Thinking...\nHmm\n"
    assert json.loads(answer) == {"sky": "blue"}
    result = puna("run", thinker, "--temperature", "0", "--hidethinking", "--format", SCHEMA, "hi")
    assert json.loads(result.stdout) == {"sky": "blue"}


def test_a_conversation_shows_thinking_in_grey_and_forgets_it(
    environment: dict[str, str], thinker: Path
) -> None:
    with terminal(environment, "run", thinker, "--temperature", "0", "--verbose") as screen:
        screen.wait_for(">>> ")
        screen.type("hi\n")
        first = screen.wait_for("eval rate:")
        assert "\x1b[90mThinking...\r\nHmm\x1b[0m\x1b[90m\r\n...done thinking.\r\n\r\n\x1b[0mBlue" in first
        before = re.search(r"prompt eval count: +(\d+) token", first)
        screen.wait_for(">>> ")
        screen.type("hi\n")
        second = screen.wait_for("eval rate:")
        after = re.search(r"prompt eval count: +(\d+) token", second)
        assert before is not None and after is not None
        # The answer is one token; of the thinking there is nothing.
        assert int(after[1]) - int(before[1]) == len("[assistant]") + 1 + len("[user]hi")
        screen.wait_for(">>> ")
        screen.type("/bye\n")
    assert screen.process.returncode == 0
