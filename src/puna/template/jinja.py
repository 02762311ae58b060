"""Chat templates in Jinja, as GGUF files carry them in `tokenizer.chat_template`.

The dialect is that of HF transformers' `apply_chat_template`: blocks are trimmed; there is `raise_exception`,
`strftime_now`, `tojson` without HTML escaping, `break`, `continue`, and a `generation` block that marks text.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.utils import Namespace

from puna.errors import ModelError
from puna.template.continued import cut_at_tag, tagged
from puna.template.jinja_input import plain_messages, plain_variables
from puna.template.limits import BoundedEnvironment, budget_of, budgeted

_MAX_TEMPLATE = 128 << 10
_MAX_INDENT = 16
_MOST_OTHER_KEYS = 1000
# What running a template's code may raise besides Jinja's own errors.
_PYTHON_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
)
_WIDTH = re.compile(r"%[-_^#+]*[0-9]")


class _Refused(jinja2.TemplateError):
    """The template called `raise_exception`."""


class _GenerationBlock(Extension):
    """`{% generation %}…{% endgeneration %}` marks text for training; here it is a scope."""

    tags = {"generation"}  # noqa: RUF012 - the type that Extension declares

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's content."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Dict:
    """What templates know as `dict`: makes dicts, without the methods of the class, which change them."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*map(_checked, args), **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """A dict with one value for all keys."""
        return dict.fromkeys(_checked(keys), value)


def _checked(keys: Any) -> Any:
    """Keys, or pairs with them, of which few are no texts: others can be made to have one hash."""
    if isinstance(keys, Mapping):
        return keys
    listed = list(keys)
    if sum(not isinstance(key, str) for key in listed) > _MOST_OTHER_KEYS:
        raise SecurityError(f"it makes a dict of more than {_MOST_OTHER_KEYS} things that are no texts")
    return listed


class _Namespace(Namespace):
    """What templates know as `namespace`. It holds no name that Python or Jinja would take for its own.

    Printed, it does not tell what it holds: namespaces may hold each other, and the text would have no end.
    """

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        values = dict(*args, **kwargs)
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or name.startswith(("_", "jinja_")):
        raise SecurityError("it gives a namespace a name that is not the template's to give")


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    bos_token: str = "",
    eos_token: str = "",
    **extra: Any,
) -> str:
    """The prompt text for a conversation.

    Args:
        template: the Jinja source.
        messages: one at least, each with `role` and `content`, and what else the template knows. Fields that
            are None count as missing; thinking may be called `thinking`, `reasoning_content` or `reasoning`.
        add_generation_prompt: whether to open the assistant's turn at the end.
        continue_final_message: whether to end with the last message's content instead, which is a text.
        bos_token: the text of the token that begins a sequence.
        eos_token: the text of the token that ends one.
        extra: further variables of the template (`tools`, `documents`, `enable_thinking` …).

    Raises:
        ModelError: the template cannot be read, fails, refuses the conversation, or leaves out what is to be
            continued.
        InvalidOption: there are no messages, or one is no object.
    """
    variables = {
        "tools": None,
        "documents": None,
        **plain_variables(extra),
        "messages": plain_messages(tagged(messages) if continue_final_message else messages),
        "add_generation_prompt": add_generation_prompt and not continue_final_message,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    compiled = _compile(template)
    variables, budget = budgeted(variables)
    try:
        prompt = "".join(budget.bounded(compiled.generate(variables)))
    except _Refused as error:
        raise ModelError(
            f"the model's chat template refuses this conversation: {_one_line(error)}"
        ) from error
    except (jinja2.TemplateError, *_PYTHON_ERRORS) as error:
        raise ModelError(f"the model's chat template fails: {_one_line(error)}") from error
    return cut_at_tag(prompt, messages[-1]["content"]) if continue_final_message else prompt


@lru_cache(maxsize=16)
def variables_of(template: str) -> frozenset[str]:
    """The names that a template reads and does not set itself. Raises: ModelError, as `render_chat`."""
    _compile(template)
    return frozenset(find_undeclared_variables(_environment().parse(template)))


@lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    if len(template) > _MAX_TEMPLATE:
        raise ModelError(f"the model's chat template is longer than {_MAX_TEMPLATE} characters")
    try:
        return _environment().from_string(template)
    except jinja2.TemplateSyntaxError as error:
        message = f"the model's chat template cannot be read: line {error.lineno}: {_one_line(error)}"
        raise ModelError(message) from error
    except (jinja2.TemplateError, SyntaxError, MemoryError, *_PYTHON_ERRORS) as error:
        raise ModelError(f"the model's chat template cannot be read: {_one_line(error)}") from error


@lru_cache(maxsize=1)
def _environment() -> BoundedEnvironment:
    environment = BoundedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.add_filter("tojson", _tojson)
    environment.globals["dict"] = _Dict()
    environment.globals["namespace"] = _Namespace
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


@pass_context
def _tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= _MAX_INDENT:
        raise SecurityError("it indents JSON too far")
    if separators is not None and sum(map(len, separators)) > _MAX_INDENT:
        raise SecurityError("it separates JSON too far")
    budget = budget_of(context)
    budget.charge(budget.weigh(value))
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None:
        return encoder.encode(value)
    # Each line of what is nested deeply is long.
    return "".join(budget.charged(encoder.iterencode(value)))


def _raise_exception(message: str) -> NoReturn:
    raise _Refused(message)


def _strftime_now(pattern: str) -> str:
    # The C library takes a width in a directive and would allocate it.
    if len(pattern) > 200 or _WIDTH.search(pattern):
        raise SecurityError("it formats a date with a width")
    return datetime.now().strftime(pattern)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
