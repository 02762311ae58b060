"""What a conversation's next turn costs: only what is new, whatever happened in between."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.probes import children, figure
from tests.served import Served, serving
from tests.served_models import GREEDY, add_model
from tests.tiny_llama import write_tiny_llama

from puna.store.library import Library

# An answer that comes back in a later prompt token by token, as a byte is one.
TEMPLATE = (
    "{{ if .Tools }}[tools]{{ .Tools }}{{ end }}"
    "{{ range .Messages }}[{{ .Role }}]{{ .Content }}{{ end }}[assistant]"
)
LENGTH = 16

FORMAT = {"type": "string", "pattern": f"^[a-z]{{{LENGTH}}}$"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather somewhere.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("talking")
    file = write_tiny_llama(folder / "tiny.gguf")
    add_model(Library(folder / "models"), "tiny", file, template=TEMPLATE, parameters=GREEDY)
    with serving(folder, folder / "models", PUNA_METRICS="1") as server:
        yield server


class Talk:
    """A conversation; `evaluated` is what of the last prompt was evaluated, and `new` what was new in it."""

    def __init__(self, server: Served, subject: str, **more: Any) -> None:
        self.server = server
        self.subject = subject
        self.more = more
        self.messages: list[dict[str, Any]] = []
        self.evaluated = self.new = 0

    def say(self, text: str, role: str = "user", **options: Any) -> None:
        self.messages.append({"role": role, "content": f"{self.subject} {text}"})
        body = {"model": "tiny", "messages": self.messages, "format": FORMAT, "stream": False, **self.more}
        reply = self.server.post("/api/chat", {**body, "options": options}).json
        answer = reply["message"]["content"]
        assert len(answer) == LENGTH + 2 and answer.isascii()
        self.messages.append(reply["message"])
        self.evaluated = reply["prompt_eval_count"] - reply.get("cached_tokens", 0)
        # Of the answer before, the last letter was chosen and the quote had to follow: neither is evaluated.
        self.new = len(f'z"[{role}]{self.subject} {text}[assistant]')


@pytest.mark.parametrize("more", [{}, {"tools": [TOOL]}], ids=["plain", "tools"])
def test_only_what_is_new_is_evaluated(talking: Served, more: dict[str, Any]) -> None:
    name = "plain" if not more else "tools"
    one, other = Talk(talking, f"Of oceans, {name}:", **more), Talk(talking, f"Of cities, {name}:", **more)
    one.say("tell me everything.")
    for turn in range(3):
        other.say(f"this is number {turn}.")
        one.say(f"and what about number {turn}?")
        assert one.evaluated == one.new
        assert turn == 0 or other.evaluated == other.new


def test_a_tool_s_result_is_new_and_the_rest_is_not(talking: Served) -> None:
    talk = Talk(talking, "Weather:", tools=[TOOL])
    talk.say("what is it like in Oslo?")
    talk.say("rain", role="tool")
    assert talk.evaluated == talk.new


def test_another_context_reads_no_weights(talking: Served) -> None:
    talk = Talk(talking, "Of rivers:")
    talk.say("begin.")
    (runner,) = children(talking.pid)
    loads = figure(talking, "puna_load_seconds_count")
    for num_ctx in (1024, 2048, 512):
        talk.say("go on.", num_ctx=num_ctx)
        # The cache is a new one.
        assert talk.evaluated > talk.new
        (told,) = talking.get("/api/ps").json["models"]
        assert told["context_length"] == num_ctx
        talk.say("and on.")
        assert talk.evaluated == talk.new
    assert children(talking.pid) == [runner]
    assert figure(talking, "puna_load_seconds_count") == loads
