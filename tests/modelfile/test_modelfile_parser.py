"""The Modelfile grammar, rule by rule, and beside a plain reading of it character by character."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puna.errors import FormatError, InvalidOption, ModelfileError
from puna.modelfile.commands import Command, Modelfile
from puna.modelfile.parser import MAX_BYTES, MAX_COMMANDS, parse, read

COMMANDS = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", '
    '"parser", "parameter", "message", or "requires"'
)
ROLES = 'message role must be one of "system", "user", or "assistant"'


def read_commands(text: str) -> list[tuple[str, ...]]:
    """The commands after a first FROM line, as (name, value) or (name, key, value)."""
    commands = parse("FROM m\n" + text).commands[1:]
    return [(c.name, c.key, c.value) if c.key else (c.name, c.value) for c in commands]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("SYSTEM You are kind.", "You are kind."),
        ("SYSTEM \t  blanks around \t ", "blanks around"),
        ("system any case", "any case"),
        ("SyStEm\ttab after the name", "tab after the name"),
        ("SYSTEM   ", ""),
        ("SYSTEM \n", ""),
        ('SYSTEM ""', ""),
        ('SYSTEM """"""', ""),
        ("SYSTEM a # b", "a # b"),
        ("SYSTEM # a", "# a"),
        ('SYSTEM "quoted"', "quoted"),
        ('SYSTEM " blanks kept "  ', " blanks kept "),
        ('SYSTEM "two\nlines"', "two\nlines"),
        ('SYSTEM "a"b"', 'a"b'),
        ('SYSTEM "a" b\nc"', 'a" b\nc'),
        ('SYSTEM ""a"', '"a'),
        ('SYSTEM say "hi"', 'say "hi"'),
        ("SYSTEM 'single'", "'single'"),
        ('SYSTEM "no \\n escape"', "no \\n escape"),
        ('SYSTEM """one line"""', "one line"),
        ('SYSTEM """\nlines kept\n"""', "\nlines kept\n"),
        ('SYSTEM """a "word" here"""', 'a "word" here'),
        ('SYSTEM """"begins and ends""""', '"begins and ends"'),
        ('SYSTEM """a""" x\nb"""', 'a""" x\nb'),
        ('SYSTEM """"\na"""', '"\na'),
        ('SYSTEM """a\r\nb"""', "a\r\nb"),
        ('SYSTEM """a"""\u00a0 \u200b\n', "a"),
        ('SYSTEM\t"""a"""\t', "a"),
        ('SYSTEM """# no comment\n"""', "# no comment\n"),
        ("SYSTEM a\tb", "a\tb"),
        ("SYSTEM nul\x00 bell\x07 escape\x1b[1m delete\x7f next\x85", "nul bell escape[1m delete next"),
        ("SYSTEM form\x0cfeed\x0b", "formfeed"),
        ("SYSTEM 👩‍👩‍👧 and 5\u00a0km", "👩‍👩‍👧 and 5\u00a0km"),
        ("SYSTEM \u00a0x\u200b\ufeff", "x"),
        ("SYSTEM 你好", "你好"),
        ('SYSTEM a\nCONTINUE b\n# c\n\ncontinue " d"', "ab d"),
        ("SYSTEM a\nCONTINUE", None),
        ("SYSTEM a\nCONTINUED b", None),
    ],
)
def test_values(text: str, value: str | None) -> None:
    if value is None:
        with pytest.raises(ModelfileError, match=r"^line 3, column (1|9): (command must|unexpected EOF)"):
            read_commands(text)
    else:
        assert read_commands(text) == [("system", value)]


