"""What is said of a runner that ended by itself."""

import pytest

from puna.runner.ending import UNEXPECTED, last_words, unexpected_end


@pytest.mark.parametrize(
    "status, said",
    [
        (0, "it ended with status 0"),
        (7, "it ended with status 7"),
        (-9, "it was ended by SIGKILL, as the system does when memory runs out"),
        (-11, "it was ended by SIGSEGV"),
        (-4, "it was ended by SIGILL: the compute library was built for another processor"),
        (-63, "it was ended by signal 63"),
    ],
)
def test_how_it_ended(status: int, said: str) -> None:
    assert unexpected_end(status, b"") == f"{UNEXPECTED}: {said}"


def test_the_text_begins_as_clients_expect() -> None:
    assert unexpected_end(1, b"").startswith(
        "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
    )


@pytest.mark.parametrize(
    "output, words",
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"one\ntwo\n\n", "two"),
        (b"x\nggml.c:7: GGML_ASSERT(a == b) failed\nbye\n", "ggml.c:7: GGML_ASSERT(a == b) failed"),
        (b"GGML_ASSERT(a) failed", "GGML_ASSERT(a) failed"),
        (
            b'Traceback (most recent call last):\n  File "/x/error.py"\n    raise Error\nKeyError: 1\n',
            "KeyError: 1",
        ),
        (b"Traceback:\n  here\npuna.errors.Interrupted: no\n", "puna.errors.Interrupted: no"),
        (
            b"Fatal Python error: Segmentation fault\n\nThread 1:\n  File error.py\n\nExtension modules: a\n",
            "Fatal Python error: Segmentation fault",
        ),
        (b"terminate called after throwing\n  what():  bad\nAborted", "terminate called after throwing"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"y" * 70000, "y" * 300),
    ],
)
def test_its_last_words(output: bytes, words: str) -> None:
    assert last_words(output) == words


def test_what_it_wrote_cannot_steer_a_terminal() -> None:
    assert "\x1b" not in unexpected_end(1, b"error \x1b[2J")
