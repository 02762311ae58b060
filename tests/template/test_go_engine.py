"""The Go template engine against Go itself."""

from pathlib import Path
from typing import Any

import pytest
from tests.template.go_oracle import Case, Oracle, ours

DATA: dict[str, Any] = {
    "s": "text",
    "u": "é日",
    "es": "",
    "n": 7,
    "zero": 0,
    "f": 2.5,
    "t": True,
    "ff": False,
    "nil": None,
    "list": ["a", "b", "c"],
    "nums": [1, 2, 3],
    "mixed": [1, "x", None, 2.5, True, {"a": 1}, [None]],
    "empty": [],
    "map": {"a": 1, "b": "two", "Z": None},
    "emptymap": {},
    "nested": {"x": {"y": {"z": [1, {"k": "<v>"}]}}, "B": "b"},
    "j": {"$json": {"b": 1, "a": [1.5, None, "<x>"]}},
    "jl": {"$json": [1, "two", {"k": True}]},
    "wrapped": [{"$json": {"k": 1}}, "s"],
    "big": 9007199254740993,
    "huge": 1.5e300,
    "tiny": 2.5e-9,
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": " a\nb "},
        {"role": "user", "content": "{{ .s }}"},
    ],
}
SNIPPETS = [
    line.replace("¶", "\n")
    for line in Path(__file__).with_name("go_snippets.txt").read_text(encoding="utf-8").splitlines()[1:]
]


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return Oracle.build(tmp_path_factory.mktemp("go"))


def test_snippets_come_out_as_in_go(oracle: Oracle) -> None:
    cases = [Case(snippet, DATA) for snippet in SNIPPETS]
    assert len(cases) > 250
    wrong = [
        f"{case.template!r}\n  Go:   {expected}\n  ours: {got}"
        for case, expected, got in zip(cases, oracle.run(cases), map(ours, cases), strict=True)
        if got.what != expected.what
    ]
    assert not wrong, "\n".join(wrong)
