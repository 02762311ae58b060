"""The WWW-Authenticate header: RFC 9110, section 11.6.1.

A server may send several challenges, in one header or in several, and commas separate both the challenges and
the parameters of one. What is well-formed is returned; the rest is left out, never an error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LONGEST = 64 << 10
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_GAP = re.compile(r"[ \t,]*+")
_SCHEME = re.compile(rf"({_TOKEN})(?=[ \t,]|\Z)")
# Values without quotes may have more characters than a token has: servers write URLs so.
_VALUE = r"[^\s\",\\=][^\s\",\\]*+"
_PARAMETER = re.compile(
    rf'({_TOKEN})[ \t]*+=[ \t]*+(?:({_VALUE})|"((?:[^"\\]|\\.)*+)")[ \t]*+(?=,|\Z)', re.DOTALL
)
_TOKEN68 = re.compile(r"([A-Za-z0-9._~+/-]++=*+)[ \t]*+(?=,|\Z)")
# What cannot be read, up to the next comma that is not inside quotes.
_JUNK = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))*+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to authenticate that a server offers.

    Attributes:
        scheme: in lower case: `basic`, `bearer`.
        parameters: values by name in lower case, escapes resolved.
        token68: what stands in the place of parameters in some schemes; empty where nothing does.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    token68: str = ""


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges in the values of all WWW-Authenticate headers of an answer, in their order.

    Left out: values longer than 64 KiB, parameters without a scheme, and challenges that have one parameter
    twice, since programs would disagree about which counts.
    """
    return [challenge for header in headers if len(header) <= _LONGEST for challenge in _parse(header)]


def _parse(text: str) -> list[Challenge]:
    found: list[tuple[str, list[tuple[str, str]], str]] = []
    position = _end(_GAP.match(text))
    while position < len(text):
        if match := _PARAMETER.match(text, position):
            if found:
                found[-1][1].append(_parameter(match))
        elif match := _SCHEME.match(text, position):
            position = match.end()
            after = _end(_GAP.match(text, position))
            token68 = _TOKEN68.match(text, after) if "," not in text[position:after] else None
            # `a=` with nothing behind is a token68, and so is a word alone.
            if token68 and after > position and not _PARAMETER.match(text, after):
                position = token68.end()
            else:
                token68 = None
            found.append((match[1].lower(), [], token68[1] if token68 else ""))
        else:
            position = _end(_JUNK.match(text, position))
            match = None
        position = _end(_GAP.match(text, max(position, _end(match))))
    return [
        Challenge(scheme, dict(parameters), token68)
        for scheme, parameters, token68 in found
        if len(dict(parameters)) == len(parameters)
    ]


def _parameter(match: re.Match[str]) -> tuple[str, str]:
    name, plain, quoted = match.groups()
    return name.lower(), plain if plain is not None else _ESCAPE.sub(r"\1", quoted)


def _end(match: re.Match[str] | None) -> int:
    return match.end() if match else 0
