"""`puna run` with answers kept to a format."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Puna = Callable[..., "subprocess.CompletedProcess[str]"]
GREEDY = ("--temperature", "0", "--threads", "1", "--num-predict", "200")
SCHEMA = (
    '{"type": "object", "properties": {"n": {"const": 7}}, "required": ["n"], "additionalProperties": false}'
)


def answer(result: "subprocess.CompletedProcess[str]") -> str:
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.removesuffix("\n")


def test_a_schema_as_text_or_in_a_file(puna: Puna, chat_model: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(SCHEMA)
    for value in (SCHEMA, "@schema.json"):
        assert json.loads(answer(puna("run", chat_model, *GREEDY, "--format", value, "hi"))) == {"n": 7}


def test_json(puna: Puna, chat_model: Path) -> None:
    text = answer(puna("run", chat_model, *GREEDY, "--format", "json", "hi"))
    assert text.startswith("{")


def test_the_other_kinds(puna: Puna, chat_model: Path, tmp_path: Path) -> None:
    choices = ("--choice", "yes", "--choice", "no way")
    assert answer(puna("run", chat_model, *GREEDY, *choices, "hi")) in ("yes", "no way")
    assert re.fullmatch("[0-9]{3}x", answer(puna("run", chat_model, *GREEDY, "--regex", "[0-9]{3}x", "hi")))
    (tmp_path / "list.gbnf").write_text('root ::= "- " [ab]{2} "."\n')
    for value in ("@list.gbnf", 'root ::= "- " [ab]{2} "."'):
        assert re.fullmatch(
            "- [ab]{2}[.]", answer(puna("run", chat_model, *GREEDY, "--grammar", value, "hi"))
        )


def test_keywords_without_effect_are_told(puna: Puna, chat_model: Path) -> None:
    result = puna("run", chat_model, *GREEDY, "--format", '{"const": 1, "not": {"const": 2}}', "hi")
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert re.fullmatch(r"Warning: .*\bnot\b.*\n", result.stderr)


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--format", "yaml"], "no JSON"),
        (["--format", "[]"], "a JSON schema is an object"),
        (["--format", '{"type": "nope"}'], "Invalid type: nope"),
        (["--format", '{"$ref": "http://x/y"}'], "points outside"),
        (["--format", "@none.json"], "cannot read 'none.json': No such file"),
        (["--format", "@latin.json"], "cannot read 'latin.json': it is no UTF-8 text"),
        (["--format", "json", "--regex", "a"], "only one of --format and --regex"),
        (["--regex", "["], "the regex grammar is refused"),
        (["--grammar", "x"], "GBNF"),
        (["--choice", ""], "choices"),
    ],
)
def test_what_is_refused(
    puna: Puna, chat_model: Path, tmp_path: Path, options: list[str], reason: str
) -> None:
    (tmp_path / "latin.json").write_bytes(b'{"const": "\xe9"}')
    result = puna("run", chat_model, *options, "hi")
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(rf"Error: .*{re.escape(reason)}.*\n", result.stderr)
