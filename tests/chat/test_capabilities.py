"""What models can do, as their files tell."""

from typing import Any

import pytest

from puna.chat.capabilities import Capability, capabilities, check_capabilities
from puna.chat.parsers.registry import support
from puna.errors import GGUFError, MissingCapability
from puna.gguf import Metadata, metadata_of
from puna.template.go import parse

PLAIN = "{{ .Prompt }}"
THINKING = (
    "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}{{ end }}"
)
CUTTING = "{{ message.content.split('</think>')[-1] }}"


def file(architecture: str = "llama", **values: Any) -> Metadata:
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in values.items()}
    return metadata_of({"general.architecture": architecture, **named})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"metadata": file()}, "completion"),
        ({"metadata": file("bert", pooling_type=1)}, "embedding"),
        ({"metadata": file("bert", pooling_type=0)}, "embedding"),
        ({"metadata": None}, ""),
        ({"metadata": None, "projector": file("clip")}, "vision"),
        ({"metadata": file("gemma3", vision__block_count=27)}, "completion vision"),
        (
            {"metadata": file("gemma3", vision__block_count=27, audio__block_count=2)},
            "completion vision audio",
        ),
        ({"metadata": file(), "projector": file("clip", has_audio_encoder=True)}, "completion vision audio"),
        ({"metadata": file(), "projector": file("clip", has_audio_encoder=False)}, "completion vision"),
        (
            {
                "metadata": file(),
                "projector": file("clip", has_audio_encoder=True, vision__projector_type="gemma3nv"),
            },
            "completion vision",
        ),
        ({"metadata": file(), "template": PLAIN}, "completion"),
        (
            {"metadata": file(), "template": "{{ .prompt }}{{ $.Suffix }}{{ .tools }}"},
            "completion tools insert",
        ),
        ({"metadata": file(), "template": THINKING}, "completion thinking"),
        ({"metadata": file(), "chat_template": "{% if tools %}{% endif %}"}, "completion tools"),
        ({"metadata": file(), "chat_template": "{{ message.tool_calls }}"}, "completion tools"),
        ({"metadata": file(), "chat_template": "<think></think>"}, "completion thinking"),
        ({"metadata": file(), "chat_template": "<think>"}, "completion"),
        ({"metadata": file(), "chat_template": CUTTING}, "completion thinking"),
        ({"metadata": file(), "chat_template": CUTTING + "{{ m.reasoning_content }}"}, "completion"),
        ({"metadata": file(), "parser": support("harmony")}, "completion tools thinking"),
        ({"metadata": file(), "parser": support("passthrough")}, "completion"),
        ({"metadata": file(), "parser": support("qwen3")}, "completion tools"),
        ({"metadata": file(), "parser": support("no such parser")}, "completion"),
        ({"metadata": file("gptoss"), "template": PLAIN}, "completion thinking"),
        ({"metadata": file("gpt-oss")}, "completion thinking"),
        ({"metadata": None, "stated": ["image", "nonsense"]}, "image"),
        (
            {
                "metadata": file(vision__block_count=1),
                "stated": ["tools", "completion"],
                "template": "{{ .Tools }}{{ .Suffix }}",
                "parser": support("harmony"),
            },
            "tools completion vision insert thinking",
        ),
    ],
)
def test_capabilities_in_their_order(given: dict[str, Any], expected: str) -> None:
    if "template" in given:
        given = {**given, "template": parse(given["template"])}
    metadata = given["metadata"]
    rest = {key: value for key, value in given.items() if key != "metadata"}
    assert " ".join(capabilities(metadata, **rest)) == expected


def test_metadata_without_an_architecture_is_an_error() -> None:
    with pytest.raises(GGUFError, match=r"general\.architecture"):
        capabilities(metadata_of({}))


def test_what_is_missing_is_named() -> None:
    present = (Capability.COMPLETION, Capability.TOOLS)
    check_capabilities(present, present)
    with pytest.raises(MissingCapability) as caught:
        check_capabilities(present, [Capability.TOOLS, Capability.INSERT, Capability.THINKING])
    assert str(caught.value) == "does not support insert, thinking"
    assert caught.value.detail == "does not support insert\nthinking"
    assert caught.value.missing == ("insert", "thinking")


@pytest.mark.parametrize("model", ["qwen3:4b", "registry.ollama.ai/library/deepseek-r1:latest"])
def test_models_that_learnt_thinking_later(model: str) -> None:
    with pytest.raises(MissingCapability) as caught:
        check_capabilities((), [Capability.THINKING], model=model)
    assert caught.value.detail == (
        "does not support thinking. Pull the model again to get the latest version with full thinking support"
    )
    with pytest.raises(MissingCapability, match=r"does not support tools$"):
        check_capabilities((), [Capability.TOOLS], model=model)
