"""Frameworks as they are against `puna serve`, and the table of the README that tells which of them work.

The scripts in `frameworks` use them as their documentation does, and print what they got.
"""

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.served import Served

PROJECT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).with_name("frameworks")
PATIENCE = 120.0
# What stands in a column of the table, and what a script calls it.
COLUMNS = {
    "Chat": "chat",
    "Stream": "stream",
    "Tools": "call",
    "Schema": "schema",
    "Thinking": "thinking",
    "Vectors": "vectors",
}
SCRIPT = {
    "langchain-ollama": "langchain_ollama_client.py",
    "langchain-openai": "langchain_openai_client.py",
    "litellm": "litellm_client.py",
    "llama-index-llms-ollama": "llama_index_client.py",
    "llm-ollama": "llm_client.py",
}
CALL = [["weather", {"city": "Oslo"}]]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: a package, how it speaks to a server, its version, and the columns with a mark."""

    package: str
    way: str
    version: str
    marks: frozenset[str]


def _run(python: Path, script: str, url: str, home: Path) -> Any:
    """What a script prints, in an environment that knows nothing but the server."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "OLLAMA_HOST": url}
    done = subprocess.run(
        [python, SCRIPTS / script, url], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def told(
    frameworks_python: Path, served: Served, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], dict[str, Any]]:
    """What a package gets in one of its ways of speaking; each script runs once."""
    home = tmp_path_factory.mktemp("home")

    @cache
    def ran(script: str) -> Any:
        return _run(frameworks_python, script, served.url, home)

    def tell(package: str, way: str) -> dict[str, Any]:
        found: dict[str, Any] = ran(SCRIPT[package])
        return found[way] if package == "litellm" else found

    return tell


def rows() -> list[Row]:
    """The table of the README."""
    text = (PROJECT / "README.md").read_text()
    head, _, *lines = re.findall(r"^\|.*\|$", text[text.index("| Client |") :].partition("\n\n")[0], re.M)
    columns = [cell.strip() for cell in head.strip("|").split("|")]
    assert columns == ["Client", "Version", "Speaks", *COLUMNS]
    return [_row([cell.strip() for cell in line.strip("|").split("|")]) for line in lines]


def _row(cells: list[str]) -> Row:
    name, version, way, *marks = cells
    assert {*marks} <= {"✓", "–"}
    marked = frozenset(column for column, mark in zip(COLUMNS, marks, strict=True) if mark == "✓")
    return Row(name.strip("`"), way.strip("`/"), version, marked)


FRAMEWORKS = [row for row in rows() if row.package in SCRIPT]


def _pinned() -> dict[str, str]:
    """The versions that the tests run with."""
    found = dict(
        re.findall(r"^([\w-]+)==(\S+)$", (PROJECT / "requirements-frameworks.txt").read_text(), re.M)
    )
    found |= dict(re.findall(r"^([\w-]+)==(\S+)$", (PROJECT / "requirements-test.txt").read_text(), re.M))
    script = json.loads((SCRIPTS.with_name("js") / "package.json").read_text())
    return found | {f"{name} (npm)": version for name, version in script["dependencies"].items()}


def test_the_table_has_the_versions_that_are_tested() -> None:
    pinned = _pinned()
    for row in rows():
        assert row.version == pinned[row.package], row
    assert {row.package for row in FRAMEWORKS} == {*SCRIPT}


@pytest.mark.parametrize("row", FRAMEWORKS, ids=lambda row: f"{row.package}-{row.way}")
def test_a_framework(told: Callable[[str, str], dict[str, Any]], served: Served, row: Row) -> None:
    found = told(row.package, row.way)
    # Everything that is told must be right, and the table tells the same.
    assert row.marks == {column for column, name in COLUMNS.items() if name in found}
    assert found["chat"] == "onetwothreefour"
    assert "".join(found["stream"]) == "onetwothreefour" and len(found["stream"]) == 4
    assert found["tokens"][0] > 0 and found["tokens"][1] == 4
    assert [*found["schema"]] == ["ok"] and isinstance(found["schema"]["ok"], bool)
    assert found["thinking"] == "Hmm…\n"
    if "call" in found:
        assert found["call"] == found["call in pieces"] == CALL
        assert found["after the call"] == "Let me see."
    if "vectors" in found:
        alone = served.post("/api/embed", {"model": "encodes", "input": ["hi", "hi", "there"]}).json
        for vector, expected in zip(found["vectors"], alone["embeddings"], strict=True):
            assert vector == pytest.approx(expected, abs=1e-5)


def test_what_langchain_has_besides(told: Callable[[str, str], dict[str, Any]]) -> None:
    assert told("langchain-ollama", "")["text"] == "onetwothreefour"
    found = told("langchain-openai", "")
    assert (found["text"], found["forced"]) == ("onetwothreefour", ["weather"])
    assert (found["response"], found["response in pieces"]) == ("Blue.", ["Bl", "ue", "."])


def test_what_llama_index_has_besides(told: Callable[[str, str], dict[str, Any]]) -> None:
    assert told("llama-index-llms-ollama", "")["text"] == "onetwothreefour"


def test_what_litellm_has_besides(told: Callable[[str, str], dict[str, Any]], served: Served) -> None:
    body = {"model": "ranks", "query": "hi", "documents": ["a b", "hi", "there"]}
    alone = served.post("/api/rerank", body).json["results"]
    found = told("litellm", "jina_ai")["ranks"]
    assert [index for index, _ in found] == [one["index"] for one in alone]
    assert [score for _, score in found] == pytest.approx([one["relevance_score"] for one in alone], abs=1e-5)
