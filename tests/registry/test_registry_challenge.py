"""WWW-Authenticate headers: as servers send them, made up, and junk."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.registry.challenge import Challenge, parse_challenges

DOCKER = {
    "realm": "https://auth.docker.io/token",
    "service": "registry.docker.io",
    "scope": "repository:library/x:pull,push",
}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        # Docker Hub
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
            'scope="repository:library/x:pull,push"',
            [Challenge("bearer", DOCKER)],
        ),
        # an error as RFC 6750 has it, blanks after the commas
        (
            'Bearer realm="https://ghcr.io/token", service="ghcr.io", error="invalid_token"',
            [
                Challenge(
                    "bearer",
                    {"realm": "https://ghcr.io/token", "service": "ghcr.io", "error": "invalid_token"},
                )
            ],
        ),
        # distribution with htpasswd; nginx; Harbor
        ('Basic realm="Registry Realm"', [Challenge("basic", {"realm": "Registry Realm"})]),
        ("Basic realm=Restricted", [Challenge("basic", {"realm": "Restricted"})]),
        (
            'Basic realm="harbor", charset="UTF-8"',
            [Challenge("basic", {"realm": "harbor", "charset": "UTF-8"})],
        ),
        # without quotes, where a URL is no token
        (
            "Bearer realm=https://a.example.com/token?x,service=a.example.com,scope=repository:m:pull",
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://a.example.com/token?x",
                        "service": "a.example.com",
                        "scope": "repository:m:pull",
                    },
                )
            ],
        ),
        # RFC 9110's own example
        (
            'Newauth realm="apps", type=1, title="Login to \\"apps\\"", Basic realm="simple"',
            [
                Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
                Challenge("basic", {"realm": "simple"}),
            ],
        ),
        ("Negotiate", [Challenge("negotiate")]),
        ("Negotiate, NTLM", [Challenge("negotiate"), Challenge("ntlm")]),
        (
            "Negotiate a87421000492aa874209af8bc028==",
            [Challenge("negotiate", {}, "a87421000492aa874209af8bc028==")],
        ),
        ('NTLM TlRM, Basic realm="a"', [Challenge("ntlm", {}, "TlRM"), Challenge("basic", {"realm": "a"})]),
        ('BEARER Realm = "a" ,\tSERVICE\t=\tb', [Challenge("bearer", {"realm": "a", "service": "b"})]),
        (' , ,Basic ,, Bearer a="b,c" ,', [Challenge("basic"), Challenge("bearer", {"a": "b,c"})]),
        ('Bearer realm=""', [Challenge("bearer", {"realm": ""})]),
        # a name inside another's value
        (
            'Bearer service="realm=https://evil",realm="r"',
            [Challenge("bearer", {"service": "realm=https://evil", "realm": "r"})],
        ),
        # junk
        ("", []),
        (",", []),
        ('realm="a"', []),
        ('"Bearer realm=a"', []),
        ("Bearer", [Challenge("bearer")]),
        ('Bearer realm="https://a', [Challenge("bearer")]),
        ('Bearer realm="a\\', [Challenge("bearer")]),
        ('Bearer realm="a",realm="b"', []),
        ('Bearer realm="a" service="b", x=y', [Challenge("bearer", {"x": "y"})]),
        ('Bearer @@@, realm="a"', [Challenge("bearer", {"realm": "a"})]),
        ("Bearer realm=", [Challenge("bearer", {}, "realm=")]),
        ("Bearer =a", []),
        ("Bearer realm", [Challenge("bearer", {}, "realm")]),
        ('Bearer "realm"="a"', [Challenge("bearer")]),
        ("Bearer realm='a b'", [Challenge("bearer")]),
        ("\x00\x01 é=ü", []),
    ],
)
def test_headers(header: str, expected: list[Challenge]) -> None:
    assert parse_challenges([header]) == expected


def test_several_headers() -> None:
    assert parse_challenges(["Basic", "", 'Bearer realm="x"']) == [
        Challenge("basic"),
        Challenge("bearer", {"realm": "x"}),
    ]


_TOKENS = st.from_regex(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True)
_VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)
_PARAMETERS = st.dictionaries(_TOKENS.map(str.lower), _VALUES, max_size=4)


def quoted(value: str, plain: bool) -> str:
    if plain and value and value.isascii() and value.isalnum():
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(
    st.lists(st.tuples(_TOKENS, _PARAMETERS), max_size=4),
    st.sampled_from([",", ", ", " , ", ",,\t"]),
    st.sampled_from(["=", " = ", "\t="]),
    st.booleans(),
    st.booleans(),
)
def test_what_is_written_is_read(
    challenges: list[tuple[str, Mapping[str, str]]], comma: str, equals: str, plain: bool, together: bool
) -> None:
    texts = [
        (
            scheme
            + " "
            + comma.join(f"{name}{equals}{quoted(value, plain)}" for name, value in parameters.items())
        )
        for scheme, parameters in challenges
    ]
    expected = [Challenge(scheme.lower(), parameters) for scheme, parameters in challenges]
    assert parse_challenges([comma.join(texts)] if together else texts) == expected


@given(st.text(max_size=200) | st.text(st.sampled_from('ab=", \\\t\n@é'), max_size=200))
def test_junk_is_no_error(text: str) -> None:
    for challenge in parse_challenges([text, f'Basic a="{text}', f"Bearer {text}"]):
        assert challenge.scheme


@pytest.mark.parametrize(
    "piece", ['a="', "a ", "a,", '"', "\\", 'a="\\', "a=", 'a="b', " ", '"a', 'a ""', ",", 'a="b",', "a=b "]
)
def test_time_is_linear(piece: str) -> None:
    """A quadratic pattern would take minutes for these, and the test's time limit would end it."""
    parse_challenges([piece * (60_000 // len(piece))])
    assert parse_challenges(["Basic " + piece * (1_000_000 // len(piece))]) == []
