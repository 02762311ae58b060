"""A Jinja sandbox whose templates, which come from downloaded models, cannot run for ever or fill the memory.

Jinja's own sandbox keeps a template from reaching Python's internals. This one also counts: every loop turn
and call is a step; texts and lists are charged by their length as they are made, and what is printed too; and
the clock is looked at before each operation. What a list holds, written out, is bounded too, since a list
that holds another twice, which holds a third twice, is small until it is printed.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from string import Formatter
from typing import Any, TypeAlias, cast

from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.filters import do_indent, do_replace, do_round, do_trim
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from jinja2.utils import _PassArg
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from puna.template.sizes import (
    CONTAINERS,
    ELEMENT,
    binary_size,
    elements,
    format_size,
    integer_size,
    joined_size,
    method_size,
    replaced_size,
    split_size,
    stripped_size,
    written_size,
)

# What every template may do; what more for each character of the conversation; and for each of its first
# thousand messages, as a template may look at all of them for each (one of 90 of published models does,
# and one copies). Of those, the slowest needs 1.6 ms and 260 steps a message of 500, makes 110,000
# characters a message, and a prompt 2.2 times as long as the conversation.
_STEPS_ALLOWED = (150_000, 1 / 2, 600)
_SECONDS_ALLOWED = (1.0, 1 / (1 << 20), 0.004)
_VALUE_ALLOWED = (4 << 20, 4, 0)
_TOTAL_ALLOWED = (64 << 20, 32, 512 << 10)
_MOST_MESSAGES = 1000

_BUDGET = " budget"  # no template can name a variable with a blank
_STEPS = "steps"
_CONCAT = "concat"
_MADE = "made"
_TICK = "tick"
# Their cost is a number that the template chooses, and chat templates do not use them.
_REFUSED_FILTERS = (
    "batch",
    "center",
    "pprint",
    "random",
    "slice",
    "striptags",
    "urlize",
    "wordwrap",
    "xmlattr",
)
_REFUSED_GLOBALS = ("cycler", "joiner", "lipsum")
# They take a text apart.
_SPLITTING_FILTERS = frozenset(
    {
        *("groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort"),
        *("title", "unique", "urlencode", "wordcount"),
    }
)
# They look at each element of what they are given, before or while they say what they make of it.
_ITERATING_FILTERS = frozenset(
    {
        *("groupby", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "unique"),
    }
)
_LONGEST_PATH = 16
_MOST_DIGITS = 400

Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one rendering may take.

    Attributes:
        steps: loop turns and calls.
        seconds: of the processor, in this thread: how busy the machine is does not matter.
        value: characters of one text, or of what a list holds, written out.
        total: characters of all that is made.
    """

    steps: int
    seconds: float
    value: int
    total: int

    @classmethod
    def of(cls, size: int, messages: int) -> "Allowance":
        """For a conversation of so many characters, in so many messages."""
        counts = (1, size, min(messages, _MOST_MESSAGES))
        steps, seconds, value, total = (
            sum(map(mul, allowed, counts))
            for allowed in (_STEPS_ALLOWED, _SECONDS_ALLOWED, _VALUE_ALLOWED, _TOTAL_ALLOWED)
        )
        return cls(int(steps), seconds, int(value), int(total))


