"""Which parser fits a model that states none, by what its chat template writes."""

from collections.abc import Callable

_ARCHITECTURES = {"gptoss": "harmony", "gpt-oss": "harmony", "gpt_oss": "harmony"}


def parser_for_family(architecture: str, chat_template: str | None) -> str | None:
    """The name of the parser, see `puna.chat.parsers.registry`.

    Args:
        architecture: as `general.architecture` says.
        chat_template: the text of the Jinja template; only what it writes word for word is looked at.

    Returns:
        None where nothing in the template tells how the model writes calls or thinking.
    """
    if architecture in _ARCHITECTURES:
        return _ARCHITECTURES[architecture]
    template = chat_template or ""
    for markers, name in _MARKERS:
        if all(marker in template for marker in markers):
            return name(architecture, template) if callable(name) else name
    return None


def _by_thinking(plain: str, thinking: str) -> Callable[[str, str], str]:
    return lambda _, template: thinking if "</think>" in template else plain


def _coder(architecture: str, template: str) -> str:
    if architecture.startswith("nemotron"):
        return "nemotron-3-nano"
    return "qwen3.5" if "<think>" in template else "qwen3-coder"


def _hermes(architecture: str, template: str) -> str:
    if architecture.startswith("granite"):
        return "granite"
    return "qwen3-thinking" if "</think>" in template else "qwen3"


# The first whose markers are all there counts, so the unmistakable ones come first.
_MARKERS: tuple[tuple[tuple[str, ...], str | Callable[[str, str], str]], ...] = (
    (("<|start|>", "<|channel|>", "<|message|>"), "harmony"),
    (("<atem:function_calls>", "<|message|>"), "glimmer"),
    (("<start_function_call>",), "functiongemma"),
    (("<|tool_call>", "<tool_call|>"), "gemma4"),
    (("<｜tool▁calls▁begin｜>",), "deepseek3"),
    (("<|START_ACTION|>",), "cohere"),
    (("Action:", "```json", "<|START_OF_TURN_TOKEN|>"), "command-r"),
    (("[TOOL_CALLS]", "[ARGS]"), "ministral"),
    (("[TOOL_CALLS]",), "mistral"),
    (("<|tool_call_start|>",), _by_thinking("lfm2", "lfm2-thinking")),
    (("<|tool_list_start|>",), _by_thinking("lfm2", "lfm2-thinking")),
    (("<function_calls>", "<functions>"), "olmo3"),
    (("<arg_key>", "<arg_value>"), "glm-4.7"),
    (("<function=", "<parameter="), _coder),
    (("<|tool_call|>",), "granite"),
    (("<tool_call>", "arguments"), _hermes),
    (("<|python_tag|>",), "llama3"),
    (("<|python_start|>",), "llama4"),
    (("<|start_header_id|>", '"parameters"'), "llama3"),
    (("tool_code", "<start_of_turn>"), "gemma3"),
    (("<think>", "</think>"), "thinking"),
)
