"""What the README says, as far as the code can tell."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from puna.cli.main import cli
from puna.models.registry import architectures

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
# The same architecture, as files of different programs have it.
OTHER_NAMES = {"gptoss"}


def commands() -> Iterator[list[str]]:
    """The arguments of each `puna` in the blocks of shell."""
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if "puna" in words:
                yield words[words.index("puna") + 1 :]


def test_every_architecture_is_named() -> None:
    named = set(re.findall(r"`([a-z0-9-]+)`", README.partition("Architectures: ")[2].partition("\n\n")[0]))
    assert named == set(architectures()) - OTHER_NAMES


@pytest.mark.parametrize("arguments", [*commands()], ids=lambda words: " ".join(words))
def test_every_command_and_option_is_there(arguments: list[str]) -> None:
    name, *rest = arguments
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-") and word != "-"} <= known