def test_every_command() -> None:
    text = """
    # a comment
    FROM llama3.2
    FROM ./projector.gguf
    ADAPTER ./adapter.gguf
    DRAFT ./draft.gguf
    TEMPLATE {{ .Prompt }}
    SYSTEM kind
    RENDERER qwen3-coder
    PARSER qwen3-coder
    REQUIRES 0.14.0
    LICENSE MIT
    LICENSE \"\"\"Apache
    2.0\"\"\"
    PARAMETER temperature 0.5
    PARAMETER stop <a>
    PARAMETER anything_9 goes
    MESSAGE user hello: there
    MESSAGE assistant \"\"\"hi
    \"\"\"
    """
    names = [command.name for command in parse(text).commands]
    assert names == [
        *("from", "from", "adapter", "draft", "template", "system", "renderer", "parser", "requires"),
        *("license", "license", "parameter", "parameter", "parameter", "message", "message"),
    ]
    assert parse(text).values("from") == ["llama3.2", "./projector.gguf"]
    assert parse(text).values("license") == ["MIT", "Apache\n    2.0"]
    assert parse(text).commands[-2:] == (
        Command("message", "hello: there", "user"),
        Command("message", "hi\n    ", "assistant"),
    )


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('PARAMETER stop "a" "b"', ("parameter", "stop", 'a" "b')),
        ("PARAMETER  \t num_ctx \t 4096 ", ("parameter", "num_ctx", "4096")),
        ("parameter Top_9 x", ("parameter", "Top_9", "x")),
        ("PARAMETER stop   ", ("parameter", "stop", "")),
        ("MESSAGE   user hi", ("message", "user", "hi")),
        ("message assistant  ", ("message", "assistant", "")),
        ('MESSAGE system "be\nkind"', ("message", "system", "be\nkind")),
    ],
)
def test_keys(text: str, command: tuple[str, str, str]) -> None:
    assert read_commands(text) == [command]


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_every_kind_of_line_end_counts_once(newline: str) -> None:
    text = newline.join(["# one", "FROM m", "SYSTEM a", "", "  TEMPLATE b", "NO x"])
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (6, 1)
    good = parse(text.removesuffix("NO x"))
    assert [tuple(command.place) for command in good.commands] == [(2, 1), (3, 1), (5, 3)]
    assert [tuple(command.value_place) for command in good.commands] == [(2, 6), (3, 8), (5, 12)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-mark"])
def test_encodings(encoding: str) -> None:
    text = 'FROM m\nSYSTEM """你好 👩‍👩‍👧\n"""\n'
    raw = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-mark" else text.encode(encoding)
    assert parse(raw) == parse(text)
    assert parse(text).values("system") == ["你好 👩‍👩‍👧\n"]


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"FROM m\nSYSTEM caf\xe9", "caf\ufffd"),
        (b"\xff\xfe" + "FROM m\nSYSTEM x".encode("utf-16-le") + b"y", "x\ufffd"),
        ("FROM m\nSYSTEM \ud800x", "\ufffdx"),
        ("\ufeffFROM m\nSYSTEM x", "x"),
    ],
)
def test_what_is_no_text_becomes_the_replacement_character(raw: str | bytes, value: str) -> None:
    assert parse(raw).values("system") == [value]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", (1, 1), "no FROM line"),
        ("# FROM m", (1, 9), "no FROM line"),
        ("PARAMETER seed 1\n\n", (3, 1), "no FROM line"),
        ("FROM", (1, 5), "unexpected EOF"),
        ("FROM m\nSYSTEM", (2, 7), "unexpected EOF"),
        ("FROM\n", (1, 1), COMMANDS),
        ("FROM m\nSYSTEM\nFROM m", (2, 1), COMMANDS),
        ("FROM m\n\n  BADCOMMAND x", (3, 3), COMMANDS),
        ("FROM m\nFROM: m", (2, 1), COMMANDS),
        ("FROM m\nFROM1 m", (2, 1), COMMANDS),
        ("FROM m\nſystem m", (2, 1), COMMANDS),
        ("FROM m\n1", (2, 1), COMMANDS),
        ("FROM m\nFROM\u00a0m", (2, 1), COMMANDS),
        ("CONTINUE x\nFROM m", (1, 1), COMMANDS),
        ("MODEL m", (1, 1), COMMANDS),
        ("FROM m\nPARAMETER", (2, 10), "unexpected EOF"),
        ("FROM m\nPARAMETER\n", (2, 1), COMMANDS),
        ("FROM m\nPARAMETER stop", (2, 15), "unexpected EOF"),
        ("FROM m\nPARAMETER stop\n", (2, 15), "unexpected EOF: stop"),
        ("FROM m\nPARAMETER num-ctx 1", (2, 14), "unexpected EOF: num"),
        ("FROM m\nPARAMETER é 1", (2, 11), "unexpected EOF"),
        ("FROM m\nMESSAGE user: x", (2, 13), "unexpected EOF: user"),
        ("FROM m\nMESSAGE user", (2, 13), "unexpected EOF"),
        ("FROM m\nMESSAGE User x", (2, 9), ROLES),
        ("FROM m\nMESSAGE tool x", (2, 9), ROLES),
        ('FROM m\nSYSTEM "foo" bar', (2, 8), "unexpected EOF: the closing quote is missing"),
        ('FROM m\nSYSTEM """a""" x', (2, 8), "unexpected EOF: the closing quote is missing"),
        ('FROM m\nLICENSE """a\nb\n', (2, 9), "unexpected EOF: the closing quote is missing"),
        ('FROM m\nSYSTEM  "', (2, 9), "unexpected EOF: the closing quote is missing"),
        ('FROM m\nSYSTEM """"', (2, 8), "unexpected EOF: the closing quote is missing"),
        ('FROM m\nSYSTEM x\nCONTINUE "', (3, 10), "unexpected EOF: the closing quote is missing"),
        ("👩‍👩‍👧 m", (1, 1), COMMANDS),
        ("PARAMETER " + "x" * 1000 + "!", (1, 1011), "unexpected EOF: " + "x" * 100),
        ("\x00" * 10, (1, 1), "no FROM line"),
        ("GGUF\x03\x00\x00\x00", (1, 5), "unexpected EOF"),
    ],
)
def test_every_fault_has_its_text_and_its_place(text: str, place: tuple[int, int], message: str) -> None:
    with pytest.raises(ModelfileError) as caught:
        parse(text)
    assert str(caught.value) == f"line {place[0]}, column {place[1]}: {message}"


