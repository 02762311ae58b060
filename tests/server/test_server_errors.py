"""The table from errors to HTTP, and what of a text goes out."""

import inspect

import pytest

from puna import errors
from puna.errors import MissingCapability, Overloaded, PunaError, StoreError
from puna.server.errors import STATUSES, Refused, error_answer, public_text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidOption("x"), 400),
        (errors.GGUFError("x"), 400),
        (errors.TemplateError("x"), 400),
        (errors.UnsupportedModel("x"), 400),
        (errors.WeightError("x"), 500),
        (errors.MissingCapability(["tools"]), 400),
        (errors.ContextLengthExceeded(2, 1), 400),
        (errors.OutOfMemory("x"), 500),
        (errors.RunnerDied("x"), 500),
        (errors.Overloaded("x"), 503),
        (errors.StoreError("x"), 500),
        (errors.OutOfSpace("x"), 507),
        (errors.DigestMismatch("x"), 502),
        (errors.FetchError("x"), 502),
        (errors.ModelNotFound("x"), 404),
        (errors.Unauthorized("x"), 401),
        (errors.AddressRefused("x"), 403),
        (errors.Interrupted("x"), 499),
        (errors.BackendError("x"), 500),
        (Refused(418, "x"), 418),
    ],
)
def test_statuses(error: PunaError, status: int) -> None:
    answer = error_answer(error)
    assert (answer.status, answer.kind) == (status, type(error).__name__)


def test_every_error_has_a_status() -> None:
    found = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, PunaError)]
    assert len(found) > 20
    assert [cls for cls in found if not any(known in STATUSES for known in cls.__mro__[:-4])] == [PunaError]


def test_what_an_error_carries() -> None:
    assert error_answer(Overloaded("busy", 7)).headers == {"Retry-After": "7"}
    missing = MissingCapability(["tools", "vision"], subject='"m"')
    assert error_answer(missing).text == '"m" does not support tools\nvision'


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/me/models/blobs/sha256-1: Permission denied", "blobs/sha256-1: Permission denied"),
        ("its file /home/me/models/blobs/sha256-1 is missing", "its file blobs/sha256-1 is missing"),
        ("in /home/me/models there is nothing", "in the server's folder there is nothing"),
        ("/usr/lib/x.so: bad", "x.so: bad"),
        (r"C:\Users\me\x.gguf: bad", "x.gguf: bad"),
        ("at 0x7f00aabbccdd", "at 0x…"),
        ("registry.example.com/me/model:7b not found", "registry.example.com/me/model:7b not found"),
        ("https://example.com/a/b", "https://example.com/a/b"),
        ("blob sha256:abc is missing", "blob sha256:abc is missing"),
        ("and/or 1/2", "and/or 1/2"),
    ],
)
def test_texts_name_no_place_of_the_machine(text: str, public: str) -> None:
    assert error_answer(StoreError(text), ["/home/me", "/home/me/models"]).text == public


def test_texts_are_bounded() -> None:
    assert len(public_text("x" * 10_000)) == 2000
