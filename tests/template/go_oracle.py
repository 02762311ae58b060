"""Go's own text/template, compiled once, as the judge of ours."""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import gojson
from puna.errors import TemplateError
from puna.template.go import Stringer, Template
from puna.template.go.functions import NAMES
from puna.template.go.parser import parse_definitions

PARSE_ERROR, RUN_ERROR = "cannot be parsed", "fails"


@dataclass(frozen=True)
class Case:
    """A template and its data, in which `{"$json": value}` prints as JSON."""

    template: str
    data: Any


@dataclass(frozen=True)
class Outcome:
    """The text, or which error there was; `message` says what it was."""

    text: str | None
    error: str | None = None
    message: str = ""

    @property
    def what(self) -> tuple[str | None, str | None]:
        return self.text, self.error


class Oracle:
    """The compiled program."""

    def __init__(self, program: Path) -> None:
        self.program = program

    @classmethod
    def build(cls, folder: Path) -> "Oracle":
        """Compile it. Go must be installed: Debian's package is golang-go."""
        source = Path(__file__).with_name("oracle") / "main.go"
        environment = {
            "GOCACHE": str(folder / "cache"),
            "GO111MODULE": "off",
            "PATH": "/usr/local/go/bin:/usr/bin:/bin",
        }
        program = folder / "oracle"
        subprocess.run(["go", "build", "-o", program, source], check=True, env=environment)
        return cls(program)

    def run(self, cases: Sequence[Case]) -> list[Outcome]:
        """What Go makes of each case."""
        asked = json.dumps([{"template": case.template, "data": case.data} for case in cases])
        answer = subprocess.run(
            [self.program], input=asked.encode(), capture_output=True, check=True, timeout=60
        )
        return [self._outcome(result) for result in json.loads(answer.stdout)]

    @staticmethod
    def _outcome(result: dict[str, Any]) -> Outcome:
        if result["run"]:
            return Outcome(base64.b64decode(result["output"] or "").decode("utf-8", "replace"))
        return Outcome(None, RUN_ERROR if result["parse"] else PARSE_ERROR, result["message"])


def ours(case: Case) -> Outcome:
    """What our engine makes of it, without the response that `parse` appends."""
    try:
        template = Template(case.template, parse_definitions(case.template, NAMES))
    except TemplateError as error:
        return Outcome(None, PARSE_ERROR, str(error))
    try:
        return Outcome(template.execute(converted(case.data)))
    except TemplateError as error:
        return Outcome(None, RUN_ERROR, str(error))


def converted(data: Any) -> Any:
    """The data with Stringers for what prints as JSON."""
    if isinstance(data, dict):
        if "$json" in data:
            kind = "main.jsonMap" if isinstance(data["$json"], dict) else "main.jsonList"
            return Stringer(kind, converted(data["$json"]), gojson.encode)
        return {key: converted(value) for key, value in data.items()}
    return [converted(item) for item in data] if isinstance(data, list) else data