def test_sizes_are_limited() -> None:
    with pytest.raises(FormatError, match=f"^the Modelfile is longer than the {MAX_BYTES} bytes"):
        parse(bytes(100 << 20))
    with pytest.raises(FormatError, match=f"more than the {MAX_COMMANDS} commands"):
        parse("FROM m\n" + "PARAMETER stop x\n" * 10**6)
    assert len(parse("FROM m\n" * MAX_COMMANDS).commands) == MAX_COMMANDS


@pytest.mark.parametrize(
    "filling",
    [
        *(
            " ",
            "\n",
            "\r\n",
            "#",
            "# \n",
            '"',
            '" ',
            '"\t\n',
            '"""',
            '""" ',
            'a"""\n',
            "a ",
            "\u00a0",
            "\x00",
        ),
        *("FROM", "PARAMETER", "CONTINUE ", "CONTINUE x\n", 'CONTINUE "\n', "FROM \n"),
    ],
)
@pytest.mark.parametrize("start", ["FROM ", 'FROM "', 'FROM """', "FROM m\n", "PARAMETER "])
def test_millions_of_characters_are_read_in_linear_time(start: str, filling: str) -> None:
    # Anything quadratic would take hours here.
    text = start + filling * (2_000_000 // len(filling))
    try:
        parse(text)
    except FormatError as error:
        assert len(str(error)) < 300


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "Modelfile"
    path.write_bytes(b"\xef\xbb\xbfFROM m\r\n")
    assert read(path) == Modelfile((Command("from", "m"),))
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="longer than"):
        read(path)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "none", Path("a\0b")):
        with pytest.raises(FormatError, match=r"^[^\n]*(regular file|cannot be read: \S+)"):
            read(path)


@pytest.mark.parametrize(
    ("name", "key"), [("model", ""), ("", ""), ("message", "tool"), ("parameter", ""), ("from", "x")]
)
def test_commands_that_cannot_be_written_do_not_exist(name: str, key: str) -> None:
    with pytest.raises(InvalidOption):
        Command(name, "x", key)


def plainly(text: str) -> list[tuple[str, str, str]] | None:
    """What the grammar's rules say, one character after the other; None where they say it is wrong.

    Knows no `CONTINUE`, and reads a value by looking after each line whether it is complete.
    """
    commands = []
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n":
            position += 1
            continue
        end = next((i for i in range(position, len(text)) if text[i] in "\r\n"), len(text))
        if text[position] == "#":
            position = end
            continue
        words = text[position:end].replace("\t", " ").split(" ")
        name = words[0].lower()
        takes_key = name in ("parameter", "message")
        if len(words) == 1 or name not in COMMANDS.lower() or not name.isalpha():
            return None
        start = position + len(name) + 1
        key = ""
        if takes_key:
            while start < len(text) and text[start] in " \t":
                start += 1
            while start < len(text) and (text[start].isalnum() or text[start] == "_"):
                key += text[start]
                start += 1
            if start == len(text) or text[start] not in " \t":
                return None
            if not key or (name == "message" and key not in ("system", "user", "assistant")):
                return None
        for end in [*(i for i in range(start, len(text)) if text[i] in "\r\n"), len(text)]:
            value = text[start:end].strip(" \t\r\n")
            quote = '"""' if value.startswith('"""') else '"' if value.startswith('"') else ""
            if not quote or (len(value) >= 2 * len(quote) and value.endswith(quote)):
                commands.append((name, key, value[len(quote) : len(value) - len(quote)]))
                break
        else:
            return None
        position = end
    return commands if any(name == "from" for name, _, _ in commands) else None


PIECES = [
    "FROM",
    "SYSTEM",
    "message",
    "PARAMETER",
    "user",
    "stop",
    "x",
    "y_1",
    "#",
    '"',
    '"""',
    " ",
    "\t",
    "\n",
    "\r",
]


@given(st.lists(st.sampled_from([*PIECES, "FROM m\n", "FROM m\n", ' "', '"\n', " \n", "é"])).map("".join))
def test_reads_what_the_rules_say(text: str) -> None:
    try:
        found = [(c.name, c.key, c.value) for c in parse(text).commands]
    except ModelfileError:
        assert plainly(text) is None
    else:
        assert found == plainly(text)


@given(st.one_of(st.text(), st.binary()))
def test_anything_is_a_modelfile_or_one_error(text: str | bytes) -> None:
    for start in ("", "FROM m\n"):
        try:
            parse(start + text if isinstance(text, str) else start.encode() + text)
        except ModelfileError as error:
            assert "\n" not in str(error)
