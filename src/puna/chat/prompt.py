"""From messages to the tokens a model is prompted with."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from puna.chat.conversation import Message, Think
from puna.chat.family import known_family
from puna.chat.variables import Scalar, check_variables
from puna.errors import InvalidOption, UnsupportedModel
from puna.gguf import Metadata
from puna.gguf.keys import CHAT_TEMPLATE_KEY
from puna.template.conversation import render_go
from puna.template.fields import text_of as text_field
from puna.template.go import Template, parse
from puna.template.images import with_image_tags
from puna.template.known import known_template
from puna.template.shield import Shield, cut

if TYPE_CHECKING:
    from puna.tokenizer import Tokenizer

# User-defined tokens are words and runs of blanks as well; these are the ones that give a text its structure.
_TAG = re.compile(r"<[^\s<>].*>|\[[^\s\[\]].*\]", re.DOTALL)
# Where a picture stands.
_PICTURE = re.compile(r"\[img-(\d{1,9})\]", re.ASCII)
# The levels of Ollama's API that transformers' templates do not know.
_EFFORTS = {"max": "high"}


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt's tokens.

    Attributes:
        tokens: ids.
        pictures: for each picture, before which of them it stands, and its number; in the prompt's order.
    """

    tokens: list[int]
    pictures: list[tuple[int, int]]


