"""Prompt templates of well-known families in Go's language, and which of them a model's own template is.

A model's template in Jinja is recognised by what it does, not by its text: both are given the same
conversations, and every prompt must come out the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

from puna.errors import ModelError
from puna.template.conversation import render_go
from puna.template.go import Template, parse

# The families, and the texts that end an answer of each.
STOPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "alfred": ("<start_system>", "<start_user>", "<start_assistant>", "<end_message>"),
        "alpaca": ("### Instruction:", "### Response:"),
        "chatml": ("<|im_start|>", "<|im_end|>"),
        "chatqa": ("System:", "User:", "Assistant:", "<|begin_of_text|>"),
        "codellama-70b-instruct": ("Source:", "Destination:", "<step>"),
        "command-r": ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
        "falcon-instruct": ("User:", "Assistant:"),
        "gemma-instruct": ("<start_of_turn>", "<end_of_turn>"),
        "gemma3-instruct": ("<end_of_turn>",),
        "granite-instruct": ("System:", "Question:", "Answer:"),
        "llama2-chat": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"),
        "llama3-instruct": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "magicoder": ("@@ Instruction", "@@ Response"),
        "mistral-instruct": ("[INST]", "[/INST]"),
        "openchat": ("<|end_of_turn|>",),
        "phi-3": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "solar-instruct": ("### System:", "### User:", "### Assistant:"),
        "starcoder2-instruct": ("### Instruction", "### Response", "<|endoftext|>"),
        "vicuna": ("USER:", "ASSISTANT:"),
        "zephyr": ("<|system|>", "<|user|>", "<|assistant|>", "</s>"),
    }
)

Message = Mapping[str, str]

# None of the families' templates can do what a template with these words may do.
_BEYOND = ("tool", "think", "reasoning", "image", "documents")
_TEXTS = (
    "Why is the sky blue?",
    "Grüße, 日本 😀 <b>&amp;</b> 'a' \"b\" {{ c }} {% d %} \\n [INST] `e`",
    "two\n\nparagraphs\r\n\tand  blanks",
)
_UNTRIMMED = (" blanks at both ends  ", "\na newline at both ends\n")


@dataclass(frozen=True, slots=True)
class Detected:
    """A known template that does what a model's own does.

    Attributes:
        name: of the family.
        template: its text, in Go's language.
        stop: the texts that end an answer.
        strips: the model's own template takes the blanks off both ends of each message, which Go's language
            cannot; the prompts are the same once that is done.
        takes_system: the model's own template takes system messages; if not, it says nothing of them.
    """

    name: str
    template: str
    stop: tuple[str, ...]
    strips: bool
    takes_system: bool


def template_text(name: str) -> str:
    """The template of a family. Raises KeyError for other names."""
    if name not in STOPS:
        raise KeyError(name)
    return files("puna.template").joinpath("library", f"{name}.gotmpl").read_text(encoding="utf-8")


@lru_cache(maxsize=len(STOPS))
def known_template(name: str) -> Template:
    """The parsed template of a family. Raises KeyError for other names."""
    return parse(template_text(name))


def detect(chat_template: str, *, bos_token: str = "", eos_token: str = "") -> Detected | None:
    """The known template that makes the same prompts as a model's own, None if there is none.

    A template that handles tools, thinking, images or documents is never taken for a known one, nor is one
    that fails on a conversation without a system message.

    Args:
        chat_template: the model's, in Jinja.
        bos_token: the text of the token that begins a sequence, which known templates leave to the tokenizer.
        eos_token: the text of the token that ends one.
    """
    if any(word in chat_template for word in _BEYOND):
        return None
    own = _Own(chat_template, bos_token, eos_token)
    names, takes_system = list(STOPS), True
    for conversation in _conversations(_TEXTS):
        prompt = own.prompt(conversation)
        if prompt is None and conversation[0]["role"] != "system":
            return None
        takes_system = takes_system and prompt is not None
        names = [name for name in names if _agrees(known_template(name), conversation, prompt)]
        if not names:
            return None
    untrimmed = [(conversation, own.prompt(conversation)) for conversation in _conversations(_UNTRIMMED)]
    for name in names:
        strips = _strips(known_template(name), untrimmed)
        if strips is not None:
            return Detected(name, template_text(name), STOPS[name], strips, takes_system)
    return None


Conversation = Sequence[Message]


@dataclass(frozen=True, slots=True)
class _Own:
    """The model's own template."""

    template: str
    bos_token: str
    eos_token: str

    def prompt(self, conversation: Conversation) -> str | None:
        """The prompt without BOS, None where the template refuses the conversation."""
        from puna.template.jinja import render_chat  # it takes longer to import than a server has to start

        try:
            prompt = render_chat(
                self.template, conversation, bos_token=self.bos_token, eos_token=self.eos_token
            )
        except ModelError:
            return None
        return prompt.removeprefix(self.bos_token)


def _agrees(template: Template, conversation: Conversation, prompt: str | None) -> bool:
    return prompt is None or render_go(template, conversation) == prompt


def _strips(template: Template, untrimmed: Sequence[tuple[Conversation, str | None]]) -> bool | None:
    """Whether the prompts are the same only once the messages are stripped; None if not even then."""
    if all(_agrees(template, conversation, prompt) for conversation, prompt in untrimmed):
        return False
    same = all(_agrees(template, _stripped(conversation), prompt) for conversation, prompt in untrimmed)
    return True if same else None


def _conversations(texts: Sequence[str]) -> Iterator[Conversation]:
    """Conversations that end with the user: with and without a system message, short and long."""
    for start in range(len(texts)):
        said = [texts[(start + turn) % len(texts)] for turn in range(8)]
        for length in (1, 3, 7):
            turns = [
                {"role": ("user", "assistant")[turn % 2], "content": said[turn]} for turn in range(length)
            ]
            yield turns
            yield [{"role": "system", "content": said[-1]}, *turns]


def _stripped(conversation: Conversation) -> Conversation:
    return [{**message, "content": message["content"].strip()} for message in conversation]
