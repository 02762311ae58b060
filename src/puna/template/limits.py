"""A Jinja sandbox whose templates, which come from downloaded models, cannot run for ever or fill the memory.

Jinja's own sandbox keeps a template from reaching Python's internals. This one also counts: every loop turn
and call is a step, every string made or printed is charged by its length, and the clock is watched.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import do_indent, do_replace
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
MAX_VALUE = 32 << 20
MAX_TOTAL = 256 << 20

_BUDGET = " budget"  # no template can name a variable with a blank
_STEPS = "steps"
_CONCAT = "concat"
# Their cost is a number that the template chooses, and chat templates do not use them.
_REFUSED_FILTERS = ("batch", "center", "pprint", "random", "slice", "urlize", "wordwrap", "xmlattr")
_REFUSED_GLOBALS = ("cycler", "joiner", "lipsum")
_MAX_POWER_BITS = 1 << 16
_PADDING_METHODS = ("center", "expandtabs", "ljust", "rjust", "zfill")


class Budget:
    """What one rendering may still spend. Every method raises SecurityError when it is too much."""

    def __init__(self) -> None:
        self._steps = 0
        self._characters = 0
        self._deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        """Count one loop turn or call."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")
        if self._steps % 64 == 0 and time.monotonic() > self._deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:.0f} seconds")

    def charge(self, characters: int) -> None:
        """Count a string or list of that length, before it is made."""
        self._characters += characters
        if characters > MAX_VALUE or self._characters > MAX_TOTAL:
            raise SecurityError("it makes too much text")


def budgeted(variables: dict[str, Any]) -> dict[str, Any]:
    """The variables for one rendering, with a fresh budget among them."""
    return {**variables, _BUDGET: Budget()}


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox. Render its templates with variables that `budgeted` returned."""

    intercepted_binops = frozenset({"+", "*", "%", "**"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, finalize=_charge_output)
        for name in _REFUSED_FILTERS:
            del self.filters[name]
        for name in _REFUSED_GLOBALS:
            del self.globals[name]
        self.filters.update(
            {_STEPS: _counted, _CONCAT: _concat, "join": _join, "replace": _replace, "indent": _indent}
        )
        self.filters["format"] = _format

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        return super()._generate(_Instrument().visit(source), name, filename, defer_init)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Do `left operator right` if its result is of a decent size."""
        _budget(context).charge(_result_size(operator, left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `callee` if that is safe, as one step."""
        budget = _budget(context)
        budget.step()
        owner, name = getattr(callee, "__self__", None), getattr(callee, "__name__", "")
        if isinstance(owner, str):
            budget.charge(_method_size(owner, name, args, kwargs))
        return super().call(context, callee, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Allow `str.format` without format specifications, whose widths cannot be bounded simply."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None and ":" in value.__self__:
            raise SecurityError("it formats with a width")
        return wrapped


class _Instrument(NodeTransformer):
    """Passes what a loop runs over, and what `~` joins, through a counting filter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Count the turns."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _STEPS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Charge the text."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    # For.iter is declared a Node, but is an expression as Filter wants it.
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _budget(context: Context) -> Budget:
    # `parent` holds the variables of the rendering; what the template sets itself lies elsewhere.
    budget = context.parent[_BUDGET]
    if not isinstance(budget, Budget):
        raise SecurityError("it has no budget")
    return budget


@pass_context
def _charge_output(context: Context, value: Any) -> Any:
    if isinstance(value, str):
        _budget(context).charge(len(value))
    return value


@pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget = _budget(context)
    for value in values:
        budget.step()
        yield value


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    return _join(context, values)


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        values = [context.environment.getitem(value, attribute) for value in values]
    texts = [str(value) for value in values]
    _budget(context).charge(sum(map(len, texts)) + len(d) * len(texts))
    return d.join(texts)


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int | None = None) -> str:
    text = str(text)
    _budget(context).charge(_replaced_size(text, str(old), str(new)))
    return do_replace(context.eval_ctx, text, str(old), str(new), count)


@pass_context
def _indent(
    context: Context, text: str, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    margin = len(width) if isinstance(width, str) else width
    _budget(context).charge(len(text) + margin * (text.count("\n") + 1))
    return do_indent(text, width, first, blank)


@pass_context
def _format(context: Context, text: Any, *args: Any) -> str:
    text = str(text)
    _budget(context).charge(_result_size("%", text, args))
    return str(text % args)


def _result_size(operator: str, left: Any, right: Any) -> int:
    """About how long the result of a binary operation is; 0 for what needs no watching."""
    if operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
        return len(left) + len(right)
    if operator == "*":
        return _repeated_size(left, right) + _repeated_size(right, left)
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        # Powers take long before they take room.
        return left.bit_length() * max(right, 0) * (MAX_VALUE // _MAX_POWER_BITS)
    if operator == "%" and isinstance(left, str):
        if "*" in left:
            raise SecurityError("it formats with a width")
        return len(left) + sum(int(width) for width in re.findall(r"[0-9]{1,12}", left))
    return 0


def _repeated_size(value: Any, times: Any) -> int:
    if isinstance(value, str | list | tuple) and isinstance(times, int):
        return len(value) * max(times, 0)
    return value.bit_length() // 8 if isinstance(value, int) else 0


def _method_size(owner: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """About how long the result of a string method is; 0 for those that make nothing longer."""
    if name in _PADDING_METHODS:
        width = next((value for value in (*args, *kwargs.values()) if isinstance(value, int)), 8)
        return len(owner) + max(width, 0) * (owner.count("\t") if name == "expandtabs" else 1)
    if name == "replace" and len(args) >= 2:
        return _replaced_size(owner, str(args[0]), str(args[1]))
    if name == "join" and args and isinstance(args[0], list | tuple):
        return sum(len(str(value)) + len(owner) for value in args[0])
    return 0


def _replaced_size(text: str, old: str, new: str) -> int:
    return len(text) + text.count(old) * len(new)
