"""The tables of settings in docs/server.md, against the settings."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import puna
from puna.cli.commands.serve import command
from puna.options import OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")


def rows(head: str) -> Iterator[list[str]]:
    """The cells of the table that begins with this line, the code in them without its marks."""
    lines = PAGE.partition(head + "\n")[2].splitlines()[1:]
    for line in lines[: lines.index("")]:
        yield [cell.strip().removeprefix("`").removesuffix("`") for cell in line.strip("|").split("|")]


SERVER = list(rows("| key | variable | flag | default | |"))
COMMON = list(rows("| name in `puna config` | variable | default | |"))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `puna config` shows where nothing is set: values by name."""
    home = str(tmp_path_factory.mktemp("home"))
    unset = ("PUNA_", "OLLAMA_", "XDG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    done = subprocess.run(
        [sys.executable, "-m", "puna", "config", "--json"],
        env={**kept, "HOME": home},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    settings = json.loads(done.stdout)["settings"]
    return {each["name"]: each["value"].replace(home, "~") for each in settings}


def test_every_setting_of_the_server() -> None:
    assert [row[:2] for row in SERVER] == [[option.name, option.variable] for option in OPTIONS]


def test_flags() -> None:
    flags = {option.name: option.opts[0] for option in command.params}
    assert {row[0]: row[2] for row in SERVER if row[2]} == flags


def test_defaults(shown: dict[str, str]) -> None:
    listed = {row[0]: row[3] for row in SERVER} | {row[0]: row[2] for row in COMMON if row[0]}
    assert listed == shown


def test_every_variable_that_is_read() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(puna.__path__[0]).rglob("*.py"))
    read = re.findall(r'(?:variable|truth|whole_number)\("([A-Z_]+)"|"PUNA_([A-Z]+[A-Z_]*)"', sources)
    listed = {row[1] for row in (*SERVER, *COMMON)}
    assert {first or second for first, second in read} <= listed
    assert {"MODELS", "API_KEY", "EDITOR", "HOST"} <= {first or second for first, second in read}
