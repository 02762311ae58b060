"""Progress on a terminal and elsewhere."""

import io

import pytest

from puna.cli import terminal
from puna.cli.progress import ProgressDisplay, line
from puna.progress import Progress


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


STEPS = [
    Progress("pulling m"),
    Progress("pulling m", 0, 100),
    Progress("pulling m", 50, 100),
    Progress("pulling m", 100, 100),
    Progress("success"),
]


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_strangers_file_name_does_not_steer_the_terminal(stream: io.StringIO) -> None:
    with ProgressDisplay(stream) as display:
        display.update(Progress("unpacking a\x1b]0;title\x07\x9b.gguf", 1, 2))
    assert "unpacking a]0;title.gguf" in stream.getvalue()


@pytest.mark.parametrize(
    ("step", "rate", "width", "expected"),
    [
        (Progress("writing manifest"), 0, 80, "writing manifest"),
        (Progress("pulling m", 0, 10**9), 0, 60, "pulling m:   0% ▕" + " " * 27 + "▏    0 B/  1 GB"),
        (
            Progress("pulling m", 5 * 10**8, 10**9),
            10**8,
            80,
            "pulling m:  50% ▕" + "█" * 15 + " " * 15 + "▏ 500 MB/  1 GB  100 MB/s     5s",
        ),
        (Progress("pulling m", 10**9, 10**9), 10**8, 60, "pulling m: 100% ▕" + "█" * 27 + "▏   1 GB/  1 GB"),
        (Progress("pulling m", 5 * 10**8, 10**9), 10**8, 30, "pulling m:  50%  500 MB/  1 GB"[:29]),
    ],
)
def test_a_line_fits_the_terminal(step: Progress, rate: float, width: int, expected: str) -> None:
    drawn = line(step, rate, width, "▕█▏")
    assert drawn == expected
    assert len(drawn) < width


def test_on_a_terminal_a_line_is_redrawn_until_its_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    with ProgressDisplay(stream) as display:
        for step in STEPS:
            display.update(step)
    first, second, rest = stream.getvalue().split("\n")
    assert first.startswith("\r\x1b[Kpulling m\r\x1b[K")
    assert first.endswith("█▏  100 B/ 100 B")
    assert (second, rest) == ("\r\x1b[Ksuccess", "")


def test_the_speed_is_that_of_this_try(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 10.0])
    monkeypatch.setattr("puna.cli.progress.time.monotonic", lambda: next(moments))
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    display = ProgressDisplay(stream)
    display.update(Progress("pulling m", 5 * 10**8, 10**9))
    display.update(Progress("pulling m", 6 * 10**8, 10**9))
    assert "  10 MB/s    40s" in stream.getvalue()


def test_elsewhere_each_step_is_a_line() -> None:
    stream = io.StringIO()
    with ProgressDisplay(stream) as display:
        for step in STEPS:
            display.update(step)
        display.fraction("loading", 0.5)
    assert stream.getvalue() == "pulling m\nsuccess\n"


def test_a_step_that_failed_is_not_told_elsewhere() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyError), ProgressDisplay(stream) as display:
        display.update(STEPS[0])
        raise KeyError
    assert stream.getvalue() == ""


def test_a_fraction_leaves_nothing_on_a_terminal() -> None:
    stream = Terminal()
    with pytest.raises(KeyError), ProgressDisplay(stream) as display:
        display.fraction("loading model", 0.5)
        raise KeyError
    assert stream.getvalue() == "\r\x1b[Kloading model  50%\r\x1b[K"


def test_a_terminal_without_those_characters_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii(Terminal):
        encoding = "ascii"

    monkeypatch.setenv("COLUMNS", "60")
    stream = Ascii()
    ProgressDisplay(stream).update(Progress("m", 1, 1))
    assert "[####" in stream.getvalue()
    stream.getvalue().encode("ascii")


def test_a_model_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    terminal.show("a\x1b]0;title\x07\tb\n\x9bc é😀")
    assert stream.getvalue() == "a]0;title\tb\nc é😀"


def test_elsewhere_text_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    terminal.show("a\x1b[1m")
    assert stream.getvalue() == "a\x1b[1m"