class Budget:
    """What one rendering may still spend. Every method raises SecurityError when it is too much."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._steps = 0
        self._characters = 0
        self._deadline = time.thread_time() + allowance.seconds
        # By identity, with the value itself, so that no other gets its identity.
        self._weights: dict[int, tuple[Any, int]] = {}

    def tick(self) -> None:
        """Look at the clock."""
        if time.thread_time() > self._deadline:
            raise SecurityError(f"it takes more than {self._allowance.seconds:.1f} seconds")

    def step(self) -> None:
        """Count one loop turn or call."""
        self._steps += 1
        if self._steps > self._allowance.steps:
            raise SecurityError(f"it takes more than {self._allowance.steps} steps")
        self.tick()

    def charge(self, characters: int) -> None:
        """Count a text or list of that length, before it is made."""
        self._characters += characters
        if characters > self._allowance.value or self._characters > self._allowance.total:
            raise SecurityError("it makes too much text")

    def charged(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts, which together make one."""
        for text in self.bounded(texts):
            self.tick()
            self.charge(len(text))
            yield text

    def bounded(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts, which are charged already, as long as one may be."""
        length = 0
        for text in texts:
            length += len(text)
            if length > self._allowance.value:
                raise SecurityError("it makes too much text")
            yield text

    def ticking(self, values: Iterable[Any]) -> Iterator[Any]:
        """The values, with a look at the clock for each."""
        for value in values:
            self.tick()
            yield value

    def made(self, value: Any) -> None:
        """Count a value that the template has made."""
        if isinstance(value, str):
            self.charge(len(value))
        elif isinstance(value, int):
            self.charge(integer_size(value.bit_length()))
        elif isinstance(value, CONTAINERS):
            self.charge(ELEMENT * (len(value) + 4))
            self.weigh(value)

    def weigh(self, value: Any) -> int:
        """About how long a value is when it is written out."""
        if isinstance(value, str):
            return len(value)
        if not isinstance(value, CONTAINERS):
            return value.bit_length() // 3 + 1 if isinstance(value, int) else 20
        known = self._weights.get(id(value))
        if known is None:
            known = self._weights[id(value)] = (value, self._weight(value))
        return known[1]

    def _weight(self, value: Any) -> int:
        weight = 2
        for element in elements(value):
            weight += (len(element) if type(element) is str else self.weigh(element)) + 2
            if weight > self._allowance.value:
                raise SecurityError("it makes too much text")
        return weight


def budgeted(variables: dict[str, Any]) -> tuple[dict[str, Any], Budget]:
    """The variables for one rendering, with a fresh budget among them, and that budget."""
    budget = Budget(Allowance.of(written_size(variables), len(variables.get("messages", ()))))
    return {**variables, _BUDGET: budget}, budget


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox. Render its templates with variables that `budgeted` returned."""

    intercepted_binops = frozenset({"+", "*", "%", "**", "//"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, finalize=_charge_output)
        for name in _REFUSED_FILTERS:
            del self.filters[name]
        for name in _REFUSED_GLOBALS:
            del self.globals[name]
        self.filters["round"] = _round
        self.filters = {name: _watched(name, function) for name, function in self.filters.items()}
        self.filters |= {_STEPS: _counted, _CONCAT: _concat, _MADE: _made, _TICK: _ticked, "join": _join}
        self.filters |= {"replace": _replace, "indent": _indent, "format": _format, "sum": _sum}
        self.filters["trim"] = _trim

    def add_filter(self, name: str, function: Function) -> None:
        """Add a filter; it is watched as all others are."""
        self.filters[name] = _watched(name, function)

    def _generate(
        self, source: nodes.Template, name: str | None, filename: str | None, defer_init: bool = False
    ) -> str:
        return super()._generate(_Instrument().visit(source), name, filename, defer_init)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Do `left operator right` if its result is of a decent size."""
        budget = budget_of(context)
        budget.tick()
        budget.charge(binary_size(operator, left, right, budget.weigh(left) + budget.weigh(right)))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `callee` if that is safe, as one step."""
        budget = budget_of(context)
        budget.step()
        owner, name = getattr(callee, "__self__", None), getattr(callee, "__name__", "")
        if isinstance(owner, str) and name == "join" and len(args) == 1 and isinstance(args[0], Iterator):
            args = ([*args[0]],)
        budget.charge(method_size(owner, name, args, kwargs))
        result = super().call(context, callee, *args, **kwargs)
        budget.made(result)
        return result

    def call_test(
        self,
        name: str,
        value: Any,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        context: Context | None = None,
        eval_ctx: EvalContext | None = None,
    ) -> Any:
        """Do a test for a filter such as `select`."""
        if context is None:
            raise SecurityError("it tests without a context")
        budget_of(context).tick()
        return super().call_test(name, value, args, kwargs, context, eval_ctx)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Allow `str.format` without format specifications, whose widths cannot be bounded simply."""
        if super().wrap_str_format(value) is None:
            return None
        return _counting_format(self, value.__self__, mapped=value.__name__ == "format_map")


def _watched(name: str, function: Function) -> Function:
    """The filter, with its result charged."""
    leading = _PassArg.from_obj(function)

    @pass_context
    def watched(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        budget.tick()
        if isinstance(value, str) and name in _SPLITTING_FILTERS:
            budget.charge(split_size(value))
        if name in _ITERATING_FILTERS:
            _check_paths(args, kwargs)
            value = _watched_input(budget, name, value)
        first = {
            _PassArg.context: (context,),
            _PassArg.eval_context: (context.eval_ctx,),
            _PassArg.environment: (context.environment,),
            None: (),
        }[leading]
        result = function(*first, value, *args, **kwargs)
        if result is not value:
            budget.made(result)
        return budget.ticking(result) if isinstance(result, Iterator) else result

    return watched


def _watched_input(budget: Budget, name: str, value: Any) -> Any:
    """What such a filter is given, with a look at the clock for each element."""
    if not value or not isinstance(value, (str, range, Iterator, *CONTAINERS)):
        return value
    values = budget.ticking(cast(Iterable[Any], value))
    if name != "groupby":
        return values
    # It takes four times as long as sorting, and ends before anybody can look.
    listed = list(values)
    budget.charge(4 * ELEMENT * len(listed))
    return listed


def _check_paths(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse attributes of attributes by the thousand, which are looked up for each element."""
    if any(
        isinstance(value, str) and value.count(".") + value.count(",") > _LONGEST_PATH
        for value in (*args, *kwargs.values())
    ):
        raise SecurityError("it names too long a path of attributes")


class _Instrument(NodeTransformer):
    """Passes what is to be counted through a counting filter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Count the turns."""
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _STEPS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Charge the text."""
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        """Charge the list."""
        self.generic_visit(node)
        return _filtered(node, _MADE) if node.items else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """Charge the dict."""
        self.generic_visit(node)
        return _filtered(node, _MADE) if node.items else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        """Charge the tuple, if it is none of names to be set."""
        self.generic_visit(node)
        return _filtered(node, _MADE) if node.items and node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """Charge the slice."""
        self.generic_visit(node)
        return _filtered(node, _MADE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Look at the clock."""
        self.generic_visit(node)
        return _filtered(node, _TICK)

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        """Look at the clock."""
        self.generic_visit(node)
        return _filtered(node, _TICK)

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        """Make it an expression, so that it is charged as the others are, each time it is printed."""
        return nodes.MarkSafeIfAutoescape(nodes.Const(node.data, lineno=node.lineno), lineno=node.lineno)


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    # For.iter is declared a Node, but is an expression as Filter wants it.
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def budget_of(context: Context) -> Budget:
    """The budget of a rendering."""
    # `parent` holds the variables of the rendering; what the template sets itself lies elsewhere.
    budget = context.parent[_BUDGET]
    if not isinstance(budget, Budget):
        raise SecurityError("it has no budget")
    return budget


@pass_context
def _charge_output(context: Context, value: Any) -> Any:
    budget = budget_of(context)
    budget.tick()
    budget.charge(budget.weigh(value))
    return value


@pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    budget = budget_of(context)
    for value in values:
        budget.step()
        yield value


@pass_context
def _made(context: Context, value: Any) -> Any:
    budget = budget_of(context)
    budget.tick()
    budget.made(value)
    return value


@pass_context
def _ticked(context: Context, value: Any) -> Any:
    budget_of(context).tick()
    return value


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    return _join(context, values)


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    budget = budget_of(context)
    budget.tick()
    _check_paths((attribute,), {})
    if isinstance(values, str):
        budget.charge(split_size(values))
    if attribute is not None:
        values = [context.environment.getitem(value, attribute) for value in values]
    texts = [_text(budget, value) for value in values]
    budget.charge(joined_size(str(d), texts))
    return str(d).join(texts)


def _text(budget: Budget, value: Any) -> str:
    if isinstance(value, CONTAINERS):
        budget.charge(budget.weigh(value))
    return str(value)


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int | None = None) -> str:
    budget = budget_of(context)
    budget.tick()
    text = _text(budget, text)
    budget.charge(replaced_size(text, str(old), str(new)))
    return do_replace(context.eval_ctx, text, str(old), str(new), count)


@pass_context
def _indent(
    context: Context, text: str, width: int | str = 4, first: bool = False, blank: bool = False
) -> str:
    budget = budget_of(context)
    budget.tick()
    margin = len(width) if isinstance(width, str) else max(width, 0)
    budget.charge(len(text) + split_size(text) + margin * (text.count("\n") + 1))
    return do_indent(text, width, first, blank)


@pass_context
def _format(context: Context, text: Any, *args: Any, **kwargs: Any) -> str:
    budget = budget_of(context)
    budget.tick()
    text, values = _text(budget, text), kwargs or args
    budget.charge(format_size(text, values, budget.weigh(values)))
    return str(text % values)


@pass_context
def _trim(context: Context, text: Any, chars: str | None = None) -> str:
    budget = budget_of(context)
    budget.tick()
    text = _text(budget, text)
    budget.charge(len(text) + stripped_size(text, str(chars or "")))
    return do_trim(text, chars)


@pass_context
def _sum(context: Context, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    environment = cast(BoundedEnvironment, context.environment)
    _check_paths((attribute,), {})
    for value in budget_of(context).ticking(values):
        if attribute is not None:
            value = environment.getitem(value, attribute)
        start = environment.call_binop(context, "+", start, value)
    return start


def _round(value: float, precision: int = 0, method: Any = "common") -> float:
    if abs(precision) > _MOST_DIGITS:
        raise SecurityError("it rounds too finely")
    return do_round(value, precision, method)


# str.format


class _Counting(Formatter):
    """Charges each text that is filled in."""

    budget: Budget

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """Make a text as `!r` and `!s` want it."""
        self.budget.charge(self.budget.weigh(value))
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        """The text of a value."""
        if format_spec:
            raise SecurityError("it formats with a width")
        self.budget.tick()
        self.budget.charge(self.budget.weigh(value))
        return super().format_field(value, format_spec)


class _CountingFormatter(_Counting, SandboxedFormatter):
    pass


class _CountingEscapeFormatter(_Counting, SandboxedEscapeFormatter):
    pass


def _counting_format(environment: BoundedEnvironment, text: str, *, mapped: bool) -> Callable[..., str]:
    @pass_context
    def format(context: Context, *args: Any, **kwargs: Any) -> str:
        if isinstance(text, Markup):
            formatter: _Counting = _CountingEscapeFormatter(environment, escape=text.escape)
        else:
            formatter = _CountingFormatter(environment)
        formatter.budget = budget_of(context)
        if mapped:
            (kwargs,), args = args, ()
        return type(text)(formatter.vformat(text, args, kwargs))

    return format