@dataclass(frozen=True)
class Prompter:
    """Makes one model's prompts.

    Attributes:
        tokenizer: the model's.
        template: its prompt template, one in Go's language or the text of one in Jinja; None for a model that
            only continues text.
        family: the known family whose template it is, where the model brought none and its vocabulary told.
        renderer: what the store names to write prompts with, where there is no template to do it.
    """

    tokenizer: "Tokenizer"
    template: Template | str | None
    family: str = ""
    renderer: str = ""

    @classmethod
    def of(
        cls, metadata: Metadata, tokenizer: "Tokenizer", own: str | None = None, renderer: str = ""
    ) -> "Prompter":
        """The prompter for a model with this metadata.

        Args:
            own: the Go template that the store has for the model; it goes before the file's.
            renderer: the way to write prompts that the store names; templates go before it.

        Raises:
            GGUFError: the file's template is no text.
            TemplateError: the store's is no template.
        """
        if own is not None:
            return cls(tokenizer, parse(own))
        template = metadata.string(CHAT_TEMPLATE_KEY, None)
        if family := known_family(metadata, own, renderer):
            return cls(tokenizer, known_template(family), family=family)
        return cls(tokenizer, template, renderer=renderer if template is None else "")

    def text_of(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        think: Think = None,
    ) -> str:
        """The prompt of a conversation as text, with BOS where the model wants it.

        Without a template it is the last message's content.

        Args:
            messages: in the form of Ollama's API, or in another that the template knows.
            tools: those that the model is told of.
            think: whether it is to think, or how hard; None says nothing of it.

        Raises:
            ModelError, TemplateError: the template fails or refuses the conversation.
            UnsupportedModel: the store names a way to write prompts that there is not.
            InvalidOption: the messages or tools are not of the form that the template needs.
        """
        pieces = self._pieces(messages, tools, think, "")
        bos = self._token_text(self.tokenizer.bos_id if self.tokenizer.add_bos else None)
        return ("" if pieces[0].startswith(bos) else bos) + "".join(pieces)

    def pieces(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        think: Think = None,
        suffix: str = "",
        variables: Mapping[str, Scalar] | None = None,
    ) -> list[str]:
        """The prompt of a conversation, cut where a text of the caller's spells a control token.

        Without a template it is the last message's content.

        Args:
            tools: those that the model is told of.
            think: whether it is to think, or how hard; None says nothing of it.
            suffix: the text after the gap that the model fills.
            variables: further ones of a template in Jinja.

        Raises:
            ModelError, TemplateError: the template fails or refuses the conversation.
            UnsupportedModel: the store names a way to write prompts that there is not.
            InvalidOption: the caller's values are nested too deeply, a tool is malformed, or a variable is
                not the caller's to set.
        """
        go = isinstance(self.template, Template)
        forms = [message.for_go() if go else message.for_jinja() for message in messages]
        return self._pieces(forms, tools, think, suffix, variables or {})

    def encode(self, pieces: Sequence[str]) -> list[int]:
        """The tokens of a prompt's pieces, with BOS where the model wants it."""
        return self.encode_pictured(pieces, 0).tokens

    def encode_pictured(self, pieces: Sequence[str], pictures: int) -> Encoded:
        """The same, with the places of pictures, the tag of each being taken out where it stands first.

        Args:
            pictures: how many there are.

        Raises:
            InvalidOption: the template leaves a picture out.
        """
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        missing = set(range(pictures))
        for index, piece in enumerate(pieces):
            parse = piece not in self._shield.singles or index in (0, len(pieces) - 1)
            for text, number in _cut_at_pictures(piece, missing):
                if ids or index:
                    ids += self.tokenizer.encode_continuation(text, parse_special=parse)
                else:
                    ids += self.tokenizer.encode(text, add_special=False, parse_special=parse)
                if number is not None:
                    places.append((len(ids), number))
        if missing:
            raise InvalidOption(f"the model's template leaves out picture {min(missing)} of {pictures}")
        # Most templates write BOS themselves; a second one would harm the answer.
        bos = self.tokenizer.bos_id
        if not self.tokenizer.add_bos or bos is None or ids[:1] == [bos]:
            return Encoded(ids, places)
        return Encoded([bos, *ids], [(place + 1, number) for place, number in places])

    def encode_raw(self, prompt: str, pictures: int = 0) -> Encoded:
        """The tokens of a prompt that is whole, control tokens and all.

        Args:
            pictures: how many there are; those whose tags it has not stand at its beginning.
        """
        named = {int(match[1]) for match in _PICTURE.finditer(prompt)} if pictures else set[int]()
        untold = "".join(f"[img-{number}]" for number in range(pictures) if number not in named)
        (first, number), *parts = _cut_at_pictures(untold + prompt, set(range(pictures)))
        ids = self.tokenizer.encode(first, add_special=True, parse_special=True)
        places: list[tuple[int, int]] = []
        for text, following in parts:
            if number is not None:
                places.append((len(ids), number))
            ids += self.tokenizer.encode_continuation(text, parse_special=True)
            number = following
        return Encoded(ids, places)

    def _pieces(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        think: Think,
        suffix: str,
        variables: Mapping[str, Scalar] = MappingProxyType({}),
    ) -> list[str]:
        values: dict[str, Any] = {
            "messages": with_image_tags(messages),
            "tools": list(tools),
            "suffix": suffix,
            "variables": check_variables(variables, self._mentioned) if variables else {},
        }
        covered, mark = self._shield.cover(values)
        return cut(self._render(think=think, **covered), mark)

    @property
    def _mentioned(self) -> frozenset[str]:
        """The variables that a template in Jinja reads."""
        if not isinstance(self.template, str):
            return frozenset()
        from puna.template.jinja import variables_of

        return variables_of(self.template)

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]],
        think: Think,
        suffix: str,
        variables: dict[str, Scalar],
    ) -> str:
        goes_on = not suffix and is_continued(messages)
        if isinstance(self.template, Template):
            return render_go(
                self.template,
                messages,
                tools=tools,
                suffix=suffix,
                think=think,
                continue_final_message=goes_on,
            )
        if self.renderer:
            raise UnsupportedModel(
                f"the model's prompts are written by the renderer {self.renderer[:100]!r}, which is not "
                "supported, and it brings no chat template; give it a TEMPLATE with puna create"
            )
        if self.template is None:
            return text_field(messages[-1], "content") if messages else ""
        from puna.template.jinja import render_chat  # it takes longer to import than a server has to start

        return render_chat(
            self.template,
            messages,
            bos_token=self._token_text(self.tokenizer.bos_id),
            eos_token=self._token_text(self.tokenizer.eos_id),
            tools=tools or None,
            continue_final_message=goes_on,
            **{**_thinking_variables(think), **variables},
        )

    @cached_property
    def _shield(self) -> Shield:
        """The shield against control tokens, and against the user-defined ones that the template writes."""
        source = self.template.source if isinstance(self.template, Template) else self.template or ""
        return Shield(
            text
            for text, id in self.tokenizer.special_ids.items()
            if self.tokenizer.is_special(id) or (_TAG.fullmatch(text) and text in source)
        )

    def _token_text(self, id: int | None) -> str:
        return "" if id is None else self.tokenizer.token_text(id)


def _cut_at_pictures(text: str, missing: set[int]) -> list[tuple[str, int | None]]:
    """The texts before the tags of pictures, each with the picture's number, and what is behind the last.

    Args:
        missing: the numbers that count; those that are found are taken out.
    """
    parts: list[tuple[str, int | None]] = []
    end = 0
    for match in _PICTURE.finditer(text) if missing else ():
        number = int(match[1])
        if number in missing:
            missing.remove(number)
            parts.append((text[end : match.start()], number))
            end = match.end()
    return [*parts, (text[end:], None)]


def is_continued(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the answer goes on with the last message: one of the assistant's, with text and no calls."""
    last = messages[-1] if messages else {}
    content = last.get("content")
    if last.get("role") != "assistant" or last.get("tool_calls"):
        return False
    return isinstance(content, str) and bool(content.strip())


def _thinking_variables(think: Think) -> dict[str, Any]:
    """What templates for transformers call it: most the first, some families the second, gpt-oss the last."""
    if think is None:
        return {}
    level = {"reasoning_effort": _EFFORTS.get(think, think)} if isinstance(think, str) else {}
    return {"enable_thinking": bool(think), "thinking": bool(think), **level}
