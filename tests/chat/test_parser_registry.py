"""Which parser belongs to which name, and to which chat template."""

import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError

import pytest
from tests.chat.parsing import FAMILIES, THINK, TOOLS, Family, call, calls_of, read, thinking_of

from puna.chat.events import Content
from puna.chat.parsers.detect import parser_for_family
from puna.chat.parsers.registry import Support, names, parser_for, support

# What Ollama's models state as their parser, with what each is said to do: (tools, thinking).
STATED: Mapping[str, tuple[bool, bool]] = {
    "harmony": (True, True),
    "qwen3": (True, False),
    "qwen3-thinking": (True, True),
    "qwen3-coder": (True, False),
    "qwen3.5": (True, True),
    "ornith": (True, True),
    "qwen3-vl-instruct": (True, False),
    "qwen3-vl-thinking": (True, True),
    "nemotron-3-nano": (True, True),
    "nemotron-3.5-nano": (True, True),
    "glm-4.7": (True, True),
    "glm-ocr": (True, False),
    "laguna": (True, True),
    "poolside-v1": (True, True),
    "deepseek3": (True, True),
    "cogito": (True, True),
    "ministral": (True, False),
    "olmo3": (True, False),
    "olmo3-think": (False, True),
    "functiongemma": (True, False),
    "gemma4": (True, True),
    "gemma4-no-thinking": (True, False),
    "lfm2": (True, False),
    "lfm2-thinking": (True, True),
    "cohere": (True, True),
    "glimmer": (True, True),
    "passthrough": (False, False),
}


@pytest.mark.parametrize("name", STATED)
def test_names_that_models_state(name: str) -> None:
    found = support(name)
    assert found is not None
    assert (found.tools, found.thinking) == STATED[name]


@pytest.mark.parametrize("name", names())
def test_every_parser_can_be_made(name: str) -> None:
    parser = parser_for(name, tools=TOOLS, thinking_open=False)
    assert parser is not None
    assert read(parser, ["Hi"]) == [Content("Hi")]


@pytest.mark.parametrize("name", ["", "Qwen3", "qwen3 ", "no-such-parser", "__init__", "plain"])
def test_unknown_names_have_no_parser(name: str) -> None:
    assert parser_for(name, tools=TOOLS, thinking_open=False) is None
    assert support(name) is None


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.tags is None], ids=lambda f: f.name)
def test_support_says_what_the_parser_reads(family: Family) -> None:
    found = support(family.name)
    assert found is not None
    text = family.write("", "Hm", [("now", {})])
    events = read(family.parser(), [text])
    assert bool(calls_of(events)) == found.tools
    assert bool(thinking_of(events)) >= found.thinking
    text = family.write("Hi", "Hm", [("note", {"text": "a"}), ("order", {"z": 1})])
    # Whatever of the text looks like a control token is one of the parser's.
    for token in re.findall(r"</?[^<>\s:]+>|\[[A-Z_/]+\]", text):
        assert any(token.startswith(known) for known in found.tokens), token


def test_support_and_events_are_values() -> None:
    assert Support(True, False, ()) == Support(True, False, ())
    with pytest.raises(FrozenInstanceError):
        call("now").name = "other"  # type: ignore[misc]  # it is frozen


HERMES_TEMPLATE = "<tool_call>\n{{ tool_call.arguments | tojson }}\n</tool_call>"
THINKS = "{{ content.split('</think>')[-1] }}<think>\n"
TEMPLATES: Mapping[str, tuple[str, str, str | None]] = {
    "gpt-oss by name": ("gptoss", "", "harmony"),
    "gpt-oss by its template": ("x", "<|start|>assistant<|channel|>final<|message|>", "harmony"),
    "Qwen 2.5": ("qwen2", HERMES_TEMPLATE, "qwen3"),
    "Qwen 3": ("qwen3", HERMES_TEMPLATE + THINKS, "qwen3-thinking"),
    "Qwen 3 Coder": ("qwen3moe", "<tool_call>\n<function=a>\n<parameter=b>", "qwen3-coder"),
    "Qwen 3.5": ("qwen35", "<tool_call>\n<function=a>\n<parameter=b>" + THINKS, "qwen3.5"),
    "Nemotron": ("nemotron_h_moe", "<tool_call>\n<function=a>\n<parameter=b>" + THINKS, "nemotron-3-nano"),
    "Granite 4": ("granitehybrid", HERMES_TEMPLATE, "granite"),
    "Granite 3": ("granite", "<|tool_call|>", "granite"),
    "DeepSeek R1 distilled": ("qwen2", "<｜tool▁calls▁begin｜>" + THINKS, "deepseek3"),
    "Mistral": ("llama", "[TOOL_CALLS] [", "mistral"),
    "Ministral": ("mistral3", "[TOOL_CALLS]{{ name }}[ARGS]", "ministral"),
    "Command A": ("cohere2", "<|START_ACTION|>", "cohere"),
    "Command R": ("command-r", "<|START_OF_TURN_TOKEN|> Action: ```json", "command-r"),
    "LFM 2": ("lfm2", "<|tool_list_start|>", "lfm2"),
    "LFM 2 thinking": ("lfm2", "<|tool_call_start|>" + THINKS, "lfm2-thinking"),
    "OLMo 3": ("olmo2", "<functions></functions><function_calls>", "olmo3"),
    "GLM": ("glm4moe", "<tool_call><arg_key><arg_value>" + THINKS, "glm-4.7"),
    "Gemma 3": ("gemma3", "<start_of_turn>model", None),
    "Gemma 4": ("gemma4", "<|tool_call>call:<tool_call|>", "gemma4"),
    "FunctionGemma": ("gemma3", "<start_function_call>", "functiongemma"),
    "Llama 3.1": ("llama", "<|start_header_id|><|python_tag|>", "llama3"),
    "Llama 3.2": ("llama", '<|start_header_id|>{"name": "parameters"}', "llama3"),
    "Llama 4": ("llama4", "<|header_start|><|python_start|>", "llama4"),
    "thinking only": ("x", THINKS, "thinking"),
    "plain": ("llama", "{{ message.content }}", None),
    "nothing": ("llama", "", None),
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_families_are_told_by_their_templates(template: str) -> None:
    architecture, text, expected = TEMPLATES[template]
    found = parser_for_family(architecture, text)
    assert found == expected
    assert found is None or found in names()


def test_a_model_without_a_template_has_no_parser() -> None:
    assert parser_for_family("llama", None) is None
    assert THINK[0].startswith("<think>")
