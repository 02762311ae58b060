"""What a caller may ask for, by name: the same for a server and for a model in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from puna.client.replies import Message

if TYPE_CHECKING:
    from puna.sampling.grammar import Grammar

Image: TypeAlias = bytes | str | Path
"""A picture: its file's content, or its path; a text that is no path is the content in base64."""

Format: TypeAlias = str | Mapping[str, Any]
"""What an answer is kept to: "json", or a JSON schema."""

GivenGrammar: TypeAlias = "Grammar | Mapping[str, Any]"
"""A grammar, or the object that describes it; see `puna.sampling.grammar.Grammar.from_document`."""

GivenAdapter: TypeAlias = str | Mapping[str, Any]
"""A model of the store whose LoRA adapter is meant: its name, or a mapping with `name` and `scale`."""

GivenMessage: TypeAlias = Message | Mapping[str, Any]
"""A message, or a mapping of the same fields."""


class AnswerArguments(TypedDict, total=False):
    """What any answer may be asked for with.

    Attributes:
        options: Ollama's options by name, such as `temperature`, `seed`, `num_ctx`, `stop`.
        keep_alive: how long the model stays loaded afterwards: seconds, or a text such as "10m"; below 0 for
            ever. Without meaning in process.
        format: "json", or a JSON schema, which the answer is kept to.
        grammar: what the answer is kept to, where `format` cannot say it: a regular expression, a grammar, or
            choices. Ollama's own server passes it over.
        think: whether to think first, or how hard: "low", "medium", "high", "max".
        truncate: leave out the oldest turns of a conversation that is too long, which else is an error.
        shift: when the context is full, drop the oldest tokens and go on.
        logprobs: report the log-probability of each token.
        top_logprobs: and of this many others in its place.
        adapters: LoRA adapters that the answer is made with besides the model's own. Ollama's own server
            passes them over.
    """

    options: Mapping[str, Any] | None
    keep_alive: float | str | None
    format: Format | None
    grammar: "GivenGrammar | None"
    think: bool | str | None
    truncate: bool | None
    shift: bool | None
    logprobs: bool | None
    top_logprobs: int | None
    adapters: Sequence[GivenAdapter] | None


class GenerateArguments(AnswerArguments, total=False):
    """What a prompt may be sent with.

    Attributes:
        system: the system message; None takes the model's own.
        template: a Go template in place of the model's.
        suffix: the text after the gap that the model is to fill.
        images: pictures, for models that see.
        raw: the prompt is sent as it is, without a template.
        context: what an earlier reply gave as `context`.
    """

    system: str | None
    template: str | None
    suffix: str | None
    images: Sequence[Image] | None
    raw: bool | None
    context: Sequence[int] | None


class ChatArguments(AnswerArguments, total=False):
    """What a conversation may be sent with.

    Attributes:
        tools: the tools that the model may call, in the form of Ollama's and OpenAI's APIs.
        tool_choice: "none", "auto", "required", or the tool that must be called, as
            `{"type": "function", "function": {"name": …}}`. Ollama's own server passes it over.
    """

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None


class EmbedArguments(TypedDict, total=False):
    """What texts to embed may be sent with.

    Attributes:
        truncate: cut texts that are too long, which else is an error.
        dimensions: how many numbers each vector is to have at most.
        options: see `AnswerArguments`.
        keep_alive: see `AnswerArguments`.
    """

    truncate: bool | None
    dimensions: int | None
    options: Mapping[str, Any] | None
    keep_alive: float | str | None


class CreateArguments(TypedDict, total=False):
    """What a new model is made of; see Ollama's `POST /api/create`.

    Attributes:
        from_: the model it derives from.
        files: digests of blobs on the server, as `sha256:<hex>`, by the names of GGUF files.
        adapters: the same for an adapter.
        license: licence texts.
        quantize: the type the weights are to have, such as `Q4_K_M`.
        imatrix: the digest of an importance matrix to quantize by, by its name; Puna only.
    """

    from_: str | None
    files: Mapping[str, str] | None
    adapters: Mapping[str, str] | None
    template: str | None
    system: str | None
    license: str | Sequence[str] | None
    parameters: Mapping[str, Any] | None
    messages: Sequence[GivenMessage] | None
    quantize: str | None
    imatrix: Mapping[str, str] | None
    renderer: str | None
    parser: str | None
    requires: str | None
