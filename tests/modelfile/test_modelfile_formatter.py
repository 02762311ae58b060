"""Writing Modelfiles: what is read back is what was written, and Ollama's spelling where it has one."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from puna.errors import ModelfileError
from puna.gojson import encode
from puna.modelfile.commands import COMMANDS, ROLES, Command, Modelfile
from puna.modelfile.formatter import format, parameter_commands
from puna.modelfile.parameters import parameters
from puna.modelfile.parser import parse

FROM = Command("from", "m")
# Close to the grammar, so that quotes, line ends and blanks meet in every way.
TEXTS = st.one_of(
    st.text(),
    st.lists(st.sampled_from(['"', '"""', " ", "\t", "\n", "\r", "\r\n", "a", "#", "\xa0", "FROM x"])).map(
        "".join
    ),
)
KEYS = st.text("abzAZ019_", min_size=1)


def commands() -> st.SearchStrategy[Command]:
    plain = st.sampled_from([name for name in COMMANDS if name not in ("message", "parameter")])
    return st.one_of(
        st.builds(Command, plain, TEXTS),
        st.builds(Command, st.just("message"), TEXTS, st.sampled_from(ROLES)),
        st.builds(Command, st.just("parameter"), TEXTS, KEYS),
    )


@given(st.lists(commands()).map(lambda found: Modelfile((FROM, *found))))
def test_reads_back(modelfile: Modelfile) -> None:
    assert parse(format(modelfile)) == modelfile


@given(TEXTS)
@example('a"""\nb')
@example('"""\n"""\n"')
@example('a" \u00a0\r\nb""')
@example('""\n\n""\n')
def test_a_text_reads_back(text: str) -> None:
    modelfile = Modelfile((FROM, Command("template", text), Command("message", text, "user")))
    assert parse(format(modelfile)) == modelfile
    assert parse(format(modelfile).encode("utf-8")) == modelfile


@given(TEXTS)
def test_the_extension_is_used_only_where_ollama_has_no_spelling(text: str) -> None:
    command = Command("system", text)
    spellings = (
        f"SYSTEM {command.value}\n",
        f'SYSTEM "{command.value}"\n',
        f'SYSTEM """{command.value}"""\n',
    )
    written = format(Modelfile((FROM, command))).removeprefix("FROM m\n")
    expressible = any(_means(spelling, command) for spelling in spellings)
    assert (written in spellings) == expressible
    assert expressible or "\nCONTINUE " in written


def _means(spelling: str, command: Command) -> bool:
    try:
        return parse("FROM m\n" + spelling) == Modelfile((FROM, command))
    except ModelfileError:
        return False


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain words", "plain words"),
        ('say "hi"', 'say "hi"'),
        ("", '""'),
        (" blanks ", '" blanks "'),
        ("two\nlines", '"two\nlines"'),
        ('two\n"lines"', '"""two\n"lines""""'),
        ('"quoted"', '""""quoted""""'),
        ("# no comment", "# no comment"),
        ("\ttab", '"\ttab"'),
        ('a"""\nb', '"""a""""""\nCONTINUE """\nb"""'),
    ],
)
def test_quoting(value: str, written: str) -> None:
    assert format(Modelfile((Command("system", value),))) == f"SYSTEM {written}\n"


def test_every_command_is_a_line() -> None:
    modelfile = Modelfile(
        (
            FROM,
            Command("parameter", "4096", "num_ctx"),
            Command("message", "hi", "user"),
            Command("license", "MIT"),
        )
    )
    assert format(modelfile) == "FROM m\nPARAMETER num_ctx 4096\nMESSAGE user hi\nLICENSE MIT\n"


def test_control_characters_are_not_part_of_values() -> None:
    assert Command("system", "a\x00b\x1b[2J\x85\td\r\n").value == "ab[2J\td\r\n"


def test_a_long_text_is_written_in_linear_time() -> None:
    text = 'x"""\n' * 400_000
    modelfile = Modelfile((FROM, Command("license", text)))
    assert parse(format(modelfile)) == modelfile


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (4096, ["4096"]),
        (1000000.0, ["1000000"]),
        (1e6, ["1000000"]),
        (2**63 - 1, ["9223372036854775807"]),
        (0.7, ["0.7"]),
        (1e-7, ["0.0000001"]),
        (-1, ["-1"]),
        (True, ["true"]),
        (["a", " b"], ["a", " b"]),
        ([], []),
        (None, []),
        ({"a": 1}, []),
        (float("inf"), []),
    ],
)
def test_stored_parameters(value: object, texts: list[str]) -> None:
    found = parameter_commands({"p": value, "no key": 1, "": 2})
    assert [(command.key, command.value) for command in found] == [("p", text) for text in texts]


NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.fixed_dictionaries(
        {
            "num_ctx": st.integers(-(2**63), 2**63 - 1),
            "temperature": NUMBERS,
            "use_mmap": st.booleans(),
            "stop": st.lists(TEXTS, min_size=1).map(
                lambda texts: [Command("system", text).value for text in texts]
            ),
        }
    )
)
def test_parameters_read_back(values: dict[str, object]) -> None:
    text = format(Modelfile((FROM, *parameter_commands(values))))
    found, _ = parameters(parse(text))
    # Numbers are compared as single precision has them.
    again, _ = parameters(parse(format(Modelfile((FROM, *parameter_commands(found))))))
    assert encode(again) == encode(found)
    assert {**found, "temperature": 0} == {**values, "temperature": 0}
    assert found["temperature"] == pytest.approx(values["temperature"], rel=1e-6, abs=1e-45)
