"""From messages to the tokens a model is prompted with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from puna.gguf import Metadata
from puna.template.conversation import render_go
from puna.template.fields import text_of as text_field
from puna.template.go import Template, parse
from puna.template.jinja import render_chat
from puna.template.shield import shield
from puna.tokenizer import Tokenizer

CHAT_TEMPLATE_KEY = "tokenizer.chat_template"


@dataclass(frozen=True)
class Prompter:
    """Makes one model's prompts.

    Attributes:
        tokenizer: the model's.
        template: its prompt template, one in Go's language or the text of one in Jinja; None for a model that
            only continues text.
    """

    tokenizer: Tokenizer
    template: Template | str | None

    @classmethod
    def of(cls, metadata: Metadata, tokenizer: Tokenizer, own: str | None = None) -> "Prompter":
        """The prompter for a model with this metadata.

        Args:
            own: the Go template that the store has for the model; it goes before the file's.

        Raises:
            GGUFError: the file's template is no text.
            TemplateError: the store's is no template.
        """
        return cls(tokenizer, metadata.string(CHAT_TEMPLATE_KEY, None) if own is None else parse(own))

    def text(self, text: str, *, raw: bool = False) -> list[int]:
        """The tokens of a bare text, which a model continues.

        Args:
            raw: read control tokens that the text spells as such, for a caller that writes the whole prompt.
        """
        return self.tokenizer.encode(text, add_special=True, parse_special=raw)

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a conversation, the assistant's turn opened. Messages cannot spell control tokens.

        Raises:
            ModelError, TemplateError: the template fails or refuses the conversation.
        """
        shielded, break_ = shield(messages, self._control_texts)
        prompt = self._render(shielded, (), None)
        first, *rest = prompt.split(break_)
        ids = self.tokenizer.encode(first, add_special=not self._begins(prompt), parse_special=True)
        for piece in rest:
            ids += self.tokenizer.encode(piece, add_special=False, parse_special=True)
        return ids

    def text_of(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        think: bool | str | None = None,
    ) -> str:
        """The prompt of a conversation as text, with BOS where the model wants it.

        Without a template it is the last message's content.

        Args:
            messages: in the form of Ollama's API, or in another that the template knows.
            tools: those that the model is told of.
            think: whether it is to think, or how hard; None says nothing of it.

        Raises:
            ModelError, TemplateError: the template fails or refuses the conversation.
            InvalidOption: the messages or tools are not of the form that the template needs.
        """
        shielded, break_ = shield(messages, self._control_texts)
        prompt = self._render(shielded, tools, think)
        wanted = self.tokenizer.add_bos and not self._begins(prompt)
        return self._token_text(self.tokenizer.bos_id if wanted else None) + prompt.replace(break_, "")

    def _render(
        self, messages: list[dict[str, Any]], tools: Sequence[Mapping[str, Any]], think: bool | str | None
    ) -> str:
        if isinstance(self.template, Template):
            return render_go(self.template, messages, tools=tools, think=think)
        if self.template is None:
            return text_field(messages[-1], "content") if messages else ""
        return render_chat(
            self.template,
            messages,
            bos_token=self._token_text(self.tokenizer.bos_id),
            eos_token=self._token_text(self.tokenizer.eos_id),
            tools=list(tools) or None,
            **_thinking_variables(think),
        )

    def _begins(self, prompt: str) -> bool:
        """Whether the template wrote BOS, as most do; a second one would harm the answer."""
        bos = self._token_text(self.tokenizer.bos_id)
        return bool(bos) and prompt.startswith(bos)

    @cached_property
    def _control_texts(self) -> list[str]:
        tokenizer = self.tokenizer
        return [tokenizer.token_text(id) for id in range(tokenizer.vocab_size) if tokenizer.is_special(id)]

    def _token_text(self, id: int | None) -> str:
        return "" if id is None else self.tokenizer.token_text(id)


def _thinking_variables(think: bool | str | None) -> dict[str, Any]:
    """What templates for transformers call it: most the first, some families the second, gpt-oss the last."""
    if think is None:
        return {}
    level = {"reasoning_effort": think} if isinstance(think, str) else {}
    return {"enable_thinking": bool(think), "thinking": bool(think), **level}
