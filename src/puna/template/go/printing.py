"""Printing as Go's fmt does it.

Source: the documentation of Go's package fmt ("Printing", "Format errors", "Explicit argument indexes") and
of strconv.FormatFloat.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction

from puna.template.go import literals
from puna.template.go.values import ABSENT, MAX_DEPTH, Byte, Struct, Value, is_nil, own_text, plain, type_name

MAX_WIDTH = 1_000_000
_DIRECTIVE = re.compile(
    r"""%(?P<flags>[-+\#0 ]*)(?P<first>\[\d{1,7}\])?(?P<width>\*|\d+)?
    (?:\.(?=.)(?P<point>)(?P<second>\[\d{1,7}\])?(?P<precision>\*|\d+)?)?(?P<third>\[\d{1,7}\])?(?P<verb>.)?""",
    re.VERBOSE | re.DOTALL,
)
_STRING_VERBS = "vsxXq"
_FLOAT_VERBS = "vbgGxXfFeE"
_HEX_DIGITS = 13  # of a float's mantissa after the point

Spend = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Format:
    """One directive of a format.

    Attributes:
        width: at least so many characters, None for as many as there are.
        precision: its meaning depends on the verb; None for the verb's own.
        go_syntax: `%#v`.
        with_names: `%+v`.
    """

    verb: str
    width: int | None = None
    precision: int | None = None
    sharp: bool = False
    plus: bool = False
    minus: bool = False
    zero: bool = False
    space: bool = False
    go_syntax: bool = False
    with_names: bool = False

    def pad(self, text: str, *, zero: bool | None = None) -> str:
        """The text in its width."""
        if self.width is None:
            return text
        if self.minus:
            return text.ljust(self.width)
        return text.rjust(self.width, "0" if (self.zero if zero is None else zero) else " ")


_PLAIN = Format("v")


def text(value: Value) -> str:
    """A value as `%v` prints it. Raises ValueError for what is nested too deeply."""
    return value if isinstance(value, str) else formatted(value, _PLAIN)


def output(value: Value) -> str:
    """A value as an action writes it."""
    return ABSENT.value if is_nil(value) else text(value)


def print_all(values: Sequence[Value]) -> str:
    """As fmt.Sprint: blanks between values of which neither is a string."""
    pieces: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            pieces.append(" ")
        pieces.append(text(value))
    return "".join(pieces)


def print_line(values: Sequence[Value]) -> str:
    """As fmt.Sprintln: blanks between all, and a newline."""
    return " ".join(map(text, values)) + "\n"


def print_format(format: str, values: Sequence[Value], spend: Spend) -> str:
    """As fmt.Sprintf.

    Args:
        format: with its directives.
        values: what they print.
        spend: told the length of each piece; it raises when that is too much.

    Raises:
        ValueError: a value is nested too deeply.
    """
    pieces: list[str] = []
    arguments = _Arguments(values)
    position = 0
    for match in _DIRECTIVE.finditer(format):
        pieces.append(format[position : match.start()])
        pieces += _directive(match, arguments, spend)
        position = match.end()
    pieces.append(format[position:])
    if not arguments.reordered and (left := values[arguments.next :]):
        extra = ", ".join("<nil>" if is_nil(v) else f"{type_name(v)}={text(v)}" for v in left)
        pieces.append(f"%!(EXTRA {extra})")
    return "".join(pieces)


class _Arguments:
    """The values of a call, and which is next."""

    def __init__(self, values: Sequence[Value]) -> None:
        self.values = values
        self.next = 0
        self.reordered = False

    def select(self, index: str | None) -> bool:
        """Go on with the argument of `[n]`; false if there is none."""
        if index is None:
            return True
        self.reordered = True
        number = int(index[1:-1]) - 1
        if not 0 <= number < len(self.values):
            return False
        self.next = number
        return True

    def whole_number(self) -> int | None:
        """The next value, for `*`; None if it is no integer or too large."""
        if self.next >= len(self.values):
            return None
        value = self.values[self.next]
        self.next += 1
        fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_WIDTH
        return int(value) if fits and isinstance(value, int) else None


def _directive(match: re.Match[str], arguments: _Arguments, spend: Spend) -> Iterator[str]:
    """What a directive prints, complaints about it included."""
    good = arguments.select(match["first"])
    # An index before digits or a point is an error of the format.
    in_place = match["first"] is None or match["width"] == "*"
    format, complaint = _with_width(_flags(match), match["width"], arguments)
    yield complaint
    if match["point"] is not None:
        good = arguments.select(match["second"]) and good
        format, complaint = _with_precision(format, match["precision"], arguments)
        yield complaint
    if match["width"] or match["point"] is not None:
        good = good and in_place
    good = arguments.select(match["third"]) and good
    yield _argument(match["verb"], format, arguments, good, spend)


def _with_width(format: Format, width: str | None, arguments: _Arguments) -> tuple[Format, str]:
    if width is None:
        return format, ""
    number = arguments.whole_number() if width == "*" else _number(width)
    if number is None:
        return format, "%!(BADWIDTH)"
    if number < 0:
        return replace(format, width=-number, minus=True, zero=False), ""
    return replace(format, width=number), ""


def _with_precision(format: Format, precision: str | None, arguments: _Arguments) -> tuple[Format, str]:
    number = arguments.whole_number() if precision == "*" else _number(precision or "0")
    if number is None or number < 0:
        return format, "%!(BADPREC)"
    return replace(format, precision=number), ""


def _number(digits: str) -> int:
    if len(digits) > len(str(MAX_WIDTH)) or int(digits) > MAX_WIDTH:
        raise ValueError(f"a width or precision is larger than {MAX_WIDTH}")
    return int(digits)


def _flags(match: re.Match[str]) -> Format:
    flags, verb = match["flags"], match["verb"] or ""
    minus, sharp, plus = "-" in flags, "#" in flags, "+" in flags
    value = verb == "v"
    return Format(
        verb,
        sharp=sharp and not value,
        plus=plus and not value,
        minus=minus,
        zero="0" in flags and not minus,
        space=" " in flags,
        go_syntax=sharp and value,
        with_names=plus and value,
    )


def _argument(verb: str | None, format: Format, arguments: _Arguments, good: bool, spend: Spend) -> str:
    if verb is None:
        return "%!(NOVERB)"
    if verb == "%":
        return "%"
    if not good:
        return f"%!{verb}(BADINDEX)"
    if arguments.next >= len(arguments.values):
        return f"%!{verb}(MISSING)"
    value = arguments.values[arguments.next]
    arguments.next += 1
    if padding := (format.width or 0) + (format.precision or 0):
        spend(padding * leaves(value))
    printed = formatted(value, format)
    spend(len(printed))
    return printed


def leaves(value: Value, depth: int = 0) -> int:
    """How many values are printed for one: a list's or map's are counted one by one."""
    value = plain(value)
    if isinstance(value, Struct):
        value = value.fields
    if isinstance(value, Mapping):
        return len(value) + sum(leaves(item, depth + 1) for item in value.values() if depth < MAX_DEPTH)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(leaves(item, depth + 1) for item in value if depth < MAX_DEPTH)
    return 1


def formatted(value: Value, format: Format, depth: int = 0) -> str:
    """A value printed by a directive. Raises ValueError for what is nested too deeply."""
    if depth > MAX_DEPTH:
        raise ValueError(f"the value is nested more than {MAX_DEPTH} deep")
    if is_nil(value):
        return _nil(format, depth)
    if format.verb == "T":
        return format.pad(type_name(value)[: format.precision])
    if format.verb in _STRING_VERBS and not format.go_syntax and (own := own_text(value)) is not None:
        return _string(own, format)
    match plain(value):
        case Struct() as struct:
            return _struct(struct, format, depth)
        case Mapping() as items:
            return _map(items, format, depth, type_name(value))
        case list() | tuple() as items:
            return _list(items, format, depth, type_name(value))
    return _scalar(value, format)


def _scalar(value: Value, format: Format) -> str:
    match value:
        case bool():
            return format.pad("true" if value else "false") if format.verb in "tv" else _bad(value, format)
        case int():
            return _integer(value, format)
        case float():
            return _float(value, format)
        case complex():
            return _complex(value, format)
        case str():
            return _string(value, format)
    raise ValueError(f"a value of type {type_name(value)} cannot be printed")


def _nil(format: Format, depth: int) -> str:
    if depth:
        return "interface {}(nil)" if format.go_syntax else "<nil>"
    return format.pad("<nil>") if format.verb in "Tv" else f"%!{format.verb}(<nil>)"


def _bad(value: Value, format: Format) -> str:
    inner = replace(format, verb="v")
    return f"%!{format.verb}({type_name(value)}={formatted(value, inner)})"


def _struct(value: Struct, format: Format, depth: int) -> str:
    named = format.go_syntax or format.with_names
    fields = (
        (f"{name}:" if named else "") + formatted(field, format, depth + 1)
        for name, field in value.fields.items()
    )
    if format.go_syntax:
        return f"{value.type}{{{', '.join(fields)}}}"
    return f"{{{' '.join(fields)}}}"


def _map(value: Mapping[str, Value], format: Format, depth: int, type: str) -> str:
    items = (
        f"{formatted(key, format, depth + 1)}:{formatted(value[key], format, depth + 1)}"
        for key in sorted(value)
    )
    if format.go_syntax:
        return f"{type}{{{', '.join(items)}}}"
    return f"map[{' '.join(items)}]"


def _list(value: Sequence[Value], format: Format, depth: int, type: str) -> str:
    items = (formatted(item, format, depth + 1) for item in value)
    return f"{type}{{{', '.join(items)}}}" if format.go_syntax else f"[{' '.join(items)}]"


def _string(value: str, format: Format) -> str:
    if format.verb in ("x", "X"):
        return _hex(value, format)
    cut = value if format.precision is None else value[: format.precision]
    if format.verb == "q" or format.go_syntax:
        if format.sharp and _fits_backquotes(cut):
            return format.pad(f"`{cut}`")
        return format.pad(literals.quote(cut, ascii_only=format.plus))
    return format.pad(cut) if format.verb in "vs" else _bad(value, format)


def _fits_backquotes(value: str) -> bool:
    return not any(c in "`\ufeff\x7f" or (c < " " and c != "\t") or "\ud800" <= c <= "\udfff" for c in value)


def _hex(value: str, format: Format) -> str:
    data = literals.encode(value)[: format.precision]
    prefix = "0x" if format.sharp else ""
    digits = f" {prefix}".join(f"{byte:02x}" for byte in data) if format.space else data.hex()
    digits = prefix + digits if digits else ""
    return format.pad(digits if format.verb == "x" else digits.upper())


def _integer(value: int, format: Format) -> str:
    match format.verb:
        case "v" if format.go_syntax and isinstance(value, Byte):
            return _digits(value, 16, replace(format, sharp=True))
        case "v" | "d":
            return _digits(value, 10, format)
        case "b":
            return _digits(value, 2, format)
        case "o" | "O":
            return _digits(value, 8, format)
        case "x" | "X":
            digits = _digits(value, 16, format)
            return digits if format.verb == "x" else digits.upper()
        case "c":
            return format.pad(_rune(value))
        case "q":
            return format.pad(literals.quote(_rune(value), "'", ascii_only=format.plus))
        case "U":
            return _code_point(value, format)
    return _bad(value, format)


def _rune(value: int) -> str:
    return chr(value) if 0 <= value <= 0x10FFFF and not 0xD800 <= value <= 0xDFFF else "\ufffd"


def _code_point(value: int, format: Format) -> str:
    code = f"U+{value % (1 << 64):0{max(format.precision or 4, 4)}X}"
    if format.sharp and 0 <= value <= 0x10FFFF and literals.is_printable(chr(value)):
        code += f" '{chr(value)}'"
    return format.pad(code, zero=False)


_BASES = {2: "b", 8: "o", 10: "d", 16: "x"}


def _digits(value: int, base: int, format: Format) -> str:
    sign = "-" if value < 0 else "+" if format.plus else " " if format.space else ""
    if format.precision == 0 and value == 0:
        return format.pad("", zero=False)
    least = format.precision
    if least is None:
        least = (format.width or 0) - len(sign) if format.zero else 0
    digits = f"{abs(value):{_BASES[base]}}".rjust(least, "0")
    return format.pad(sign + _prefix(digits, base, format) + digits, zero=False)


def _prefix(digits: str, base: int, format: Format) -> str:
    if format.verb == "O":
        return "0o" if not format.sharp or digits[0] == "0" else "0o0"
    if not format.sharp:
        return ""
    return {2: "0b", 8: "" if digits[0] == "0" else "0", 16: "0x"}.get(base, "")


def _float(value: float, format: Format) -> str:
    if format.verb not in _FLOAT_VERBS:
        return _bad(value, format)
    if math.isfinite(value):
        sign = "-" if math.copysign(1, value) < 0 else "+"
        digits = _magnitude(abs(value), format)
    else:
        sign = "-" if value < 0 else "+"
        digits = "NaN" if math.isnan(value) else "Inf"
    if sign == "+" and not format.plus:
        # An infinity keeps its sign, unlike other numbers.
        sign = " " if format.space else "+" if digits == "Inf" else ""
    if format.zero and sign and digits[0] not in "IN":
        return sign + digits.rjust((format.width or 0) - 1, "0")
    return format.pad(sign + digits, zero=format.zero and digits[0] not in "IN")


def _complex(value: complex, format: Format) -> str:
    if format.verb not in _FLOAT_VERBS:
        return _bad(value, format)
    return f"({_float(value.real, format)}{_float(value.imag, replace(format, plus=True))}i)"


def _magnitude(value: float, format: Format) -> str:
    verb, precision = format.verb, format.precision
    if verb == "b":
        mantissa, exponent = math.frexp(value)
        return f"{int(mantissa * (1 << 53))}p{exponent - 53 if value else -1074:+d}"
    if verb in "xX":
        digits = _hex_float(value, precision)
        if format.sharp:
            digits = _with_point(digits, (6 if precision is None else precision) if verb == "x" else 0)
        return digits if verb == "x" else digits.upper()
    if verb in "vgG":
        digits = _shortest(value, precision, sharp=format.sharp)
        return digits.upper() if verb == "G" else digits
    return f"{value:{'#' if format.sharp else ''}.{6 if precision is None else precision}{verb}}"


def _shortest(value: float, precision: int | None, *, sharp: bool) -> str:
    if precision is not None:
        return f"{value:{'#' if sharp else ''}.{precision}g}"
    _, numbers, exponent = Decimal(repr(value)).as_tuple()
    digits = "".join(map(str, numbers))
    power = len(digits) + int(exponent) - 1 if value else 0
    digits = digits.rstrip("0") or "0"
    if sharp:
        digits = digits.ljust(6, "0")
    if power < -4 or power >= 6:
        fraction = "." + digits[1:] if digits[1:] or sharp else ""
        return f"{digits[0]}{fraction}e{power:+03d}"
    if power < 0:
        return f"0.{'0' * (-power - 1)}{digits}"
    digits = digits.ljust(power + 1, "0")
    fraction = "." + digits[power + 1 :] if digits[power + 1 :] or sharp else ""
    return digits[: power + 1] + fraction


def _with_point(digits: str, least: int) -> str:
    """A hexadecimal float with its point, and so many characters after the 0, of which the x is one."""
    head, _, power = digits.partition("p")
    head = head if "." in head else head + "."
    return f"{head.ljust(least + 2, '0')}p{power}"


def _hex_float(value: float, precision: int | None) -> str:
    fraction, exponent = math.frexp(value)
    mantissa, power = int(fraction * (1 << 53)), exponent - 1 if value else 0
    if precision is not None and precision < _HEX_DIGITS:
        mantissa = round(Fraction(mantissa, 1 << (4 * (_HEX_DIGITS - precision))))
        if mantissa >> (4 * precision) == 2:
            mantissa, power = mantissa >> 1, power + 1
        width = precision
    else:
        width = _HEX_DIGITS
    digits = f"{mantissa & ((1 << (4 * width)) - 1):0{width}x}" if width else ""
    digits = digits.rstrip("0") if precision is None else digits.ljust(precision, "0")
    return f"0x{mantissa >> (4 * width)}{'.' if digits else ''}{digits}p{power:+03d}"
