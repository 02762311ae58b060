"""Streams of Ollama's own API, checked line by line."""

import json
from dataclasses import dataclass, field
from typing import Any

MEASURES = {
    *("total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"),
    *("eval_count", "eval_duration"),
}


@dataclass(slots=True)
class NativeStream:
    """What a stream of /api/generate or /api/chat has said so far; each line must be one that may follow.

    Attributes:
        last: the line that is done.
        error: the text of the last line, if that is an error.
    """

    content: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    model: str = ""

    @property
    def ended(self) -> bool:
        return bool(self.last or self.error)

    def take(self, line: dict[str, Any]) -> None:
        assert not self.ended, "nothing comes after the end"
        if "error" in line:
            assert {*line} == {"error"}
            self.error = line["error"]
            return
        assert self.model in ("", line["model"]) and line["created_at"]
        self.model = line["model"]
        said = line.get("message", line)
        assert ("message" in line) != ("response" in line)
        self.content += said.get("content", line.get("response", ""))
        self.thinking += said.get("thinking", "")
        self.calls += said.get("tool_calls", [])
        if line["done"]:
            assert line["done_reason"] in ("stop", "length") and {*line} >= MEASURES
            self.last = line
        else:
            assert not {*line} & {*MEASURES, "done_reason"}


def read_lines(body: bytes) -> NativeStream:
    """A whole stream."""
    assert body.endswith(b"\n")
    stream = NativeStream()
    for line in body.splitlines():
        stream.take(json.loads(line))
    assert stream.ended
    return stream
